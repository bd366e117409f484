"""Train several algorithms on the same tasks from the same initial weights, and say what the numbers allow to say."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from .claims import Claim
from .errors import InputError, check_choice, check_number
from .evaluation import LARGEST_NUMBER_OF_TASKS, RISE, Evaluation, evaluate, share_of_tasks
from .learner import learner
from .memory import peak_of_training
from .problems import Problem, choose_device
from .records import check_keys, device_in_words, markdown_table, only_writer, provenance, read_json, write_json
from .settings import Settings, recipe
from .stats import interval_in_words, seeds_and_tasks_ci, verdict, worst_decile
from .stats import paired_difference as paired
from .styles import colour_of, mark_of, title_of
from .training import train

LARGEST_BATCH, LARGEST_BUDGET = 10**6, 10**9  # tasks; with more a comparison would not end
NOT_WORTH_NAMING = 1.1  # ratios of training time closer to 1 than this decide nothing
MARGIN = 0.02  # how much less accurate a cheaper algorithm may be and still be recommended


def compare(
    algorithms=("maml", "fomaml", "maml++"),
    problem: Problem = Problem(),  # noqa: B008 - it cannot be changed
    *,
    cosine: bool | None = False,
    seeds=(0,),
    progress: bool = True,
    **options,
) -> dict:
    """Meta-train and test each algorithm on the same problem.

    Args:
        algorithms: names of recipes; the first is what the others are compared with.
        cosine: whether the outer learning rate of all algorithms follows a cosine, or is constant; None for each
            recipe's own way, which compares schedules too.
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
    if cosine is not None:
        options["cosine"] = cosine
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
        per-task accuracies and losses (`query_losses` and `support_losses` by step, as in `Evaluation`), seconds and
        peak memory. `summary`, `rows` and `recommendation` read it.

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
            raise InputError(f"train_tasks: expected a multiple of tasks_per_batch ({tasks_per_batch}), got {budget}.")
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
        "algorithms": {name: {"settings": chosen.to_record(), "runs": []} for name, chosen in settings.items()},
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
                    "task_losses": [round(loss, 5) for loss in tested.losses[:, -1].tolist()],
                    "loss_by_step": [round(value, 5) for value in tested.loss_by_step],
                    "support_loss_by_step": [round(value, 5) for value in tested.support_losses.mean(0).tolist()],
                    "query_losses": _short(tested.losses),
                    "support_losses": _short(tested.support_losses),
                    "any_rise": round(share_of_tasks(tested.rises), 5),
                }
                runs.append(run)
                _keep(record, file)
            if seed not in record["seeds"]:
                record["seeds"].append(seed)
                _keep(record, file)
                after_seed(record)
    return record


def _short(losses) -> list[list[float]]:
    """(T, K + 1) with four digits, which keeps the files small."""
    return [[round(value, 4) for value in of_task] for of_task in losses.tolist()]


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
    kinds = {"seed": int, "train_seconds": (int, float), "any_rise": (int, float)}
    kinds |= dict.fromkeys(("losses", "task_accuracies", "accuracy_by_step", "loss_by_step"), list)
    added = dict.fromkeys(("task_losses", "support_loss_by_step", "query_losses", "support_losses"), list)
    earlier = False
    for name, entry in there["algorithms"].items():
        check_keys({name: entry}, {name: {"settings": dict, "runs": list}}, file)
        for number, run in enumerate(entry["runs"]):
            first_edition = not added.keys() & run.keys()
            earlier |= first_edition
            expected = kinds if first_edition else kinds | added
            check_keys({"run": run}, {"run": expected}, file, f"{name}, number {number}: ")
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
    if earlier and len(begun) < len(seeds) * len(new["algorithms"]):
        raise InputError(
            f"{file} is of an earlier version, which kept no loss of each test task: name another file, or begin anew "
            "with --overwrite."
        )
    runs = f"{len(begun)} run{'s' * (len(begun) != 1)} of {there['date'][:10]}"
    tqdm.write(f"Going on from {file}, which has {runs}; --overwrite begins anew.", file=sys.stderr)
    return there


