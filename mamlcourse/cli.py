"""The command line: start, compare, train, evaluate, reproduce, results, data, progress, doctor."""

from __future__ import annotations

import codecs
import logging
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

# What needs torch or Matplotlib, which take seconds to import, is imported by the commands that use it.
from .errors import InputError, check_choice, check_number
from .papers import ALGORITHMS as REPRODUCED
from .papers import SETTINGS
from .records import check_outputs, expanded, markdown_table, provenance, write_figure, write_json, write_text
from .settings import RECIPES, recipe

if TYPE_CHECKING:
    from .problems import Problem


class Stopped(Exception):
    """Ctrl-C, with a sentence that says how to go on."""


class Commands(typer.core.TyperGroup):
    """Commands whose Ctrl-C is left to `main`: versions of typer make different things of it."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise Stopped("stopped.") from None


app = typer.Typer(
    cls=Commands, help="Learn MAML, FOMAML and MAML++ by building them.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip

FORMAT_WARNING = warnings.formatwarning
BACKENDS = ("auto", "loop", "threads", "vmap", "batched", "products", "compiled")
SCHEDULES = {"constant": False, "cosine": True, "own": None}
LARGEST = {
    "ways": 10**5, "filters": 4096, "inner_steps": 10**4, "tasks_per_batch": 10**6, "seeds": 1000, "seed": 2**63 - 1,
}  # fmt: skip
ALGORITHMS = "one of " + ", ".join(RECIPES)
AlgorithmOption = Annotated[str, typer.Option(help=f"The algorithm: {ALGORITHMS}.")]
DatasetOption = Annotated[str, typer.Option(help="The characters: glyphs or icons (built in), or omniglot.")]
TestDatasetOption = Annotated[
    str | None, typer.Option(help="Where the test classes come from, for a domain shift; default the data set itself.")
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of Omniglot; default $MAMLCOURSE_DATA, else the user's cache.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="A folder with a folder of images for each class, instead of a set of characters.")
]
SideOption = Annotated[int | None, typer.Option(help="With --data: pixels on a side that images are resized to.")]
ChannelsOption = Annotated[int | None, typer.Option(help="With --data: 1 for grey, 3 for RGB; default as they are.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BackendOption = Annotated[str, typer.Option(help=f"How tasks are computed: {', '.join(BACKENDS)}.")]
ProcessesOption = Annotated[int, typer.Option(help="Processes of this machine that share each meta-batch.")]
InnerLrOption = Annotated[float | None, typer.Option(help="Inner learning rate (mean loss); default the recipe's.")]
OuterLrOption = Annotated[float | None, typer.Option(help="Outer learning rate (Adam); default the recipe's.")]
StepsOption = Annotated[int | None, typer.Option(help="Adaptation steps; default the recipe's.")]
CosineOption = Annotated[
    bool | None,
    typer.Option("--cosine/--constant", help="Outer learning rate along a cosine, or constant; default the recipe's."),
]
ScheduleOption = Annotated[
    str, typer.Option(help="Outer learning rate of all algorithms: constant, cosine, or own (each recipe's).")
]
WaysOption = Annotated[int, typer.Option(help="Classes in a task.")]
ShotsOption = Annotated[int, typer.Option(help="Support drawings per class.")]
QueriesOption = Annotated[int, typer.Option(help="Query drawings per class.")]
FiltersOption = Annotated[int, typer.Option(help="Channels of the network's convolutions.")]
DownsamplingOption = Annotated[
    str, typer.Option("--downsampling", "--reduction", help="How the network halves its images: max-pool or stride.")
]
BatchOption = Annotated[int, typer.Option(help="Tasks in a meta-batch.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Write over files of an earlier run.")]


@app.command()
def start(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Your working copy: a new or empty folder, or one made before.")
    ] = Path("work"),
    jupyter: Annotated[
        list[str] | None, typer.Argument(metavar="OPTIONS", help="Options for JupyterLab, after --.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address instead of opening it.")] = False,
    no_lab: Annotated[bool, typer.Option("--no-lab", help="Only lay out or update the folder.")] = False,
):
    """Lay out the course in a folder of yours, or update it around what you edited, and open JupyterLab there."""
    from . import start as working_copy

    for sentence in working_copy.lay_out(folder):
        typer.echo(sentence)
    if no_lab:
        return
    if os.environ.get("JUPYTERHUB_USER"):  # a second JupyterLab would be out of the browser's reach
        return typer.echo(f"JupyterLab runs here already: open the folder {folder} in its file browser.")
    arguments, sentences = working_copy.lab_arguments(expanded(folder), not no_browser, jupyter or [])
    for sentence in sentences:
        typer.echo(sentence)
    sys.stdout.flush()  # JupyterLab writes to standard error
    warnings.formatwarning = FORMAT_WARNING  # its warnings are not ours
    working_copy.open_lab(arguments)


@app.command()
def compare(
    algorithm: Annotated[
        list[str], typer.Option(help=f"An algorithm to compare; give it again for each: {ALGORITHMS}.")
    ] = ["maml", "fomaml", "maml++"],  # noqa: B006 - typer reads it, nobody changes it
    dataset: DatasetOption = "glyphs",
    test_dataset: TestDatasetOption = None,
    data: DataOption = None,
    side: SideOption = None,
    channels: ChannelsOption = None,
    train_tasks: Annotated[int, typer.Option(help="Training tasks for each algorithm and seed.")] = 200,
    eval_tasks: Annotated[int, typer.Option(help="Test tasks.")] = 200,
    seeds: Annotated[int, typer.Option(help="Repetitions with other weights and training tasks.")] = 1,
    tasks_per_batch: BatchOption = 4,
    inner_lr: InnerLrOption = None,
    outer_lr: OuterLrOption = None,
    inner_steps: StepsOption = None,
    schedule: ScheduleOption = "constant",
    ways: WaysOption = 5,
    shots: ShotsOption = 1,
    queries: QueriesOption = 15,
    filters: FiltersOption = 32,
    downsampling: DownsamplingOption = "max-pool",
    root: RootOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    processes: ProcessesOption = 1,
    json: Annotated[Path, typer.Option(help="File for the record, raw values included.")] = Path("runs/compare.json"),
    figure: Annotated[Path, typer.Option(help="PNG or SVG file for the picture.")] = Path("runs/compare.png"),
    margin: Annotated[float, typer.Option(help="Percentage points that a cheaper algorithm may be less accurate.")] = 2,
    overwrite: OverwriteOption = False,
):
    """Train algorithms on the same tasks, test them on unseen alphabets or classes, and say which to use; the same
    command goes on where it was stopped."""
    from . import comparison

    _check_output(json, ".json")
    _check_output(figure, ".png", ".svg")
    _check_sizes(ways=ways, filters=filters, inner_steps=inner_steps, tasks_per_batch=tasks_per_batch, seeds=seeds)
    check_choice("--schedule", schedule, list(SCHEDULES))
    check_number("margin", margin, at_least=0, at_most=100)
    if not json.exists():  # else the figure is of the comparison that goes on, or the record is refused
        _check_new(figure, overwrite)
    problem = _problem(
        data, side, channels, dataset=dataset, validation=0, ways=ways, shots=shots, queries=queries, filters=filters,
        downsampling=downsampling, root=root, test_dataset=test_dataset,
    )  # fmt: skip
    try:
        record = comparison.compare(
            algorithm, problem, train_tasks=train_tasks, eval_tasks=eval_tasks, tasks_per_batch=tasks_per_batch,
            seeds=range(_at_least_one("seeds", seeds)), device=device, backend=backend,
            processes=processes, file=json, overwrite=overwrite, cosine=SCHEDULES[schedule],
            **_given(inner_lr=inner_lr, outer_lr=outer_lr, inner_steps=inner_steps),
        )  # fmt: skip
    except KeyboardInterrupt:
        kept = f"; {json} has the runs that were finished, and the same command goes on" if json.exists() else ""
        raise Stopped(f"stopped{kept}.") from None
    failures = []
    for write in (lambda: write_json(record, json), lambda: write_figure(comparison.comparison_figure(record), figure)):
        try:
            write()
        except InputError as error:  # the numbers are printed all the same
            failures.append(str(error))
    _print_rows(comparison.caption(record), comparison.rows(record), numeric=True, listed_by="columns")
    if explained := comparison.legend(record):
        typer.echo(explained)
    typer.echo(comparison.recommendation(record, margin / 100))
    if failures:
        raise InputError(" ".join(failures))
    typer.echo(f"Record: {json}\nFigure: {figure}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Checkpoint file.")],
    algorithm: AlgorithmOption = "maml",
    dataset: DatasetOption = "glyphs",
    data: DataOption = None,
    side: SideOption = None,
    channels: ChannelsOption = None,
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
    processes: ProcessesOption = 1,
):
    """Meta-train one algorithm and keep it in a checkpoint file."""
    import torch

    from .learner import learner
    from .problems import choose_device
    from .training import distributed, load_checkpoint
    from .training import train as train_learner

    _check_sizes(ways=ways, filters=filters, inner_steps=inner_steps, tasks_per_batch=tasks_per_batch, seed=seed)
    with distributed.joined() as ranks:
        torch.manual_seed(seed)  # or the random state in the checkpoint would be that of whoever calls
        first = ranks.rank == 0  # the files are its own; the others may be on other machines
        if first and out.exists() and not resume:
            raise InputError(f"{out} exists: go on with --resume, or name another file with --out.")
        chosen = ranks.device(choose_device(device))
        problem = _problem(
            data, side, channels, dataset=dataset, ways=ways, shots=shots, queries=queries, filters=filters,
            downsampling=downsampling, root=root,
        )  # fmt: skip
        changes = _given(inner_lr=inner_lr, outer_lr=outer_lr, inner_steps=inner_steps, cosine=cosine)
        settings = recipe(algorithm, **changes)
        config = {"problem": problem.describe(), "seed": seed, "tasks_per_batch": tasks_per_batch}
        kept = load_checkpoint(out) if first and out.exists() else None
        if kept:
            _check_same_config(kept["config"], config, out)
            # No option says it, and checkpoints of earlier versions were trained the official way, which is None.
            settings = replace(settings, learned_lr_outer_lr=kept["settings"].get("learned_lr_outer_lr"))
        settings = ranks.from_first(lambda: settings)
        maml = learner(problem.network(seed, chosen), settings, backend=backend)
        ranks.from_first(lambda: bool(problem.parts))  # so that only one downloads and prepares the data
        history = train_learner(
            maml, problem.tasks("train", tasks_per_batch, seed, chosen), iterations, checkpoint=out,
            save_every=save_every, resume=resume, config=config, validation=problem.tasks("validation", 10, 0, chosen),
            validation_tasks=40, validate_every=max(iterations // 10, 10), ranks=ranks,
            processes=processes,
        )  # fmt: skip
        if first and history.finished:
            unseen = "classes" if data else "alphabets"
            validated = (
                f", accuracy on validation {unseen} {history.validation[-1][1]:.1%}" if history.validation else ""
            )
            typer.echo(f"Trained {iterations} iterations in {history.seconds:.0f} s{validated}.")
            typer.echo(f"Checkpoint: {out}. Test it with: mamlcourse evaluate {out}{f' --data {data}' if data else ''}")
        elif first:
            typer.echo(f"Go on with the same command and --resume; {out} has everything.")
    if not history.finished:
        raise typer.Exit(130)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file of `mamlcourse train`.")],
    tasks: Annotated[int, typer.Option(help="How many tasks to test on.")] = 600,
    part: Annotated[str, typer.Option(help="Which classes: test, validation or train.")] = "test",
    test_dataset: TestDatasetOption = None,
    data: DataOption = None,
    steps: StepsOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Write the measurements, task by task, to this file.")] = None,
    overwrite: OverwriteOption = False,
):
    """Measure a trained checkpoint step by step, with 95% confidence intervals over tasks (transductive)."""
    from .evaluation import RISE, share_of_tasks
    from .evaluation import evaluate as evaluate_learner
    from .learner import learner
    from .pretrained import described
    from .problems import choose_device
    from .training import load_checkpoint, load_parameters

    if json:
        _check_output(json, ".json")
        if json.exists() and checkpoint.exists() and json.samefile(checkpoint):
            raise InputError(f"{json} is the checkpoint itself: name another file with --json.")
        _check_new(json, overwrite)
    chosen = choose_device(device)
    state = load_checkpoint(checkpoint)
    if "problem" not in state["config"]:
        raise InputError(f"{checkpoint} does not say what it was trained on: make it with `mamlcourse train`.")
    problem, settings = described(state["config"]["problem"], state["settings"], checkpoint, root, data)
    problem = replace(problem, **_given(test_dataset=test_dataset))
    maml = learner(problem.network(0, chosen), settings, backend=backend)
    load_parameters(maml, state, checkpoint)
    measured = evaluate_learner(maml, problem.tasks(part, 10, 0, chosen), tasks, steps)
    dataset = (problem.test_dataset or problem.dataset) if part == "test" else problem.dataset
    shown = [["adaptation steps", "query accuracy (%)", "query loss"]]
    for step, (accuracy, loss) in enumerate(zip(measured.by_step, measured.loss_by_step)):
        shown.append([str(step), f"{100 * accuracy:.1f}", f"{loss:.3f}"])
    _print_rows(f"{maml.settings.name} on {tasks} {part} tasks of {dataset}", shown, numeric=True)
    over_tasks = "% (one task: no interval)"
    if tasks > 1:
        interval = f"± {100 * measured.interval:.1f}% (95% CI over tasks)"
        over_tasks = f" {interval}, std over tasks {100 * measured.std:.1f} percentage points"
    typer.echo(
        f"accuracy {100 * measured.accuracy:.1f}{over_tasks}, worst decile {100 * measured.worst_decile:.1f}%, "
        f"{100 * measured.overshoot:.0f}% of tasks overshoot (a step raises the query loss by more than {RISE}; "
        f"step too long {100 * share_of_tasks(measured.too_long()):.0f}%, "
        f"overfits {100 * share_of_tasks(measured.overfits()):.0f}%)",
    )
    if json:
        record = {
            "kind": "evaluation", **provenance(chosen), **state["config"], "problem": problem.describe(),
            "settings": state["settings"],
            "iterations": state["done"], "part": part, "accuracy": measured.accuracy,
            "interval": measured.interval if tasks > 1 else None,
            "task_accuracies": measured.accuracies.tolist(), "task_losses": measured.losses.tolist(),
        }  # fmt: skip
        write_json(record, json)
        typer.echo(f"Record: {json}")


@app.command()
def reproduce(
    setting: Annotated[str, typer.Argument(help=f"The setting: {', '.join(SETTINGS)}.")] = "",
    algorithm: Annotated[
        list[str], typer.Option(help=f"An algorithm; give it again for each: {', '.join(REPRODUCED)}.")
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
    processes: ProcessesOption = 1,
):
    """Train and test by the papers' Omniglot protocols; goes on where it was stopped, on any machine."""
    from .papers import reproduction

    if list_:
        _print_rows("mamlcourse reproduce SETTING --algorithm NAME", _list_of_runs(results), wraps=-1)
        return
    _check_sizes(filters=filters, seeds=seeds)
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
            run, results, checkpoints, device=device, backend=backend, processes=processes, out_of_time=out_of_time
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
    from .papers import tables as papers

    cells = papers.load_results(folder)
    if not cells:
        raise InputError(f"There is no result file in {folder}: name a folder that `mamlcourse reproduce` wrote to.")
    heading, *body = papers.rows(cells)
    terse = slice(5)  # the rest is too wide for a terminal
    measured = [row[terse] for row in body if row[3] != papers.NOT_MEASURED]
    _print_rows("Omniglot: published and measured", [heading[terse], *measured])
    missing = sum(row[3] == papers.NOT_MEASURED for row in body)
    typer.echo(papers.caption(cells))
    typer.echo(f"Not measured: {missing} more; the table below names the command for each.")
    sections = ["# Omniglot", "Made by `mamlcourse results`.", markdown_table([heading, *body]), papers.caption(cells)]
    write_figure(papers.papers_figure(cells), folder / "table.png")
    for setting in dict.fromkeys(where for where, _ in cells):
        sections.append(f"## {setting}: the same test tasks\n\n{markdown_table(papers.paired_rows(cells, setting))}")
        sections.append(f"## {setting}: how steady\n\n{markdown_table(papers.stability_rows(cells, setting))}")
        sections.append(f"## {setting}: by budget\n\n{markdown_table(papers.budget_rows(cells, setting))}")
        for against in ("tasks", "seconds"):
            write_figure(papers.learning_curves(cells, setting, against), folder / f"{setting}-{against}.png")
    write_text("\n\n".join(sections) + "\n", folder / "README.md")
    typer.echo(f"Table: {folder / 'README.md'}\nFigure: {folder / 'table.png'}")


