"""The explorer in a real browser: JupyterLab on loopback, notebook 10, mouse and keyboard.

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


def new_page(browser):
    """A page in headless Chromium, its console watched."""
    page = browser.new_page(viewport={"width": 1400, "height": 1300})
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
        return self.widget.locator(".widget-slider", has=self.page.get_by_text(label, exact=True)).get_by_role("slider")

    def field(self, label):
        return (
            self.widget.locator(".widget-inline-hbox", has=self.page.get_by_text(label, exact=True))
            .locator("input, select")
            .first
        )

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
        self.widget.locator("img").nth(2).wait_for()


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
    step = lab.slider("Step")
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
    box = (
        lab.widget.locator(".widget-slider", has=page.get_by_text("Step", exact=True))
        .locator(".noUi-target")
        .bounding_box()
    )
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

    def press(control, *keys):
        control.focus()
        for key in keys:
            page.keyboard.press(key)

    there_and_back(
        "4-task",
        lambda: press(lab.slider("Task"), "ArrowRight"),
        lambda: press(lab.slider("Task"), "ArrowLeft"),
        ["Task 1,"],
    )
    there_and_back(
        "5-shots",
        lambda: press(lab.slider("Shots"), "ArrowRight"),
        lambda: press(lab.slider("Shots"), "ArrowLeft"),
        ["Task 0"],
    )
    there_and_back(
        "6-ways",
        lambda: press(lab.slider("Ways"), "ArrowLeft"),
        lambda: press(lab.slider("Ways"), "ArrowRight"),
        ["of 20 correct"],
    )
    there_and_back(
        "7-inner-lr",
        lambda: press(lab.slider("Inner LR"), "End"),
        lambda: press(lab.slider("Inner LR"), "Home", "ArrowRight", "ArrowRight"),
        ["Task 0"],
    )
    there_and_back(
        "8-inner-steps",
        lambda: press(lab.slider("Inner steps"), "ArrowRight"),
        lambda: press(lab.slider("Inner steps"), "ArrowLeft"),
        ["of 6"],
    )
    there_and_back(
        "9-script",
        lambda: lab.field("Script").select_option("Georgian"),
        lambda: lab.field("Script").select_option("all scripts"),
        ["Task 0"],
    )
    there_and_back(
        "10-seed",
        lambda: (lab.field("Seed").fill("3"), page.keyboard.press("Enter")),
        lambda: (lab.field("Seed").fill("0"), page.keyboard.press("Enter")),
        ["Task 0"],
    )
    box = lab.widget.get_by_label("FOMAML", exact=True)
    there_and_back("11-without-fomaml", lambda: box.click(), lambda: box.click(), ["MAML"])
    assert lab.words() == said
    assert lab.field("Script").input_value() == "all scripts"

    # Buttons: a jump to a failure, and play.
    lab.widget.get_by_role("button", name="Worst task").click()
    lab.until("another task", lambda: "Task 0," not in lab.words() and "Working" not in lab.words())
    lab.shot("12-worst")
    press(step, "Home")
    lab.until_said("step 0 of 5")
    lab.widget.locator(".jupyter-widgets-play button, .widget-play button").first.click()
    lab.until_said("step 5 of 5")
    lab.no_errors()


def test_the_explorer_survives_a_restart_of_the_kernel(lab):
    """Whatever it showed before: if the test above ran, another task, and every control was moved."""
    page, first = lab.page, lab.first
    lab.slider("Step").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    lab.until_said("step 4 of 5")
    lab.run_all(restart=True)
    lab.widget.scroll_into_view_if_needed()
    lab.until_said("step 5 of 5")
    assert lab.images() == first
    lab.slider("Step").focus()
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
