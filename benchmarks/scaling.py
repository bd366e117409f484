"""How do time and memory of one meta-gradient grow: with inner steps, tasks, filters, ways, image sizes and parameters?

    python benchmarks/scaling.py                          # one CPU thread, about 15 minutes
    python benchmarks/scaling.py --device cuda --json results/scaling-gpu.json --figure results/scaling-gpu.png

One meta-gradient is one `MAML.meta_gradients`, in the first epoch, where MAML++ takes the loss of every step; what it
takes once its loss has annealed to the last step is measured along the inner steps. Each axis changes one number of the
base case (shots: at ten inner steps, where keeping every step or recomputing it makes the largest difference). All
cases of an axis are interleaved, so that a ratio compares neighbours in time, and a ratio is the median of the ratios
of the rounds. Peak memory is what two training iterations add to a fresh process (on a GPU, to what is allocated), the
optimizer included; on a CPU the median of three processes, which differ by some megabytes. Learning rates do not matter
for any of this.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from statistics import linear_regression, median
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from mamlcourse import MLP, Conv4, TaskBatch, learner
from mamlcourse.errors import InputError, check_number
from mamlcourse.memory import peak_of_training
from mamlcourse.problems import Problem, choose_device
from mamlcourse.records import device_in_words, provenance, write_json
from mamlcourse.settings import recipe
from mamlcourse.styles import COLOURS, MARKS, TITLES

ALGORITHMS = ("maml", "fomaml", "maml++")
ANNEALED = 99  # any epoch after the multi-step loss has annealed
AXES = {
    "inner_steps": (1, 2, 3, 5, 7, 10),
    "tasks": (1, 2, 4, 8, 16, 32, 64, 128),
    "filters": (8, 16, 32, 64),
    "ways": (2, 5, 10, 20),
    "side": (14, 28, 56),
    "shots": (1, 5),
}
CHECKPOINTED = {"inner_steps": (1, 3, 5, 10), "shots": (1, 5)}
MEMORY = CHECKPOINTED | {"tasks": (1, 4, 8)}
MEMORY_PROCESSES = 3
# A CPU computes task after task, so that more of them tell nothing new for their time.
DEAREST_ON_CPU = {("tasks", "maml"): 32, ("tasks", "fomaml"): 32, ("tasks", "maml++"): 8, ("ways", "maml++"): 10}
QUICK_AXES = {axis: (1, 2) for axis in ("inner_steps", "tasks", "shots")}
QUICK_AXES |= {"filters": (2, 4), "ways": (2, 3), "side": (14, 28)}


@dataclass(frozen=True)
class Case:
    """What one meta-gradient is taken of. `network` is "Conv4", "MLP" or "ViT"; `downsampling` is Conv4's."""

    inner_steps: int = 5
    tasks: int = 4
    filters: int = 32
    ways: int = 5
    shots: int = 1
    queries: int = 5
    side: int = 28
    network: str = "Conv4"
    downsampling: str = "max-pool"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        if self.network == "MLP":
            return nn.Sequential(nn.Flatten(), MLP(self.side**2, 40, self.ways))
        return ViT(self.ways) if self.network == "ViT" else Conv4(self.ways, self.filters, self.downsampling)

    def batch(self, device) -> TaskBatch:
        """Noise: the time does not depend on what images show."""
        sizes = [self.ways * self.shots, self.ways * self.queries]
        x = [torch.rand(self.tasks, size, 1, self.side, self.side, device=device) for size in sizes]
        y = [torch.arange(size, device=device).remainder(self.ways).repeat(self.tasks, 1) for size in sizes]
        return TaskBatch(x[0], y[0], x[1], y[1])


class Attention(nn.Module):
    """Self-attention in plain products: PyTorch's fused kernels cannot be differentiated twice."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.mix, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):  # (examples, patches, width)
        query, key, value = self.mix(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width):
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width))
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attend(x)
        return x + self.think(x)


class ViT(nn.Module):
    """A small Vision Transformer: 49 patches of 4 x 4 from 28 x 28, mean over patches, linear head."""

    def __init__(self, ways, width=64, depth=2):
        super().__init__()
        self.cut = nn.Unfold(kernel_size=4, stride=4)
        self.embed = nn.Linear(16, width)
        self.place = nn.Parameter(0.02 * torch.randn(49, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)), nn.LayerNorm(width))
        self.head = nn.Linear(width, ways)

    def forward(self, x):
        return self.head(self.blocks(self.embed(self.cut(x).transpose(1, 2)) + self.place).mean(1))


# Measuring.


@dataclass
class Measurement:
    """One point: its row in the record, and what to time, by name of the row's list of seconds."""

    row: dict
    case: Case
    calls: dict[str, Callable]


