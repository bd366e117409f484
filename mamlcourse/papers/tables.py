"""The papers' Omniglot table beside ours: read from the result files of `mamlcourse reproduce`, never typed."""

from __future__ import annotations

from itertools import combinations
from math import hypot, nan
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure

from ..claims import SOURCES, Claim
from ..figures import chart
from ..records import device_in_words, read_json
from ..stats import interval_in_words, paired_difference, seeds_and_tasks_ci, verdict, worst_decile
from ..styles import COLOURS, MARKS, TITLES, colour_of, mark_of, title_of
from .reproduction import ALGORITHMS, PAPER_TASKS, RISES, SETTINGS, check_result, plan

# Accuracy and half its 95% interval, in percent; None where the paper gives none. MAML: Finn et al. 2017, table 1.
# FOMAML and Reptile (transductive): Nichol et al. 2018, table 2. MAML++: Antoniou et al. 2019, table 1; all but the
# first of its numbers are here as commonly cited.
PUBLISHED = {
    "maml": {"5w1s": (98.7, 0.4), "5w5s": (99.9, 0.1), "20w1s": (95.8, 0.3), "20w5s": (98.9, 0.2)},
    "fomaml": {"5w1s": (98.3, 0.5), "5w5s": (99.2, 0.2), "20w1s": (89.4, 0.5), "20w5s": (97.9, 0.1)},
    "maml++": {"5w1s": (99.47, None), "5w5s": (99.93, None), "20w1s": (97.65, 0.05), "20w5s": (99.33, 0.03)},
    "reptile": {"5w1s": (97.68, 0.04), "5w5s": (99.48, 0.06), "20w1s": (89.43, 0.14), "20w5s": (97.12, 0.32)},
}
NOT_MEASURED = "not measured"


def load_results(folder: str | Path) -> dict[tuple[str, str], list[dict]]:
    """{(setting, algorithm): records by seed} of a folder's result files, each checked; protocols other than the
    algorithm's own are named in the second key, as in their files: "maml-by-maml++".

    Raises:
        InputError: a file cannot be read, or its summary does not follow from its raw values.
    """
    cells = {}
    for path in sorted(Path(folder).glob("*.json")):
        record = read_json(path)
        if record.get("kind") == "reproduction":
            check_result(record, path)
            setting, rest = path.stem.rsplit("-", 1)[0].split("-", 1)
            cells.setdefault((setting, rest), []).append(record)
    return cells


def _percent(mean: float, half: float | None, digits: int = 2) -> str:
    return f"{100 * mean:.{digits}f}" + ("" if half is None or half != half else f" ± {100 * half:.{digits}f}")


def _over_seeds(records: list[dict], name: str, tasks: int | None = None) -> tuple[float, float]:
    """Mean over tasks and seeds, and its half interval: of `stats.seeds_and_tasks_ci`."""
    by_seed = [record[name][:tasks] for record in records]
    return fmean(map(fmean, by_seed)), seeds_and_tasks_ci(by_seed)


def _title(name: str) -> str:
    """The algorithm of a cell in words, and the protocol where it is not its own."""
    algorithm, *protocol = name.split("-by-")
    return TITLES[algorithm] + (f" ({protocol[0]} protocol)" if protocol else "")


def rows(cells: dict) -> list[list[str]]:
    """The table as rows of text, the heading first: each setting and algorithm, published beside ours."""
    heading = [
        "setting", "algorithm", "published (%)", "ours (%)", "difference (% points)", f"first {PAPER_TASKS} tasks (%)",
        "non-transductive (%)", "ensemble of five (%)", "training",
    ]  # fmt: skip
    table = [heading]
    for setting in SETTINGS:
        others = sorted(name for where, name in cells if where == setting and name not in ALGORITHMS)
        for name in [*ALGORITHMS, *others]:
            algorithm = name.split("-by-")[0]
            published = PUBLISHED.get(algorithm, {}).get(setting)
            quoted = "" if published is None else _percent(*(p and p / 100 for p in published))
            title = _title(name)
            records = cells.get((setting, name))
            if records is None:
                command = f"`mamlcourse reproduce {setting} --algorithm {algorithm}`"
                table.append([setting, title, quoted, NOT_MEASURED, "", "", "", "", command])
                continue
            mean, half = _over_seeds(records, "task_accuracies")
            difference = ""
            if published is not None:
                interval = hypot(half, (published[1] or 0) / 100)
                difference = f"{100 * mean - published[0]:+.2f} ± {100 * interval:.2f}"
            table.append([
                setting, title, quoted, _percent(mean, half), difference,
                _percent(*_over_seeds(records, "task_accuracies", PAPER_TASKS)),
                _percent(*_over_seeds(records, "non_transductive_accuracies")),
                _percent(*_over_seeds(records, "ensemble_accuracies")), _training(records),
            ])  # fmt: skip
    return table


