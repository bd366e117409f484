"""The course as a web site: its pages, links and figures, and what a reader with a keyboard or a screen reader finds.

One build for all tests, by this Python or by the environment that `make book` makes; skipped where neither has Sphinx.
"""

import html
import importlib.util
import json
import os
import re
import runpy
import shutil
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
    for notebook in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("solutions/*.ipynb")]:
        page = (book / notebook.parent.name / f"{notebook.stem}.html").read_text(encoding="utf-8")
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


def test_book_shows_cells_as_a_reader_needs_them(book):
    found = pages(book)
    for path, page in found.items():
        body = page.split("<article", 1)[-1].split("</article>", 1)[0]
        assert "NBVAL" not in body, path.name
        assert not re.search(r"<p>\| .*\|", body), f"{path.name}: a table as pipes"
    for name, tables in (("06_maml_vs_fomaml", 3), ("09_maml_plus_plus", 2), ("13_which_algorithm", 3)):
        assert found[book / "notebooks" / f"{name}.html"].count('<table class="table">') >= tables
    for path in book.glob("solutions/*.html"):
        assert "<h1>Solution 0" in found[path] and "<h1>Exercise" not in found[path]
    assert 'href="https://arxiv.org/abs/1703.03400"' in found[book / "notebooks" / "00_start_here.html"]


def test_every_picture_of_the_book_has_its_words(book):
    for path, page in pages(book).items():
        for image in re.findall(r"<img\b[^>]*>", page):
            words = re.search(r'\balt="([^"]*)"', image)
            assert words, f"{path.name}: {image}"
            decorates = 'class="logo' in image or "playgrounds/pictures" in image
            assert words[1].strip() or decorates, f"{path.name}: {image}"
            assert not words[1].startswith(("../", "_images", "data:")), f"{path.name}: {image}"


def test_home_leads_to_reading_playing_and_running(book):
    home = (book / "book" / "index.html").read_text(encoding="utf-8")
    for playground in (ROOT / "book" / "playgrounds").glob("*.html"):
        assert f'href="playgrounds/{playground.name}"' in home
        copy = (book / "book" / "playgrounds" / playground.name).read_text(encoding="utf-8")
        assert 'href="../index.html"' in copy and "the book's links" not in copy
    assert 'href="../notebooks/00_start_here.html"' in home and "make lab" in re.sub(r"<[^>]*>", "", home)
    lesson = (book / "notebooks" / "03_maml_from_scratch.html").read_text(encoding="utf-8")
    assert 'href="../book/playgrounds/sinusoid.html"' in lesson
    assert 'href="../_sources/notebooks/03_maml_from_scratch.ipynb"' in lesson
    assert (book / "_sources" / "notebooks" / "03_maml_from_scratch.ipynb").exists()
    assert 'title="next page"' in lesson and 'title="previous page"' in lesson


def test_the_address_of_the_repository_gives_buttons():
    """Without building again: what the configuration makes of it."""
    python = python_with_sphinx()
    program = f"import runpy; c = runpy.run_path({str(ROOT / 'book' / 'conf.py')!r}); print(c['html_theme_options'])"
    for address, wanted in (
        ("https://github.com/someone/mamlcourse", ("colab.research.google.com", "mybinder.org", "use_issues_button")),
        ("https://gitlab.com/someone/mamlcourse.git/", ("mybinder.org", "'https://gitlab.com/someone/mamlcourse'")),
        ("", ()),
    ):
        environment = {**os.environ, "MAMLCOURSE_REPOSITORY": address}
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, env=environment, check=True)
        assert all(word in done.stdout for word in wanted)
        assert ("repository_url" in done.stdout) == bool(address)


AXE = "axe-core@4.14.1"
IN_THE_DARK = re.compile(r"book/(index|reference|playgrounds/\w+)\.html|06_maml_vs_fomaml|10_trajectories|solutions/01")


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The script of axe-core, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm to get axe-core with")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run([npm, "install", "--silent", "--no-save", "--prefix", folder, AXE], capture_output=True)
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if done.returncode or not script.exists():
        pytest.skip(f"npm could not get {AXE}")
    return script.read_text(encoding="utf-8")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(book, axe, scheme):
    """Every page and playground, in the dark a few of every kind: neither a serious nor a critical violation."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    chromium = os.environ.get("MAMLCOURSE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium; MAMLCOURSE_CHROMIUM can name one")
    found = {}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        page.set_default_timeout(300_000)
        for path in sorted(pages(book)):
            if path == book / "index.html" or scheme == "dark" and not IN_THE_DARK.search(path.as_posix()):
                continue  # the first leads on to the home page at once
            page.goto(path.as_uri())
            page.evaluate(axe)
            result = page.evaluate("axe.run({resultTypes: ['violations']})")
            for violation in result["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:100] for node in violation["nodes"][:3]]
                    found.setdefault((violation["id"], *nodes), path.name)
        browser.close()
    assert not found