def measurements(base: Case, axes: dict, device) -> dict[str, list[Measurement]]:
    """Everything that is to be timed, by axis."""
    planned = {axis: [] for axis in [*axes, "parameters"]}
    for axis, values in axes.items():
        for value in values:
            case = replace(base, **{axis: value})
            if axis == "side":  # max-pooling leaves nothing of 14 pixels; strides end in a spatial mean, whatever comes
                case = replace(case, downsampling="stride")
            if axis == "shots":
                case = replace(case, inner_steps=2 * base.inner_steps)
            for name in ALGORITHMS:
                if device.type == "cpu" and value > DEAREST_ON_CPU.get((axis, name), value):
                    continue
                late = axis == "inner_steps" and name == "maml++"
                planned[axis].append(_measurement(axis, value, case, name, False, device, late))
                if value in CHECKPOINTED.get(axis, ()):
                    planned[axis].append(_measurement(axis, value, case, name, True, device))
    for network in ("MLP", "ViT"):
        for name in ALGORITHMS:
            case = replace(base, network=network)
            planned["parameters"].append(_measurement("parameters", None, case, name, False, device))
    return planned


def _measurement(axis, value, case, name, checkpoint, device, late=False):
    settings = _settings(case, name, checkpoint)
    # On a CPU task after task, so that the growth is not that of one backend after another.
    backend = "loop" if device.type == "cpu" else "auto"
    maml, batch = learner(case.model().to(device), settings, backend=backend), case.batch(device)
    parameters = sum(p.numel() for p in maml.model.parameters())
    row = {
        "axis": axis, "value": parameters if value is None else value, "algorithm": name,
        "checkpoint_steps": checkpoint, "network": case.network, "parameters": parameters,
        "backend": maml.backend,
        "seconds": [], "peak_memory_bytes": None,
    }  # fmt: skip
    calls = {"seconds": lambda: maml.meta_gradients(batch)}
    if late:
        calls["seconds_after_annealing"] = lambda: maml.meta_gradients(batch, ANNEALED)
        row["seconds_after_annealing"] = []
    return Measurement(row, case, calls)


def _settings(case: Case, name: str, checkpoint: bool = False):
    settings = recipe(name, inner_steps=case.inner_steps, checkpoint_steps=checkpoint)
    # An MLP has no batch norm to have γ and β by step.
    return replace(settings, per_step_norm=settings.per_step_norm and case.network != "MLP")


def time_all(planned: list[Measurement], repeats: int, device, bar) -> None:
    """Rounds through all measurements, the first of them to warm up."""
    for number in range(repeats + 1):
        for measurement in planned:
            for key, call in measurement.calls.items():
                seconds = _time(call, device)
                measurement.row[key] += [seconds] if number > 0 else []
                bar.update()


def _time(call, device):
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_memory(planned: list[Measurement], processes: int, device, bar) -> None:
    """The peak of so many processes for each point, and their median."""
    for measurement in planned:
        measurement.row["peak_memory_by_process"] = []
    for _ in range(processes):
        for measurement in planned:
            case, row = measurement.case, measurement.row
            problem = Problem(ways=case.ways, shots=case.shots, queries=case.queries, filters=case.filters)
            settings = _settings(case, row["algorithm"], row["checkpoint_steps"])
            peak = peak_of_training(settings, problem, case.tasks, device, row["backend"])
            row["peak_memory_by_process"].append(peak)
            row["peak_memory_bytes"] = median(row["peak_memory_by_process"])
            bar.update()


def needs_memory(row: dict, quick: bool) -> bool:
    if quick:  # a process takes seconds: one of them
        place = (row["axis"], row["value"], row["algorithm"], row["checkpoint_steps"])
        return place == ("inner_steps", 1, "maml", False)
    return row["value"] in MEMORY.get(row["axis"], ())


# What the measurements amount to.


def add_ratios(points: list[dict]) -> None:
    """The median over the rounds of each point's time to that of MAML without checkpoints at the same place."""
    plain = {(p["axis"], p["value"]): p for p in points if p["algorithm"] == "maml" and not p["checkpoint_steps"]}
    for point in points:
        base = plain.get((point["axis"], point["value"]))
        pairs = zip(point["seconds"], base["seconds"]) if base else []
        ratios = [own / other for own, other in pairs]
        point["ratio_to_maml"] = median(ratios) if ratios else None


def fitted(values, rounds) -> dict | None:
    """How what was measured grows with `values`: the slope in double logarithms, and a straight line.

    Each round is fitted by itself, as its measurements are neighbours in time, and the medians over the rounds are
    returned, with the slopes of all rounds; None below two points or where a measurement is not positive.
    """
    if len(set(values)) < 2 or min(map(min, rounds)) <= 0:
        return None
    lines = [linear_regression(values, measured) for measured in rounds]
    logs = [linear_regression([log(v) for v in values], [log(m) for m in measured]).slope for measured in rounds]
    return {
        "exponent": median(logs), "exponent_by_round": logs,
        "per_unit": median(line.slope for line in lines), "at_zero": median(line.intercept for line in lines),
    }  # fmt: skip


