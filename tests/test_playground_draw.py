"""The playground "Draw your own": its numbers against `maml.adapt`, its page in headless Chromium, opened as a file.

Skipped where there is no Playwright or no Chromium; MAMLCOURSE_CHROMIUM names another browser than the usual ones.
Screenshots are left in runs/browser.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import export_playground
import pytest
import torch
from conftest import drag

from mamlcourse import evaluate
from mamlcourse.pretrained import load_pretrained
from mamlcourse.problems import Problem
from mamlcourse.records import read_json

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "book" / "playgrounds"
PAGE = (FOLDER / "draw.html").as_uri()
SHOTS = ROOT / "runs" / "browser"
NODE = shutil.which("node")
CHROMIUM = next(
    (
        path
        for path in (os.environ.get("MAMLCOURSE_CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser")))
        if path
    ),
    None,
)
TASKS = 50
SCRIPTS = (
    "common.js", "engine.js", "product.js", "weights-draw.js", "weights-draw-20.js", "weights-glyphs.js",
    "draw.core.js", "draw.js",
)  # fmt: skip


def test_the_committed_weights_and_characters_are_those_of_the_package():
    assert export_playground.main(["--check"]) == 0


def test_the_kernel_is_assembled_from_its_source():
    script = (FOLDER / "product.js").read_text(encoding="utf-8")
    source = hashlib.sha256((FOLDER / "product.wat").read_bytes()).hexdigest()
    assert source in script, "run: python tools/make_playgrounds.py kernel"
    module = base64.b64decode(re.search(r'PRODUCT_KERNEL = "(.+)";', script)[1])
    assert module.startswith(b"\0asm") and len(module) < 1000


@pytest.mark.skipif(NODE is None, reason="there is no Node")
def test_the_scripts_pass_their_own_tests():
    tests = [str(ROOT / "tests" / "javascript" / f"{name}.test.js") for name in ("engine", "draw")]
    done = subprocess.run([NODE, "--test", *tests], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_the_page_is_small_and_asks_nobody():
    files = [FOLDER / name for name in ("draw.html", "draw.css", "common.css", *SCRIPTS)]
    assert sum(path.stat().st_size for path in files) < 4e6
    page = (FOLDER / "draw.html").read_text(encoding="utf-8")
    assert re.findall(r'<script src="([^"]+)"', page) == list(SCRIPTS)
    assert all("//" not in link for link in re.findall(r'(?:src|href)="([^"]*)"', page))


def test_the_scripts_keep_the_rules():
    """What a linter would say, where there may be none: strict, no `var`, no loose equality, no lines to debug by."""
    for name in ("engine.js", "draw.core.js", "draw.js"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert text.startswith('"use strict";'), name
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
        found = re.findall(r"\bvar |[^=!<>]==[^=]|!=[^=]|console\.|debugger|eval\(|innerHTML", code)
        assert not found, f"{name}: {found}"
        assert max(map(len, text.splitlines())) <= 122, name


@pytest.mark.parametrize("algorithm", export_playground.ALGORITHMS)
def test_the_20_way_weights_score_what_is_stated(algorithm):
    """Asked as the page asks, each query alone; on the first of the record's tasks."""
    record = read_json(export_playground.RECORD_OF_20)
    asked, stated = record["test"], record["algorithms"][algorithm]["task_accuracies"][:10]
    tasks = Problem.from_record(record["problem"] | {"queries": asked["queries"]}).tasks("test", 10, asked["seed"])
    maml = load_pretrained(algorithm, record["setting"])
    maml.backend = "loop"
    measured = evaluate(maml, tasks, 10, only_last=True, transductive=asked["transductive"]).per_task
    # Rounding on another machine may turn a query (of 20), and not in every task.
    assert sum(abs(a - b) for a, b in zip(measured, stated, strict=True)) / 10 < 0.01


