"""The course as a web site: its pages, links and figures, and what a reader with a keyboard or a screen reader finds.

One build for all tests, by this Python or by the environment that `make book` makes; skipped where neither has Sphinx.
What needs a browser is skipped where Playwright or Chromium is absent (MAMLCOURSE_CHROMIUM names another than the usual
ones). Screenshots are left in runs/browser.
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
SHOTS = ROOT / "runs" / "browser"
CHROMIUM = os.environ.get("MAMLCOURSE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
TEXTS = runpy.run_path(str(ROOT / "book" / "texts.py"))
alternative_text = TEXTS["alternative_text"]


def python_with_sphinx():
    if all(importlib.util.find_spec(name) for name in ("sphinx", "myst_nb", "sphinx_book_theme", "mathjax")):
        return sys.executable
    own = ROOT / "build" / ".venv" / "bin" / "python"
    if not own.exists():
        pytest.skip("there is no Sphinx; `make book` makes an environment with it")
    return own


def build(site, **environment):
    """Build the book; a warning is an error, but for the one that no Chromium is there to print the cheat sheet."""
    command = [python_with_sphinx(), "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "suppress_warnings=course.pdf"]
    command += ["-c", ROOT / "book", ROOT, site]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of the built web site."""
    return build(tmp_path_factory.mktemp("book") / "site")


def pages(site):
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if "_static" not in path.parts}


def test_a_link_to_a_playground_is_one_and_code_stays_code():
    link = "[the bowl](../book/playgrounds/alone/bowl.html)"
    made = '<a href="../book/playgrounds/bowl.html">the bowl</a>'
    assert TEXTS["with_links"](f"see {link}, written `{link}`") == f"see {made}, written `{link}`"


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


def test_the_cheat_sheet_can_be_had_on_two_sheets(book):
    page = (book / "book" / "cheat_sheet.html").read_text(encoding="utf-8")
    printed = book / "book" / "cheat_sheet.pdf"
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; MAMLCOURSE_CHROMIUM can name one")
    assert '<a href="cheat_sheet.pdf" download>' in page
    sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed.read_bytes())
    assert len(sizes) == 2  # and each A4, in points
    assert all(abs(float(width) - 595.3) < 1 and abs(float(height) - 841.9) < 1 for width, height in sizes)


def test_what_the_book_offers_beside_lessons(book):
    home = (book / "book" / "index.html").read_text(encoding="utf-8")
    for page in ("papers", "cheat_sheet", "glossary", "faq", "reference", "your_own", "about", "../exercises/TEACHERS"):
        assert f'href="{page}.html"' in home
    papers = (book / "book" / "papers.html").read_text(encoding="utf-8")
    assert papers.count('<table class="table">') >= 5 and "Who says what" in papers
    assert 'href="../results/omniglot/README.html"' in papers
    about = (book / "book" / "about.html").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/" in about and "https://opensource.org/license/mit" in about
    downloads = [path.name for path in (book / "_downloads").rglob("*.*")]
    assert {"CITATION.cff", "LICENSE-text.md", "icons-LICENSE.txt"} <= set(downloads)
    for path, page in pages(book).items():
        if "playgrounds" not in path.parts and path != book / "index.html":
            assert re.search(r'href="[^"]*about.html">The licences', page) or path.name == "about.html", path.name


def test_the_address_of_the_repository_gives_buttons():
    """Without building again: what the configuration makes of it."""
    python = python_with_sphinx()
    program = f"import runpy; c = runpy.run_path({str(ROOT / 'book' / 'conf.py')!r}); print(c['html_theme_options'])"
    for address, wanted in (
        ("https://gitlab.com/someone/mamlcourse.git/", ("mybinder.org", "'https://gitlab.com/someone/mamlcourse'")),
        ("", ()),
    ):
        environment = {**os.environ, "MAMLCOURSE_REPOSITORY": address}
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, env=environment, check=True)
        assert all(word in done.stdout for word in wanted)
        assert ("repository_url" in done.stdout) == bool(address)


def test_a_book_with_an_address_and_without_chromium(tmp_path):
    """Of two pages: the lesson opens in Colab and Binder, and the cheat sheet offers no PDF that is not there."""
    address = "https://github.com/someone/mamlcourse"
    command = [python_with_sphinx(), "-m", "sphinx", "-q", "-D", "root_doc=book/cheat_sheet"]
    command += ["-D", "include_patterns=book/cheat_sheet.md,book/about.md,notebooks/05_fomaml.ipynb"]
    command += ["-c", ROOT / "book", ROOT, tmp_path]
    nothing = {"MAMLCOURSE_REPOSITORY": address, "MAMLCOURSE_CHROMIUM": "", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **nothing})
    assert done.returncode == 0 and "there is no Chromium" in done.stderr, done.stderr
    sheet = (tmp_path / "book" / "cheat_sheet.html").read_text(encoding="utf-8")
    assert "your browser prints them" in sheet and "cheat_sheet.pdf" not in sheet
    assert not (tmp_path / "book" / "cheat_sheet.pdf").exists()
    lesson = html.unescape((tmp_path / "notebooks" / "05_fomaml.html").read_text(encoding="utf-8"))
    assert "https://colab.research.google.com/github/someone/mamlcourse/blob/main/notebooks/05_fomaml.ipynb" in lesson
    assert "https://mybinder.org/v2/gh/someone/mamlcourse/main?urlpath=lab/tree/notebooks/05_fomaml.ipynb" in lesson
    assert f'href="{address}"' in (tmp_path / "book" / "about.html").read_text(encoding="utf-8")


