"""The playgrounds of the book: their numbers against PyTorch, their pages in headless Chromium, their scripts in Node.

Skipped where there is no Node, no Playwright or no Chromium; MAMLCOURSE_CHROMIUM names another browser than the usual
ones. Screenshots are left in runs/browser.
"""

import base64
import io
import json
import math
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from mamlcourse import MAML, MLP, SinusoidTasks, evaluate
from mamlcourse.explorer import landscape
from mamlcourse.pretrained import load_pretrained

ROOT = Path(__file__).parent.parent
PLAYGROUNDS = ROOT / "book" / "playgrounds"
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
needs_node = pytest.mark.skipif(NODE is None, reason="there is no Node")
NAMES = ("bowl", "sinusoid", "trajectories")


def in_node(program: str, given):
    """What a Node program prints as JSON; it finds `given` in the variable of that name."""
    script = f"const given = JSON.parse(require('fs').readFileSync(0)); {program}"
    done = subprocess.run(
        [NODE, "-e", script], input=json.dumps(given), capture_output=True, text=True, cwd=PLAYGROUNDS, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_the_scripts_pass_their_own_tests():
    tests = sorted(map(str, (ROOT / "tests" / "javascript").glob("*.test.js")))
    done = subprocess.run([NODE, "--test", *tests], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@needs_node
@pytest.mark.parametrize("script", sorted(path.name for path in PLAYGROUNDS.glob("*.js")))
def test_node_can_read_the_script(script):
    done = subprocess.run([NODE, "--check", str(PLAYGROUNDS / script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_playgrounds_are_small_and_ask_no_other_host():
    files = [path for path in PLAYGROUNDS.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "fetch(" not in text, path.name
        assert 'type="module"' not in text, path.name


def test_the_pages_in_one_file_are_those_of_now_and_need_no_other(tmp_path):
    in_one_file = runpy.run_path(str(ROOT / "tools" / "make_playgrounds.py"))["in_one_file"]
    for page in PLAYGROUNDS.glob("*.html"):
        alone = (PLAYGROUNDS / "alone" / page.name).read_text(encoding="utf-8")
        assert alone == in_one_file(page), "run: python tools/make_playgrounds.py alone"
        assert " src=" not in alone and "stylesheet" not in alone


# The quadratic bowl.


def random_bowls(number=30):
    generator = torch.Generator().manual_seed(0)
    between = lambda low, high: low + (high - low) * torch.rand((), generator=generator).item()  # noqa: E731
    task = lambda: {  # noqa: E731
        "centre": [between(-4, 4), between(-4, 4)], "steep": between(0.3, 4), "flat": between(0.1, 0.3),
        "degrees": between(-90, 90),
    }  # fmt: skip
    return [
        {"tasks": [task(), task()], "theta": [between(-4, 4), between(-4, 4)], "lr": between(0, 0.6), "steps": k % 6}
        for k in range(number)
    ]


def autograd_of(bowl):
    """The bowl's meta-gradients by PyTorch: {maml, fomaml}, each of the mean of both tasks' losses after the steps."""

    def loss(task, theta):
        turn = math.radians(task["degrees"])
        c, s = math.cos(turn), math.sin(turn)
        axes = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        away = axes.T @ (theta - torch.tensor(task["centre"], dtype=torch.float64))
        return 0.5 * (task["steep"] * away[0] ** 2 + task["flat"] * away[1] ** 2)

    found = {}
    for name in ("maml", "fomaml"):
        theta = torch.tensor(bowl["theta"], dtype=torch.float64, requires_grad=True)
        total = 0.0
        for task in bowl["tasks"]:
            adapted = theta
            for _ in range(bowl["steps"]):
                (slope,) = torch.autograd.grad(loss(task, adapted), adapted, create_graph=name == "maml")
                adapted = adapted - bowl["lr"] * slope
            total = total + loss(task, adapted) / 2
        found[name] = torch.autograd.grad(total, theta)[0].tolist()
    return found


@needs_node
def test_the_bowl_has_the_meta_gradients_of_autograd():
    bowls = random_bowls()
    program = """
        const Bowl = require("./bowl.js");
        const all = given.map(({ tasks, theta, lr, steps }) => Bowl.meta(tasks, theta, lr, steps));
        console.log(JSON.stringify(all));
    """
    differ = 0
    for bowl, page in zip(bowls, in_node(program, bowls)):
        wanted = autograd_of(bowl)
        for name in ("maml", "fomaml"):
            assert page[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-9)
        share = [a - b for a, b in zip(wanted["maml"], wanted["fomaml"])]
        assert page["share"] == pytest.approx(share, rel=1e-9, abs=1e-9)
        differ += max(map(abs, share)) > 0.1
    assert differ > 10  # or the two would not be told apart


# The sinusoid: the page's learners in PyTorch.


def data_of(name):
    """The constant that a playground's data script defines."""
    text = (PLAYGROUNDS / f"{name}-data.js").read_text(encoding="utf-8")
    return json.loads(text.split("_DATA = ", 1)[1].split(";\n", 1)[0])


def wave_learner(name):
    """The learner of that name, with the page's weights and learning rates."""
    data = data_of("sinusoid")
    entry = data["learners"][name]
    recipe = name if name in ("maml", "fomaml", "maml++") else "maml"
    more = {"per_step_norm": False} if name == "maml++" else {}
    settings = dict(inner_lr=data["inner_lr"], inner_steps=data["inner_steps"]) | more
    maml = MAML(MLP(), recipe, loss=torch.nn.functional.mse_loss, backend="loop", **settings)
    with torch.no_grad():
        for kept, parameters in (
            (entry["weights"], dict(maml.model.named_parameters())),
            (entry["learning_rates"], maml.meta_params().learning_rates),
        ):
            assert set(kept) == set(parameters)
            for parameter, values in kept.items():
                parameters[parameter].copy_(torch.tensor(values))
    return maml


@pytest.mark.browser
@pytest.mark.parametrize("name", ["maml", "fomaml", "maml++", "joint", "untrained"])
def test_the_page_adapts_as_pytorch_does(visit, name):
    """On 50 waves, after every step, and beyond the steps that were trained."""
    steps, maml = 7, wave_learner(name)
    batch = SinusoidTasks(shots=5, queries=40, tasks_per_batch=50, seed=3).batch(0)
    wanted = maml.trajectory(batch, steps).query_outputs[..., 0]  # (tasks, steps + 1, queries)
    page = visit("sinusoid")
    found = page.evaluate(
        """([name, steps, tasks]) => tasks.map(([xs, ys, queries]) =>
            Sinusoid.adapt(SINUSOID_DATA.learners[name], xs, ys, steps, SINUSOID_DATA.inner_lr)
                .map(weights => Sinusoid.predict(weights, queries)))""",
        [name, steps, [[part[..., 0].tolist() for part in task] for task in zip(*batch[:3])]],
    )
    apart = (torch.tensor(found) - wanted).abs()
    assert apart.shape == (50, steps + 1, 40)
    assert apart.max() < 1e-4
    adapted = maml.adapt(batch.support_x[0], batch.support_y[0])
    with torch.no_grad():
        of_adapt = adapted(batch.query_x[0])[:, 0]
    assert (torch.tensor(found[0][maml.settings.inner_steps]) - of_adapt).abs().max() < 1e-4
    moved = (wanted[:, -1] - wanted[:, 0]).abs().mean()
    assert moved > 0.1  # there was something to compute


def test_the_waves_record_is_of_the_weights_beside_it():
    data = data_of("sinusoid")["learners"]
    unseen = SinusoidTasks(queries=50, tasks_per_batch=100, seed=10**6 + 1)
    for name in ("maml", "maml++"):
        loss = evaluate(wave_learner(name), unseen, 500, only_last=True).loss
        assert loss == pytest.approx(data[name]["mse_by_step"][-1], rel=1e-3)


# The trajectories: the records against the learners of the package.


def test_the_trajectories_are_those_of_the_pretrained_learners():
    tool = runpy.run_path(str(ROOT / "tools" / "make_playgrounds.py"))
    data, tasks = data_of("trajectories"), tool["tasks_of_lesson_10"]()
    number = data["failures"]["disputed"]
    stored, batch = data["tasks"][str(number)], tasks.batch(number)
    assert stored["query_labels"] == batch.query_y[0].tolist()
    images = tool["sprite"](torch.cat([batch.support_x[0], batch.query_x[0]]))
    assert pixels(images) == pixels(stored["images"])
    for name, kept in stored["learners"].items():
        found = tool["adaptation"](load_pretrained(name), batch, points=3)
        assert kept["query_loss"] == pytest.approx(found["query_loss"], rel=2e-3)
        assert kept["support_loss"] == pytest.approx(found["support_loss"], rel=1e-2, abs=1e-3)
        assert kept["correct"] == found["correct"]
        chances = torch.tensor(kept["chances"]) - torch.tensor(found["chances"])
        assert chances.abs().max() <= 3  # thousandths
        part, again = kept["slice"], found["slice"]
        assert torch.tensor(part["path"]).sub(torch.tensor(again["path"])).abs().max() < 5e-3
        corners = [[part["loss"][i][j] for j in (0, 4, 8)] for i in (0, 4, 8)]  # the places of a grid of 3 points
        assert torch.tensor(corners).div(torch.tensor(again["loss"])).sub(1).abs().max() < 0.02


def pixels(png):
    return Image.open(io.BytesIO(base64.b64decode(png))).tobytes()


def test_the_crowd_and_the_failures_are_those_of_lesson_10():
    data = data_of("trajectories")
    record = json.loads((ROOT / "results" / "pretrained-glyphs.json").read_text(encoding="utf-8"))
    crowd = {name: e for name, e in landscape.read_crowd(record).items() if name in data["crowd"]}
    assert data["failures"]["worst"] == landscape.worst_task(crowd)
    assert data["failures"]["disputed"] == landscape.most_disputed_task(crowd)
    for name, evaluation in crowd.items():
        losses = torch.tensor(data["crowd"][name]["losses"])
        assert losses.shape == (100, 6) and (losses - evaluation.losses).abs().max() < 0.06
        for number, task in data["tasks"].items():  # a task alone is the task of the crowd
            alone = torch.tensor(task["learners"][name]["query_loss"])
            assert alone.tolist() == pytest.approx(evaluation.losses[int(number)].tolist(), rel=0.02, abs=2e-3)


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
def visit(browser):
    """`visit(name, hash, **how)` opens a playground from its file; at the end of the test neither the console nor the
    network must have had anything to say."""
    pages = []

    def visit(name, hash="", width=1366, height=900, **how):
        page = browser.new_page(viewport={"width": width, "height": height}, **how)
        page.set_default_timeout(60_000)
        page.complaints, page.elsewhere = [], []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "console", lambda message: message.type in ("error", "warning") and page.complaints.append(message.text)
        )
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:")) or page.elsewhere.append(request.url)
        )
        page.goto(f"{(PLAYGROUNDS / name).as_uri()}.html{hash and '#' + hash}")
        pages.append(page)
        return page

    yield visit
    for page in pages:
        assert not page.complaints and not page.elsewhere
        page.close()


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)


def drag(page, handle, dx, dy):
    box = handle.locator(".touch").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2, steps=3)
    page.mouse.move(x + dx, y + dy, steps=3)
    page.mouse.up()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_its_screen(visit, name, width, scheme):
    page = visit(name, width=width, color_scheme=scheme, reduced_motion="reduce")
    page.locator("svg .frame").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    shot(page, f"playground-{name}-{width}-{scheme}")


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_the_tab_key_reaches_every_control(visit, name):
    page = visit(name)
    page.locator("svg .frame").first.wait_for()
    reachable = "a[href], button:not(:disabled), input:not(:disabled), select, summary, [tabindex='0']"
    wanted = page.evaluate(
        f"[...document.querySelectorAll({json.dumps(reachable)})].filter(e => e.checkVisibility()).length"
    )
    focused = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
    body = page.evaluate(focused)  # nothing has the focus yet
    seen = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(focused))
    assert len(seen - {body}) == wanted
    unnamed = """[...document.querySelectorAll('input, select, button, svg[role], g[role]')]
        .filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).length"""
    assert page.evaluate(unnamed) == 0


@pytest.mark.browser
def test_the_bowl_by_mouse(visit):
    page = visit("bowl")
    numbers = page.locator("#gradients")
    first = numbers.inner_text()
    theta = page.get_by_role("slider", name="θ, where adaptation starts")
    drag(page, theta, 80, 60)
    assert numbers.inner_text() != first
    page.wait_for_function("location.hash.includes('theta=')")
    moved, address = numbers.inner_text(), page.url
    page.reload()
    assert page.url == address and numbers.inner_text() == moved  # the address brings the situation back
    page.get_by_role("button", name="Back to the start").click()
    assert numbers.inner_text() == first
    drag(page, page.get_by_role("slider", name="Bottom of task A"), 40, 0)
    assert numbers.inner_text() != first
    page.get_by_role("link", name="The inner rate is 0").click()
    page.wait_for_function("document.querySelector('#status').textContent.includes('0 degrees apart')")
    page.get_by_role("button", name="Copy the link").click()
    page.wait_for_function("document.querySelector('#status').textContent.includes('link')")


@pytest.mark.browser
def test_the_bowl_by_keyboard(visit):
    page = visit("bowl", "lr=0.3&steps=1")
    theta = page.get_by_role("slider", name="θ, where adaptation starts")
    theta.focus()
    before = theta.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    after = theta.get_attribute("aria-valuetext")
    assert (before, after) == ("−1.2, 2.4", "−1.1, 3.4")
    rate = page.get_by_label("Inner learning rate α", exact=True)
    rate.fill("9")
    page.keyboard.press("Enter")
    assert rate.input_value() == "2"  # the largest that is allowed
    page.get_by_label("Inner learning rate α, slider").focus()
    page.keyboard.press("Home")
    assert rate.input_value() == "0"
    assert (
        "Without inner steps" in page.locator("#status").inner_text()
        or "0 degrees apart" in page.locator("#status").inner_text()
    )
    page.get_by_label("Show where either outer loop goes").focus()
    page.keyboard.press("Space")
    page.wait_for_function("location.hash.includes('outer=1')")


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_a_page_in_one_file_runs_where_links_and_addresses_lead_elsewhere(visit, name):
    """As in JupyterLab's viewer: in a frame, with a base address of its own."""
    page = visit(f"alone/{name}")
    text = (PLAYGROUNDS / "alone" / f"{name}.html").read_text(encoding="utf-8")
    page.set_content("<iframe width=900 height=900 sandbox='allow-scripts'></iframe>")
    page.locator("iframe").evaluate(
        "(frame, text) => { frame.srcdoc = text; }",
        text.replace("<head>", '<head><base href="file:///elsewhere/">'),
    )
    frame = page.frame_locator("iframe")
    frame.locator("svg .frame").first.wait_for()
    said = frame.locator("#status").inner_text()
    frame.get_by_label("Inner steps").first.fill("0")
    page.keyboard.press("Enter")
    if name != "trajectories":
        frame.locator("#situations a").nth(1).click()
    page.wait_for_timeout(300)  # the address is written a little later
    assert frame.locator("#status").inner_text() != said


@pytest.mark.browser
def test_the_page_computes_what_autograd_does(visit):
    page = visit("bowl")
    bowls = random_bowls(10)
    found = page.evaluate("all => all.map(b => Bowl.meta(b.tasks, b.theta, b.lr, b.steps))", bowls)
    for bowl, of_page in zip(bowls, found):
        for name, wanted in autograd_of(bowl).items():
            assert of_page[name] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.browser
def test_the_sinusoid_by_mouse(visit):
    page = visit("sinusoid")
    numbers, status = page.locator("#numbers"), page.locator("#status")
    assert status.inner_text().startswith("After 5 steps")
    first = numbers.inner_text()
    drag(page, page.get_by_role("slider", name="Support point 3"), 20, -60)
    assert numbers.inner_text() != first
    page.wait_for_function("location.hash.includes('points=')")
    moved = numbers.inner_text()
    page.reload()
    assert numbers.inner_text() == moved
    page.get_by_role("button", name="Points back on the wave").click()
    page.get_by_role("button", name="One step").click()
    assert status.inner_text().startswith("After 6 steps")
    page.get_by_label("Untrained network").check()
    assert "Untrained network" in numbers.inner_text()
    page.get_by_role("button", name="Back to the start").click()
    assert numbers.inner_text() == first
    page.get_by_role("button", name="Play the steps").click()
    page.wait_for_function("document.querySelector('#status').textContent.startsWith('After 10 steps')")
    page.get_by_role("button", name="Play the steps").wait_for()
    page.get_by_role("link", name="A single point").click()
    page.wait_for_function("document.querySelectorAll('.handle').length === 1")
    page.get_by_role("button", name="Another wave").click()
    assert page.get_by_role("slider", name="Support point 1").count() == 1


@pytest.mark.browser
def test_the_sinusoid_by_keyboard(visit):
    page = visit("sinusoid", "step=1&points=0,1")
    point = page.get_by_role("slider", name="Support point 1")
    point.focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert point.get_attribute("aria-valuetext") == "−0.1, 2.1"
    page.get_by_label("Inner steps taken, slider").focus()
    page.keyboard.press("Home")
    assert page.locator("#status").inner_text().startswith("After 0 steps")
    count = page.get_by_label("Support points", exact=True)
    count.fill("7")
    page.keyboard.press("Enter")
    assert page.locator(".handle").count() == 7
    for name in ("MAML", "FOMAML", "MAML++"):
        page.get_by_label(name, exact=True).focus()
        page.keyboard.press("Space")
    assert page.locator("#status").inner_text() == "Choose at least one initialisation."


@pytest.mark.browser
def test_the_trajectories_by_mouse(visit):
    page = visit("trajectories")
    status, maps = page.locator("#status"), page.locator("#maps svg")
    data = data_of("trajectories")
    assert status.inner_text().startswith("Task 0, step 1 of 5. MAML ")
    for button, failure in (("Worst task", "worst"), ("Most disputed task", "disputed")):
        page.get_by_role("button", name=button).click()
        number = str(data["failures"][failure])
        shows = "number => document.querySelector('#status').textContent.startsWith(`Task ${number}, `)"
        page.wait_for_function(shows, arg=number)
        assert "step 5 of 5" in status.inner_text()
        correct = data["tasks"][number]["learners"]["fomaml"]["correct"][5]
        assert f"FOMAML {correct} of 25 correct" in status.inner_text()
        wrong = page.get_by_role("region", name="Predictions of FOMAML").locator(".wrong")
        assert wrong.count() == 25 - correct
    page.wait_for_function("location.hash.includes('step=5')")
    page.wait_for_function(f"location.hash.includes('task={number}')")
    page.reload()
    page.wait_for_function(shows, arg=number)
    assert maps.count() == 3
    page.get_by_role("checkbox", name="FOMAML").uncheck()
    assert maps.count() == 2 and "FOMAML" not in status.inner_text()
    page.get_by_role("button", name="Back to the start").click()
    page.get_by_role("button", name="Play the steps").click()
    assert "step 0 of 5" in status.inner_text() or page.get_by_role("button", name="Stop").count()
    page.wait_for_function("document.querySelector('#status').textContent.includes('step 5 of 5')")
    page.get_by_role("button", name="Play the steps").wait_for()


@pytest.mark.browser
def test_the_trajectories_by_keyboard(visit):
    page = visit("trajectories", "task=3&step=2&maml%2B%2B=0")
    status = page.locator("#status")
    assert status.inner_text().startswith("Task 3, step 2 of 5") and "MAML++" not in status.inner_text()
    page.get_by_label("Inner steps taken, slider").focus()
    page.keyboard.press("ArrowRight")
    assert "step 3 of 5" in status.inner_text()
    page.get_by_label("Task", exact=True).focus()
    page.keyboard.press("ArrowDown")
    assert status.inner_text().startswith("Task 4, ")
    page.get_by_label("100 other tasks behind").focus()
    lines = page.locator("#loss svg path").count()
    page.keyboard.press("Space")
    assert page.locator("#loss svg path").count() <= lines - 20