# In the browser.


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
def open_page(browser):
    """Opens the page; in the end nothing was complained of, and nothing asked for but files of its folder."""
    pages = []

    def opened(hash="", width=1366, height=900, **choices):
        page = browser.new_page(viewport={"width": width, "height": height}, **choices)
        page.set_default_timeout(120_000)
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.goto(PAGE + hash)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        assert not page.complaints
        strangers = [url for url in page.asked if not url.startswith((FOLDER.as_uri(), "data:", "blob:"))]
        assert not strangers
        page.close()


def draw(page, number, *strokes):
    """Draw strokes, lists of places from 0 to 1, into a box with the mouse."""
    paper = page.locator(".paper").nth(number)
    paper.scroll_into_view_if_needed()
    drag(page, paper.bounding_box(), strokes)


SHAPES = (
    [[(0.2, 0.8), (0.5, 0.2), (0.8, 0.8)], [(0.35, 0.6), (0.65, 0.6)]],  # A
    [[(0.3, 0.2), (0.3, 0.8), (0.7, 0.8)]],  # L
    [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]],  # X
    [[(0.5, 0.2), (0.5, 0.8)], [(0.2, 0.2), (0.8, 0.2)]],  # T
    [[(0.3, 0.2), (0.7, 0.2), (0.7, 0.8), (0.3, 0.8), (0.3, 0.2)]],  # a box
)


def beliefs(page, algorithm):
    """What a table shows: {row: [words by step]}."""
    rows = page.get_by_role("region", name=algorithm, exact=True).locator("tbody tr")
    return [row.split() for row in rows.all_inner_texts()]


@pytest.mark.browser
@pytest.mark.parametrize("algorithm", export_playground.ALGORITHMS)
def test_the_page_adapts_as_the_package(open_page, algorithm):
    """Logits within 1e-4 of those of `maml.adapt`, on 50 tasks, after every step on the first of them, where JavaScript
    alone computes them, too."""
    page = open_page()
    differences = differences_of(page, algorithm, ways=5, tasks=TASKS, closely=5)
    steps = load_pretrained(algorithm).settings.inner_steps
    assert len(differences) == TASKS + 5 * steps + 5 * (steps + 1)
    assert max(differences) < 1e-4


@pytest.mark.browser
@pytest.mark.parametrize("algorithm", export_playground.ALGORITHMS)
def test_the_page_adapts_as_the_package_to_twenty_classes(open_page, algorithm):
    """Here PyTorch takes float64: in task 1 two of the places that MAML pools are so near that in float32 it takes the
    other one, and is 6e-3 from itself."""
    found = differences_of(open_page(), algorithm, ways=20, tasks=3, closely=1, dtype=torch.float64)
    assert max(found) < 1e-4


def differences_of(page, algorithm, ways, tasks, closely, dtype=torch.float32):
    """How far the page's logits are from the package's: after the last step with the kernel, and in the first tasks
    after each step, with it and without."""
    maml = load_pretrained(algorithm, f"glyphs-{ways}w1s").to(dtype)
    maml.backend = "loop"
    start = """([name, ways, kernel]) => {
        window.engines = [mamlEngine(PRODUCT_KERNEL), mamlEngine()];
        window.learner = engines[0].decode({ 5: DRAW_WEIGHTS, 20: DRAW_WEIGHTS_20 }[ways][name]);
        return engines.map((engine) => engine.vectors);
    }"""
    assert page.evaluate(start, [algorithm, ways]) == [True, False]
    follow = """([number, support, labels, queries]) => {
        const follow = engines[number].follower(learner);
        const found = follow(Float32Array.from(support), labels, Float32Array.from(queries));
        return found.logits.map((rows) => [...rows]);
    }"""
    batches = Problem("glyphs", validation=5, ways=ways, queries=1).tasks("test", tasks_per_batch=1, seed=3)
    differences, last = [], maml.settings.inner_steps
    for task, batch in enumerate(islice(iter(batches), tasks)):
        support, query = batch.support_x[0].to(dtype), batch.query_x[0, task % ways, None].to(dtype)
        labels = batch.support_y[0]
        for number in (0, 1) if task < closely else (0,):
            asked = [number, support.flatten().tolist(), labels.tolist(), query.flatten().tolist()]
            found = page.evaluate(follow, asked)
            for steps in range(last + 1) if task < closely else [last]:  # an adapted copy for each step takes its time
                adapted = maml.adapt(support, labels, steps=steps)
                with torch.no_grad():
                    expected = adapted(torch.cat([support, query]))[-1]
                differences.append((torch.tensor(found[steps], dtype=dtype) - expected).abs().max())
    return differences


