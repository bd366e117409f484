"""Train several algorithms on the same tasks from the same initial weights, and say what the numbers allow to say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median, stdev

from rich.table import Table
from tqdm.auto import tqdm

from .algorithms import learner
from .errors import InputError, check_number
from .evaluation import evaluate, half_interval
from .memory import peak_of_training
from .problems import Problem, choose_device
from .records import provenance
from .settings import Settings, recipe
from .training import train

TITLES = {
    "maml": "MAML", "fomaml": "FOMAML", "maml++": "MAML++", "fomaml++": "FOMAML++", "anil": "ANIL",
    "reptile": "Reptile", "meta-sgd": "Meta-SGD",
}  # fmt: skip
NOT_WORTH_NAMING = 1.1  # ratios of training time closer to 1 than this decide nothing


def title_of(name: str) -> str:
    """How a recipe is written in text and figures; other names as they are."""
    return TITLES.get(name, name)


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
        raise InputError(f"algorithms is {algorithms}, but must name at least one and none twice.")
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
    progress: bool = True,
    after_seed: Callable[[dict], None] = lambda record: None,
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
        device, backend: as in `choose_device` and `MAML`.
        progress: whether to show progress bars.
        after_seed: called with the record so far after each seed.

    Returns:
        A record of plain values, ready for JSON: provenance, everything asked for, and for each name and seed the raw
        per-task accuracies, losses, seconds and peak memory. `summary`, `table` and `recommendation` read it.

    Raises:
        InputError: a number is not allowed.
    """
    check_number("tasks_per_batch", tasks_per_batch, at_least=1, whole=True)
    check_number("eval_tasks", eval_tasks, at_least=2, whole=True)
    budgets = train_tasks if isinstance(train_tasks, dict) else dict.fromkeys(settings, train_tasks)
    for budget in budgets.values():
        check_number("train_tasks", budget, at_least=tasks_per_batch, whole=True)
        if budget % tasks_per_batch:
            raise InputError(
                f"train_tasks is {budget}, but must be a multiple of tasks_per_batch, which is {tasks_per_batch}."
            )
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds is {seeds}, but must name at least one and none twice.")
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
            name: {"settings": asdict(chosen) | {"adapt": list(chosen.adapt)}, "runs": []}
            for name, chosen in settings.items()
        },
    }
    for name, entry in record["algorithms"].items():
        entry["peak_memory_bytes"] = peak_of_training(
            settings[name], replace(problem, root=None), tasks_per_batch, device, backend
        )
    for seed in seeds:
        for name in settings:
            maml = learner(problem.network(seed, device), settings[name], backend=backend)
            training = problem.tasks("train", tasks_per_batch, seed, device)
            history = train(maml, training, budgets[name] // tasks_per_batch, progress=progress)
            if not history.finished:
                raise KeyboardInterrupt
            if progress:
                title = title_of(name)
                tqdm.write(f"{title}, seed {seed}: trained in {history.seconds:.1f} s, testing ...")
            tested = evaluate(maml, test, eval_tasks)
            run = {
                "seed": seed,
                "backend": maml.backend,
                "train_seconds": round(history.seconds, 3),
                "losses": [round(loss, 5) for loss in history.losses],
                "task_accuracies": [round(accuracy, 5) for accuracy in tested.per_task],
                "accuracy_by_step": [round(value, 5) for value in tested.by_step],
                "loss_by_step": [round(value, 5) for value in tested.loss_by_step],
                "overshoot": round(tested.overshoot, 5),
            }
            record["algorithms"][name]["runs"].append(run)
        record["seeds"].append(seed)
        after_seed(record)
    return record


@dataclass(frozen=True)
class Summary:
    """What one algorithm's runs in a comparison amount to. Accuracies are fractions, intervals are half 95% widths.

    Attributes:
        accuracy, interval: mean over seeds and tasks, and its interval over the test tasks.
        difference, difference_interval: paired with the reference, task by task; None for the reference itself. The
            interval is the wider of the one over tasks and, given several seeds, the one over seeds (Student's t).
        spread: standard deviation over tasks of one run, averaged over the seeds.
        worst_decile: mean accuracy of the worst tenth of the tasks, averaged over the seeds.
        seed_spread: standard deviation of the accuracy over the seeds; None for one seed.
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
    spread: float
    worst_decile: float
    seed_spread: float | None
    seconds: float
    time_ratio: float
    memory: int
    memory_ratio: float
    final_loss: float
    overshoot: float
    over_chance: float


def summary(record: dict) -> dict[str, Summary]:
    """Work out a comparison's summary from its raw values; the first algorithm is the reference."""
    reference = next(iter(record["algorithms"]))
    return {name: _summarise(record, name, reference) for name in record["algorithms"]}


def paired_difference(record: dict, name: str, other: str) -> tuple[float, float]:
    """How much more accurate `name` is than `other` on the same tasks: (difference, half interval), as `Summary`'s."""
    runs, others = (record["algorithms"][n]["runs"] for n in (name, other))
    by_seed = [
        [a - b for a, b in zip(run["task_accuracies"], twin["task_accuracies"])] for run, twin in zip(runs, others)
    ]
    over_tasks = half_interval([fmean(differences) for differences in zip(*by_seed)])
    over_seeds = half_interval([fmean(differences) for differences in by_seed]) if len(by_seed) > 1 else 0.0
    return fmean(map(fmean, by_seed)), max(over_tasks, over_seeds)


def _summarise(record: dict, name: str, reference: str) -> Summary:
    own, base = record["algorithms"][name], record["algorithms"][reference]
    accuracies = [run["task_accuracies"] for run in own["runs"]]
    means = [fmean(values) for values in accuracies]
    tenth = max(len(accuracies[0]) // 10, 1)
    last = max(len(own["runs"][0]["losses"]) // 10, 1)
    difference, interval = (None, None) if name == reference else paired_difference(record, name, reference)
    ratios = [run["train_seconds"] / twin["train_seconds"] for run, twin in zip(own["runs"], base["runs"])]
    return Summary(
        accuracy=fmean(means),
        interval=half_interval([fmean(values) for values in zip(*accuracies)]),
        difference=difference,
        difference_interval=interval,
        spread=fmean(stdev(values) for values in accuracies),
        worst_decile=fmean(fmean(sorted(values)[:tenth]) for values in accuracies),
        seed_spread=stdev(means) if len(means) > 1 else None,
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
        row(f"difference to {reference} (points)", lambda s: "" if s.difference is None
            else f"{100 * s.difference:+.1f} ± {100 * s.difference_interval:.1f}"),
        row("improvement over chance (points)", lambda s: f"{100 * s.over_chance:+.1f}"),
        row("spread over tasks (points)", lambda s: f"{100 * s.spread:.1f}"),
        row("worst tenth of tasks (%)", lambda s: f"{100 * s.worst_decile:.1f}"),
        row("spread over seeds (points)", lambda s: "one seed" if s.seed_spread is None
            else f"{100 * s.seed_spread:.1f}"),
        row("tasks that overshoot (%)", lambda s: f"{100 * s.overshoot:.0f}"),
        row("final training loss", lambda s: f"{s.final_loss:.3f}"),
        row("training time (s)", lambda s: f"{s.seconds:.1f}"),
        row(f"time / {reference}", lambda s: f"{s.time_ratio:.2f}"),
        row("peak memory (MB)", lambda s: f"{s.memory / 1e6:.0f}"),
        row(f"memory / {reference}", lambda s: f"{s.memory_ratio:.2f}"),
    ]  # fmt: skip


def caption(record: dict) -> str:
    """What was compared, in a sentence or two."""
    problem, hardware = record["problem"], record["hardware"]
    device = hardware["device"] if hardware["device"] != "CPU" else f"{hardware['threads']} CPU threads"
    seeds = len(record["seeds"])
    batches = record["train_tasks"] // record["tasks_per_batch"]
    return (
        f"{problem['dataset']}, {problem['ways']}-way {problem['shots']}-shot, {problem['queries']} queries per class; "
        f"{record['train_tasks']} training tasks ({batches} batches of {record['tasks_per_batch']}), "
        f"{record['eval_tasks']} tasks of unseen alphabets, {seeds} seed{'s' * (seeds > 1)}; ± is a 95% interval; "
        f"{device}, {record['date'][:10]}."
    )


def table(record: dict) -> Table:
    """The comparison as a table for the terminal."""
    heading, *body = rows(record)
    shown = Table(title=caption(record), title_style="", title_justify="left")
    shown.add_column(heading[0])
    for title in heading[1:]:
        shown.add_column(title, justify="right", no_wrap=True)
    for row in body:
        shown.add_row(*row)
    return shown


def markdown(record: dict) -> str:
    """The comparison as a Markdown table."""
    heading, *body = rows(record)
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
    level = [name for name, (difference, interval) in against.items() if not difference > interval]
    clearly_worse = [name for name in against if name not in level]
    sentences = []
    if level:
        others = " and ".join(
            f"{title_of(name)} (by {100 * against[name][0]:.1f} ± {100 * against[name][1]:.1f} points)"
            for name in level
        )
        ahead = f"{title_of(best)} is ahead, but not clearly of {others}."
        sentences.append(f"There is no clear difference in accuracy: {ahead}")
    for name in clearly_worse:
        difference, interval = against[name]
        sentences.append(
            f"{title_of(best)} is clearly more accurate than {title_of(name)}, "
            f"by {100 * difference:.1f} ± {100 * interval:.1f} points."
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
        sentences.append("(One seed: the intervals do not hold how much training varies by chance; see --seeds.)")
    return " ".join(sentences)


def _cost(found: dict[str, Summary], best: str) -> str:
    fastest = min(found, key=lambda name: found[name].seconds)
    ratio = found[best].seconds / found[fastest].seconds
    if ratio < NOT_WORTH_NAMING:
        return "None of the others trained noticeably faster"
    return f"It took {ratio:.1f} times the training time of the fastest, {title_of(fastest)}"
