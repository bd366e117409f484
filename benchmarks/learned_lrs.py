"""How fast Adam should move learned inner learning rates: Adam's learning rate for them in units of the first one.

    OMP_NUM_THREADS=1 python benchmarks/learned_lrs.py results/learned-lrs.json

Officially one Adam trains weights and learned learning rates alike, so outer_lr / inner_lr decides: 0.01 in the papers'
Omniglot runs, 0.03 in this course's, 0.3 on sinusoids (inner 0.01, outer 0.003). `learned_lr_outer_lr` says it instead.

- Sinusoids: MAML without and with cosine, MAML++ the official way, with each relative rate, and learning the logarithms
  of the learning rates. The same waves for all, in training, validation and testing.
- Glyphs: 50 batches of 4 tasks, on the validation alphabets; test alphabets are never looked at.

The recipes have 0.03, chosen on validation data alone. On sinusoids it has the lowest mean error of all that train with
the cosine: 0.76 ± 0.18 (standard deviation over seeds), 0.01 has 0.82 ± 0.14, MAML with cosine 0.97 ± 0.12; at 0.1 the
learning rates still jump (1.18 ± 0.62), and the official way ends between 0.7 and 3.3 or diverges. On glyphs MAML++ has
about the same accuracy from 0.01 to 0.1 (82.1, 81.8, 81.6%), FOMAML++ loses 5 percentage points at 0.1, and below 0.03
the loss of both grows (MAML++ 0.63, 0.68, 0.72). There 0.03 is the official way, so earlier records are of the same
training. Seeds are few: 0.03 or 0.01 is undecided in error and in accuracy. On sinusoids 28% of the learning rates end
negative with 0.03 and 4% with 0.01: where that is unwanted, take 0.01. Meta-SGD gains from 0.1 in 50 batches (63.0
against 59.2%), with 6% of its learning rates negative; it has 0.03 too, which on glyphs changes nothing. MAML without
cosine is better than all of them on sinusoids (0.53 ± 0.04): there the cosine costs more than learning them gives.

One row for each run is added to the file as it is measured, and runs that are already there are skipped.
"""

import time
from pathlib import Path
from statistics import fmean, stdev

import torch
import typer
from torch.nn.functional import mse_loss

from mamlcourse import MLP, InputError, SinusoidTasks, evaluate, learner, train
from mamlcourse.meta_params import outer_step
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, read_json, write_json
from mamlcourse.training import outer_lr_at
from mamlcourse.training.steppers import LR_FACTOR, set_lr

RELATIVE = (0.1, 0.03, 0.01, 0.003, 0.001)
LOGARITHMS = (0.1, 0.01)
SINUSOIDS = dict(inner_steps=5, inner_lr=0.01, outer_lr=0.003)
EPOCHS = 100


def sinusoid_variants():
    """{name: (recipe, changes)}; changes have "logarithms" where those are learned."""
    plus = dict(per_step_norm=False, learned_lr_outer_lr=None)  # the network has no normalisation
    variants = {"maml": ("maml", {}), "maml, cosine": ("maml", dict(cosine=True)), "maml++, official": ("maml++", plus)}
    variants |= {f"maml++, {r}": ("maml++", plus | dict(learned_lr_outer_lr=r)) for r in RELATIVE}
    return variants | {f"maml++, logarithms {r}": ("maml++", plus | dict(logarithms=r)) for r in LOGARITHMS}


def glyph_variants():
    """{name: (recipe, changes)}."""
    variants = {"maml": ("maml", {}), "maml, cosine": ("maml", dict(cosine=True))}
    for name, relative in (("maml++", RELATIVE), ("fomaml++", RELATIVE), ("meta-sgd", RELATIVE[::2])):
        variants[f"{name}, official"] = (name, dict(learned_lr_outer_lr=None))  # which is 0.03 here
        variants |= {f"{name}, {r}": (name, dict(learned_lr_outer_lr=r)) for r in relative if r != 0.03}
    return variants


def train_all(maml, tasks, iterations: int) -> None:
    """`train`; who stops it stops the benchmark."""
    if not train(maml, tasks, iterations, epochs=EPOCHS, progress=False).finished:
        raise KeyboardInterrupt