@pytest.mark.browser
def test_a_browser_without_workers_and_webassembly_is_slower_and_says_so(browser):
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script("delete window.WebAssembly; delete window.Worker;")
    page.goto(PAGE)
    page.get_by_role("button", name="Load an example").click()
    page.get_by_text("by JavaScript alone: this browser has no WebAssembly with vectors").wait_for()
    assert "MAML++ class" in page.locator("#status").inner_text()
    page.close()


@pytest.mark.browser
def test_a_student_draws_badly_and_mends_it(open_page):
    page = open_page()
    status = page.locator("#status")
    assert "Draw five characters" in status.inner_text()
    for number, shape in enumerate(SHAPES[:4]):
        draw(page, number, *shape)
    assert "Still empty: class 5" in status.inner_text()
    draw(page, 4, *SHAPES[4])
    status.get_by_text("Now draw one of the five").wait_for()
    assert beliefs(page, "MAML")[0][-6:] == ["–"] * 6
    assert all(re.fullmatch(r"\d+\.\d\d", loss) for loss in beliefs(page, "MAML")[5][2:])

    # A query like class 3, smaller, elsewhere and shaky.
    draw(page, 5, [(0.1, 0.12), (0.33, 0.4), (0.5, 0.6)], [(0.52, 0.1), (0.3, 0.37), (0.08, 0.58)])
    status.get_by_text("MAML++ class 3").wait_for()
    said = status.inner_text()
    assert "by MAML class 3" in said and "FOMAML class 3" in said
    for algorithm in ("MAML", "FOMAML", "MAML++"):
        by_class = [[int(share.rstrip("%")) for share in row[-6:]] for row in beliefs(page, algorithm)[:5]]
        assert all(97 <= sum(shares) <= 103 for shares in zip(*by_class))  # rounded
        assert by_class[2][5] > by_class[2][0]

    # A stroke too many, undone; a box cleared, undone; the numbers are those of before.
    shown = beliefs(page, "MAML++")
    draw(page, 1, [(0.1, 0.1), (0.9, 0.1)])
    page.wait_for_function("words => document.getElementById('status').innerText !== words", arg=said)
    page.get_by_role("button", name="Undo in class 2").click()
    page.get_by_role("button", name="Clear the query").click()
    status.get_by_text("Now draw one of the five").wait_for()
    page.get_by_role("button", name="Undo in the query").click()
    status.get_by_text("MAML++ class 3").wait_for()
    assert beliefs(page, "MAML++") == shown
    page.get_by_role("button", name="Clear all").click()
    assert "Draw five characters" in status.inner_text()
    assert page.get_by_role("button", name="Clear class 1").is_disabled()


@pytest.mark.browser
def test_a_link_brings_the_situation_back(open_page):
    page = open_page()
    for number, shape in enumerate((*SHAPES, SHAPES[0])):
        draw(page, number, *shape)
    page.get_by_text("The query is, by").wait_for()
    page.get_by_role("button", name="Start a round").click()
    page.wait_for_function("location.hash.includes('round=1')")
    address, shown, seen = page.url, beliefs(page, "MAML"), page.locator(".asked .picture").get_attribute("style")
    again = open_page(address[address.index("#") :])
    again.get_by_text("The query is, by").wait_for()
    assert beliefs(again, "MAML") == shown
    assert again.locator(".asked .picture").get_attribute("style") == seen
    for _ in SHAPES[0]:  # a drawing from a link can be undone, too
        again.get_by_role("button", name="Undo in the query").click()
    assert "Query: empty" in again.locator(".query .paper").get_attribute("aria-label")
    again.evaluate("location.hash = ''")
    again.get_by_text("Draw five characters").wait_for()

    broken = open_page("#d=AQEH")
    assert "The address holds no drawings that can be read (d=AQEH…)" in broken.get_by_role("alert").inner_text()
    draw(broken, 0, *SHAPES[0])
    assert broken.locator("#problem").inner_text() == ""


