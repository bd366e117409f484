"""The fair comparison: an equal search on validation alphabets of Omniglot's background set, then one test.

    MAMLCOURSE_DATA=FOLDER python benchmarks/choose_settings.py search    # results/equal-search.json
    MAMLCOURSE_DATA=FOLDER python benchmarks/choose_settings.py test      # results/equal-search-test.json

MAML, FOMAML and MAML++ each get the same candidates: every inner and outer learning rate here, each constant and along
a cosine. Every candidate trains on 200 tasks of the 25 training alphabets, from three seeds, and is measured on tasks
of the 5 validation alphabets; the evaluation alphabets are never looked at. An algorithm's settings are those of the
highest mean accuracy. `maml-antoniou`, MAML as the authors of MAML++ ran it, gets them too.

`test` trains each with its own best settings on 200 tasks of all background alphabets, from five other seeds, and tests
it once on 600 tasks of the evaluation alphabets. Both go on where they were stopped.
"""

import itertools
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer
from loky import ProcessPoolExecutor, as_completed

from mamlcourse import CharacterTasks, Conv4, evaluate, learner, load_characters, train
from mamlcourse.comparison import caption, compare_settings, comparison_figure, markdown, recommendation
from mamlcourse.errors import check_number
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, read_json, write_json
from mamlcourse.settings import recipe
from mamlcourse.stats import seeds_and_tasks_ci

ALGORITHMS = ("maml", "fomaml", "maml++", "maml-antoniou")
INNER_LRS, OUTER_LRS, COSINE = (0.1, 0.2), (0.003, 0.005), (False, True)
SEEDS, VALIDATION_TASKS = (0, 1, 2), 200
TEST_SEEDS, TEST_TASKS = range(10, 15), 600
ITERATIONS, TASKS_PER_BATCH, FILTERS = 50, 4, 32


def candidates() -> list[dict]:
    """The settings that are tried, the same for each algorithm."""
    names = ("algorithm", "inner_lr", "outer_lr", "cosine")
    return [dict(zip(names, values)) for values in itertools.product(ALGORITHMS, INNER_LRS, OUTER_LRS, COSINE)]


def measure(algorithm, seed, **settings) -> dict:
    """One run: validation accuracies and losses, task by task, after 200 training tasks."""
    torch.set_num_threads(1)
    split = load_characters("omniglot").split("alphabet", validation=5)
    torch.manual_seed(seed)
    maml = learner(Conv4(5, FILTERS), algorithm, **settings)
    training = CharacterTasks(split.train, tasks_per_batch=TASKS_PER_BATCH, rotations=True, seed=seed)
    train(maml, training, ITERATIONS, progress=False)
    found = evaluate(maml, CharacterTasks(split.validation, seed=0), VALIDATION_TASKS, only_last=True)
    return {
        "task_accuracies": [round(value, 5) for value in found.per_task],
        "task_losses": [round(value, 4) for value in found.losses[:, -1].tolist()],
    }


def ranking(record: dict) -> dict[str, list[tuple[float, float, dict]]]:
    """{algorithm: (mean accuracy over seeds and tasks, half its 95% interval, settings), the best first}."""
    found = {}
    for candidate in candidates():
        runs = [run for run in record["runs"] if candidate.items() <= run.items()]
        if runs:
            by_seed = [run["task_accuracies"] for run in runs]
            row = (fmean(map(fmean, by_seed)), seeds_and_tasks_ci(by_seed), candidate)
            found.setdefault(candidate["algorithm"], []).append(row)
    return {name: sorted(rows, key=lambda row: -row[0]) for name, rows in found.items()}


app = typer.Typer(add_completion=False)


@app.command()
def search(
    json: Annotated[Path, typer.Option(help="Result file.")] = Path("results/equal-search.json"),
    processes: Annotated[int, typer.Option(help="Runs at a time, of one thread each.")] = 2,
):
    """Try the same settings for each algorithm."""
    check_number("processes", processes, at_least=1)
    record = read_json(json) if json.exists() else {
        "kind": "settings search", **provenance(), "seeds": list(SEEDS), "tasks": ITERATIONS * TASKS_PER_BATCH,
        "tasks_per_batch": TASKS_PER_BATCH, "filters": FILTERS, "validation_tasks": VALIDATION_TASKS, "runs": [],
    }  # fmt: skip
    planned = [candidate | {"seed": seed} for seed in SEEDS for candidate in candidates()]
    missing = [run for run in planned if not any(run.items() <= done.items() for done in record["runs"])]
    with ProcessPoolExecutor(processes) as pool:
        running = {pool.submit(measure, **run): run for run in missing}
        for number, future in enumerate(as_completed(running), len(planned) - len(missing) + 1):
            measured = future.result()
            record["runs"].append(running[future] | measured)
            write_json(record, json)
            typer.echo(f"{number} of {len(planned)}: {running[future]}, {fmean(measured['task_accuracies']):.1%}")
    for name, rows in ranking(record).items():
        for accuracy, interval, settings in rows:
            chosen = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "algorithm")
            typer.echo(f"{name}: {accuracy:.1%} ± {interval:.1%} with {chosen}")


@app.command()
def test(
    search: Annotated[Path, typer.Option(help="The record of the search.")] = Path("results/equal-search.json"),
    json: Annotated[Path, typer.Option(help="Result file.")] = Path("results/equal-search-test.json"),
    figure: Annotated[Path, typer.Option(help="PNG or SVG file.")] = Path("results/equal-search-test.png"),
):
    """Train each algorithm with the settings of its own that were best in the search, and test it."""
    best = [dict(rows[0][2]) for rows in ranking(read_json(search)).values()]
    settings = {found.pop("algorithm"): found for found in best}
    settings = {name: recipe(name, **found) for name, found in settings.items()}
    problem = Problem("omniglot", validation=0, filters=FILTERS)
    record = compare_settings(
        settings, problem, train_tasks=ITERATIONS * TASKS_PER_BATCH, tasks_per_batch=TASKS_PER_BATCH,
        eval_tasks=TEST_TASKS, seeds=TEST_SEEDS, file=json,
    )  # fmt: skip
    comparison_figure(record).savefig(figure, dpi=110)
    typer.echo(f"{markdown(record)}\n\n{caption(record)} {recommendation(record)}")


if __name__ == "__main__":
    app()
