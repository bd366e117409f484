"""Compute what the book's playgrounds show: `python tools/make_playgrounds.py sinusoid` (or trajectories).

A playground is a page that works from its file, so its numbers are a script, `book/playgrounds/NAME-data.js`, that
defines one constant; what stands beside the numbers says how they came about.
"""

import json
from pathlib import Path

import torch
import typer
from torch.nn.functional import mse_loss

from mamlcourse import MLP, SinusoidTasks, evaluate, learner, train
from mamlcourse.stats import ci95

FOLDER = Path(__file__).resolve().parent.parent / "book" / "playgrounds"
app = typer.Typer(add_completion=False, help=__doc__)
app.callback()(lambda: None)  # so that a single command, too, goes by its name


def write_script(path: Path, constant: str, how: list[str], content: dict) -> None:
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
    "maml++": ("maml++", dict(per_step_norm=False)),  # the network has no normalisation
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
    ]
    content = {"inner_lr": WAVE_SETTINGS["inner_lr"], "inner_steps": WAVE_SETTINGS["inner_steps"], "learners": found}
    write_script(path, "SINUSOID_DATA", how, content)


if __name__ == "__main__":
    app()