def published_claims(cells: dict) -> list[Claim]:
    """The published accuracies as claims: that an algorithm reaches what is published, judged by our runs of the
    published length. A shorter one cannot refute what is said of a longer."""
    claims = []
    for (setting, name), records in cells.items():
        algorithm, ran = name.split("-by-")[0], records[0]["plan"]
        whole = ran["iterations"] >= plan(setting, algorithm, protocol=ran["protocol"]).iterations
        if whole and setting in PUBLISHED.get(algorithm, {}):
            published, interval = PUBLISHED[algorithm][setting]
            mean, half = _over_seeds(records, "task_accuracies")
            claims.append(_claim(
                f"{_title(name)} reaches {published}% in {setting}", "test accuracy, ours - published",
                ran, len(records), 100 * mean - published, hypot(100 * half, interval or 0),
            ))  # fmt: skip
    return claims


def same_protocol_claims(cells: dict) -> list[Claim]:
    """That MAML++ is more accurate than MAML, in each setting where both were trained equally long by its protocol."""
    claims = []
    for setting in SETTINGS:
        both = [cells.get((setting, name)) for name in ("maml++", "maml-by-maml++")]
        if not all(both) or both[0][0]["plan"]["iterations"] != both[1][0]["plan"]["iterations"]:
            continue
        if paired := _paired(*({record["seed"]: record for record in records} for records in both)):
            seeds, mean, half = paired
            claims.append(_claim(
                f"MAML++ is more accurate than MAML in {setting}, both by its protocol", "test accuracy, MAML++ - MAML",
                both[0][0]["plan"], seeds, mean, half,
            ))  # fmt: skip
    return claims


def _claim(statement: str, measure: str, plan: dict, seeds: int, difference: float, half: float) -> Claim:
    """A claim of a paper. One run has no interval that another seed could be expected in, so it decides nothing; what
    the tasks alone say stands beside."""
    if seeds == 1:
        measure, half = f"{measure} (± {half:.2f} over tasks alone)", nan
    trained = f"{plan['iterations']:,} x {plan['tasks_per_batch']} tasks"
    budget = f"{trained}, {seeds} seeds" if seeds > 1 else f"{trained}, one seed"
    return Claim(SOURCES[1], statement, measure, budget, difference, half, digits=2)


def caption(cells: dict, setting: str | None = None) -> str:
    """What the ± in the tables of a setting, or of all, is; it depends on the number of seeds."""
    seeds = {min(len(records), 2) for (where, _), records in cells.items() if setting in (None, where)}
    over = interval_in_words(max(seeds, default=1))
    but = f" ({interval_in_words(1)} where there is one seed)" if len(seeds) > 1 else ""
    return f"± is half a 95% confidence interval {over}{but}."


def _training(records: list[dict]) -> str:
    """Budget, time and hardware of a cell's runs in a few words; of a run that moved, the time on each device."""
    plan, seconds = records[0]["plan"], {}
    for record in records:
        for device, spent in _seconds_by_device(record).items():
            seconds[device] = seconds.get(device, 0) + spent
    times = " + ".join(f"{spent / len(records) / 60:.0f} min on {device}" for device, spent in seconds.items())
    seeds = f", {len(records)} seeds" if len(records) > 1 else ""
    return f"{plan['iterations']:,} x {plan['tasks_per_batch']} tasks, {times}{seeds}"


def _seconds_by_device(record: dict) -> dict[str, float]:
    """Seconds of training on each device that the run was on, in words."""
    seconds = {}
    for part in record.get("slices") or [{**record, "seconds": record["training_seconds"]}]:
        device = device_in_words(part)
        seconds[device] = seconds.get(device, 0) + part["seconds"]
    return seconds