AXE = "axe-core@4.14.1"
OF_EVERY_KIND = re.compile(
    r"book/(index|reference|cheat_sheet|papers|playgrounds/\w+)\.html|06_maml_vs_fomaml|10_trajectories|solutions/01"
)


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


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; MAMLCOURSE_CHROMIUM can name one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, book):
    """Open a page of the book, formulas drawn: visit(name, width, scheme)."""
    opened = []

    def visit(name, width=1366, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        opened.append(page)
        page.set_default_timeout(120_000)
        page.goto((book / name).as_uri())
        page.evaluate("window.MathJax?.startup?.promise")
        return page

    yield visit
    for page in opened:
        page.close()


# Watches where the focus goes, and whether what has it looks otherwise than without it.
WATCH = """() => {
    const marks = element => [element, ...element.querySelectorAll("*")].slice(0, 9).map(part => {
        const style = getComputedStyle(part), outline = style.outlineStyle !== "none" && style.outlineWidth;
        return [outline, style.boxShadow, style.stroke, style.strokeWidth].join();
    }).join(";");
    window.seen = {stops: new Set(), unmarked: [], round: false};
    document.addEventListener("focusin", ({target}) => {
        seen.round ||= seen.stops.has(target);
        seen.stops.add(target);
        target.marked = marks(target);
    });
    document.addEventListener("focusout", ({target}) => setTimeout(() => {
        if (target.marked === marks(target)) seen.unmarked.push(target.outerHTML.slice(0, 150));
    }));
}"""
MISSED = """() => [...document.querySelectorAll(
        "a[href], button:not(:disabled), input:not(:disabled), select, summary, [tabindex='0']")]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && e.tabIndex >= 0 && !seen.stops.has(e))
    .filter(e => e.id !== "pst-back-to-top")  // comes when the page has moved, so with the second round
    .map(e => e.outerHTML.slice(0, 150))"""


@pytest.mark.browser
@pytest.mark.parametrize(
    "name, width",
    [
        ("book/index.html", 1366),
        ("book/cheat_sheet.html", 390),
        ("notebooks/05_fomaml.html", 390),
        ("notebooks/05_fomaml.html", 1366),
        ("book/playgrounds/bowl.html", 1366),
    ],
)
def test_tab_reaches_all_by_name_and_in_sight(visit, name, width):
    page = visit(name, width)
    page.evaluate(WATCH)
    for presses in range(1, 1000):
        page.keyboard.press("Tab")
        if presses % 20 == 0 and page.evaluate("seen.round"):
            break
    else:
        pytest.fail("the Tab key never comes back to the beginning")
    assert page.evaluate("seen.unmarked") == []
    assert page.evaluate(MISSED) == []
    page.evaluate("document.querySelectorAll('[tabindex=\"-1\"]').forEach(e => e.removeAttribute('tabindex'))")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in tree
        if not node["ignored"] and any(p["name"] == "focusable" and p["value"]["value"] for p in node["properties"])
    ]
    unnamed = [node["role"]["value"] for node in focusable if not node["name"]["value"].strip()]
    assert len(focusable) > 10 and unnamed == []


@pytest.mark.browser
def test_the_first_tab_stop_leads_past_the_menus(visit):
    page = visit("notebooks/05_fomaml.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to main content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.browser
def test_searching_finds_lessons(visit):
    page = visit("book/index.html")
    page.keyboard.press("Control+K")
    page.keyboard.type("hessian")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=hessian*")
    page.locator("#search-results a", has_text="05 FOMAML").first.click()
    page.wait_for_url("**/notebooks/05_fomaml.html*")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1366, 390])
def test_pages_fit_the_screen_and_nothing_moves(visit, width):
    """Nor is what a cell printed cut off at the edge."""
    for name in ("book/index", "notebooks/09_maml_plus_plus", "book/reference", "book/cheat_sheet", "book/papers"):
        page = visit(f"{name}.html", width)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        cut = "[...document.querySelectorAll('.cell_output pre')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert page.evaluate(cut) == 0, name
        moving = """[...document.querySelectorAll("*")].filter(e => {
            const style = getComputedStyle(e);
            return style.animationName !== "none" || style.transitionProperty !== "none"
                && style.transitionDuration.split(", ").some(duration => parseFloat(duration) > 0);
        }).length"""
        assert page.evaluate(moving) == 0, name
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"book-{Path(name).name}-{width}.png")
        page.close()


@pytest.mark.browser
def test_no_page_is_wider_than_a_phone(visit, book):
    names = sorted({path.relative_to(book).as_posix() for path in pages(book)} - {"index.html"})  # it leads on at once
    page, wide = visit("book/index.html", 390, "dark"), {}
    for name in names:
        page.goto((book / name).as_uri())
        page.evaluate("window.MathJax?.startup?.promise")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wide[name] = width
    assert not wide


@pytest.mark.browser
@pytest.mark.parametrize("width, scheme", [(1366, "light"), (1366, "dark"), (390, "light")])
def test_axe_finds_nothing_serious(visit, book, axe, width, scheme):
    """Every page and playground, in the dark and on a phone a few of every kind."""
    found = {}
    for path in sorted(pages(book)):
        name = path.relative_to(book).as_posix()
        if name == "index.html" or (width, scheme) != (1366, "light") and not OF_EVERY_KIND.search(name):
            continue  # the first leads on to the home page at once
        page = visit(name, width, scheme)
        page.evaluate(axe)
        result = page.evaluate("axe.run({resultTypes: ['violations']})")
        for violation in result["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:100] for node in violation["nodes"][:3]]
                found.setdefault((violation["id"], *nodes), path.name)
        page.close()
    assert not found
