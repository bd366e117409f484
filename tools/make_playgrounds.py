"""Compute what the book's playgrounds show: `python tools/make_playgrounds.py sinusoid` (or another command below).

A playground is a page that works from its file, so its numbers are a script, `book/playgrounds/NAME-data.js`, that
defines one constant; what stands beside the numbers says how they came about.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
import typer
from PIL import Image
from torch.nn.functional import mse_loss

from mamlcourse import MLP, SinusoidTasks, evaluate, learner, load_characters, train
from mamlcourse.explorer import landscape
from mamlcourse.pretrained import load_pretrained
from mamlcourse.records import read_json
from mamlcourse.stats import ci95

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "playgrounds"
app = typer.Typer(add_completion=False, help=__doc__)
app.callback()(lambda: None)  # so that a single command, too, goes by its name


def write_script(path: Path, constant: str, how: list[str], content: dict | str) -> None:
    """Write a classic script that defines the constant, for pages and, as a module, for Node."""
    lines = [f"// {line}" for line in how]
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    export = f'if (typeof module !== "undefined") module.exports = {constant};'
    path.write_text("\n".join([*lines, f"const {constant} = {text};", export, ""]), encoding="utf-8")


def short(values: torch.Tensor, digits: int = 9) -> list:
    """A tensor as lists of numbers of so many significant digits; nine give every float32 back."""
    if values.ndim == 0:
        return float(f"{values.item():.{digits}g}")
    return [short(part, digits) for part in values]


WAVE_SETTINGS = dict(inner_steps=5, inner_lr=0.01, outer_lr=0.003)  # lesson 03's and benchmarks/learned_lrs.py's
WAVE_LEARNERS = {  # name: (recipe, changes)
    "maml": ("maml", {}),
    "fomaml": ("fomaml", {}),
    # The network has no normalisation. With the recipe's 0.03 the learned learning rates ran away in this long a run
    # (1.7 on the waves below, MAML 0.26); 0.01 was tried next, on validation waves, and kept.
    "maml++": ("maml++", dict(per_step_norm=False, learned_lr_outer_lr=0.01)),
    "joint": ("maml", dict(inner_steps=0)),  # one network for all waves, which learns their mean
}


@app.command()
def sinusoid(
    path: Path = FOLDER / "sinusoid-data.js", iterations: int = 1500, seed: int = 0, eval_tasks: int = 500
) -> None:
    """Train the initialisations of the sinusoid playground."""
    unseen = SinusoidTasks(queries=50, tasks_per_batch=100, seed=10**6 + 1)
    found = {}
    for name, (recipe, changes) in (WAVE_LEARNERS | {"untrained": ("maml", {})}).items():
        torch.manual_seed(seed)
        maml = learner(MLP(), recipe, loss=mse_loss, backend="vmap", **WAVE_SETTINGS | changes)
        if name == "joint":  # a wave has 20 points in it, as many as in the others' tasks
            train(maml, SinusoidTasks(shots=1, queries=20, tasks_per_batch=25, seed=seed), iterations, progress=False)
        elif name != "untrained":
            train(maml, SinusoidTasks(tasks_per_batch=25, seed=seed), iterations, progress=False)
        tested = learner(maml.model, "maml", loss=mse_loss, **WAVE_SETTINGS) if name == "joint" else maml
        losses = evaluate(tested, unseen, eval_tasks).losses
        found[name] = {
            "weights": {name: short(p.detach()) for name, p in maml.model.named_parameters()},
            "learning_rates": {name: short(lr.detach()) for name, lr in maml.meta_params().learning_rates.items()},
            "mse_by_step": short(losses.mean(0), 4),
            "mse_ci95": short(torch.tensor(ci95(losses[:, -1].tolist())), 3),
        }
        print(f"{name:10} {found[name]['mse_by_step']} ± {found[name]['mse_ci95']}", flush=True)
    how = [
        "Initialisations of a network 1-40-40-1 for sinusoids, by tools/make_playgrounds.py sinusoid: "
        f"{iterations} meta-batches of 25 waves,",
        f"10 support and 10 query points each, seed {seed}; mse_by_step: {eval_tasks} unseen waves of 50 points.",
        "Inner rate 0.01, outer 0.003. MAML++ has learned_lr_outer_lr 0.01, not the recipe's 0.03: see there.",
    ]
    content = {"inner_lr": WAVE_SETTINGS["inner_lr"], "inner_steps": WAVE_SETTINGS["inner_steps"], "learners": found}
    write_script(path, "SINUSOID_DATA", how, content)


THREE = ("maml", "fomaml", "maml++")


def tasks_of_lesson_10():
    """The tasks of that lesson's explorer: letters of scripts that no learner has seen."""
    return landscape.few_shot_tasks(load_characters("glyphs").split(validation=5).test)


def sprite(images: torch.Tensor) -> str:
    """Images (N, 1, height, width), 1 for ink, in one row, as a PNG in base64."""
    row = (255 * torch.cat(list(images[:, 0]), dim=1)).byte().numpy()
    content = io.BytesIO()
    Image.fromarray(row).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def adaptation(maml, batch, points: int) -> dict:
    """What the trajectories playground shows of one learner on one task."""
    found = maml.trajectory(batch, parameters=True)
    part = landscape.loss_slice(maml, batch, found, points)
    chances = (1000 * found.query_outputs[0].softmax(-1)).round().int()  # (K + 1, queries, ways), in thousandths
    return {
        "support_loss": short(found.support_loss[0], 4),
        "query_loss": short(found.query_loss[0], 4),
        "correct": (found.query_accuracy[0] * batch.query_y.shape[1]).round().int().tolist(),
        "chances": chances.tolist(),
        "slice": {"path": short(part.path, 4), "x": short(part.x, 4), "y": short(part.y, 4),
                  "loss": short(part.loss, 3), "seen": round(part.seen, 3)},
    }  # fmt: skip