def _list_of_runs(results: Path) -> list[list[str]]:
    """Every run with its budget, and its time where one like it was measured; the heading first."""
    from .papers import reproduction

    shown = [["setting", "algorithm", "protocol", "iterations x tasks", "training time"]]
    for setting in SETTINGS:
        for algorithm in REPRODUCED:
            run = reproduction.plan(setting, algorithm)
            budget = f"{run.iterations} x {run.tasks_per_batch}"
            shown.append([setting, algorithm, run.protocol, budget, reproduction.expected_time(run, results)])
    return shown


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="glyphs, icons or omniglot.")] = "glyphs",
    root: RootOption = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw a sheet of characters to this PNG or SVG file.")] = None,
):
    """Load a set of characters (fetching and preparing Omniglot if need be) and describe it."""
    from .data import load_characters
    from .figures import character_sheet

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
        write_figure(character_sheet(characters), sheet)
        typer.echo(f"Sheet: {sheet}")


@app.command()
def progress():
    """Show which exercises are done, and which comes next."""
    from .checks import progress as exercise_progress

    _print_rows("Exercises", exercise_progress.rows())
    passed = exercise_progress.load()
    exercises = exercise_progress.EXERCISES
    typer.echo(f"{exercise_progress.finished(passed)} of {len(exercises)} exercises done.")
    left = [exercise.name for exercise in exercises if not set(exercise.checks) <= passed.keys()]
    if left:
        typer.echo(f"Next: exercises/{left[0]}.ipynb")


