"""From which budget on is MAML++ better than MAML, and which of its parts make the difference?

    MAMLCOURSE_DATA=FOLDER python benchmarks/budgets.py run 50      # results/budgets/50.json; likewise 200, 600, 2000
    python benchmarks/budgets.py figure                             # results/budgets/difference.png, and the tables

A budget is a number of meta-batches of 4 tasks. Everything that changes in the course of training, the cosine and the
multi-step loss, is spread over the budget, whatever it is. "MAML (Antoniou)" is MAML as the authors of MAML++ ran it:
batch norm's weight and bias are learned but do not adapt, and the outer rate follows a cosine. Every part of MAML++ is
added to that, at the same learning rates; "throughout" means that the multi-step loss lasts the whole run. All variants
start from the same weights, see the same training tasks of the background alphabets and are tested on the same tasks of
the evaluation alphabets. The larger budgets have fewer variants and fewer seeds. A run that was stopped goes on.
"""

from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from mamlcourse.comparison import compare_settings, paired_difference, summary
from mamlcourse.errors import check_choice
from mamlcourse.problems import Problem
from mamlcourse.records import markdown_table, read_json
from mamlcourse.settings import Settings, recipe
from mamlcourse.stats import verdict
from mamlcourse.styles import title_of

FOLDER = Path("results/budgets")
SEEDS = {50: 5, 200: 5, 600: 3, 2000: 4}
FEW = 200  # up to this budget every variant is tried
TASKS_PER_BATCH, TEST_TASKS, QUERIES, FILTERS = 4, 300, 5, 32
LRS = dict(inner_lr=0.1, outer_lr=0.003)
LEARNED = dict(learned_lr="parameter_step", learned_lr_outer_lr=recipe("maml++").learned_lr_outer_lr)
THROUGHOUT = dict(multi_step_loss="annealed", multi_step_epochs=100)
BASE = "maml-antoniou"
PAIRS = [("maml++", BASE), ("maml++, constant", f"{BASE}, constant"), ("maml++", "maml")]


def variants(budget: int) -> dict[str, Settings]:
    """What is compared at this budget; the first is what the others are compared with."""
    found = {BASE: recipe(BASE, **LRS), "maml": recipe("maml", cosine=True, **LRS), "maml++": recipe("maml++", **LRS)}
    if budget > FEW:
        return found
    return found | {
        "+ learned learning rates": recipe(BASE, **LEARNED, **LRS),
        "+ multi-step loss throughout": recipe(BASE, **THROUGHOUT, **LRS),
        "+ both": recipe(BASE, **LEARNED, **THROUGHOUT, **LRS),
        "+ per-step norm": recipe(BASE, per_step_norm=True, **LRS),
        "+ all three": recipe("maml++", multi_step_epochs=100, **LRS),
        f"{BASE}, constant": recipe(BASE, cosine=False, **LRS),
        "maml++, constant": recipe("maml++", cosine=False, **LRS),
    }


def table(record: dict) -> list[list[str]]:
    """Accuracy and test loss of each variant, and what they are above the first one's."""
    rows = [["variant", "accuracy", "against the first", "test loss", "against the first", "more accurate?"]]
    for name, found in summary(record).items():
        first = found.difference is None
        rows.append([
            title_of(name), f"{found.accuracy:.1%} ± {found.interval:.1%}",
            "" if first else f"{100 * found.difference:+.1f} ± {100 * found.difference_interval:.1f}",
            f"{found.loss:.3f} ± {found.loss_interval:.3f}",
            "" if first else f"{found.loss_difference:+.3f} ± {found.loss_difference_interval:.3f}",
            "" if first else verdict(found.difference, found.difference_interval),
        ])  # fmt: skip
    return rows


def by_budget(found: dict[int, dict]) -> list[list[str]]:
    """What each variant is above the first one, budget by budget: in accuracy (percentage points) and test loss."""
    table = [["above MAML (Antoniou)", *(f"{budget:,} meta-batches" for budget in found)]]
    for name in dict.fromkeys(name for record in found.values() for name in record["algorithms"]):
        if name == BASE:
            continue
        row = [title_of(name)]
        for record in found.values():
            if name not in record["algorithms"]:
                row.append("not measured")
                continue
            gain, half = paired_difference(record, name, BASE)
            loss, half_loss = paired_difference(record, name, BASE, "task_losses")
            row.append(f"{100 * gain:+.1f} ± {100 * half:.1f}; {loss:+.3f} ± {half_loss:.3f}")
        table.append(row)
    seeds = ["seeds", *(str(len(record["seeds"])) for record in found.values())]
    return [*table, seeds]


def records() -> dict[int, dict]:
    """{budget: its record}, of those that were run."""
    return {budget: read_json(path) for budget in SEEDS if (path := FOLDER / f"{budget}.json").exists()}


def difference_figure(found: dict[int, dict]) -> Figure:
    """MAML++ minus MAML against the budget, in accuracy and in test loss, with 95% intervals."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = zip(figure.subplots(1, 2), ("task_accuracies", "task_losses"), (100, 1))
    for axes, values, unit in panels:
        for number, (one, other) in enumerate(PAIRS):
            there = {b: r for b, r in found.items() if {one, other} <= r["algorithms"].keys()}
            points = [(b, *paired_difference(r, one, other, values)) for b, r in there.items()]
            axes.errorbar(
                [b * 1.06 ** (number - 1) for b, *_ in points], [unit * d for _, d, _ in points],
                yerr=[unit * half for *_, half in points], marker="o^s"[number], linestyle=("-", "--", ":")[number],
                capsize=3, label=f"{title_of(one)} - {title_of(other)}",
            )  # fmt: skip
        axes.axhline(0, color="#555555", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks(list(found), [f"{b:,}" for b in found])
        axes.minorticks_off()
        axes.set_xlabel(f"meta-batches of {TASKS_PER_BATCH} tasks")
        axes.set_ylabel("accuracy, percentage points" if unit == 100 else "test loss")
        axes.set_title("above 0: MAML++ is better" if unit == 100 else "below 0: MAML++ is better", fontsize=10)
    figure.axes[0].legend(fontsize=8)
    return figure


app = typer.Typer(add_completion=False)


@app.command()
def run(
    budget: Annotated[int, typer.Argument(help=f"Meta-batches: {', '.join(map(str, SEEDS))}.")],
    seeds: Annotated[int | None, typer.Option(help="Repetitions; default by budget.")] = None,
):
    """Train and test the variants with one budget."""
    check_choice("The budget", budget, list(SEEDS))
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = compare_settings(
        variants(budget), Problem("omniglot", validation=0, queries=QUERIES, filters=FILTERS),
        train_tasks=budget * TASKS_PER_BATCH, tasks_per_batch=TASKS_PER_BATCH, eval_tasks=TEST_TASKS,
        seeds=range(SEEDS[budget] if seeds is None else seeds), file=FOLDER / f"{budget}.json",
    )  # fmt: skip
    typer.echo(markdown_table(table(record)))


@app.command()
def figure():
    """Draw MAML++ minus MAML against the budget, and print the tables."""
    found = records()
    difference_figure(found).savefig(FOLDER / "difference.png", dpi=110)
    for budget, record in found.items():
        typer.echo(f"\n{budget} meta-batches, {len(record['seeds'])} seeds\n\n{markdown_table(table(record))}")


if __name__ == "__main__":
    app()