def stability_rows(cells: dict, setting: str) -> list[list[str]]:
    """How steady each algorithm is in one setting, the heading first: over tasks, over seeds, and when it takes two and
    four times the inner steps that it was trained with.

    The last columns are the shares of tasks in which each step raises a loss by more than a size, as `Evaluation` has
    them; where some file of the setting is of the first edition, which knew no size, of any rise.
    """
    table = [[
        "algorithm", "std over tasks (% points)", "worst decile (%)", "std over seeds (% points)",
        "accuracy at K, 2K, 4K steps (%)",
    ]]  # fmt: skip
    of_setting = {name: records for (where, name), records in cells.items() if where == setting}
    every = [record["longer"] for records in of_setting.values() for record in records]
    sizes = {part["rises"]["size"] if "rises" in part else 0 for part in every}
    if len(sizes) == 1 and sizes != {0}:
        table[0] += [f"query loss rises by > {sizes.pop()} at each step (% of tasks)", "step too long", "overfits"]
        shares = [lambda part, what=what: part["rises"][what] for what in RISES]
    else:
        table[0].append("query loss rises at each step, however little (% of tasks)")
        shares = [lambda part: part["any_rise_by_step"]]
    for name, records in of_setting.items():
        longer = [record["longer"] for record in records]
        trained = records[0]["plan"]["settings"]["inner_steps"]
        means = [record["test_accuracy"] for record in records]
        at = [fmean(part["accuracy_by_step"][trained * factor] for part in longer) for factor in (1, 2, 4)]
        rises = [
            [100 * fmean(values) for values in zip(*(of(part)[:trained] for part in longer))] for of in shares
        ]  # fmt: skip
        table.append([
            _title(name), f"{100 * fmean(stdev(record['task_accuracies']) for record in records):.1f}",
            f"{100 * fmean(worst_decile(record['task_accuracies']) for record in records):.1f}",
            f"{100 * stdev(means):.2f}" if len(means) > 1 else "one seed",
            ", ".join(f"{100 * value:.1f}" for value in at),
            *(", ".join(f"{value:.0f}" for value in by_step) for by_step in rises),
        ])  # fmt: skip
    return table


def paired_rows(cells: dict, setting: str) -> list[list[str]]:
    """How far apart the algorithms of one setting are on the same test tasks, the heading first: each pair with the
    mean difference and its 95% interval, of `stats.paired_difference` over the seeds that both have. Runs whose test
    tasks differ, or that have no seed in common, are not compared."""
    rows, seeds = [], set()
    named = [(name, {record["seed"]: record for record in records})
             for (where, name), records in cells.items() if where == setting]  # fmt: skip
    for one, other in combinations(named, 2):
        paired = _paired(one[1], other[1])
        if paired is None:
            continue
        common, mean, half = paired
        first, second = (one, other) if mean >= 0 else (other, one)
        clearly = "clearly" if verdict(abs(mean), half) == "held" else "undecided"
        alone = ", one seed" if common == 1 else ""
        seeds.add(common == 1)
        rows.append([f"{_title(first[0])} than {_title(second[0])}", f"{abs(mean):.2f} ± {half:.2f}, {clearly}", alone])
    over = interval_in_words(1 if seeds == {True} else 2)
    mixed = len(seeds) > 1
    return [
        ["on the same tasks", f"% points more, 95% CI {over}"],
        *([pair, text + (alone if mixed else "")] for pair, text, alone in rows),
    ]


def _paired(one: dict, other: dict) -> tuple[int, float, float] | None:
    """Of two runs by seed, {seed: record}: the number of seeds that both have, and the mean difference of their
    accuracies and its half interval in percentage points; None where the test tasks differ or no seed is common."""
    common = sorted(one.keys() & other.keys())
    if not common or not _same_test(one[common[0]]["plan"], other[common[0]]["plan"]):
        return None
    by_seed = [[records[seed]["task_accuracies"] for seed in common] for records in (one, other)]
    mean, half = paired_difference(*by_seed)
    return len(common), 100 * mean, 100 * half