@app.command()
def doctor(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint, to hear how it was computed; default this machine.")
    ] = None,
):
    """Say what is installed, which device is there, where the data is, how a run would be computed here, and what to
    do next."""
    from . import doctor as patient

    if checkpoint is not None:
        from .engine.choice import Choice
        from .training import load_checkpoint

        kept = load_checkpoint(checkpoint).get("backends", {})
        rows = [[work, Choice(**record).in_words()] for work, record in kept.items()]
        rows = [["", ""], *(rows or [["", "nothing was measured"]])]
        _print_rows(f"{checkpoint}: how it was computed", rows, wraps=-1)
        return
    rows, repair = patient.examine(Path())
    if repair:  # then what follows cannot be relied on
        _print_rows("mamlcourse doctor", [["", ""], *rows], wraps=-1)
        typer.echo(f"Next: {repair}")
        raise typer.Exit(1)
    import torch

    from .data import load_characters
    from .problems import choose_device

    chosen = choose_device()
    _print_rows("mamlcourse doctor", [
        ["", ""],
        *rows,
        ["GPU", torch.cuda.get_device_name() if chosen.type == "cuda" else "none that PyTorch can use"],
        ["CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} used by PyTorch"],
        ["glyphs", f"built in, {len(load_characters('glyphs'))} characters"],
        ["omniglot", _where_omniglot_is()],
        ["a run would use", f"device {chosen}, glyphs, {_how_computed(chosen)}"],
    ], wraps=-1)  # fmt: skip
    typer.echo("Next: mamlcourse start, which lays out the course in the folder work and opens lesson 00.")


