"""`mamlcourse start` as a student uses it: lesson 00 opens, its links open lessons, and theirs open exercises."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_browser import browser, new_page  # noqa: F401 - a fixture; skips this file too where there is no browser

from mamlcourse import start

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.browser


@pytest.fixture
def started(tmp_path):
    """(The address that the command prints, the working copy); Jupyter's own folders are not the user's."""
    folders = {
        f"{name}_DIR": str(tmp_path / name.lower())
        for name in ("JUPYTER_CONFIG", "JUPYTER_RUNTIME", "JUPYTERLAB_WORKSPACES", "JUPYTERLAB_SETTINGS", "IPYTHON")
    }
    environment = os.environ | folders | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "mamlcourse", "start", "mine", "--no-browser", "--", "--ServerApp.ip=127.0.0.1"]
    log = tmp_path / "lab.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        for _ in range(480):
            printed = re.search(r"http://127\.0\.0\.1:\d+/\S*\?token=\w+", log.read_text())
            assert process.poll() is None, log.read_text()[-2000:]
            if printed:
                break
            time.sleep(0.5)
        urllib.request.urlopen(printed[0], timeout=100).close()
        yield printed[0], tmp_path / "mine"
    finally:
        process.terminate()
        process.wait(60)


def test_the_links_of_a_working_copy_open(browser, started):  # noqa: F811
    address, folder = started
    page = new_page(browser)
    page.goto(address)
    shown = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def title():
        return shown.locator("h1").first.inner_text()

    shown.locator("h1").first.wait_for()
    assert title().startswith("00 Start here")
    for link, tab in (("01_few_shot_tasks.ipynb", "01 Few-shot"), ("01_sample_an_episode.ipynb", "Exercise 01")):
        shown.locator(f"a[href*='{link}']").first.click()
        page.get_by_role("tab", name=link).wait_for()
        shown.locator("h1", has_text=tab).wait_for()
    assert page.locator(".jp-Dialog").count() == 0
    # What JupyterLab saves by itself is no edit of the student's, and the course's own files are as they were.
    page.keyboard.press("Control+s")
    page.wait_for_timeout(1000)
    assert start.lay_out(folder) == [f"{folder}: no files were updated."]
