"""How long a reader of "Draw your own" waits: `python benchmarks/playground_times.py`, on a machine that is idle.

It needs Playwright and Chromium and writes results/playground-times.json: milliseconds, by the page's own clock, from
the end of a click or a stroke until the answers of the three networks are on the page, in a new browser for each
round. "first": the example is loaded into an empty page, five support pictures and a query; the workers start and
WebAssembly is compiled. "stroke": one more stroke in one of the boxes, and all three networks adapt anew. "task of 20":
the next task of a 20-way round, answered at once; it is computed while the reader thinks.
"""

import shutil
from pathlib import Path
from statistics import median

import typer
from tqdm.auto import tqdm

from mamlcourse.records import provenance, write_json

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "playgrounds" / "draw.html"
RECORD = ROOT / "results" / "playground-times.json"
STROKES, TASKS = 5, 5
CLOCK = """() => {
    const status = document.getElementById("status");
    let began = 0, answered = null;
    for (const event of ["pointerup", "click"]) {
        addEventListener(event, () => { [began, answered] = [performance.now(), null]; }, true);
    }
    new MutationObserver(() => {
        if (status.textContent.includes("Computed in")) answered ??= performance.now() - began;
    }).observe(status, { childList: true, characterData: true, subtree: true });
    window.waited = () => answered;
}"""
TASK = """() => new Promise((found) => {
    const round = document.getElementById("round"), next = round.querySelector("button.first");
    const began = performance.now();
    next.click();
    const look = () => {
        const known = round.textContent.includes("It is class");
        known ? found(performance.now() - began) : requestAnimationFrame(look);
    };
    round.querySelector(".answers button").click();
    look();
})"""


def waited(page) -> float:
    page.wait_for_function("waited() !== null")
    return round(page.evaluate("waited()"), 1)


def stroke(page, number: int) -> None:
    """One more stroke, across a box."""
    paper = page.locator(".paper").nth(number)
    paper.scroll_into_view_if_needed()
    frame = paper.bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x - 30, y + 10)
    page.mouse.down()
    page.mouse.move(x + 30, y - 10, steps=8)
    page.mouse.up()


def main(rounds: int = 10, chromium: str = shutil.which("chromium") or "chromium") -> None:
    """Time the page in so many new browsers, one after the other."""
    from playwright.sync_api import sync_playwright

    found = {"first": [], "stroke": [], "task of 20": []}
    with sync_playwright() as playwright:
        for _ in tqdm(range(rounds)):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1366, "height": 900})
            page.goto(PAGE.as_uri())
            page.evaluate(CLOCK)
            page.get_by_role("button", name="Load an example").click()
            found["first"].append(waited(page))
            for number in range(STROKES):
                stroke(page, number)
                found["stroke"].append(waited(page))
            page.goto(PAGE.as_uri() + "#round=1&ways=20")
            page.locator(".answers button").first.click()
            page.get_by_text("It is class").wait_for()
            found["task of 20"] += [round(page.evaluate(TASK), 1) for _ in range(TASKS)]
            version = browser.version
            browser.close()
    record = {"kind": "playground times", **provenance(), "browser": f"Chromium {version}, headless, without a GPU"}
    write_json(record | {"rounds": rounds, "milliseconds": found}, RECORD)
    for name, times in found.items():
        print(f"{name}: median {median(times):.0f} ms, slowest {max(times):.0f} ms of {len(times)}")


if __name__ == "__main__":
    typer.run(main)