@dataclass(frozen=True)
class Summary:
    """What one algorithm's runs in a comparison amount to.

    Accuracies are fractions. Intervals are half 95% widths of `stats.seeds_and_tasks_ci`: the wider of the one over
    the test tasks and, given several seeds, the one over seeds (Student's t); with one seed over tasks alone.

    Attributes:
        accuracy, interval: mean over seeds and tasks, and its interval.
        difference, difference_interval: paired with the reference, task by task; None for the reference itself.
        loss, loss_interval, loss_difference, loss_difference_interval: the same of the test loss after the last step;
            None in records of the first edition, which did not keep it.
        std_over_tasks: standard deviation over tasks of one run, averaged over the seeds.
        worst_decile: mean accuracy of the worst tenth of the tasks, averaged over the seeds.
        std_over_seeds: standard deviation of the accuracy over the seeds; None for one seed.
        seconds, time_ratio: training time (mean over seeds), and the median over seeds of its ratio to the reference.
        memory, memory_ratio: peak bytes, and their ratio to the reference.
        final_loss: training loss, mean over the last tenth of the meta-batches.
        overshoot: share of the test tasks in which some step raised the query loss by more than `evaluation.RISE`;
            None in records of the first edition.
        too_long: the same of the support loss: the step was too long; None as well.
        overfits: the same of the query loss while the support loss fell; None as well.
        any_rise: share of the test tasks in which some step raised the query loss, however little.
        over_chance: accuracy minus chance.
    """

    accuracy: float
    interval: float
    difference: float | None
    difference_interval: float | None
    loss: float | None
    loss_interval: float | None
    loss_difference: float | None
    loss_difference_interval: float | None
    std_over_tasks: float
    worst_decile: float
    std_over_seeds: float | None
    seconds: float
    time_ratio: float
    memory: int
    memory_ratio: float
    final_loss: float
    overshoot: float | None
    too_long: float | None
    overfits: float | None
    any_rise: float
    over_chance: float


def summary(record: dict) -> dict[str, Summary]:
    """A comparison's summary, computed from its raw values; the first algorithm is the reference."""
    reference = next(iter(record["algorithms"]))
    return {name: _summarise(record, name, reference) for name in record["algorithms"]}


def paired_difference(record: dict, name: str, other: str, values: str = "task_accuracies") -> tuple[float, float]:
    """How much more accurate `name` is than `other` on the same tasks: (difference, half interval), as `Summary`'s.

    Args:
        record: of a comparison.
        name, other: two of its algorithms.
        values: the raw values to compare, such as "task_losses".
    """
    return paired(*([run[values] for run in record["algorithms"][n]["runs"]] for n in (name, other)))


def claim(record: dict, name: str, other: str, statement: str, source: str, values: str = "task_accuracies") -> Claim:
    """A claim about two algorithms, judged by a comparison: that `name` is more accurate than `other`.

    Args:
        record: of a comparison.
        name, other: two of its algorithms.
        statement, source: what is claimed, and by whom (`claims.SOURCES`).
        values: "task_accuracies"; or "task_losses", and the claim is that `name` has the lower test loss.

    Raises:
        InputError: the values or the source are unknown.
    """
    check_choice("The values", values, ("task_accuracies", "task_losses"))
    difference, half = paired_difference(record, name, other, values)
    seeds = len(record["seeds"])
    budget = f"{_budget(record, (name, other))}, {seeds} seed{'s' * (seeds > 1)}"
    one, two = title_of(name), title_of(other)
    if values == "task_losses":
        return Claim(source, statement, f"test loss, {two} - {one}", budget, -difference, half, unit="", digits=3)
    return Claim(source, statement, f"test accuracy, {one} - {two}", budget, 100 * difference, 100 * half)


