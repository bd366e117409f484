"""Which part of MAML++ does what, and what FOMAML does with more tasks or a higher outer learning rate: the same
budget, paired.

    MAMLCOURSE_DATA=FOLDER python benchmarks/ablation.py parts results/ablation.json
    MAMLCOURSE_DATA=FOLDER python benchmarks/ablation.py first-order results/first-order.json

Every variant starts from the same weights, sees the same training tasks and is tested on the same tasks, for each
seed; both files are comparison records and are written again after each seed.
"""

from pathlib import Path
from typing import Annotated

import typer

from mamlcourse.comparison import compare_settings
from mamlcourse.errors import check_choice
from mamlcourse.problems import Problem
from mamlcourse.records import write_json
from mamlcourse.settings import recipe

# Each part of MAML++, as (what switches it on, what switches it off). Results and notebooks know them by these names;
# "learned rates" are learned learning rates (LSLR).
PARTS = {
    "multi-step loss": (dict(multi_step_loss="annealed"), dict(multi_step_loss="final")),
    "learned rates": (
        dict(learned_lr="parameter_step", learned_lr_outer_lr=recipe("maml++").learned_lr_outer_lr),
        dict(learned_lr="none"),
    ),
    "per-step norm": (dict(per_step_norm=True), dict(per_step_norm=False)),
    "cosine": (dict(cosine=True), dict(cosine=False)),
}
# First-order gradients for the first half of training (Antoniou et al. 2019, section 4); off in their recipes.
ORDER_ANNEALING = dict(first_order_epochs=50)
TRAIN_TASKS = 200


def parts(**lrs):
    """MAML with each part added, MAML++ with each part removed."""
    settings = {"maml": recipe("maml", **lrs)}
    settings |= {f"maml + {part}": recipe("maml", **on, **lrs) for part, (on, _) in PARTS.items()}
    settings["maml + uniform multi-step loss"] = recipe("maml", multi_step_loss="uniform", **lrs)
    settings["maml + order annealing"] = recipe("maml", **ORDER_ANNEALING, **lrs)
    settings["maml++"] = recipe("maml++", **lrs)
    settings |= {f"maml++ - {part}": recipe("maml++", **off, **lrs) for part, (_, off) in PARTS.items()}
    settings["maml++ + order annealing"] = recipe("maml++", **ORDER_ANNEALING, **lrs)
    settings |= {name: recipe(name, **lrs) for name in ("fomaml", "fomaml++")}
    return settings, TRAIN_TASKS


def first_order(**lrs):
    """FOMAML with three times the tasks, and with one and a half times the outer learning rate."""
    higher = lrs | {"outer_lr": 1.5 * recipe("maml", **lrs).outer_lr}
    settings = {name: recipe(name, **lrs) for name in ("maml", "fomaml")}
    settings["fomaml, 3x tasks"] = settings["fomaml"]
    settings |= {f"{name}, outer rate x1.5": recipe(name, **higher) for name in ("maml", "fomaml")}
    return settings, dict.fromkeys(settings, TRAIN_TASKS) | {"fomaml, 3x tasks": 3 * TRAIN_TASKS}


def main(
    what: Annotated[str, typer.Argument(help="parts or first-order")],
    path: Path,
    seeds: int = 3,
    eval_tasks: int = 400,
    inner_lr: float = recipe("maml").inner_lr,
    outer_lr: float = recipe("maml").outer_lr,
):
    """Train and test all variants."""
    check_choice("The experiment", what, ("parts", "first-order"))
    lrs = dict(inner_lr=inner_lr, outer_lr=outer_lr)
    settings, train_tasks = (parts if what == "parts" else first_order)(**lrs)
    problem = Problem("omniglot", validation=0, queries=5)
    compare_settings(
        settings, problem, train_tasks=train_tasks, eval_tasks=eval_tasks, seeds=range(seeds),
        after_seed=lambda record: write_json(record, path),
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
