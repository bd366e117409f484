"""The command line: compare, train, evaluate, reproduce, results, data, progress, doctor."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from . import comparison, figures
from .checks import progress as exercise_progress
from .data import load_characters, omniglot
from .engine import backends
from .errors import InputError
from .evaluation import evaluate as evaluate_learner
from .learner import learner
from .papers import reproduction
from .papers import tables as papers
from .problems import Problem, choose_device
from .records import markdown_table, provenance, write_json
from .settings import RECIPES, Settings, recipe
from .training import distributed, load_checkpoint, load_parameters
from .training import train as train_learner

app = typer.Typer(
    help="Learn MAML, FOMAML and MAML++ by building them.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
console = Console()

ALGORITHMS = "one of " + ", ".join(RECIPES)
AlgorithmOption = Annotated[str, typer.Option(help=f"The algorithm: {ALGORITHMS}.")]
DatasetOption = Annotated[str, typer.Option(help="The characters: glyphs (built in) or omniglot.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of Omniglot; default $MAMLCOURSE_DATA, else the user's cache.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BackendOption = Annotated[str, typer.Option(help=f"How tasks are computed: {', '.join(backends.BACKENDS)}.")]
InnerLrOption = Annotated[float | None, typer.Option(help="Inner learning rate (mean loss); default the recipe's.")]
OuterLrOption = Annotated[float | None, typer.Option(help="Outer learning rate (Adam); default the recipe's.")]
StepsOption = Annotated[int | None, typer.Option(help="Adaptation steps; default the recipe's.")]
CosineOption = Annotated[
    bool | None,
    typer.Option("--cosine/--constant", help="Outer learning rate along a cosine, or constant; default the recipe's."),
]
WaysOption = Annotated[int, typer.Option(help="Classes in a task.")]
ShotsOption = Annotated[int, typer.Option(help="Support drawings per class.")]
QueriesOption = Annotated[int, typer.Option(help="Query drawings per class.")]
FiltersOption = Annotated[int, typer.Option(help="Channels of the network's convolutions.")]
DownsamplingOption = Annotated[
    str, typer.Option("--downsampling", "--reduction", help="How the network halves its images: max-pool or stride.")
]
BatchOption = Annotated[int, typer.Option(help="Tasks in a meta-batch.")]


@app.command()
def compare(
    algorithm: Annotated[
        list[str], typer.Option(help=f"An algorithm to compare; give it again for each: {ALGORITHMS}.")
    ] = ["maml", "fomaml", "maml++"],  # noqa: B006 - typer reads it, nobody changes it
    dataset: DatasetOption = "glyphs",
    train_tasks: Annotated[int, typer.Option(help="Training tasks for each algorithm and seed.")] = 200,
    eval_tasks: Annotated[int, typer.Option(help="Test tasks.")] = 200,
    seeds: Annotated[int, typer.Option(help="Repetitions with other weights and training tasks.")] = 1,
    tasks_per_batch: BatchOption = 4,
    inner_lr: InnerLrOption = None,
    outer_lr: OuterLrOption = None,
    inner_steps: StepsOption = None,
    cosine: CosineOption = None,
    ways: WaysOption = 5,
    shots: ShotsOption = 1,
    queries: QueriesOption = 15,
    filters: FiltersOption = 32,
    downsampling: DownsamplingOption = "max-pool",
    root: RootOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    json: Annotated[Path, typer.Option(help="File for the record, raw values included.")] = Path("runs/compare.json"),
    figure: Annotated[Path, typer.Option(help="PNG or SVG file for the picture.")] = Path("runs/compare.png"),
):
    """Train algorithms on the same tasks, test them on unseen alphabets, and say which to use."""
    _check_output(json, ".json")
    _check_output(figure, ".png", ".svg")
    problem = Problem(
        dataset=dataset, validation=0, ways=ways, shots=shots, queries=queries, filters=filters,
        downsampling=downsampling, root=root,
    )  # fmt: skip
    record = comparison.compare(
        algorithm, problem, train_tasks=train_tasks, eval_tasks=eval_tasks, tasks_per_batch=tasks_per_batch,
        seeds=range(_at_least_one("seeds", seeds)), device=device, backend=backend,
        **_given(inner_lr=inner_lr, outer_lr=outer_lr, inner_steps=inner_steps, cosine=cosine),
    )  # fmt: skip
    write_json(record, json)  # first: whatever happens to the rest, nothing measured is lost
    console.print(comparison.table(record))
    typer.echo(comparison.recommendation(record))
    comparison.comparison_figure(record).savefig(figure, dpi=110)
    typer.echo(f"Record: {json}\nFigure: {figure}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Checkpoint file.")],
    algorithm: AlgorithmOption = "maml",
    dataset: DatasetOption = "glyphs",
    iterations: Annotated[int, typer.Option(help="Meta-batches in all.")] = 500,
    tasks_per_batch: BatchOption = 4,
    seed: Annotated[int, typer.Option(help="Initial weights and training tasks.")] = 0,
    inner_lr: InnerLrOption = None,
    outer_lr: OuterLrOption = None,
    inner_steps: StepsOption = None,
    cosine: CosineOption = None,
    ways: WaysOption = 5,
    shots: ShotsOption = 1,
    queries: QueriesOption = 15,
    filters: FiltersOption = 32,
    downsampling: DownsamplingOption = "max-pool",
    save_every: Annotated[int, typer.Option(help="Iterations between checkpoints.")] = 100,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    root: RootOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
):
    """Meta-train one algorithm and keep it in a checkpoint file."""
    with distributed.joined() as ranks:
        first = ranks.rank == 0  # the files are its own; the others may be on other machines
        if first and out.exists() and not resume:
            raise InputError(f"{out} exists: go on with --resume, or name another file with --out.")
        chosen = ranks.device(choose_device(device))
        problem = Problem(
            dataset=dataset, ways=ways, shots=shots, queries=queries, filters=filters, downsampling=downsampling,
            root=root,
        )  # fmt: skip
        changes = _given(inner_lr=inner_lr, outer_lr=outer_lr, inner_steps=inner_steps, cosine=cosine)
        settings = recipe(algorithm, **changes)
        config = {"problem": problem.describe(), "seed": seed, "tasks_per_batch": tasks_per_batch}
        if first and out.exists():
            _check_same_config(load_checkpoint(out)["config"], config, out)
        maml = learner(problem.network(seed, chosen), settings, backend=backend)
        ranks.from_first(lambda: bool(problem.parts))  # so that only one downloads and prepares the data
        history = train_learner(
            maml, problem.tasks("train", tasks_per_batch, seed, chosen), iterations, checkpoint=out,
            save_every=save_every, resume=resume, config=config, validation=problem.tasks("validation", 10, 0, chosen),
            validation_tasks=40, validate_every=max(iterations // 10, 10), ranks=ranks,
        )  # fmt: skip
        if first and history.finished:
            validated = (
                f", accuracy on validation alphabets {history.validation[-1][1]:.1%}" if history.validation else ""
            )
            typer.echo(f"Trained {iterations} iterations in {history.seconds:.0f} s{validated}.")
            typer.echo(f"Checkpoint: {out}. Test it with: mamlcourse evaluate {out}")
        elif first:
            typer.echo(f"Go on with the same command and --resume; {out} has everything.")
    if not history.finished:
        raise typer.Exit(130)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file of `mamlcourse train`.")],
    tasks: Annotated[int, typer.Option(help="How many tasks to test on.")] = 600,
    part: Annotated[str, typer.Option(help="Which classes: test, validation or train.")] = "test",
    steps: StepsOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Write the measurements, task by task, to this file.")] = None,
):
    """Measure a trained checkpoint step by step, with 95% confidence intervals over tasks (transductive)."""
    if json:
        _check_output(json, ".json")
    chosen = choose_device(device)
    state = load_checkpoint(checkpoint)
    if "problem" not in state["config"]:
        raise InputError(f"{checkpoint} does not say what it was trained on: make it with `mamlcourse train`.")
    problem = Problem.from_record(state["config"]["problem"], root)
    maml = learner(problem.network(0, chosen), Settings.from_record(state["settings"]), backend=backend)
    load_parameters(maml, state, checkpoint)
    measured = evaluate_learner(maml, problem.tasks(part, 10, 0, chosen), tasks, steps)
    shown = Table(title=f"{maml.settings.name} on {tasks} {part} tasks of {problem.dataset}", title_justify="left")
    shown.add_column("adaptation steps", justify="right")
    shown.add_column("query accuracy (%)", justify="right")
    shown.add_column("query loss", justify="right")
    for step, (accuracy, loss) in enumerate(zip(measured.by_step, measured.loss_by_step)):
        shown.add_row(str(step), f"{100 * accuracy:.1f}", f"{loss:.3f}")
    console.print(shown)
    typer.echo(
        f"accuracy {100 * measured.accuracy:.1f} ± {100 * measured.interval:.1f}% (95% CI over tasks), "
        f"std over tasks {100 * measured.std:.1f} percentage points, worst decile {100 * measured.worst_decile:.1f}%, "
        f"{100 * measured.overshoot:.0f}% of tasks overshoot",
    )
    if json:
        record = {
            "kind": "evaluation", **provenance(chosen), **state["config"], "settings": state["settings"],
            "iterations": state["done"], "part": part, "accuracy": measured.accuracy, "interval": measured.interval,
            "task_accuracies": measured.accuracies.tolist(), "task_losses": measured.losses.tolist(),
        }  # fmt: skip
        write_json(record, json)
        typer.echo(f"Record: {json}")


@app.command()
def reproduce(
    setting: Annotated[str, typer.Argument(help=f"The setting: {', '.join(reproduction.SETTINGS)}.")] = "",
    algorithm: Annotated[
        list[str], typer.Option(help=f"An algorithm; give it again for each: {', '.join(reproduction.ALGORITHMS)}.")
    ] = ["maml", "fomaml", "maml++"],  # noqa: B006 - typer reads it, nobody changes it
    seeds: Annotated[int, typer.Option(help="Repetitions with other weights and training tasks.")] = 1,
    protocol: Annotated[
        str | None, typer.Option(help="finn or maml++; default maml++ for MAML++ and FOMAML++, finn for the others.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Meta-batches; default the protocol's.")] = None,
    filters: FiltersOption = 64,
    validation_tasks: Annotated[int, typer.Option(help="Validation tasks, 50 times in the run.")] = 300,
    test_tasks: Annotated[int, typer.Option(help="Test tasks.")] = 6000,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop training after so long; the same command goes on (exit code 75).")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder for result files.")] = Path("results/omniglot"),
    checkpoints: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("runs/omniglot"),
    list_: Annotated[
        bool, typer.Option("--list", help="Say what there is and how long it takes; run nothing.")
    ] = False,
    root: RootOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
):
    """Train and test by the papers' Omniglot protocols; goes on where it was stopped, on any machine."""
    if list_:
        console.print(_list_of_runs(results))
        return
    out_of_time = reproduction.deadline(max_minutes)
    runs = [
        reproduction.plan(
            setting, name, seed, protocol, iterations=iterations, filters=filters, validation_tasks=validation_tasks,
            test_tasks=test_tasks, root=root,
        )
        for seed in range(_at_least_one("seeds", seeds))
        for name in algorithm
    ]  # fmt: skip
    for run in runs:
        record = reproduction.reproduce(
            run, results, checkpoints, device=device, backend=backend, out_of_time=out_of_time
        )
        if record is None:
            typer.echo("Go on with the same command.")
            raise typer.Exit(75)
        typer.echo(f"{run.name}: test accuracy {record['test_accuracy']:.2%}, {results / run.name}.json")


