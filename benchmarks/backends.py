"""Which way of computing a meta-batch is fastest on this CPU, and does "auto" find it by the first batches?

    python benchmarks/backends.py      # about 8 minutes on two cores: results/backends.json

The backends take turns on the same meta-gradients and on the same evaluations of Conv4; a ratio is the median over the
rounds of (time of the loop / time of a backend). "auto" chooses before the rounds, as it does in a run.
"""

import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from mamlcourse import MAML
from mamlcourse.engine.backends import BELOW_VMAP
from mamlcourse.errors import InputError, check_number
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, write_json

FILTERS, DOWNSAMPLING, ORDERS = (8, 32, 64), ("stride", "max-pool"), ("maml", "fomaml")
EPISODES = ((1, 1, 32), (1, 5, 8), (15, 5, 4))  # queries per class, inner steps, tasks
BACKENDS = ("loop", "threads", "vmap", *BELOW_VMAP)


def measure(filters, downsampling, name, queries, steps, tasks, rounds) -> dict:
    """One row of the record, with as many threads as PyTorch has now."""
    problem = Problem(filters=filters, downsampling=downsampling, queries=queries)
    batch = problem.tasks("train", tasks, 0).batch(0)
    several = torch.get_num_threads() > 1
    backends = [backend for backend in BACKENDS if several or backend != "threads"]
    learners = {each: MAML(problem.network(0), name, backend=each, inner_steps=steps) for each in backends}
    chosen = MAML(problem.network(0), name, inner_steps=steps).fastest_backend(batch)
    calls = {
        "meta_gradient": lambda maml: maml.meta_gradients(batch),
        "evaluation": lambda maml: maml.trajectory(batch),
    }
    seconds = {what: {each: [] for each in backends} for what in calls}
    for number, what in product(range(rounds + 1), calls):
        for each, maml in learners.items():
            began = time.perf_counter()
            calls[what](maml)
            if number > 0:  # the first round warms up
                seconds[what][each].append(time.perf_counter() - began)
    return {
        "threads": torch.get_num_threads(), "downsampling": downsampling, "filters": filters, "algorithm": name,
        "queries": queries, "inner_steps": steps, "tasks": tasks, "chosen": chosen, "seconds": seconds,
    }  # fmt: skip


def times_as_fast(row: dict, what: str = "meta_gradient") -> dict:
    """{backend: median of (the loop's time / its time)}."""
    loop = row["seconds"][what]["loop"]
    return {each: median(base / own for own, base in zip(times, loop)) for each, times in row["seconds"][what].items()}


def in_words(row: dict) -> str:
    """The row's network and episodes."""
    steps = f"{row['inner_steps']} step{'s' * (row['inner_steps'] > 1)}"
    return (
        f"{row['algorithm']}, {row['downsampling']}, {row['filters']} filters, {row['queries']} queries, {steps}, "
        f"{row['tasks']} tasks"
    )


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 5,
    threads: Annotated[list[int], typer.Option(help="Numbers of threads; give it again for each.")] = [1, 2],  # noqa: B006
    quick: Annotated[bool, typer.Option("--quick", help="The smallest network only.")] = False,
    json: Annotated[Path, typer.Option(help="Result file.")] = Path("results/backends.json"),
):
    """Time the backends on Conv4 of several sizes."""
    check_number("rounds", rounds, at_least=1)
    for number in threads:
        check_number("threads", number, at_least=1)
    start, before, rows = provenance(), torch.get_num_threads(), []
    try:
        for number, filters, downsampling, episode, name in product(threads, FILTERS, DOWNSAMPLING, EPISODES, ORDERS):
            if not quick or filters == FILTERS[0]:
                torch.set_num_threads(number)
                rows.append(measure(filters, downsampling, name, *episode, rounds))
    finally:
        torch.set_num_threads(before)
    write_json({"kind": "backends", **start, "rounds": rounds, "rows": rows}, json)
    table = Table(title="Times as fast as the loop", title_justify="left")
    for title in ("threads", "meta-gradient", *BACKENDS[1:], "auto takes", "evaluation"):
        table.add_column(title)
    for row in rows:
        found, tested = times_as_fast(row), times_as_fast(row, "evaluation")
        best = max(tested, key=tested.get)
        table.add_row(
            str(row["threads"]), in_words(row),
            *(f"{found[each]:.2f}" if each in found else "" for each in BACKENDS[1:]),
            row["chosen"], f"{best} {tested[best]:.2f}",
        )  # fmt: skip
    Console(width=160).print(table)
    regret = [max(found.values()) / found[row["chosen"]] for row in rows for found in [times_as_fast(row)]]
    slower = [1 / times_as_fast(row)[row["chosen"]] for row in rows]
    typer.echo(
        f"What auto takes needs {median(regret):.2f} times the time of the fastest in the median, {max(regret):.2f} at "
        f"most; and {median(slower):.2f} times the loop's, {max(slower):.2f} at most."
    )
    typer.echo(f"Record: {json}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
