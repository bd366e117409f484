"""The widgets in a real browser: JupyterLab on loopback, notebook 10, the drawing pad, mouse and keyboard.

Skipped where Playwright's Python package or Chromium is absent; MAMLCOURSE_CHROMIUM names another browser than the
usual ones. Screenshots are left in runs/browser.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import drag

ROOT = Path(__file__).parent.parent
NOTEBOOK = "10_trajectories.ipynb"
SHOTS = ROOT / "runs" / "browser"
CHROMIUM = next(
    (
        path
        for path in (os.environ.get("MAMLCOURSE_CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser")))
        if path
    ),
    None,
)
RUN_SECONDS = int(os.environ.get("MAMLCOURSE_BROWSER_SECONDS", "600"))  # how long the whole notebook may take to run
TOKEN = "trajectories"

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
if CHROMIUM is None:
    pytest.skip("there is no Chromium; MAMLCOURSE_CHROMIUM can name one", allow_module_level=True)

# What the browser may complain of that is not ours: a cancelled poll when the page closes, missing optional files.
FOREIGN = ("Failed to load resource", "translations", "service worker", "Canvas2D", "net::ERR_ABORTED")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A JupyterLab of its own in a copy of the notebook and the results it reads: (address, folder)."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    shutil.copytree(ROOT / "results", folder / "results")
    settings = folder / "settings" / "@jupyterlab"
    for extension, text in (
        ("notebook-extension/tracker", '{"windowingMode": "none"}'),  # every output stays in the page
        ("apputils-extension/notification", '{"fetchNews": "false", "checkForUpdates": false}'),
    ):
        path = settings / f"{extension}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "MAMLCOURSE_DATASET": "glyphs",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "lab.log").read_text()[-2000:]
                time.sleep(0.5)
        yield address, folder
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def new_page(browser, width=1400, height=1300):
    """A page in headless Chromium, its console watched."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    return page


