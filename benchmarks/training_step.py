"""What does one whole training step cost on a GPU, recorded as a CUDA graph and not, and at which precision?

    python benchmarks/training_step.py        # results/training-step-DEVICE.json, about 2 minutes on a GPU

A step is what `train` does: sample the episodes, meta-gradient, Adam. Two settings: Finn's 5-way 1-shot (strided Conv4,
32 tasks, 1 inner step) and MAML++'s (max-pooled, 8 tasks, 5 steps), once the multi-step loss has annealed. Kinds of
step take turns in rounds; a ratio is one of medians. How busy the GPU is: the time in which at least one kernel ran, as
PyTorch's profiler sees it, divided by the time of the steps. Precisions are compared by the meta-gradient's distance to
float64. On a CPU there is only the eager step, to test this file.
"""

import copy
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from mamlcourse import learner
from mamlcourse.errors import InputError, check_number
from mamlcourse.papers.reproduction import plan
from mamlcourse.problems import Problem, choose_device
from mamlcourse.records import provenance, write_json
from mamlcourse.training.distributed import Ranks
from mamlcourse.training.steppers import EagerStepper, RecordedStepper, adam

ALGORITHMS = ("maml", "fomaml", "maml++")
PROTOCOLS = ("finn", "maml++")
LR = 1e-3
LATE = 99  # an epoch in which the multi-step loss has annealed
PRECISIONS = ("highest", "high")  # float32; TF32 in products of matrices


class PreparedStep:
    """One kind of training step of one run, ready to be repeated."""

    def __init__(self, run, captured: bool, device, precision: str):
        torch.set_float32_matmul_precision(precision)
        maml = learner(run.problem.network(0, device), run.settings)
        tasks = run.problem.tasks("train", run.tasks_per_batch, 0, device)
        self.precision, optimizer = precision, adam(maml, capturable=captured)
        if captured:
            stepper = RecordedStepper(maml, optimizer, tasks)
        else:
            stepper = EagerStepper(maml, optimizer, tasks, Ranks(), start=0)
        self.stepper = stepper.prepared(LATE, 0)
        if captured and self.stepper is not stepper:
            raise RuntimeError("The step could not be recorded, so there is nothing to measure.")

    def __call__(self):
        self.stepper.step(LR)


def seconds_of(step: PreparedStep, steps: int, device) -> float:
    torch.set_float32_matmul_precision(step.precision)
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - began) / steps


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def busy_share(step: PreparedStep, steps: int) -> float:
    """The share of the steps' time in which the GPU computes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds = seconds_of(step, steps, torch.device("cuda"))
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    return busy / 1e6 / (seconds * steps)


def peak_memory(run, device) -> int | None:
    """Bytes that two eager steps add."""
    if device.type != "cuda":
        return None
    step = PreparedStep(run, False, device, "highest")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds_of(step, 2, device)
    return torch.cuda.max_memory_allocated() - before


def precision_errors(run, device) -> dict:
    """{precision: distance of the meta-gradient to float64, relative}."""
    model, batch = run.problem.network(0, device), run.problem.tasks("train", run.tasks_per_batch, 0, device).batch(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape).to(device))

    def gradient(dtype):
        maml = learner(copy.deepcopy(model).to(dtype), run.settings)
        there = batch.__class__(*(x.to(dtype) if x.is_floating_point() else x for x in batch))
        gradients = maml.meta_gradients(there, LATE).gradients
        return torch.cat([g.double().flatten() for g in gradients.tensors()])

    expected, errors = gradient(torch.float64), {}
    for precision in PRECISIONS:
        torch.set_float32_matmul_precision(precision)
        errors[precision] = ((gradient(torch.float32) - expected).norm() / expected.norm()).item()
    return errors


def measure(protocol: str, name: str, device, rounds: int, steps: int, **problem) -> dict:
    """One row of the record."""
    run = plan("5w1s", name, protocol=protocol, **problem)
    on_gpu = device.type == "cuda"
    kinds = {"eager": PreparedStep(run, False, device, "highest")}
    if on_gpu:
        kinds["captured"] = PreparedStep(run, True, device, "highest")
        kinds["captured, TF32"] = PreparedStep(run, True, device, "high")
    for step in kinds.values():
        seconds_of(step, 2, device)
    seconds = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, step in kinds.items():
            seconds[kind].append(seconds_of(step, steps, device))
    fastest = min(kinds, key=lambda kind: median(seconds[kind]))
    return {
        "protocol": protocol, "algorithm": name, "tasks": run.tasks_per_batch, "iterations": run.iterations,
        "seconds": seconds, "fastest": fastest,
        "minutes_of_the_whole_run": median(seconds[fastest]) * run.iterations / 60,
        "busy_share": busy_share(kinds["captured"], steps) if on_gpu else None,
        "peak_bytes": peak_memory(run, device), "errors": precision_errors(run, device),
    }  # fmt: skip


def ratio(rows: list[dict], protocol: str, name: str, kind: str, to: str = "maml") -> float:
    """How many times as long a step of one algorithm takes as one of another."""
    own, base = (
        next(row["seconds"][kind] for row in rows if (row["protocol"], row["algorithm"]) == (protocol, each))
        for each in (name, to)
    )
    return median(own) / median(base)


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 7,
    steps: Annotated[int, typer.Option(help="Steps in a round.")] = 100,
    filters: Annotated[int, typer.Option(help="Channels of the network.")] = 64,
    json: Annotated[Path | None, typer.Option(help="Result file; default results/training-step-DEVICE.json.")] = None,
):
    """Time whole training steps on the built-in characters."""
    check_number("rounds", rounds, at_least=1)
    check_number("steps", steps, at_least=1)
    chosen, before = choose_device(device), torch.get_float32_matmul_precision()
    start = provenance(chosen)
    problem = dict(dataset="glyphs", split="alphabet", validation=None, filters=filters)
    try:
        rows = [measure(*pair, chosen, rounds, steps, **problem) for pair in product(PROTOCOLS, ALGORITHMS)]
    finally:
        torch.set_float32_matmul_precision(before)
    for row in rows:
        row["time_to_maml"] = ratio(rows, row["protocol"], row["algorithm"], "captured" if "captured" in row["seconds"]
                                    else "eager")  # fmt: skip
    slug = start["hardware"]["device"].lower().replace(" ", "-")
    path = Path(f"results/training-step-{slug}.json") if json is None else json
    write_json({"kind": "training step", **start, "problem": Problem(**problem).describe(), "rows": rows}, path)
    table = Table(title=f"One training step on {start['hardware']['device']}", title_justify="left")
    for title in ("protocol", "algorithm", *rows[0]["seconds"], "to MAML", "GPU busy", "whole run", "memory", "error"):
        table.add_column(title)
    for row in rows:
        busy, memory = row["busy_share"], row["peak_bytes"]
        busy = "not measured" if busy is None else f"{busy:.0%}"
        memory = "not measured" if memory is None else f"{memory / 1e6:.0f} MB"
        table.add_row(
            row["protocol"], row["algorithm"], *(f"{1e3 * median(s):.2f} ms" for s in row["seconds"].values()),
            f"{row['time_to_maml']:.2f}", busy, f"{row['minutes_of_the_whole_run']:.1f} min", memory,
            ", ".join(f"{error:.0e} {precision}" for precision, error in row["errors"].items()),
        )  # fmt: skip
    Console().print(table)
    typer.echo(f"Record: {path}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
