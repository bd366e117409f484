"""Does it pay to let torch.compile fuse the operations of a meta-gradient?

    python benchmarks/compiled.py      # about 5 minutes on two cores: results/compiled.json

The loop, vmap and compiled vmap take turns on the same meta-gradients; a ratio is the median over the rounds. The first
call of the compiled one compiles. Five inner steps of Conv4, whose graph is five times as large, are left out.
"""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple
from unittest.mock import patch

import torch
import typer
from peer_drivers import relative_error
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from tqdm.auto import tqdm

from mamlcourse import MAML, MLP, SinusoidTasks, TaskBatch
from mamlcourse.errors import InputError, check_number
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, write_json

BACKENDS = ("loop", "vmap", "compiled")


class Case(NamedTuple):
    """What is timed: a meta-learner for a backend, and its batch."""

    words: str
    learner: Callable[[str], MAML]
    batch: TaskBatch


def waves(steps: int, tasks: int) -> Case:
    def learner(backend):
        torch.manual_seed(0)
        return MAML(MLP(), loss=F.mse_loss, inner_lr=0.01, inner_steps=steps, backend=backend)

    words = f"MLP, sinusoids, MAML, {steps} step{'s' * (steps > 1)}, {tasks} tasks"
    return Case(words, learner, SinusoidTasks(tasks_per_batch=tasks).batch(0))


def characters(downsampling: str, order: int, tasks: int) -> Case:
    problem = Problem(filters=64, downsampling=downsampling)
    learner = lambda backend: MAML(problem.network(0), order=order, inner_steps=1, backend=backend)  # noqa: E731
    words = f"Conv4, {downsampling}, {'MAML' if order == 2 else 'FOMAML'}, 1 step, {tasks} tasks"
    return Case(words, learner, problem.tasks("train", tasks, 0).batch(0))


def cases(quick: bool) -> list[Case]:
    if quick:
        return [waves(1, 2)]
    return [waves(1, 25), waves(5, 25), characters("stride", 2, 4), characters("stride", 1, 4),
            characters("max-pool", 2, 4)]  # fmt: skip


@contextmanager
def nothing_compiled_before():
    """PyTorch keeps what it compiled for the next process: here it begins with an empty folder."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder),
    ):
        yield


def measure(case: Case, rounds: int) -> dict:
    """One row of the record."""
    exactly = case.learner("loop")
    exactly.model.double()
    batch = TaskBatch(*(x.double() if x.is_floating_point() else x for x in case.batch))
    expected = exactly.meta_gradients(batch).gradients.params
    learners = {backend: case.learner(backend) for backend in BACKENDS}
    first, seconds, errors = {}, {backend: [] for backend in BACKENDS}, {}
    for backend, maml in learners.items():
        first[backend], found = timed(maml, case.batch)
        errors[backend] = relative_error(found, expected)
    for _ in range(rounds):
        for backend, maml in learners.items():
            seconds[backend].append(timed(maml, case.batch)[0])
    return {"case": case.words, "first_call_seconds": first, "seconds": seconds, "error_float32": errors}


def timed(maml: MAML, batch: TaskBatch) -> tuple[float, dict]:
    began = time.perf_counter()
    gradients = maml.meta_gradients(batch).gradients
    return time.perf_counter() - began, gradients.params


def ratio(row: dict, other: str) -> float:
    """Median of (the other backend's time / the compiled one's)."""
    return median(a / b for a, b in zip(row["seconds"][other], row["seconds"]["compiled"]))


def pays_after(row: dict) -> int | None:
    """The meta-gradients after which compiling has paid for itself, against the faster of the others; or None."""
    others = min(median(row["seconds"][backend]) for backend in BACKENDS[:-1])
    saved = others - median(row["seconds"]["compiled"])
    return ceil(row["first_call_seconds"]["compiled"] / saved) if saved > 0 else None


COLUMNS = ("meta-gradient", "first call", "loop / compiled", "vmap / compiled", "pays after")


def table(record: dict) -> list[list[str]]:
    """A row for each case under `COLUMNS`."""
    return [
        [row["case"], f"{row['first_call_seconds']['compiled']:.0f} s", f"{ratio(row, 'loop'):.2f}",
         f"{ratio(row, 'vmap'):.2f}", f"{after:,}" if (after := pays_after(row)) else "never"]
        for row in record["rows"]
    ]  # fmt: skip


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 15,
    threads: Annotated[int, typer.Option(help="Torch threads; 0 for as many as PyTorch takes.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest case only.")] = False,
    json: Annotated[Path, typer.Option(help="Result file.")] = Path("results/compiled.json"),
):
    """Time the compiled backend beside the loop and vmap, on the CPU."""
    check_number("rounds", rounds, at_least=1)
    check_number("threads", threads, at_least=0)
    if threads:
        torch.set_num_threads(threads)
    record = {"kind": "compiled", **provenance(), "rounds": rounds, "quick": quick, "rows": []}
    with nothing_compiled_before():
        for case in tqdm(cases(quick), desc="cases"):
            record["rows"].append(measure(case, rounds))
            write_json(record, json)  # nothing gets lost if a later case fails to compile
    shown = Table(*COLUMNS, title="Medians over the rounds", title_justify="left")
    for row in table(record):
        shown.add_row(*row)
    Console(width=110).print(shown)
    typer.echo(f"Record: {json}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