def growth(points: list[dict]) -> dict:
    """{axis: {algorithm: {quantity: fit}}}; the checkpointed ones are named "ALGORITHM, checkpointed".

    The parameters are no axis to fit along: the networks differ in more than their number.
    """
    lines = {}
    for p in points:
        if p["axis"] != "parameters":
            label = p["algorithm"] + (", checkpointed" if p["checkpoint_steps"] else "")
            lines.setdefault(p["axis"], {}).setdefault(label, []).append(p)
    return {axis: {label: _fits(line) for label, line in of_axis.items()} for axis, of_axis in lines.items()}


def _fits(line):
    remembered = [p for p in line if p["peak_memory_bytes"] is not None]
    sizes = [[p["peak_memory_bytes"] for p in remembered]]
    return {
        "seconds": fitted([p["value"] for p in line], list(zip(*(p["seconds"] for p in line)))),
        "peak_memory_bytes": fitted([p["value"] for p in remembered], sizes) if remembered else None,
    }


# The device's ceilings, and how far below them a meta-gradient stays.


class CountedBytes(TorchDispatchMode):
    """Adds up the bytes that operators read and write; views move none."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if not any(given.alias_info and not given.alias_info.is_write for given in function._schema.returns):
            tensors = tree_leaves((arguments, keywords, result))
            self.total += sum(x.numel() * x.element_size() for x in tensors if isinstance(x, torch.Tensor))
        return result


def distance_to_ceilings(base: Case, repeats: int, device, quick: bool) -> tuple[dict, dict]:
    """(ceilings, distances): the device's rates at a large matrix product and a large copy in float32, and for each
    algorithm's base case its operations and bytes and the shares of those rates that it reaches.

    All take turns, and a share is the median over the rounds: a busy machine slows both alike. Operations and bytes
    are counted task by task, in a loop; `gigabytes` takes every operator by itself, as if there were no cache.
    """
    size = 256 if quick else 2048 if device.type == "cpu" else 8192
    a, b = torch.rand(2, size, size, device=device)
    source = torch.rand(2**18 if quick else 2**26, device=device)
    target, batch = torch.empty_like(source), base.batch(device)
    backend = "loop" if device.type == "cpu" else "auto"
    learners = {name: learner(base.model().to(device), _settings(base, name), backend=backend) for name in ALGORITHMS}
    calls = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    calls |= {name: lambda maml=maml: maml.meta_gradients(batch) for name, maml in learners.items()}
    rounds = [{name: _time(call, device) for name, call in calls.items()} for _ in range(repeats + 1)][1:]
    flop, moved = 2 * size**3, 2 * source.numel() * source.element_size()  # a copy reads and writes
    limits = {
        "matrix_gflop_per_s": median(flop / r["product"] for r in rounds) / 1e9,
        "matrix_size": size,
        "matrix_tf32": device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32,
        "convolution_tf32": device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "copy_gb_per_s": median(moved / r["copy"] for r in rounds) / 1e9,
    }
    found = {}
    for name in ALGORITHMS:
        own_flop, own_bytes = _counted(learner(base.model().to(device), _settings(base, name), backend="loop"), batch)
        found[name] = {
            "gflop": own_flop / 1e9,
            "gigabytes": own_bytes / 1e9,
            "seconds": median(r[name] for r in rounds),
            "share_of_matrix_rate": median(own_flop / r[name] / (flop / r["product"]) for r in rounds),
            "share_of_copy_rate": median(own_bytes / r[name] / (moved / r["copy"]) for r in rounds),
        }
    return limits, found


def _counted(maml, batch):
    maml.meta_gradients(batch)  # the first call tries the model out too
    with FlopCounterMode(display=False) as operations:
        maml.meta_gradients(batch)
    with CountedBytes() as moved:
        maml.meta_gradients(batch)
    return operations.get_total_flops(), moved.total


# The figure.

LABELS = {
    "inner_steps": "inner steps", "tasks": "tasks per batch", "filters": "filters", "ways": "ways",
    "side": "side of the image (pixels)",
}  # fmt: skip


def scaling_figure(record: dict) -> Figure:
    """Time along each axis, and memory along the inner steps."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, axis in zip(panels, LABELS):
        _draw(axes, record, axis, lambda point: 1e3 * median(point["seconds"]), checkpointed=axis == "inner_steps")
        axes.set(
            title=f"Time against {LABELS[axis].split(' (')[0]}",
            xlabel=LABELS[axis],
            ylabel="time of a meta-gradient (ms)",
        )
    _draw(panels[5], record, "inner_steps", lambda point: (point["peak_memory_bytes"] or 0) / 1e6, checkpointed=True)
    panels[5].set(title="Memory against inner steps", xlabel="inner steps", ylabel="peak memory (MB)")
    panels[0].legend(fontsize=7)
    measured_on = f"{device_in_words(record)}, {record['date'][:10]}"
    figure.suptitle(f"One meta-gradient: {record['settings']['base_in_words']}; {measured_on}")
    return figure