def _how_computed(device) -> str:
    """Which backend this machine has for the default problem and MAML, measured now."""
    from .learner import learner
    from .problems import Problem

    problem = Problem()
    maml, tasks = learner(problem.network(0, device), "maml"), problem.tasks("train", 4, 0, device)
    backend = maml.fastest_backend(tasks.batch(0))
    return next((choice.in_words() for choice in maml.choices.values()), f"backend {backend}")


def _where_omniglot_is() -> str:
    from .data import omniglot

    try:
        found = omniglot.find()
    except InputError as error:
        return str(error)
    place = f"{found.folder} ({found.chosen_by})"
    return f"{found.kind} in {place}" if found.kind != "nothing" else f"not in {place}; would be fetched"


def _print_rows(
    title: str, rows: list[list[str]], numeric: bool = False, wraps: int = 0, listed_by: str = "rows"
) -> None:
    """Print rows of text, the heading first, as a table; where the terminal is too narrow for it, as a list.

    Args:
        title: of the table.
        rows: with nothing in the heading if there is none.
        numeric: whether all columns but the first stand to the right.
        wraps: the column whose text may take several lines; every other one is shown in one piece.
        listed_by: whether the list goes through "rows" or "columns".
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)  # a path may hold [/b]
    heading, *body = rows
    broken = [text.replace(" (", "\n(") for text in heading]
    columns = list(zip(broken, *body))
    wraps %= len(columns)
    pieces = [[piece for text in column for piece in (text.split() if number == wraps else text.split("\n"))]
              for number, column in enumerate(columns)]  # fmt: skip
    widths = [max(map(len, column), default=0) for column in pieces]
    if sum(widths) + 3 * len(widths) + 1 <= console.width:
        table = Table(title=title, title_style="", title_justify="left", show_header=any(heading))
        for number, text in enumerate(broken):
            table.add_column(text, justify="right" if number and numeric else "left", no_wrap=number != wraps)
        for row in body:
            table.add_row(*row)
        console.print(table)
        return
    typer.echo(title)
    names, *parts = zip(*rows) if listed_by == "columns" else rows
    for first, *values in parts:
        typer.echo(f"{first}:" if any(names) else f"{first}: {values[0]}")
        for name, value in zip(names[1:], values):
            if name and value:
                typer.echo(f"  {name}: {value}")


def main() -> None:
    """Run the command line; whatever goes wrong ends in one sentence, bad input with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace_in_words")  # a terminal may know no ±
    # What is worth a warning is worth a sentence; where in the code it stands is not.
    warnings.formatwarning = lambda message, *_, **__: f"mamlcourse: {message}\n"
    logging.getLogger("mamlcourse").addHandler(_ToTerminal(logging.INFO))
    logging.getLogger("mamlcourse").setLevel(logging.INFO)
    try:
        app()
    except InputError as error:
        _end(str(error), 2)
    except (KeyboardInterrupt, Stopped) as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C has nothing left to stop
        _end(str(stop) or "stopped.", 130)
    except OSError as error:  # such as a name that is too long, or a full disk
        _end(f"{error.filename or 'The output'}: {error.strerror or error}.", 2)
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not isinstance(error, RuntimeError) or "allocat" in str(error) or "out of memory" in str(error).lower():
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            _end(f"These numbers are too large for this machine ({why.rstrip('.')}): try smaller ones.", 2)
        raise