@pytest.mark.browser
def test_the_keyboard_reaches_everything(open_page):
    page = open_page()

    def press_on(name):
        for _ in range(80):
            page.keyboard.press("Tab")
            if (
                page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
                == name
            ):
                return page.keyboard.press("Enter")
        pytest.fail(f"Tab does not reach {name!r}")

    press_on("Load an example")
    page.get_by_text("The query is, by").wait_for()
    press_on("Pick class 1 from the sheet")
    page.get_by_role("dialog", name="A character for class 1").wait_for()
    page.keyboard.press("Escape")
    press_on("Pick class 2 from the sheet")
    letter = page.locator(".letters button").nth(3).get_attribute("aria-label")
    press_on(letter)
    assert letter in page.locator(".paper").nth(1).get_attribute("aria-label")
    press_on("Start a round")
    page.keyboard.press("Enter")  # the first answer has the focus
    page.get_by_text("It is class").wait_for()
    assert page.evaluate("document.activeElement.innerText") == "Next task"


@pytest.mark.browser
def test_a_round_scores_reader_and_networks(open_page):
    page = open_page("#round=5")
    for task in range(10):
        page.get_by_text(f"task {task + 1} of 10").wait_for()
        page.locator(".answers button").nth(task % 5).click()
        page.get_by_role("button", name="Another round" if task == 9 else "Next task").wait_for()
        if task < 9:
            page.get_by_role("button", name="Next task").click()
    row = page.locator(".score tbody td").all_inner_texts()
    scores = [int(words.removesuffix(" of 10")) for words in row]
    assert len(scores) == 4 and all(0 <= score <= 10 for score in scores)
    assert min(scores[1:]) >= 5  # chance gives two
    page.get_by_role("button", name="Look at this task above").click()
    page.get_by_text("The query is, by").wait_for()
    page.get_by_role("button", name="Another round").click()
    page.get_by_text("Round 6, task 1 of 10").wait_for()


@pytest.mark.browser
def test_a_round_of_twenty_classes_by_keyboard(open_page):
    page = open_page()
    ways = page.get_by_label("Classes in a task (ways)")
    ways.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Round 1, task 1 of 10, 20-way").wait_for()
    page.wait_for_function("location.hash.includes('ways=20')")
    assert page.locator(".answers button").count() == 20
    page.keyboard.press("Tab")  # from the first answer, which has the focus, to the second
    page.keyboard.press("Enter")
    page.get_by_text("You: class 2").wait_for()
    assert "MAML++ class" in page.locator("#round").inner_text()
    assert page.get_by_role("button", name="Look at this task above").count() == 0  # there are boxes for five
    page.keyboard.press("Enter")
    page.get_by_text("task 2 of 10, 20-way").wait_for()
    ways.select_option("5")
    page.get_by_text("Round 1, task 1 of 10, 5-way").wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("width, scheme", [(1366, "light"), (390, "light"), (1366, "dark"), (390, "dark")])
def test_it_fits_screens_and_themes(open_page, width, scheme):
    page = open_page("#round=2&ways=20", width=width, height=844, color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="Load an example").click()
    page.get_by_text("The query is, by").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Everything that can be pressed has a name, and is large enough for a finger.
    for control in page.locator("main button").all():
        assert control.get_attribute("aria-label") or control.inner_text()
        assert control.bounding_box()["height"] >= 24
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"draw-{width}-{scheme}.png"), full_page=True)


@pytest.mark.browser
def test_a_finger_draws_and_does_not_scroll(browser):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(PAGE)
    assert page.locator(".paper").first.evaluate("paper => getComputedStyle(paper).touchAction") == "none"
    box = page.locator(".paper").first.bounding_box()
    page.touchscreen.tap(box["x"] + 20, box["y"] + 20)
    assert "1 stroke" in page.locator(".paper").first.get_attribute("aria-label")
    page.close()