@app.command()
def results(
    folder: Annotated[Path, typer.Argument(help="Folder of result files.")] = Path("results/omniglot"),
):
    """Make the papers' table, and figures, from the result files of `reproduce`; they are left in the same folder."""
    cells = papers.load_results(folder)
    if not cells:
        raise InputError(f"There is no result file in {folder}: name a folder that `mamlcourse reproduce` wrote to.")
    heading, *body = papers.rows(cells)
    shown = Table(title="Omniglot: published and measured", title_justify="left")
    terse = (0, 1, 2, 3, 4)  # the rest is too wide for a terminal
    for column in terse:
        shown.add_column(heading[column], overflow="fold")
    for row in body:
        if row[3] != papers.NOT_MEASURED:
            shown.add_row(*(row[column] for column in terse))
    console.print(shown)
    missing = sum(row[3] == papers.NOT_MEASURED for row in body)
    typer.echo(f"Not measured: {missing} more; the table below names the command for each.")
    sections = [f"# Omniglot\n\nMade by `mamlcourse results`.\n\n{markdown_table([heading, *body])}"]
    _check_output(folder / "table.png", ".png")
    papers.papers_figure(cells).savefig(folder / "table.png", dpi=110)
    for setting in dict.fromkeys(where for where, _ in cells):
        sections.append(f"## {setting}: the same test tasks\n\n{markdown_table(papers.paired_rows(cells, setting))}")
        sections.append(f"## {setting}: how steady\n\n{markdown_table(papers.stability_rows(cells, setting))}")
        sections.append(f"## {setting}: by budget\n\n{markdown_table(papers.budget_rows(cells, setting))}")
        for against in ("tasks", "seconds"):
            papers.learning_curves(cells, setting, against).savefig(folder / f"{setting}-{against}.png", dpi=110)
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    typer.echo(f"Table: {folder / 'README.md'}\nFigure: {folder / 'table.png'}")