def train_logarithms(maml, tasks, iterations: int, lr: float) -> None:
    """As `train`, but what Adam learns instead of the inner learning rates is their logarithms."""
    meta = maml.meta_params()
    logs = {name: lr.detach().log().requires_grad_() for name, lr in meta.learning_rates.items()}
    groups = [
        {"params": meta._replace(learning_rates={}).tensors()},
        {"params": list(logs.values()), LR_FACTOR: lr / maml.settings.outer_lr},
    ]
    optimizer = torch.optim.Adam(groups)
    for iteration in range(iterations):
        found = maml.meta_gradients(tasks.batch(iteration), epoch=iteration * EPOCHS // iterations).gradients
        chained = {name: meta.learning_rates[name].detach() * g for name, g in found.learning_rates.items()}
        set_lr(optimizer, outer_lr_at(maml, iteration, iterations))
        outer_step(optimizer, meta._replace(learning_rates=logs), found._replace(learning_rates=chained))
        with torch.no_grad():
            for name, log in logs.items():
                meta.learning_rates[name].copy_(log.exp())


def learned(maml) -> dict:
    """What became of the learned learning rates, as multiples of the first one."""
    lrs = maml.meta_params().learning_rates
    if not lrs:
        return {}
    multiples = torch.cat([lr.detach().flatten() for lr in lrs.values()]) / maml.settings.inner_lr
    low, high = multiples.min().item(), multiples.max().item()
    return {"negative": (multiples < 0).float().mean().item(), "lowest": low, "highest": high}


def sinusoid(name: str, changes: dict, seed: int, iterations: int, eval_tasks: int) -> dict:
    """Train one variant and measure it on waves that no other part has seen."""
    torch.manual_seed(seed)
    changes = SINUSOIDS | changes
    logarithms = changes.pop("logarithms", None)
    maml = learner(MLP(), name, loss=mse_loss, backend="vmap", **changes)
    tasks = SinusoidTasks(tasks_per_batch=25, seed=seed)
    if logarithms:
        train_logarithms(maml, tasks, iterations, logarithms)
    else:
        train_all(maml, tasks, iterations)
    scores = {}
    for part, unseen in (("validation", 10**6), ("test", 10**6 + 1)):
        found = evaluate(maml, SinusoidTasks(queries=50, tasks_per_batch=100, seed=unseen), eval_tasks, only_last=True)
        scores |= {f"{part}_mse": found.loss, f"{part}_task_losses": rounded(found.per_task)}
    return scores | learned(maml)


def glyph(problem: Problem, name: str, changes: dict, seed: int, iterations: int, eval_tasks: int) -> dict:
    """Train one variant on 4 tasks an iteration and measure it on validation alphabets."""
    maml = learner(problem.network(seed), name, backend="batched", **changes)
    train_all(maml, problem.tasks("train", 4, seed), iterations)
    found = evaluate(maml, problem.tasks("validation", 10, 0), eval_tasks, only_last=True)
    return {"accuracy": found.accuracy, "loss": found.losses[:, -1].mean().item(),
            "task_accuracies": rounded(found.per_task)} | learned(maml)  # fmt: skip


def rounded(values) -> list[float]:
    return [round(value, 4) for value in values]


def summary(rows: list[dict], scores: tuple[str, ...]) -> dict:
    """{variant: mean and standard deviation over seeds of each score}; no score where a run diverged."""
    found = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == name]
        found[name] = {"seeds": len(runs), "diverged": sum("diverged" in run for run in runs)}
        if found[name]["diverged"]:
            continue
        for score in (*scores, "negative"):
            values = [run[score] for run in runs if score in run]
            if values:
                std = stdev(values) if len(values) > 1 else None
                found[name][score] = {"mean": fmean(values), "std_over_seeds": std}
    return found


def main(
    path: Path,
    sinusoid_seeds: int = 5,
    sinusoid_iterations: int = 400,
    sinusoid_tasks: int = 200,
    glyph_seeds: int = 3,
    glyph_iterations: int = 50,
    glyph_tasks: int = 100,
    filters: int = 32,
):
    """Train and measure all variants."""
    problem = Problem("glyphs", queries=5, filters=filters)
    parts = {
        "sinusoids": (sinusoid_variants(), sinusoid_seeds, ("validation_mse", "test_mse"),
                      lambda *run: sinusoid(*run, sinusoid_iterations, sinusoid_tasks)),
        "glyphs": (glyph_variants(), glyph_seeds, ("accuracy", "loss"),
                   lambda *run: glyph(problem, *run, glyph_iterations, glyph_tasks)),
    }  # fmt: skip
    budgets = {
        "sinusoids": SINUSOIDS | dict(iterations=sinusoid_iterations, tasks_per_batch=25, eval_tasks=sinusoid_tasks),
        "glyphs": dict(
            iterations=glyph_iterations, tasks_per_batch=4, eval_tasks=glyph_tasks, problem=problem.describe()
        ),
    }  # fmt: skip
    new = {"kind": "learned learning rates", **provenance()}
    record = read_json(path) if path.exists() else new | {part: {"budget": budgets[part], "rows": []} for part in parts}
    for part, (variants, seeds, scores, measure) in parts.items():
        rows = record[part]["rows"]
        for seed in range(seeds):
            for variant, (name, changes) in variants.items():
                key = {"variant": variant, "seed": seed}
                if any(key.items() <= row.items() for row in rows):
                    continue
                began = time.process_time()
                try:
                    scored = measure(name, changes, seed)
                except InputError as error:
                    scored = {"diverged": str(error)}
                rows.append({**key, "recipe": name, "changes": changes, **scored,
                             "processor_seconds": round(time.process_time() - began, 2)})  # fmt: skip
                record[part]["summary"] = summary(rows, scores)
                write_json(record, path)
                print(part, variant, seed, {score: round(scored.get(score, float("nan")), 4) for score in scores},
                      scored.get("negative"), rows[-1]["processor_seconds"], flush=True)  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
