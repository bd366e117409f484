"""Which way of computing a meta-batch is fastest on a CPU, by the size of the network's widest layer?

    python benchmarks/backends.py      # about 5 minutes on two cores: results/backends.json

The loop, threads and vmap take turns on the same meta-gradients of Conv4; a ratio is the median over the rounds of
(time of a backend / time of the loop). The limits in `mamlcourse.engine.backends` were read off the table that this
prints.
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
from mamlcourse.engine.backends import choose
from mamlcourse.engine.inspection import widest_output
from mamlcourse.errors import InputError, check_number
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, write_json

FILTERS, DOWNSAMPLING, ORDERS = (8, 16, 32, 64), ("stride", "max-pool"), ("maml", "fomaml")
EPISODES = ((1, 5, 8), (5, 5, 4), (15, 1, 4))  # queries per class, inner steps, tasks


def measure(filters, downsampling, name, queries, steps, tasks, rounds) -> dict:
    """One row of the record, with as many threads as PyTorch has now."""
    problem = Problem(filters=filters, downsampling=downsampling, queries=queries)
    batch = problem.tasks("train", tasks, 0).batch(0)
    backends = ["loop", *["threads"] * (torch.get_num_threads() > 1), "vmap"]
    learners = {each: MAML(problem.network(0), name, backend=each, inner_steps=steps) for each in backends}
    seconds = {each: [] for each in backends}
    for number in range(rounds + 1):
        for each, maml in learners.items():
            began = time.perf_counter()
            maml.meta_gradients(batch)
            if number > 0:  # the first round warms up
                seconds[each].append(time.perf_counter() - began)
    largest = max(batch.support_x.shape[1], batch.query_x.shape[1])
    return {
        "threads": torch.get_num_threads(), "downsampling": downsampling, "filters": filters, "algorithm": name,
        "queries": queries, "inner_steps": steps, "tasks": tasks,
        "widest": widest_output(problem.network(0), batch.query_x[0][:1]) * largest,
        "chosen": choose("auto", problem.network(0), batch), "seconds": seconds,
    }  # fmt: skip


def ratios(row: dict) -> dict:
    """{backend: median of (its time / the loop's)}."""
    loop = row["seconds"]["loop"]
    return {each: median(own / base for own, base in zip(times, loop)) for each, times in row["seconds"].items()}


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
    table = Table(title="Time to the loop's, the widest layers last", title_justify="left")
    for title in ("threads", "widest output", "network", "algorithm", "threads / loop", "vmap / loop", "auto takes"):
        table.add_column(title)
    for row in sorted(rows, key=lambda row: (row["threads"], row["widest"])):
        found = ratios(row)
        table.add_row(
            str(row["threads"]), f"{row['widest']:,}", f"{row['downsampling']} {row['filters']}", row["algorithm"],
            f"{found['threads']:.2f}" if "threads" in found else "", f"{found['vmap']:.2f}", row["chosen"],
        )  # fmt: skip
    Console(width=100).print(table)
    regret = [min(ratios(row).values()) / ratios(row)[row["chosen"]] for row in rows]
    slower = max(ratios(row)[row["chosen"]] for row in rows)
    typer.echo(f"The choice takes at most {1 / min(regret):.2f} times the fastest, and {slower:.2f} times the loop.")
    typer.echo(f"Record: {json}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