def _list_of_runs(results: Path) -> Table:
    """Every run with its budget, and its time where one like it was measured."""
    shown = Table(title="mamlcourse reproduce SETTING --algorithm NAME", title_justify="left")
    for heading in ("setting", "algorithm", "protocol", "iterations x tasks", "training time"):
        shown.add_column(heading)
    for setting in reproduction.SETTINGS:
        for algorithm in reproduction.ALGORITHMS:
            run = reproduction.plan(setting, algorithm)
            budget = f"{run.iterations} x {run.tasks_per_batch}"
            shown.add_row(setting, algorithm, run.protocol, budget, reproduction.expected_time(run, results))
    return shown


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="glyphs or omniglot.")] = "glyphs",
    root: RootOption = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw a sheet of characters to this PNG or SVG file.")] = None,
):
    """Load a set of characters (fetching and preparing Omniglot if need be) and describe it."""
    if sheet:
        _check_output(sheet, ".png", ".svg")
    characters = load_characters(dataset, root)
    split = characters.split()
    typer.echo(
        f"{characters.name}: {len(characters)} characters of {len(set(characters.alphabets))} alphabets, "
        f"{characters.images.shape[1]} examples of each, {' x '.join(map(str, characters.images.shape[2:]))} pixels."
    )
    for part, classes in zip(split._fields, split):
        names = ", ".join(sorted(set(classes.alphabets)))
        typer.echo(f"{part}: {len(classes)} characters of {names}")
    if sheet:
        figures.character_sheet(characters).savefig(sheet, dpi=110)
        typer.echo(f"Sheet: {sheet}")