@app.command()
def trajectories(path: Path = FOLDER / "trajectories-data.js", number: int = 10, points: int = 9) -> None:
    """Let the learners that come with the package adapt to a few tasks of lesson 10, its failures among them."""
    record = read_json(ROOT / "results" / "pretrained-glyphs.json")
    crowd = {name: evaluation for name, evaluation in landscape.read_crowd(record).items() if name in THREE}
    failures = {
        "worst": landscape.worst_task(crowd),
        "disputed": landscape.most_disputed_task(crowd),
        "overshooting": landscape.most_overshooting_task(crowd),
    }
    learners = {name: load_pretrained(name) for name in THREE}
    tasks = tasks_of_lesson_10()
    shown = {}
    for index in sorted({*range(number), *failures.values()}):
        batch = tasks.batch(index)
        classes = tasks.sample(index)[0][0].tolist()
        shown[index] = {
            "names": [tasks.characters.names[c].lower() for c in classes],
            "scripts": [tasks.characters.alphabets[c] for c in classes],
            "support_labels": batch.support_y[0].tolist(),
            "query_labels": batch.query_y[0].tolist(),
            "images": sprite(torch.cat([batch.support_x[0], batch.query_x[0]])),
            "learners": {name: adaptation(maml, batch, points) for name, maml in learners.items()},
        }
        print(f"task {index}", flush=True)
    how = [
        "Adaptation by the pretrained learners (results/pretrained-glyphs.json) on tasks of letters not seen before,",
        "by tools/make_playgrounds.py trajectories: 5 ways, 1 shot, 5 queries a class. The crowd: 100 such tasks.",
    ]
    queries = len(shown[0]["query_labels"])
    many = {
        name: {"losses": short(e.losses, 3), "correct": (e.accuracies * queries).round().int().tolist()}
        for name, e in crowd.items()
    }
    write_script(path, "TRAJECTORIES_DATA", how, {"failures": failures, "crowd": many, "tasks": shown})


WABT = "wabt@1.0.39"  # npm's package of the assembler


def write_kernel(module: bytes) -> None:
    """Write the engine's product as a script."""
    source = FOLDER / "product.wat"
    how = [
        f"The matrix product of engine.js for WebAssembly with vectors: product.wat, assembled by {WABT} in",
        f"tools/make_playgrounds.py kernel. SHA-256 of product.wat: {hashlib.sha256(source.read_bytes()).hexdigest()}",
    ]
    write_script(FOLDER / "product.js", "PRODUCT_KERNEL", how, base64.b64encode(module).decode())


@app.command()
def kernel() -> None:
    """Assemble the matrix product of "Draw your own"; needs Node and, once, npm's registry."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "product.wasm"
        command = ["npx", "--yes", "--package", WABT, "wat2wasm", FOLDER / "product.wat", "-o", module]
        subprocess.run(command, check=True)
        write_kernel(module.read_bytes())


def in_one_file(page: Path) -> str:
    """A playground with its styles and scripts inside, which runs in JupyterLab's viewer: that gets no other file.

    Links to the other playgrounds would lead nowhere there, so they are left out.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"  <nav .*?</nav>\n", "", text, flags=re.DOTALL)
    style = re.compile(r'  <link rel="stylesheet" href="([^"]+)">\n')
    script = re.compile(r'  <script src="([^"]+)"[^>]*></script>\n')
    read = lambda match: page.with_name(match[1]).read_text(encoding="utf-8")  # noqa: E731
    scripts = "".join(f"<script>\n{read(match)}</script>\n" for match in script.finditer(text))
    text = style.sub(lambda match: f"  <style>\n{read(match)}  </style>\n", script.sub("", text))
    return text.replace("</body>", f"{scripts}</body>")


@app.command()
def alone() -> None:
    """Write every playground as a single file into `alone/`, where the lessons' links lead."""
    (FOLDER / "alone").mkdir(exist_ok=True)
    for page in sorted(FOLDER.glob("*.html")):
        (FOLDER / "alone" / page.name).write_text(in_one_file(page), encoding="utf-8")


PICTURES = {"draw": "", "bowl": "", "sinusoid": "", "trajectories": "task=46"}  # name: the situation


@app.command()
def pictures(chromium: str = shutil.which("chromium") or "chromium") -> None:
    """Take the pictures of the playgrounds that stand on the home page and under the cells that show widgets."""
    from playwright.sync_api import sync_playwright

    (FOLDER / "pictures").mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 640}, color_scheme="light")
        for name, situation in PICTURES.items():
            if (FOLDER / f"{name}.html").exists():
                page.goto(f"{(FOLDER / name).as_uri()}.html#{situation}")
                if name == "draw":
                    page.get_by_role("button", name="Load an example").click()
                    page.get_by_text("Computed in").wait_for()
                page.locator(".stage, .boxes").first.evaluate("stage => stage.scrollIntoView()")
                page.wait_for_timeout(500)
                Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(
                    FOLDER / "pictures" / f"{name}.png", optimize=True
                )
        browser.close()


if __name__ == "__main__":
    app()
