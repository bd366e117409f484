"""Write the measured parts of the book's pages and the teachers' page from the result files.

python tools/faq.py
"""

import re
import sys
from math import nan
from pathlib import Path
from statistics import fmean, median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import choose_settings  # noqa: E402

from mamlcourse import claims, stats  # noqa: E402
from mamlcourse.claims import Claim  # noqa: E402
from mamlcourse.comparison import claim, paired_difference, recommendation, rows  # noqa: E402
from mamlcourse.papers.tables import PUBLISHED, load_results  # noqa: E402
from mamlcourse.records import device_in_words, markdown_table, origin, read_json  # noqa: E402
from mamlcourse.settings import RECIPES  # noqa: E402
from mamlcourse.styles import TITLES, title_of  # noqa: E402

PAGES = [ROOT / "book" / name for name in ("faq.md", "cheat_sheet.md", "maintainers.md")]
PAGES.append(ROOT / "exercises" / "TEACHERS.md")
PART = re.compile(r"<!-- measured: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
BEGAN, PAPER, FOLKLORE = claims.SOURCES
AXES = {
    "inner_steps": "inner steps: {}", "tasks": "tasks: {}", "filters": "filters: {}", "ways": "{}-way",
    "side": "stride, images of {} pixels a side",
}  # fmt: skip


def record(name: str) -> dict:
    """A result file by its name."""
    return read_json(ROOT / "results" / f"{name}.json")


def points(algorithm: str, axis: str) -> dict[int, dict]:
    """{value: point} of the scaling record, steps kept."""
    wanted = dict(algorithm=algorithm, axis=axis, checkpoint_steps=False)
    return {point["value"]: point for point in record("scaling")["points"] if wanted.items() <= point.items()}


def ratios(axis: str, value: int) -> list[float]:
    """MAML's time / FOMAML's, round by round."""
    return [a / b for a, b in zip(points("maml", axis)[value]["seconds"], points("fomaml", axis)[value]["seconds"])]


def speed_ups() -> list[tuple[str, str, float]]:
    """Every measured (setting, machine, MAML's time / FOMAML's), the smallest first."""
    found = []
    for axis, words in AXES.items():
        for value in points("maml", axis).keys() & points("fomaml", axis).keys():
            where = f"meta-gradient, base, {words.format(value)}"
            found.append((where, device_in_words(record("scaling")), median(ratios(axis, value))))
    peers = record("peers")
    seconds = {
        (row["order"], row["downsampling"], row["ways"], row["steps"], row["tasks"]): median(
            row["implementations"]["mamlcourse"]["seconds"]
        )
        for row in peers["results"]
    }
    for (order, network, ways, steps, tasks), second in seconds.items():
        if order == 2 and (first := seconds.get((1, network, ways, steps, tasks))):
            where = f"meta-gradient, Conv4-64 {network}, {ways}-way, {steps} step{'s' * (steps > 1)}, {tasks} tasks"
            found.append((where, device_in_words(peers), second / first))
    both = [load_results(ROOT / "results" / "omniglot")["5w1s", name][0] for name in ("maml", "fomaml")]
    each = [run["training_seconds"] / run["plan"]["iterations"] for run in both]
    found.append(
        ("whole training step, Finn's protocol, 1 step, 32 tasks", device_in_words(both[0]), each[0] / each[1])
    )
    return sorted(found, key=lambda row: row[2])


def faster() -> str:
    """Is FOMAML always faster, and when three times?"""
    found = speed_ups()
    steps = sorted(points("maml", "inner_steps").keys() & points("fomaml", "inner_steps").keys())
    by_steps = [
        Claim(BEGAN, f"FOMAML is 2.88 times faster with {n} inner step{'s' * (n > 1)}", "MAML / FOMAML - 2.88",
              "5 rounds in turns", fmean(ratios("inner_steps", n)) - 2.88, stats.ci95(ratios("inner_steps", n)),
              unit="", digits=2)
        for n in steps
    ]  # fmt: skip
    slower, three = [row for row in found if row[2] < 1], [row for row in found if row[2] >= 3]
    least, most = found[0], found[-1]
    words = (
        f"In {len(found)} measured settings MAML took {least[2]:.2f} ({least[0]}, {least[1]}) to {most[2]:.2f} times "
        f"({most[0]}, {most[1]}) FOMAML's time. FOMAML was slower in {len(slower) or 'none'} of them, and at least 3 "
        f"times faster in {len(three) or 'none'}."
    )
    growth = record("scaling")["growth"]["inner_steps"]
    slope = {name: growth[name]["seconds"]["per_unit"] for name in ("maml", "fomaml")}
    limit = (
        f"Each further inner step costs MAML {1e3 * slope['maml']:.0f} ms and FOMAML {1e3 * slope['fomaml']:.0f} ms "
        "there (a straight line through all of them), so with very many steps the ratio would come near "
        f"{slope['maml'] / slope['fomaml']:.1f}; what both pay alike, the query pass and the outer step, holds it down "
        "with few."
    )
    return "\n\n".join([words, markdown_table(claims.table(by_steps)), limit, origin(record("scaling"))])


def differs() -> str:
    """Why is my speed-up different?"""
    table = [["what was timed", "on", "MAML's time / FOMAML's"]]
    table += [[where, machine, f"{ratio:.2f}"] for where, machine, ratio in speed_ups()]
    base = f"Base: {record('scaling')['settings']['base_in_words']}."
    return f"{markdown_table(table)}\n\n{base}"


def _one_seed(statement, folder, one, other, plus=0.0):
    runs = load_results(ROOT / "results" / folder)
    one, other = (runs["5w1s", name][0] for name in (one, other))
    gap, tasks = (
        100 * value for value in stats.paired_difference([one["task_accuracies"]], [other["task_accuracies"]])
    )
    budget = f"{one['training_seconds'] / 60:.0f} and {other['training_seconds'] / 60:.0f} min, one seed each"
    measure = f"test accuracy{f' + {plus:g}' if plus else ''} (± {tasks:.1f} over tasks alone)"
    return Claim(PAPER, statement, measure, f"{budget}, {device_in_words(one)}", gap + plus, nan)


def accuracy() -> str:
    """How much accuracy does FOMAML cost?"""
    fair, first = record("equal-search-test"), record("first-order")
    difference, half = (100 * value for value in paired_difference(fair, "fomaml", "maml"))
    judged = [
        claim(fair, "maml", "fomaml", "MAML is more accurate", BEGAN),
        Claim(PAPER, "FOMAML is within 2 percentage points", "test accuracy, FOMAML - MAML + 2",
              f"200 training tasks, {len(fair['seeds'])} seeds", difference + 2, half),
        claim(first, "fomaml, 3x tasks", "maml", "FOMAML with 3 times the tasks is ahead of MAML", BEGAN),
        _one_seed("FOMAML is within 2 points, same time", "omniglot-50-minutes",
                  "fomaml-by-maml++", "maml-by-maml++", 2),
        _one_seed("FOMAML is within 2 points, same tasks, Finn's settings", "omniglot", "fomaml", "maml", 2),
    ]  # fmt: skip
    return "\n\n".join([markdown_table(claims.table(judged)), origin(fair)])


def memory() -> str:
    """How much memory does FOMAML save?"""
    table = [["inner steps", "FOMAML's peak / MAML's", "MAML, checkpointed / MAML"]]
    wanted = dict(algorithm="maml", axis="inner_steps", checkpoint_steps=True)
    checked = {point["value"]: point for point in record("scaling")["points"] if wanted.items() <= point.items()}
    for steps, plain in sorted(points("maml", "inner_steps").items()):
        others = [points("fomaml", "inner_steps").get(steps), checked.get(steps)]
        peaks = [other and other["peak_memory_bytes"] for other in others]
        if plain["peak_memory_bytes"] and any(peaks):
            table.append([str(steps), *(f"{p / plain['peak_memory_bytes']:.2f}" if p else "" for p in peaks)])
    began = f"The comparison that the course began from had {0.88 / 1.34:.2f} (0.88 GB / 1.34 GB, 5 steps)."
    return "\n\n".join([markdown_table(table), began, origin(record("scaling"))])


def switching() -> str:
    """May one begin with first order and go on with second?"""
    parts = record("ablation")
    changed = {name: f"{name} + order annealing" for name in ("maml", "maml++")}
    judged = [
        claim(parts, name, other, f"{title_of(name)} loses by a first-order beginning", BEGAN)
        for name, other in changed.items()
    ]
    seconds = {
        name: [run["train_seconds"] for run in parts["algorithms"][name]["runs"]]
        for pair in changed.items()
        for name in pair
    }
    saved = [
        Claim(PAPER, f"{title_of(name)} is faster with a first-order beginning", "1 - time / time without",
              f"200 training tasks, {len(parts['seeds'])} seeds",
              fmean(saves := [1 - b / a for a, b in zip(seconds[name], seconds[other])]), stats.ci95(saves), unit="",
              digits=2)
        for name, other in changed.items()
    ]  # fmt: skip
    epochs = parts["algorithms"]["maml + order annealing"]["settings"]["first_order_epochs"]
    first = f"The first {epochs} of 100 epochs were of first order. {origin(parts)}"
    return "\n\n".join([markdown_table(claims.table(judged + saved)), first])


def tuning() -> str:
    """Should FOMAML be tuned differently?"""
    search = record("equal-search")
    table = [["algorithm", "best of the eight candidates", "validation accuracy (%)", "candidates it is not clear of"]]
    for name, ranked in choose_settings.ranking(search).items():
        best = ranked[0]
        runs = [[run["task_accuracies"] for run in search["runs"] if c.items() <= run.items()] for _, _, c in ranked]
        clear = [stats.verdict(*stats.paired_difference(runs[0], other)) == "held" for other in runs[1:]]
        chosen = best[2]
        along = "cosine" if chosen["cosine"] else "constant"
        table.append([
            title_of(name), f"inner {chosen['inner_lr']}, outer {chosen['outer_lr']}, {along}",
            f"{100 * best[0]:.1f} ± {100 * best[1]:.1f}", f"{clear.count(False)} of {len(clear)}",
        ])  # fmt: skip
    first = record("first-order")
    judged = [
        claim(
            first, f"{name}, outer rate x1.5", name, f"{title_of(name)} is better with 1.5 times the outer rate", BEGAN
        )
        for name in ("fomaml", "maml")
    ]
    return "\n\n".join([markdown_table(table), origin(search), markdown_table(claims.table(judged)), origin(first)])


def papers() -> str:
    """What the papers print."""
    settings = list(PUBLISHED["maml"])
    table = [["published accuracy (%)", *settings]]
    for name, found in PUBLISHED.items():
        cells = [f"{mean:g}" + (f" ± {half:g}" if half else "") for mean, half in map(found.get, settings)]
        table.append([TITLES[name], *cells])
    return markdown_table(table)


def choice() -> str:
    """When to use which."""
    fair, small = record("equal-search-test"), record("omniglot-200-tasks-original-rates")
    judged = [
        claim(fair, "maml++", "fomaml", "MAML++ is more accurate than FOMAML", BEGAN),
        claim(fair, "maml++", "maml", "MAML++ is more accurate than MAML", BEGAN),
        claim(fair, "maml++", "maml", "MAML++ has the lower test loss", BEGAN, values="task_losses"),
        claim(small, "maml++", "maml", "MAML++ is more accurate where learning rates are too small", PAPER),
    ]
    folder = sorted((ROOT / "results" / "budgets").glob("*.json"), key=lambda path: int(path.stem))
    for path in folder:
        statement = f"MAML++ is more accurate than its authors' MAML after {int(path.stem):,} batches"
        judged.append(claim(read_json(path), "maml++", "maml-antoniou", statement, PAPER))
    chosen = [row for row in rows(fair) if row[0] in ("", "test accuracy (%)", "time / MAML", "memory / MAML")]
    return "\n\n".join([
        markdown_table(chosen), recommendation(fair), origin(fair), markdown_table(claims.table(judged))
    ])  # fmt: skip


def recipes() -> str:
    """What each recipe changes in MAML."""
    plain = RECIPES["maml"].to_record()
    table = [["`MAML(network, ...)`", 'what differs from "maml"']]
    for name, own in RECIPES.items():
        changes = {key: value for key, value in own.to_record().items() if key != "name" and value != plain[key]}
        words = ", ".join(f"`{key}={tuple(v) if isinstance(v, list) else v!r}`" for key, v in changes.items())
        common = f"`inner_steps={own.inner_steps}, inner_lr={own.inner_lr}, order={own.order}, outer_lr={own.outer_lr}`"
        table.append([f'`"{name}"`', words or common])
    return markdown_table(table)


def waiting() -> str:
    """How long a reader of "Draw your own" waits."""
    times = record("playground-times")
    words = {"first": "the example, in a page just opened", "stroke": "each further stroke",
             "task of 20": "the next task of a 20-way round, answered at once"}  # fmt: skip
    table = [["from", "median (ms)", "slowest (ms)", "times"]]
    for name, found in times["milliseconds"].items():
        table.append([words[name], f"{median(found):.0f}", f"{max(found):.0f}", str(len(found))])
    return "\n\n".join([markdown_table(table), f"{times['browser']}. {origin(times)}"])


def grading() -> str:
    """How long a class takes to grade."""
    found = record("grading")
    table = [["exercise", "students", "minutes", "CPU seconds of one"]]
    for name, own in found["exercises"].items():
        each = own["cpu_seconds"] / own["students"]
        table.append([name[:2], str(own["students"]), f"{own['wall_seconds'] / 60:.1f}", f"{each:.1f}"])
    parts = sum(own["parts"] for own in found["exercises"].values())
    otherwise = {name[:2]: own["parts_judged_otherwise"] for name, own in found["exercises"].items()}
    others = ", ".join(f"{count} in {name}" for name, count in otherwise.items() if count)
    whole = sum(own["cpu_seconds"] / own["students"] for own in found["exercises"].values())
    words = (
        f"{found['processes']} at a time. Of {parts} parts {parts - sum(otherwise.values())} got what their own "
        f"answer deserved; the others ({others}) call an answer that was left open. All nine exercises take "
        f"{whole:.0f} s of one core for a student, so a hundred students {100 * whole / 60 / 4:.0f} minutes on four "
        "such cores."
    )
    return "\n\n".join([markdown_table(table), f"{words} {origin(found)}"])


PARTS = {
    part.__name__: part
    for part in (faster, differs, accuracy, memory, switching, tuning, papers, choice, recipes, waiting, grading)
}


def filled(text: str) -> str:
    """The text with every marked part made anew from the result files."""
    return PART.sub(lambda match: f"<!-- measured: {match[1]} -->\n{PARTS[match[1]]()}\n<!-- end -->", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
