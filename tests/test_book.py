"""The course as a web site: its pages, links and figures, and what a reader with a keyboard or a screen reader finds.

One build for all tests, by this Python or by the environment that `make book` makes; skipped where neither has Sphinx.
"""

import html
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
alternative_text = runpy.run_path(str(ROOT / "book" / "texts.py"))["alternative_text"]


def python_with_sphinx():
    if all(importlib.util.find_spec(name) for name in ("sphinx", "myst_nb", "sphinx_book_theme", "mathjax")):
        return sys.executable
    own = ROOT / "build" / ".venv" / "bin" / "python"
    if not own.exists():
        pytest.skip("there is no Sphinx; `make book` makes an environment with it")
    return own


def build(site, **environment):
    """Build the book; a warning is an error."""
    command = [python_with_sphinx(), "-m", "sphinx", "-q", "-W", "--keep-going", "-c", ROOT / "book", ROOT, site]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of the built web site."""
    return build(tmp_path_factory.mktemp("book") / "site")


def pages(site):
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if "_static" not in path.parts}


def test_book_has_a_page_for_each_notebook_that_says_what_its_figures_show(book):
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        page = (book / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        described = [html.unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"', page)]
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for above, cell in zip(cells, cells[1:]):
            if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
                assert alternative_text("".join(above["source"])) in described, notebook.name


def test_book_needs_no_network_and_its_links_lead_somewhere(book):
    found = pages(book)
    for path, page in found.items():
        fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\s(?:src|href)="((?:https?:)?//[^"]*)"', page)
        assert not fetched, path
        for target in re.findall(r'\s(?:src|href)="([^"]*)"', page):
            target, _, anchor = unquote(html.unescape(target)).partition("#")
            if re.match(r"https?:|data:|mailto:", target):
                continue
            linked = (path.parent / target.split("?")[0]).resolve() if target else path
            assert linked.exists(), f"{path.name}: {target}"
            if anchor and linked in found:
                assert f'id="{anchor}"' in html.unescape(found[linked]), f"{path.name}: {target}#{anchor}"
    assert not re.search(
        r"url\([\"']?(https?:)?//", "".join(p.read_text(encoding="utf-8") for p in book.rglob("*.css"))
    )


def test_book_can_be_searched_and_draws_formulas(book):
    index = (book / "searchindex.js").read_text(encoding="utf-8")
    assert "00 Start here" in index and '"episod"' in index  # words are kept by their stems
    with_formulas = [page for page in pages(book).values() if 'class="math' in page]
    assert with_formulas and all("tex-svg-full.js" in page for page in with_formulas)
    assert (book / "_static" / "tex-svg-full.js").stat().st_size > 2_000_000