def _same_test(one: dict, other: dict) -> bool:
    """Whether two plans test on the same tasks."""
    same = ("test_queries", "test_tasks", "setting")
    data = ("dataset", "split", "validation", "ways", "shots", "test_rotations")
    return all(one[name] == other[name] for name in same) and all(
        one["problem"][name] == other["problem"][name] for name in data
    )


def budget_rows(cells: dict, setting: str, minutes=(1, 10, 60)) -> list[list[str]]:
    """Validation accuracy of each algorithm after so many minutes of training, the heading first.

    It is read from the learning curves, so a schedule that would have ended earlier on a smaller budget is not
    there to help: a lower bound for recipes that anneal their rate. A point counts up to a tenth after the time. Of
    a run that moved to another device the minutes mean nothing.
    """
    table = [["algorithm", *(f"after {m} min (%)" for m in minutes), "trained on"]]
    for (where, name), records in cells.items():
        if where != setting:
            continue
        row = [_title(name)]
        for budget in minutes:
            reached = [
                [point["validation_accuracy"] for point in record["curve"] if point["seconds"] <= 66 * budget][-1:]
                for record in records
            ]
            longest = min(record["training_seconds"] for record in records)
            moved = any(len(_seconds_by_device(record)) > 1 for record in records)
            known = all(reached) and 60 * budget <= 1.1 * longest and not moved
            row.append(f"{100 * fmean(values[0] for values in reached):.1f}" if known else NOT_MEASURED)
        table.append([*row, _training(records)])
    return table


def papers_figure(cells: dict) -> Figure:
    """Published and measured accuracy, a panel for each setting."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, setting in zip(figure.subplots(1, len(SETTINGS)), SETTINGS):
        for place, name in enumerate(ALGORITHMS):
            published = PUBLISHED.get(name, {}).get(setting)
            if published:
                axes.errorbar(
                    place - 0.15, published[0], yerr=published[1] or 0, color="grey", marker="_", markersize=12,
                    capsize=3, label="published",
                )  # fmt: skip
            ours = {key: records for (where, key), records in cells.items()
                    if where == setting and key.split("-by-")[0] == name}  # fmt: skip
            for key, records in ours.items():
                mean, half = _over_seeds(records, "task_accuracies")
                axes.errorbar(
                    place + 0.15, 100 * mean, yerr=100 * half, color=colour_of(name), marker=mark_of(name), capsize=3,
                    fillstyle="full" if key == name else "none",
                )  # fmt: skip
            if not ours:
                axes.text(place + 0.15, 0.02, "not measured", rotation=90, fontsize=7, color="grey", ha="center",
                          va="bottom", transform=axes.get_xaxis_transform())  # fmt: skip
        axes.set_xticks(range(len(ALGORITHMS)), [title_of(name) for name in ALGORITHMS], rotation=60, fontsize=8)
        axes.set_xlim(-0.6, len(ALGORITHMS) - 0.4)
        ways, shots = SETTINGS[setting]
        axes.set_title(f"{ways}-way {shots}-shot", fontsize=10)
        axes.set_ylabel("test accuracy (%)" if setting == "5w1s" else "")
    figure.suptitle(
        "Omniglot: published (grey bars) and measured (coloured marks; hollow: not by the algorithm's own protocol).\n"
        f"{caption(cells)}", fontsize=10,
    )  # fmt: skip
    return figure


def learning_curves(cells: dict, setting: str, against: str = "tasks") -> Figure:
    """Validation accuracy against training tasks, or against training "seconds", for each algorithm of a setting."""
    unit = {"tasks": "training tasks", "seconds": "seconds of training"}[against]
    figure, axes = chart(f"Omniglot {setting}: learning curves, a line for each seed", unit, "validation accuracy (%)")
    for (where, name), records in cells.items():
        algorithm, *protocol = name.split("-by-")
        for record in records if where == setting else []:
            points = [(point[against], 100 * point["validation_accuracy"]) for point in record["curve"]]
            first = record is records[0]
            axes.plot(
                *zip(*points), color=COLOURS[algorithm], marker=MARKS[algorithm], markevery=5, markersize=4,
                linestyle="--" if protocol else "-",
                label=_title(name) if first else None,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.legend(fontsize=8)
    return figure