class _ToTerminal(logging.Handler):
    """Sentences above a progress bar."""

    def emit(self, record):
        from tqdm.auto import tqdm

        tqdm.write(f"mamlcourse: {record.getMessage()}", file=sys.stderr)


def _end(sentence: str, code: int):
    print(f"mamlcourse: {sentence}", file=sys.stderr)
    raise SystemExit(code) from None


def _in_words(error: UnicodeError) -> tuple[str, int]:
    """What to print in place of characters that the terminal does not know."""
    words = {"±": "+/-", "×": "x", "…": "..."}
    return "".join(words.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("replace_in_words", _in_words)


def _problem(data, side, channels, *, dataset, **choices) -> Problem:
    """The problem of the images in the folder `data`, or without one of the characters `dataset`."""
    from .problems import Problem

    if data is not None:
        return Problem.from_folder(data, side, channels, **choices)
    if side is not None or channels is not None:
        raise InputError("--side and --channels: expected with --data only, as characters are grey, 28 x 28 pixels.")
    return Problem(dataset=dataset, **choices)


def _given(**options) -> dict:
    return {name: value for name, value in options.items() if value is not None}


def _check_sizes(**numbers: int | None) -> None:
    """Refuse numbers that no machine has the memory for, in a sentence and at once."""
    for name, number in numbers.items():
        if number is not None:
            check_number(name, number, at_most=LARGEST[name], integer=True)


def _at_least_one(name: str, number: int) -> int:
    if number < 1:
        raise InputError(f"{name}: expected an integer at least 1, got {number}.")
    return number


def _check_output(path: Path, *endings: str) -> None:
    """Refuse an output file that cannot be written, before the work is done rather than after."""
    if path.suffix not in endings:
        raise InputError(f"The file {path}: expected an ending {' or '.join(endings)}, got {path.suffix!r}.")
    check_outputs(path)


def _check_new(path: Path, overwrite: bool) -> None:
    """Refuse to write over a file of another run unless that is wished."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: name another file, or write over it with --overwrite.")


def _check_same_config(theirs: dict, mine: dict, path: Path) -> None:
    flat_theirs = {**theirs.get("problem", {}), **{k: v for k, v in theirs.items() if k != "problem"}}
    flat_mine = {**mine["problem"], **{k: v for k, v in mine.items() if k != "problem"}}
    for name, value in flat_mine.items():
        if flat_theirs.get(name) != value:
            raise InputError(
                f"{path} was trained with {name} {flat_theirs.get(name)!r}, but now {name} is {value!r}: "
                "resume with the same options, or name another file with --out."
            )