def _draw(axes, record, axis, quantity, checkpointed):
    for name in ALGORITHMS:
        for checkpoint in (False, True) if checkpointed else (False,):
            line = [
                (p["value"], quantity(p)) for p in record["points"]
                if (p["axis"], p["algorithm"], p["checkpoint_steps"]) == (axis, name, checkpoint) and quantity(p)
            ]  # fmt: skip
            axes.plot(
                *zip(*line) if line else ([], []), color=COLOURS[name], marker=MARKS[name],
                linestyle="--" if checkpoint else "-", fillstyle="none" if checkpoint else "full",
                label=TITLES[name] + (", checkpointed" if checkpoint else ""),
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    values = sorted({p["value"] for p in record["points"] if p["axis"] == axis})
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads on the CPU; 0 for as many as PyTorch takes.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny run, to see that everything works.")] = False,
    json: Annotated[Path, typer.Option(help="File for the record.")] = Path("results/scaling.json"),
    figure: Annotated[Path, typer.Option(help="PNG or SVG file for the figure.")] = Path("results/scaling.png"),
):
    """Measure time and memory of one meta-gradient along six axes, fit their growth, and find the device's ceilings."""
    check_number("threads", threads, at_least=0)
    check_number("repeats", repeats, at_least=1)
    chosen = choose_device(device)
    if threads:
        torch.set_num_threads(threads)
    base = Case(inner_steps=2, tasks=2, filters=4, ways=2, queries=1) if quick else Case()
    axes, repeats = (QUICK_AXES, min(repeats, 2)) if quick else (AXES, repeats)
    record = {"kind": "scaling", **provenance(chosen)}
    planned = measurements(base, axes, chosen)
    everything = [measurement for of_axis in planned.values() for measurement in of_axis]
    remembered = [measurement for measurement in everything if needs_memory(measurement.row, quick)]
    processes = 1 if quick or chosen.type == "cuda" else MEMORY_PROCESSES
    calls = (repeats + 1) * sum(len(measurement.calls) for measurement in everything) + processes * len(remembered)
    with tqdm(total=calls, desc="scaling") as bar:
        limits, distance = distance_to_ceilings(base, repeats, chosen, quick)
        for axis, of_axis in planned.items():
            bar.set_description(axis)
            time_all(of_axis, repeats, chosen, bar)
        record |= {
            "settings": {
                "base": asdict(base),
                "base_in_words": f"Conv4 with {base.filters} filters, {base.downsampling}, {base.ways}-way "
                f"{base.shots}-shot, {base.queries} queries per class, {base.tasks} tasks, "
                f"{base.inner_steps} inner steps",
                "shots": base.shots, "epoch": 0, "repeats": repeats, "quick": quick,
                "downsampling_along_side": "stride",
            },
            "ceilings": limits,
            "distance": distance,
        }  # fmt: skip
        write_json(record | amounts(everything), json)  # measuring memory starts processes: nothing gets lost
        bar.set_description("memory")
        measure_memory(remembered, processes, chosen, bar)
    record |= amounts(everything)
    write_json(record, json)
    report(record)
    scaling_figure(record).savefig(figure, dpi=110)
    typer.echo(f"Record: {json}\nFigure: {figure}")


def amounts(measured: list[Measurement]) -> dict:
    """What the record says of the measurements: points and growth."""
    points = [measurement.row for measurement in measured]
    # The widths of Conv4 were measured along the filters.
    points += [p | {"axis": "parameters", "value": p["parameters"]} for p in points if p["axis"] == "filters"]
    add_ratios(points)
    return {"points": points, "growth": growth(points)}


def report(record: dict) -> None:
    for axis, lines in record["growth"].items():
        for label, fits in lines.items():
            time_fit, memory = fits["seconds"], fits["peak_memory_bytes"]
            words = f"time grows as {axis}^{time_fit['exponent']:.2f}" if time_fit else "no fit"
            words += f"; memory {memory['per_unit'] / 1e6:+.1f} MB for each" if memory else ""
            typer.echo(f"{axis}, {label}: {words}")
    for name, found in record["distance"].items():
        typer.echo(
            f"{TITLES[name]}: {found['gflop']:.1f} GFLOP in {found['seconds']:.3f} s, "
            f"{found['share_of_matrix_rate']:.0%} of the matrix rate; {found['gigabytes']:.2f} GB, "
            f"{found['share_of_copy_rate']:.0%} of the copy rate"
        )


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"scaling.py: {error}") from None