@app.command()
def progress():
    """Show which exercises are done, and which comes next."""
    heading, *body = exercise_progress.rows()
    shown = Table(title="Exercises", title_justify="left")
    for title in heading:
        shown.add_column(title)
    for row in body:
        shown.add_row(*row)
    console.print(shown)
    passed = exercise_progress.load()
    exercises = exercise_progress.EXERCISES
    typer.echo(f"{exercise_progress.finished(passed)} of {len(exercises)} exercises done.")
    left = [exercise.name for exercise in exercises if not set(exercise.checks) <= passed.keys()]
    if left:
        typer.echo(f"Next: exercises/{left[0]}.ipynb")


@app.command()
def doctor():
    """Say what is installed, which device is there, where the data is, and what a run would use."""
    shown = Table(show_header=False, title="mamlcourse doctor", title_justify="left")
    shown.add_row("python", platform.python_version())
    for package in ("mamlcourse", "torch", "torchvision", "jupyterlab", "ipywidgets", "matplotlib", "nbval"):
        shown.add_row(package, _version(package))
    chosen = choose_device()
    gpu = torch.cuda.get_device_name() if chosen.type == "cuda" else "none that PyTorch can use"
    shown.add_row("GPU", gpu)
    shown.add_row("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} used by PyTorch")
    glyphs = load_characters("glyphs")
    shown.add_row("glyphs", f"built in, {len(glyphs)} characters")
    found = omniglot.find()
    where = f"{found.kind} in {found.folder} ({found.chosen_by})"
    shown.add_row(
        "omniglot", where if found.kind != "nothing" else f"not in {found.folder} ({found.chosen_by}); would be fetched"
    )
    backend = backends.choose("auto", Problem().network(0, chosen))
    backend = "chosen with the first batch" if backend == "auto" else backend
    shown.add_row("a run would use", f"device {chosen}, backend {backend}, glyphs")
    console.print(shown)


def main() -> None:
    """Run the command line; bad input ends in one sentence and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"mamlcourse: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("mamlcourse: stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _given(**options) -> dict:
    return {name: value for name, value in options.items() if value is not None}


def _at_least_one(name: str, number: int) -> int:
    if number < 1:
        raise InputError(f"{name}: expected an integer at least 1, got {number}.")
    return number


def _check_output(path: Path, *endings: str) -> None:
    """Refuse an output file that cannot be written, before the work is done rather than after."""
    if path.suffix not in endings:
        raise InputError(f"The file {path}: expected an ending {' or '.join(endings)}, got {path.suffix!r}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("a").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"The file {path} cannot be written: {error.strerror}.") from error


def _check_same_config(theirs: dict, mine: dict, path: Path) -> None:
    flat_theirs = {**theirs.get("problem", {}), **{k: v for k, v in theirs.items() if k != "problem"}}
    flat_mine = {**mine["problem"], **{k: v for k, v in mine.items() if k != "problem"}}
    for name, value in flat_mine.items():
        if flat_theirs.get(name) != value:
            raise InputError(
                f"{path} was trained with {name} {flat_theirs.get(name)!r}, but now {name} is {value!r}: "
                "resume with the same options, or name another file with --out."
            )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
