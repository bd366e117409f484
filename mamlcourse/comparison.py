"""Train several algorithms on the same tasks from the same initial weights, and say what the numbers allow to say."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from .errors import InputError, check_number
from .evaluation import LARGEST_NUMBER_OF_TASKS, evaluate
from .learner import learner
from .memory import peak_of_training
from .problems import Problem, choose_device
from .records import check_keys, device_in_words, markdown_table, only_writer, provenance, read_json, write_json
from .settings import Settings, recipe
from .stats import ci95, verdict, worst_decile
from .stats import paired_difference as paired
from .styles import colour_of, mark_of, title_of
from .training import train

LARGEST_BATCH, LARGEST_BUDGET = 10**6, 10**9  # tasks; with more a comparison would not end
NOT_WORTH_NAMING = 1.1  # ratios of training time closer to 1 than this decide nothing


def compare(
    algorithms=("maml", "fomaml", "maml++"),
    problem: Problem = Problem(),  # noqa: B008 - it cannot be changed
    *,
    seeds=(0,),
    progress: bool = True,
    **options,
) -> dict:
    """Meta-train and test each algorithm on the same problem.

    Args:
        algorithms: names of recipes; the first is what the others are compared with.
        problem, seeds, progress: as in `compare_settings`.
        **options: those of `compare_settings`, and settings to change for all algorithms, such as `inner_lr=0.1`.

    Returns:
        The record of `compare_settings`.

    Raises:
        InputError: a name is unknown or a number not allowed.
    """
    algorithms = list(algorithms)
    if not algorithms or len(set(algorithms)) < len(algorithms):
        raise InputError(f"algorithms: expected at least one name and none twice, got {algorithms}.")
    own = {name: options.pop(name) for name in list(options) if name in inspect.signature(compare_settings).parameters}
    settings = {name: recipe(name, **options) for name in algorithms}
    return compare_settings(settings, problem, seeds=seeds, progress=progress, **own)


def compare_settings(
    settings: dict[str, Settings],
    problem: Problem = Problem(),  # noqa: B008 - it cannot be changed
    *,
    train_tasks: int | dict[str, int] = 200,
    tasks_per_batch: int = 4,
    eval_tasks: int = 200,
    seeds=(0,),
    device: str = "auto",
    backend: str = "auto",
    processes: int = 1,
    progress: bool = True,
    after_seed: Callable[[dict], None] = lambda record: None,
    file: str | Path | None = None,
    overwrite: bool = False,
) -> dict:
    """Meta-train and test settings on the same problem.

    For each seed, all of them start from the same weights, see the same training tasks and are tested on the same
    test tasks, which are also the same for all seeds.

    Args:
        settings: what to compare, by any name; the first is what the others are compared with.
        problem: characters, episodes and network.
        train_tasks: training tasks for each algorithm and seed, or by name; whole meta-batches.
        tasks_per_batch: tasks in a meta-batch.
        eval_tasks: test tasks.
        seeds: each a repetition with other initial weights and training tasks.
        device, backend, processes: as in `choose_device`, `MAML` and `train`.
        progress: whether to show progress bars.
        after_seed: called with the record so far after each seed.
        file: where the record so far is kept after each run (an algorithm with a seed); the same comparison goes on
            from it.
        overwrite: whether to begin anew if there is such a file.

    Returns:
        A record of plain values, ready for JSON: provenance, everything asked for, and for each name and seed the raw
        per-task accuracies, losses, seconds and peak memory. `summary`, `rows` and `recommendation` read it.

    Raises:
        InputError: a number is not allowed, or `file` holds something else or cannot be written.
        KeyboardInterrupt: training was stopped.
    """
    check_number("tasks_per_batch", tasks_per_batch, at_least=1, at_most=LARGEST_BATCH, integer=True)
    check_number("eval_tasks", eval_tasks, at_least=2, at_most=LARGEST_NUMBER_OF_TASKS, integer=True)
    budgets = train_tasks if isinstance(train_tasks, dict) else dict.fromkeys(settings, train_tasks)
    for budget in budgets.values():
        check_number("train_tasks", budget, at_least=tasks_per_batch, at_most=LARGEST_BUDGET, integer=True)
        if budget % tasks_per_batch:
            raise InputError(
                f"train_tasks: expected a multiple of tasks_per_batch ({tasks_per_batch}), got {budget}."
            )
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: expected at least one and none twice, got {seeds}.")
    device = choose_device(device)
    test = problem.tasks("test", tasks_per_batch=10, seed=0, device=device)
    record = {
        "kind": "comparison",
        **provenance(device),
        "problem": problem.describe(),
        "train_tasks": train_tasks,
        "tasks_per_batch": tasks_per_batch,
        "eval_tasks": eval_tasks,
        "seeds": [],
        "algorithms": {
            name: {"settings": chosen.to_record(), "runs": []}
            for name, chosen in settings.items()
        },
    }
    with nullcontext() if file is None else only_writer(Path(file)):
        if file is not None and not overwrite and Path(file).exists():
            record = _going_on(record, seeds, file)
        for seed in seeds:
            for name, entry in record["algorithms"].items():
                runs = entry["runs"]
                if any(run["seed"] == seed for run in runs):
                    continue
                maml = learner(problem.network(seed, device), settings[name], backend=backend)
                training = problem.tasks("train", tasks_per_batch, seed, device)
                iterations = budgets[name] // tasks_per_batch
                history = train(maml, training, iterations, progress=progress, processes=processes)
                if not history.finished:
                    raise KeyboardInterrupt
                computed_by = "loop" if maml.backend == "auto" else maml.backend  # too few batches to choose
                if "peak_memory_bytes" not in entry:
                    entry["peak_memory_bytes"] = peak_of_training(
                        settings[name], replace(problem, root=None), tasks_per_batch, device, computed_by
                    )
                if progress:
                    trained = f"{title_of(name)}, seed {seed}: trained in {history.seconds:.1f} s"
                    tqdm.write(f"{trained}, testing ...", file=sys.stderr)
                tested = evaluate(maml, test, eval_tasks)
                run = {
                    "seed": seed,
                    "backend": computed_by,
                    "train_seconds": round(history.seconds, 3),
                    "losses": [round(loss, 5) for loss in history.losses],
                    "task_accuracies": [round(accuracy, 5) for accuracy in tested.per_task],
                    "accuracy_by_step": [round(value, 5) for value in tested.by_step],
                    "loss_by_step": [round(value, 5) for value in tested.loss_by_step],
                    "overshoot": round(tested.overshoot, 5),
                }
                runs.append(run)
                _keep(record, file)
            if seed not in record["seeds"]:
                record["seeds"].append(seed)
                _keep(record, file)
                after_seed(record)
    return record


def _keep(record: dict, file) -> None:
    """Write the record so far. If that fails, say so and go on: what is measured can still be printed."""
    if file is not None:
        try:
            write_json(record, file)
        except InputError as error:
            tqdm.write(f"{error} The comparison goes on without.", file=sys.stderr)


def _going_on(new: dict, seeds: list[int], file) -> dict:
    """The record that is there already, if it is of the comparison that `new` begins.

    Raises:
        InputError: it is of another one.
    """
    there = read_json(file)
    check_keys(there, {"algorithms": dict, "seeds": list, "hardware": dict, "date": str}, file)
    kinds = {"seed": int, "train_seconds": (int, float), "overshoot": (int, float)}
    kinds |= dict.fromkeys(("losses", "task_accuracies", "accuracy_by_step", "loss_by_step"), list)
    for name, entry in there["algorithms"].items():
        check_keys({name: entry}, {name: {"settings": dict, "runs": list}}, file)
        for number, run in enumerate(entry["runs"]):
            check_keys({"run": run}, {"run": kinds}, file, f"{name}, number {number}: ")
    named = [{name: Settings.from_record(entry["settings"]) for name, entry in record["algorithms"].items()}
             for record in (there, new)]  # fmt: skip
    same = ("problem", "train_tasks", "tasks_per_batch", "eval_tasks", "hardware", "versions")
    different = [name for name in same if there.get(name) != new[name]]
    different += [] if list(named[0].items()) == list(named[1].items()) else ["algorithms"]
    begun = [run["seed"] for entry in there["algorithms"].values() for run in entry["runs"]]
    different += [] if {*there["seeds"], *begun} <= set(seeds) else ["seeds"]
    if different:
        raise InputError(
            f"{file} holds another comparison (other {' and '.join(different)}): name another file, or begin anew with "
            "--overwrite."
        )
    runs = f"{len(begun)} run{'s' * (len(begun) != 1)} of {there['date'][:10]}"
    tqdm.write(f"Going on from {file}, which has {runs}; --overwrite begins anew.", file=sys.stderr)
    return there


@dataclass(frozen=True)
class Summary:
    """What one algorithm's runs in a comparison amount to. Accuracies are fractions, intervals are half 95% widths.

    Attributes:
        accuracy, interval: mean over seeds and tasks, and its interval over the test tasks.
        difference, difference_interval: paired with the reference, task by task; None for the reference itself. The
            interval is the wider of the one over tasks and, given several seeds, the one over seeds (Student's t).
        std_over_tasks: standard deviation over tasks of one run, averaged over the seeds.
        worst_decile: mean accuracy of the worst tenth of the tasks, averaged over the seeds.
        std_over_seeds: standard deviation of the accuracy over the seeds; None for one seed.
        seconds, time_ratio: training time (mean over seeds), and the median over seeds of its ratio to the reference.
        memory, memory_ratio: peak bytes, and their ratio to the reference.
        final_loss: training loss, mean over the last tenth of the meta-batches.
        overshoot: share of the test tasks in which some adaptation step raised the query loss.
        over_chance: accuracy minus chance.
    """

    accuracy: float
    interval: float
    difference: float | None
    difference_interval: float | None
    std_over_tasks: float
    worst_decile: float
    std_over_seeds: float | None
    seconds: float
    time_ratio: float
    memory: int
    memory_ratio: float
    final_loss: float
    overshoot: float
    over_chance: float


def summary(record: dict) -> dict[str, Summary]:
    """A comparison's summary, computed from its raw values; the first algorithm is the reference."""
    reference = next(iter(record["algorithms"]))
    return {name: _summarise(record, name, reference) for name in record["algorithms"]}


def paired_difference(record: dict, name: str, other: str) -> tuple[float, float]:
    """How much more accurate `name` is than `other` on the same tasks: (difference, half interval), as `Summary`'s."""
    return paired(*([run["task_accuracies"] for run in record["algorithms"][n]["runs"]] for n in (name, other)))


def _summarise(record: dict, name: str, reference: str) -> Summary:
    own, base = record["algorithms"][name], record["algorithms"][reference]
    accuracies = [run["task_accuracies"] for run in own["runs"]]
    means = [fmean(values) for values in accuracies]
    last = max(len(own["runs"][0]["losses"]) // 10, 1)
    difference, interval = (None, None) if name == reference else paired_difference(record, name, reference)
    ratios = [run["train_seconds"] / twin["train_seconds"] for run, twin in zip(own["runs"], base["runs"])]
    return Summary(
        accuracy=fmean(means),
        interval=ci95([fmean(values) for values in zip(*accuracies)]),
        difference=difference,
        difference_interval=interval,
        std_over_tasks=fmean(stdev(values) for values in accuracies),
        worst_decile=fmean(map(worst_decile, accuracies)),
        std_over_seeds=stdev(means) if len(means) > 1 else None,
        seconds=fmean(run["train_seconds"] for run in own["runs"]),
        time_ratio=median(ratios),
        memory=own["peak_memory_bytes"],
        memory_ratio=own["peak_memory_bytes"] / base["peak_memory_bytes"],
        final_loss=fmean(fmean(run["losses"][-last:]) for run in own["runs"]),
        overshoot=fmean(run["overshoot"] for run in own["runs"]),
        over_chance=fmean(means) - 1 / record["problem"]["ways"],
    )


def rows(record: dict) -> list[list[str]]:
    """The comparison as rows of text, the heading first: one column for each algorithm."""
    found = summary(record)
    reference = title_of(next(iter(found)))

    def row(title, text):
        return [title, *(text(s) for s in found.values())]

    return [
        ["", *(title_of(name) for name in found)],
        row("test accuracy (%)", lambda s: f"{100 * s.accuracy:.1f} ± {100 * s.interval:.1f}"),
        row(f"difference to {reference} (% points)", lambda s: "" if s.difference is None
            else f"{100 * s.difference:+.1f} ± {100 * s.difference_interval:.1f}"),
        row("above chance (% points)", lambda s: f"{100 * s.over_chance:+.1f}"),
        row("std over tasks (% points)", lambda s: f"{100 * s.std_over_tasks:.1f}"),
        row("worst decile of tasks (%)", lambda s: f"{100 * s.worst_decile:.1f}"),
        row("std over seeds (% points)", lambda s: "one seed" if s.std_over_seeds is None
            else f"{100 * s.std_over_seeds:.1f}"),
        row("tasks that overshoot (%)", lambda s: f"{100 * s.overshoot:.0f}"),
        row("final training loss", lambda s: f"{s.final_loss:.3f}"),
        row("training time (s)", lambda s: f"{s.seconds:.1f}"),
        row(f"time / {reference}", lambda s: f"{s.time_ratio:.2f}"),
        row("peak memory (MB)", lambda s: f"{s.memory / 1e6:.0f}"),
        row(f"memory / {reference}", lambda s: f"{s.memory_ratio:.2f}"),
    ]  # fmt: skip


def caption(record: dict) -> str:
    """What was compared, in a sentence or two."""
    problem, seeds = record["problem"], len(record["seeds"])
    unseen = "alphabets" if problem["split"] == "alphabet" else "classes"
    tested = f", tested on {problem['test_dataset']}" if "test_dataset" in problem else ""
    return (
        f"{problem['dataset']}{tested}, {problem['ways']}-way {problem['shots']}-shot, "
        f"{problem['queries']} queries per class; "
        f"{_budget(record)}, {record['eval_tasks']} tasks of unseen {unseen}, {seeds} seed{'s' * (seeds > 1)}; "
        f"± is half a 95% confidence interval; {device_in_words(record)}, {record['date'][:10]}."
    )


def _budget(record: dict) -> str:
    """The training tasks in words; they may differ by name."""
    budgets, size = record["train_tasks"], record["tasks_per_batch"]
    if isinstance(budgets, dict) and len(set(budgets.values())) > 1:
        each = ", ".join(f"{title_of(name)} {tasks}" for name, tasks in budgets.items())
        return f"training tasks in batches of {size}: {each}"
    tasks = next(iter(budgets.values())) if isinstance(budgets, dict) else budgets
    return f"{tasks} training tasks ({tasks // size} batches of {size})"


def markdown(record: dict) -> str:
    """The comparison as a Markdown table."""
    return markdown_table(rows(record), numeric=True)


def recommendation(record: dict) -> str:
    """Which of the compared algorithms to use, from the measured numbers alone.

    The cheapest of those that are not clearly less accurate than the most accurate one, where "clearly" means that
    the interval of the paired difference leaves out zero.
    """
    found = summary(record)
    if len(found) == 1:
        return f"Only {title_of(next(iter(found)))} was run, so there is nothing to compare."
    best = max(found, key=lambda name: found[name].accuracy)
    against = {name: paired_difference(record, best, name) for name in found if name != best}
    level = [name for name, gap in against.items() if verdict(*gap) != "held"]
    clearly_worse = [name for name in against if name not in level]
    sentences = []
    if level:
        others = " and ".join(
            f"{title_of(name)} (by {100 * against[name][0]:.1f} ± {100 * against[name][1]:.1f} percentage points)"
            for name in level
        )
        ahead = f"{title_of(best)} is ahead, but not clearly of {others}."
        sentences.append(f"There is no clear difference in accuracy: {ahead}")
    for name in clearly_worse:
        difference, interval = against[name]
        sentences.append(
            f"{title_of(best)} is clearly more accurate than {title_of(name)}, "
            f"by {100 * difference:.1f} ± {100 * interval:.1f} percentage points."
        )
    cheapest = min([best, *level], key=lambda name: found[name].seconds)
    ratio = found[best].seconds / found[cheapest].seconds
    choice = cheapest if ratio >= NOT_WORTH_NAMING else best
    if choice != best:
        faster = f"{title_of(choice)} trained {ratio:.1f} times faster than {title_of(best)}"
        sentences.append(f"{faster}: use {title_of(choice)} here.")
    else:
        sentences.append(f"{_cost(found, best)}: use {title_of(best)} here.")
    if len(record["seeds"]) == 1:
        sentences.append("(One seed: the intervals leave out how much training varies from seed to seed; see --seeds.)")
    return " ".join(sentences)


def _cost(found: dict[str, Summary], best: str) -> str:
    fastest = min(found, key=lambda name: found[name].seconds)
    ratio = found[best].seconds / found[fastest].seconds
    if ratio < NOT_WORTH_NAMING:
        return "None of the others trained noticeably faster"
    return f"It took {ratio:.1f} times the training time of the fastest, {title_of(fastest)}"


def comparison_figure(record: dict) -> Figure:
    """Draw a comparison record: accuracy along adaptation, paired difference to the reference, and cost."""
    found = summary(record)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    path, difference, cost = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
    _draw_adaptation(path, record)
    _draw_differences(difference, found)
    _draw_cost(cost, found)
    figure.suptitle("\n".join(textwrap.wrap(caption(record), 130)), fontsize=9)
    return figure


def _draw_adaptation(axes, record):
    for name, entry in record["algorithms"].items():
        by_step = [100 * fmean(values) for values in zip(*(run["accuracy_by_step"] for run in entry["runs"]))]
        axes.plot(range(len(by_step)), by_step, color=colour_of(name), marker=mark_of(name), label=title_of(name))
    axes.axhline(100 / record["problem"]["ways"], color="grey", linestyle=":", label="chance")
    steps = max(len(entry["runs"][0]["accuracy_by_step"]) for entry in record["algorithms"].values())
    axes.set(title="Accuracy while adapting", xlabel="adaptation steps", ylabel="query accuracy (%)", ylim=(0, 100))
    axes.set_xticks(range(steps))
    axes.legend(fontsize=9)


def _draw_differences(axes, found):
    reference = next(iter(found))
    others = [name for name in found if name != reference] or [reference]
    for place, name in enumerate(others):
        s = found[name]
        axes.errorbar(
            100 * (s.difference or 0), place, xerr=100 * (s.difference_interval or 0), color=colour_of(name),
            marker=mark_of(name), markersize=8, capsize=5,
        )  # fmt: skip
    axes.axvline(0, color=colour_of(reference), linestyle="--")
    axes.set_yticks(range(len(others)), [title_of(name) for name in others])
    axes.set(
        title=f"Accuracy against {title_of(reference)}", xlabel="paired difference (% points), 95% CI",
        ylim=(len(others) - 0.5, -0.5),
    )  # fmt: skip


def _draw_cost(axes, found):
    for place, (name, s) in enumerate(found.items()):
        for offset, ratio, hatch in ((-0.2, s.time_ratio, None), (0.2, s.memory_ratio, "///")):
            axes.barh(place + offset, ratio, 0.38, color=colour_of(name), hatch=hatch, edgecolor="white")
            kind = "memory" if hatch else "time"
            axes.text(ratio, place + offset, f" {ratio:.2f} {kind}", va="center", fontsize=8)
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(found)), [title_of(name) for name in found])
    axes.set(title="Training cost", xlabel=f"ratio to {title_of(next(iter(found)))}", ylim=(len(found) - 0.5, -0.5))
    axes.set_xlim(0, 1.5 * max(max(s.time_ratio, s.memory_ratio) for s in found.values()))  # room for the labels