def steps_that_raise(record: dict, name: str, size: float = RISE) -> dict[str, list[float]]:
    """Shares of the test tasks, for each seed, with a step that raised a loss by more than `size`.

    Returns:
        {"overshoot", "too_long", "overfits": by seed}, as the methods of `Evaluation` define them; empty for records of
        the first edition, which did not keep what it takes.
    """
    runs = record["algorithms"][name]["runs"]
    if not all({"query_losses", "support_losses"} <= run.keys() for run in runs):
        return {}
    # In float64, or rounding would make a rise of exactly `size` a larger one.
    tested = [Evaluation(_as_tensor(run["query_losses"]), None, _as_tensor(run["support_losses"])) for run in runs]
    return {
        "overshoot": [share_of_tasks(one.overshoots(size)) for one in tested],
        "too_long": [share_of_tasks(one.too_long(size)) for one in tested],
        "overfits": [share_of_tasks(one.overfits(size)) for one in tested],
    }


def _as_tensor(losses: list[list[float]]) -> torch.Tensor:
    return torch.tensor(losses, dtype=torch.float64)


def _summarise(record: dict, name: str, reference: str) -> Summary:
    own, base = record["algorithms"][name], record["algorithms"][reference]
    accuracies = [run["task_accuracies"] for run in own["runs"]]
    means = [fmean(values) for values in accuracies]
    last = max(len(own["runs"][0]["losses"]) // 10, 1)
    difference, interval = (None, None) if name == reference else paired_difference(record, name, reference)
    loss = loss_interval = loss_difference = loss_difference_interval = None
    if all("task_losses" in run for run in [*own["runs"], *base["runs"]]):
        losses = [run["task_losses"] for run in own["runs"]]
        loss, loss_interval = fmean(map(fmean, losses)), seeds_and_tasks_ci(losses)
        if name != reference:
            loss_difference, loss_difference_interval = paired_difference(record, name, reference, "task_losses")
    ratios = [run["train_seconds"] / twin["train_seconds"] for run, twin in zip(own["runs"], base["runs"])]
    raised = {what: fmean(shares) for what, shares in steps_that_raise(record, name).items()}
    return Summary(
        accuracy=fmean(means),
        interval=seeds_and_tasks_ci(accuracies),
        difference=difference,
        difference_interval=interval,
        loss=loss,
        loss_interval=loss_interval,
        loss_difference=loss_difference,
        loss_difference_interval=loss_difference_interval,
        std_over_tasks=fmean(stdev(values) for values in accuracies),
        worst_decile=fmean(map(worst_decile, accuracies)),
        std_over_seeds=stdev(means) if len(means) > 1 else None,
        seconds=fmean(run["train_seconds"] for run in own["runs"]),
        time_ratio=median(ratios),
        memory=own["peak_memory_bytes"],
        memory_ratio=own["peak_memory_bytes"] / base["peak_memory_bytes"],
        final_loss=fmean(fmean(run["losses"][-last:]) for run in own["runs"]),
        overshoot=raised.get("overshoot"),
        too_long=raised.get("too_long"),
        overfits=raised.get("overfits"),
        any_rise=fmean(run["any_rise"] for run in own["runs"]),
        over_chance=fmean(means) - 1 / record["problem"]["ways"],
    )


def rows(record: dict) -> list[list[str]]:
    """The comparison as rows of text, the heading first: one column for each algorithm.

    What a record of the first edition does not have is left out. How often a step raised a loss is said of rises by
    more than `RISE` (`legend` has the words), or, where the record knows no sizes, of any rise.
    """
    found = summary(record)
    reference = title_of(next(iter(found)))
    with_losses = all(s.loss is not None for s in found.values())
    by_size = all(s.overshoot is not None for s in found.values())

    def row(title, text):
        return [title, *(text(s) for s in found.values())]

    losses = [
        row("test loss", lambda s: f"{s.loss:.2f} ± {s.loss_interval:.2f}"),
        row(f"test loss minus {reference}'s", lambda s: "" if s.loss_difference is None
            else f"{s.loss_difference:+.2f} ± {s.loss_difference_interval:.2f}"),
    ] if with_losses else []  # fmt: skip
    raised = [
        row(f"overshoot by > {RISE} (% of tasks)", lambda s: f"{100 * s.overshoot:.0f}"),
        row("step too long (% of tasks)", lambda s: f"{100 * s.too_long:.0f}"),
        row("overfits (% of tasks)", lambda s: f"{100 * s.overfits:.0f}"),
    ] if by_size else [
        row("tasks in which any step raises the loss (%)", lambda s: f"{100 * s.any_rise:.0f}"),
    ]  # fmt: skip
    return [
        ["", *(title_of(name) for name in found)],
        row("test accuracy (%)", lambda s: f"{100 * s.accuracy:.1f} ± {100 * s.interval:.1f}"),
        row(f"difference to {reference} (% points)", lambda s: "" if s.difference is None
            else f"{100 * s.difference:+.1f} ± {100 * s.difference_interval:.1f}"),
        row("above chance (% points)", lambda s: f"{100 * s.over_chance:+.1f}"),
        *losses,
        row("std over tasks (% points)", lambda s: f"{100 * s.std_over_tasks:.1f}"),
        row("worst decile of tasks (%)", lambda s: f"{100 * s.worst_decile:.1f}"),
        row("std over seeds (% points)", lambda s: "one seed" if s.std_over_seeds is None
            else f"{100 * s.std_over_seeds:.1f}"),
        *raised,
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
        f"{_budget(record, record['algorithms'])}, {_schedule(record)}, "
        f"{record['eval_tasks']} tasks of unseen {unseen}, "
        f"{seeds} seed{'s' * (seeds > 1)}; ± is half a 95% confidence interval {interval_in_words(seeds)}; "
        f"{device_in_words(record)}, {record['date'][:10]}."
    )


def legend(record: dict) -> str:
    """What the rows of `rows` on steps that raise a loss count, in a sentence; empty for records without."""
    if not all(steps_that_raise(record, name) for name in record["algorithms"]):
        return ""
    return (
        f"Overshoot: a step raises the query loss by more than {RISE}; step too long: it raises the support loss by "
        f"more than {RISE}; overfits: it raises the query loss by more than {RISE} while the support loss falls."
    )


def _budget(record: dict, names: Collection[str]) -> str:
    """The training tasks of these algorithms in words; they may differ by name."""
    budgets, size = record["train_tasks"], record["tasks_per_batch"]
    if not isinstance(budgets, dict):
        budgets = dict.fromkeys(names, budgets)
    tasks = budgets[next(iter(names))]
    if any(budgets[name] != tasks for name in names):
        each = ", ".join(f"{title_of(name)} {budgets[name]}" for name in names)
        return f"training tasks in batches of {size}: {each}"
    return f"{tasks} training tasks ({tasks // size} batches of {size})"


def _schedule(record: dict) -> str:
    """The outer learning rate's schedule in words: of all algorithms, or which have a cosine and which have none."""
    of = {name: Settings.from_record(entry["settings"]).cosine for name, entry in record["algorithms"].items()}
    if len(set(of.values())) == 1:
        return f"outer learning rate {'along a cosine' if any(of.values()) else 'constant'}"
    sides = {"along a cosine": [name for name in of if of[name]], "constant": [name for name in of if not of[name]]}
    (one, few), (other, _) = sorted(sides.items(), key=lambda side: len(side[1]))
    return f"outer learning rate {one} for {' and '.join(map(title_of, few))}, {other} for the others"


def markdown(record: dict) -> str:
    """The comparison as a Markdown table."""
    return markdown_table(rows(record), numeric=True)


@dataclass(frozen=True)
class Decision:
    """Which of several algorithms to use, and how each of the others stands to the most accurate one.

    Attributes:
        best: the one with the highest mean accuracy.
        use: the one to use; None where more seeds must tell.
        between: where they must, the candidates among which.
        enough: those shown to be at most the margin less accurate than the best.
        worse: those of which that is not shown, and which are clearly less accurate.
        open: the rest: their intervals leave both open.
    """

    best: str
    use: str | None
    between: tuple[str, ...]
    enough: tuple[str, ...]
    worse: tuple[str, ...]
    open: tuple[str, ...]


def decide(
    best: str, behind: dict[str, tuple[float, float]], seconds: dict[str, float], margin: float = MARGIN
) -> Decision:
    """Choose between the most accurate algorithm and cheaper ones by a rule of non-inferiority.

    A cheaper one is to be used only where it is shown to be good enough: where the interval of its paired difference to
    the best lies wholly above -margin. A wide interval shows nothing: it leaves the choice undecided, unless it lies
    below zero, so that the best is clearly better, or the other is not cheaper and, at the end of its interval, not
    ahead by more than the margin.

    Args:
        best: the one with the highest mean accuracy.
        behind: each of the others: its accuracy minus the best's (at most 0), and half the 95% confidence interval.
        seconds: training times of all.
        margin: how much less accurate a cheaper one may be.
    """
    enough = [name for name, (gap, half) in behind.items() if verdict(gap + margin, half) == "held"]
    worse = [name for name, gap in behind.items() if name not in enough and verdict(*gap) == "did not hold"]
    left_open = [name for name in behind if name not in enough and name not in worse]
    cheapest = min([best, *enough], key=seconds.get)
    use = cheapest if _cheaper(seconds, cheapest, best) else best
    rivals = [name for name in left_open if _cheaper(seconds, name, use) or not _behind_enough(behind[name], margin)]
    return Decision(
        best, None if rivals else use, (use, *rivals) if rivals else (), tuple(enough), tuple(worse), tuple(left_open)
    )


def _cheaper(seconds: dict[str, float], one: str, other: str) -> bool:
    """Whether the difference in training time is worth naming."""
    return seconds[other] / seconds[one] >= NOT_WORTH_NAMING


def _behind_enough(behind: tuple[float, float], margin: float) -> bool:
    """Whether the best is shown to be at most the margin less accurate than this one."""
    gap, half = behind
    return verdict(margin - gap, half) == "held"


def decision(record: dict, margin: float = MARGIN) -> Decision:
    """`decide` from a comparison's raw values.

    Raises:
        InputError: the margin is no number from 0 to 1.
    """
    check_number("margin", margin, at_least=0, at_most=1)
    found = summary(record)
    best = max(found, key=lambda name: found[name].accuracy)
    behind = {name: paired_difference(record, name, best) for name in found if name != best}
    return decide(best, behind, {name: own.seconds for name, own in found.items()}, margin)


def recommendation(record: dict, margin: float = MARGIN) -> str:
    """Which of the compared algorithms to use, from the measured numbers alone, in words.

    Args:
        record: of a comparison.
        margin: how much less accurate a cheaper algorithm may be and still be recommended; `decide` has the rule.

    Raises:
        InputError: the margin is no number from 0 to 1.
    """
    found = summary(record)
    if len(found) == 1:
        return f"Only {title_of(next(iter(found)))} was run, so there is nothing to compare."
    decided = decision(record, margin)
    best = title_of(decided.best)
    sentences = [f"Margin: a cheaper algorithm may be {100 * margin:g} percentage points less accurate than the best."]
    for name in found:
        if name == decided.best:
            continue
        difference, interval = paired_difference(record, decided.best, name)
        gap = f"{100 * difference:.1f} ± {100 * interval:.1f} percentage points"
        clear = verdict(difference, interval) == "held"
        if clear and name in decided.enough:
            sentences.append(f"{best} is clearly more accurate than {title_of(name)}, but within the margin ({gap}).")
        elif clear:
            sentences.append(f"{best} is clearly more accurate than {title_of(name)}, by {gap}.")
        elif name in decided.enough:
            sentences.append(f"{title_of(name)} is behind {best} by less than the margin ({gap}).")
        else:
            sentences.append(f"{title_of(name)} is behind {best} by {gap}: by more or less than the margin is open.")
    if decided.use is None:
        *others, last = map(title_of, decided.between)
        sentences.append(f"Undecided: more seeds must tell between {', '.join(others)} and {last}.")
    elif decided.use != decided.best:
        ratio = found[decided.best].seconds / found[decided.use].seconds
        faster = f"{title_of(decided.use)} trained {ratio:.1f} times faster than {best}"
        sentences.append(f"{faster}: use {title_of(decided.use)} here.")
    else:
        sentences.append(f"{_cost(found, decided.best)}: use {best} here.")
    if len(record["seeds"]) == 1:
        sentences.append(
            "(One seed: the intervals are over tasks alone and leave out how much training varies from seed to seed; "
            "see --seeds.)"
        )
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