class Lab:
    """A notebook in JupyterLab (notebook 10, or one of the given cells), with hands and eyes."""

    def __init__(self, page, server, name, cells=None):
        address, folder = server
        path = folder / "notebooks" / name
        if cells is None:
            shutil.copy(ROOT / "notebooks" / NOTEBOOK, path)
        else:
            kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
            new = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)), metadata=kernel)
            nbformat.write(new, path)
        self.page, self.name = page, name
        page.goto(f"{address}/lab/workspaces/{Path(name).stem}/tree/notebooks/{name}?token={TOKEN}")
        page.get_by_role("tab", name=name).wait_for()
        page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").first.wait_for()
        page.get_by_text("| Idle").wait_for()  # what is asked of a kernel before it is connected gets lost

    def menu(self, *path):
        self.page.get_by_role("menuitem", name=path[0], exact=True).first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=path[-1]).first.click()

    def shot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(SHOTS / f"{name}.png"))

    @property
    def widget(self):
        """The box around the explorer: the one that has a slider called Step."""
        return self.page.locator(".jp-OutputArea-output .widget-vbox", has=self.page.get_by_text("Inner steps")).first

    def slider(self, label):
        """The slider beside the number field that has the label."""
        beside = self.widget.locator(".widget-hbox", has=self.page.get_by_text(label, exact=True)).last
        return beside.locator(".widget-slider")

    def field(self, label):
        return (
            self.widget.locator(".widget-inline-hbox", has=self.page.get_by_text(label, exact=True))
            .locator("input, select")
            .first
        )

    def fill(self, label, number):
        self.field(label).fill(str(number))
        self.page.keyboard.press("Enter")

    def dark(self, name):
        """A picture of the dark theme, for eyes."""
        for theme in ("JupyterLab Dark", "JupyterLab Light"):
            self.page.get_by_role("menuitem", name="Settings", exact=True).first.click()
            self.page.locator(".lm-Menu-itemLabel", has_text="Theme").first.click()
            self.page.locator(".lm-Menu-itemLabel", has_text=theme).first.click()
            self.page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
            if theme == "JupyterLab Dark":
                self.shot(name)

    def words(self):
        return self.widget.locator("[role=status], [role=alert]").first.inner_text()

    def images(self):
        """What the three images hold: a hash of the bytes behind each."""
        return self.widget.locator("img").evaluate_all(
            """images => Promise.all(images.map(async image => {
                const bytes = await (await fetch(image.src)).arrayBuffer();
                const hash = await crypto.subtle.digest("SHA-256", bytes);
                return Array.from(new Uint8Array(hash)).map(byte => byte.toString(16)).join("");
            }))"""
        )

    def until(self, what, condition, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            self.page.wait_for_timeout(100)
        self.shot("failed")
        pytest.fail(f"after {seconds} s still not: {what}; the text says {self.words()!r}")

    def until_said(self, *parts):
        self.until(f"saying {parts}", lambda: all(part in self.words() for part in parts))

    def no_errors(self):
        errors = self.page.locator(
            "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
        )
        assert errors.count() == 0, errors.first.inner_text()
        assert self.page.get_by_text("Error displaying widget").count() == 0
        ours = [text for text in self.page.complaints if not any(foreign in text for foreign in FOREIGN)]
        assert not ours, ours

    def run_all(self, restart=False):
        if restart:
            self.menu("Kernel", "Restart Kernel and Run All Cells…")
            self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        else:
            self.menu("Run", "Run All Cells")
        prompts = (
            "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.innerText.trim())"
        )
        self.page.wait_for_function(f"{prompts}.includes('[*]:')")
        try:
            finished = f"(all => !all.includes('[*]:') && /\\d/.test(all.at(-1)))({prompts})"
            self.page.wait_for_function(finished, timeout=1000 * RUN_SECONDS, polling=500)
        finally:
            self.shot(f"ran-{self.name.removesuffix('.ipynb')}")
        self.widget.locator("img").nth(2).wait_for(state="attached")


@pytest.fixture(scope="module")
def lab(browser, server):
    """Notebook 10, run once for the tests that drive its explorer, and what that shows at first."""
    lab = Lab(new_page(browser), server, "explorer.ipynb")
    lab.run_all()
    lab.no_errors()
    lab.widget.scroll_into_view_if_needed()
    lab.until_said("step 5 of 5")
    lab.first, lab.said = lab.images(), lab.words()
    return lab


def test_the_explorer_follows_mouse_and_keyboard(lab):
    page, first, said = lab.page, lab.first, lab.said
    assert len(first) == 3 and len(set(first)) == 3
    assert all(
        "step 5 of 5" in title for title in lab.widget.locator("img").evaluate_all("all => all.map(i => i.title)")
    )
    lab.shot("1-start")

    # The keyboard: step by step, there and back, and in one go to both ends.
    step = lab.slider("Step").get_by_role("slider")
    step.focus()
    page.keyboard.press("ArrowLeft")
    lab.until_said("step 4 of 5")
    changed = lab.images()
    assert all(a != b for a, b in zip(first, changed))
    lab.shot("2-step-4")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    lab.until_said("step 1 of 5")
    page.keyboard.press("Home")
    lab.until_said("step 0 of 5")
    page.keyboard.press("End")
    lab.until_said("step 5 of 5")
    lab.until("the first images", lambda: lab.images() == first)

    # The mouse: a fast drag to the left end and back over all steps; the last image belongs to the last place.
    box = lab.slider("Step").locator(".noUi-target").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"], y)
    page.mouse.down()
    for share in (0.9, 0.5, 0.1, 0.7, 0.3, 0.0):
        page.mouse.move(box["x"] + share * box["width"], y, steps=4)
    page.mouse.up()
    lab.until_said("step 0 of 5")
    lab.shot("3-dragged-to-0")
    step.focus()
    page.keyboard.press("End")
    lab.until("the first images", lambda: lab.images() == first)

    # Every other control changes what is said or shown, and its old value brings the old images back.
    def there_and_back(name, there, back, said_there):
        there()
        lab.until_said(*said_there)
        lab.until("other images", lambda: lab.images() != first)
        lab.shot(name)
        back()
        lab.until("the first images", lambda: lab.images() == first)

    for name, label, there, back, said_there in (
        ("4-task", "Task", 1, 0, "Task 1,"),
        ("5-shots", "Shots", 2, 1, "Task 0"),
        ("6-ways", "Ways", 4, 5, "of 20 correct"),
        ("8-inner-steps", "Inner steps", 6, 5, "of 6"),
        ("10-seed", "Seed", 3, 0, "Task 0"),
    ):
        there_and_back(name, lambda: lab.fill(label, there), lambda: lab.fill(label, back), [said_there])  # noqa: B023
    for name, label, there, back in (
        ("7-inner-lr", "Inner LR", "× 10", "as trained"),
        ("9-script", "Script", "Georgian", "all scripts"),
    ):
        choose = lab.field(label).select_option
        there_and_back(name, lambda: choose(there), lambda: choose(back), ["Task 0"])  # noqa: B023
    box = lab.widget.get_by_label("FOMAML", exact=True)
    there_and_back("11-without-fomaml", lambda: box.click(), lambda: box.click(), ["MAML"])
    assert lab.words() == said
    assert lab.field("Script").input_value() == "all scripts"

    # Buttons: a jump to a failure, and play.
    lab.widget.get_by_role("button", name="Worst task").click()
    lab.until("another task", lambda: "Task 0," not in lab.words() and "Working" not in lab.words())
    lab.shot("12-worst")
    lab.fill("Step", 0)
    lab.until_said("step 0 of 5")
    lab.widget.get_by_role("button", name="Play").click()
    lab.until_said("step 5 of 5")
    lab.no_errors()


def test_the_explorer_survives_a_restart_of_the_kernel(lab):
    """Whatever it showed before: if the test above ran, another task, and every control was moved."""
    page, first = lab.page, lab.first
    lab.slider("Step").get_by_role("slider").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    lab.until_said("step 4 of 5")
    lab.run_all(restart=True)
    lab.widget.scroll_into_view_if_needed()
    lab.until_said("step 5 of 5")
    assert lab.images() == first
    lab.slider("Step").get_by_role("slider").focus()
    page.keyboard.press("Home")
    lab.until_said("step 0 of 5")
    assert lab.images() != first
    lab.shot("13-after-restart")
    lab.no_errors()


LONG_TRAINING = """
from mamlcourse import MAML, MLP, SinusoidTasks
from mamlcourse.explorer import TrainingMonitor
from torch.nn.functional import mse_loss
history = TrainingMonitor().train(MAML(MLP(), loss=mse_loss, inner_lr=0.01), SinusoidTasks(), 10**6)
"""


def test_the_button_stops_a_training_that_runs(browser, server):
    page = new_page(browser)
    lab = Lab(
        page, server, "stop.ipynb", [LONG_TRAINING, "print('finished:', history.finished, len(history.losses) > 1)"]
    )
    lab.menu("Run", "Run All Cells")
    page.get_by_text("Iteration ").first.wait_for()  # a figure was drawn while the cell runs
    lab.shot("14-training")
    page.locator(".jp-OutputArea button", has_text="Stop").click()
    page.get_by_text("finished: False True").wait_for()
    assert "Stopped after" in page.locator("[role=status]").first.inner_text()
    lab.shot("15-stopped")
    lab.no_errors()


EXPLORER = """
import time
from mamlcourse import load_characters
from mamlcourse.explorer import TrajectoryExplorer
from mamlcourse.pretrained import load_pretrained
letters = load_characters("glyphs").split(validation=5).test
learners = {name: load_pretrained(name, "glyphs-5w1s") for name in ("maml", "fomaml", "maml++")}
explore = TrajectoryExplorer(learners, letters, number=1000)
explore
"""
WAITING = """
print("This cell is running")
end = time.monotonic() + 600
while explore.step.value != 4 and time.monotonic() < end:
    time.sleep(0.1)
print("heard while it ran:", explore.step.value)
"""


def test_on_a_small_screen_controls_act_while_a_cell_runs_and_their_pictures_are_seen(browser, server):
    page = new_page(browser, 1366, 768)
    lab = Lab(page, server, "small.ipynb", [EXPLORER, WAITING])
    lab.menu("Run", "Run All Cells")
    page.get_by_text("This cell is running", exact=True).wait_for()
    lab.until_said("step 5 of 5")
    room = page.locator(".jp-NotebookPanel-notebook").bounding_box()
    box = lab.widget.bounding_box()
    assert box["height"] <= room["height"] and box["width"] <= room["width"], (box, room)
    lab.widget.evaluate("widget => widget.scrollIntoView()")
    seen = lab.widget.locator("img:visible")
    assert seen.count() == 2  # curves and landscape
    for image in seen.all():
        place = image.bounding_box()
        assert place["y"] + place["height"] <= room["y"] + room["height"]
        assert place["x"] + place["width"] <= box["x"] + box["width"]
        assert image.evaluate("image => image.naturalWidth / image.width") >= 2
    assert page.locator(".widget-vbox [title=null]").count() == 0
    lab.shot("16-small-screen")
    first = lab.images()
    lab.slider("Step").get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    lab.until_said("step 4 of 5")
    assert all(a != b for a, b in zip(first, lab.images()))
    page.get_by_text("heard while it ran: 4").wait_for()

    # What takes long can be given up, and nothing waits for it.
    lab.widget.get_by_role("button", name="Worst task").click()
    lab.widget.get_by_text("Measured").wait_for()
    lab.fill("Step", 2)
    lab.until_said("step 2 of 5")
    lab.shot("17-measuring")
    lab.widget.get_by_role("button", name="Cancel").click()
    lab.widget.get_by_text("Measured").wait_for(state="hidden")
    assert "Task 0," in lab.words()
    lab.widget.get_by_role("button", name="predictions").click()
    lab.until("one picture", lambda: seen.count() == 1)
    assert lab.widget.bounding_box()["height"] <= room["height"]
    lab.dark("18-dark")
    lab.no_errors()


PAD = """
from mamlcourse import load_characters
from mamlcourse.explorer import DrawingPad
from mamlcourse.pretrained import load_pretrained
pad = DrawingPad(load_pretrained("maml", "glyphs-5w1s"), load_characters("glyphs").split(validation=5).test)
pad
"""


def test_the_pad_takes_drawings_by_mouse_and_characters_by_keyboard(browser, server):
    page = new_page(browser, 1366, 768)
    lab = Lab(page, server, "pad.ipynb", [PAD])
    lab.menu("Run", "Run All Cells")
    pad = page.locator(".mamlcourse-pad").first
    words = pad.locator("[role=status]")

    def until_said(part):
        pad.locator("[role=status]", has_text=part).wait_for()

    until_said("after 5 steps")
    assert pad.bounding_box()["height"] <= page.locator(".jp-NotebookPanel-notebook").bounding_box()["height"]
    lab.shot("19-pad")
    pad.get_by_role("button", name="Clear all").click()
    until_said("Still empty: class 1, class 2, class 3, class 4, class 5, query.")

    frame = pad.locator("svg").nth(0).bounding_box()
    drag(page, frame, [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]])  # one right after the other
    until_said("Still empty: class 2, class 3, class 4, class 5, query.")
    pad.locator("img[title='Class 1: your drawing']").wait_for()
    pad.locator("polyline").first.wait_for(state="detached")
    for place in (2, 5, 9, 14, 17):  # by keyboard alone, into the empty boxes one after the other
        pad.locator(".mamlcourse-sheet button").nth(place).focus()
        page.keyboard.press("Enter")
    until_said("after 5 steps")
    assert pad.locator("img[title*='by writer']").count() == 5
    before = words.inner_text()
    drag(page, pad.locator("svg").nth(5).bounding_box(), [[(0.3, 0.2), (0.7, 0.8), (0.3, 0.8)]])
    pad.locator("img[title='Query: your drawing']").wait_for()
    lab.shot("20-pad-drawn")
    pad.locator("button[title='Undo in query']").click()  # the picked character is there again
    pad.locator("img[title^='Query:'][title*='by writer']").wait_for()
    until_said(before)
    lab.dark("21-pad-dark")
    lab.no_errors()
