"""How fast and how exact is our meta-gradient beside other implementations of MAML and FOMAML?

    python benchmarks/peers.py                 # about 15 minutes on two cores: results/peers.json and .png
    python benchmarks/peers.py --device cuda   # results/peers-DEVICE.json and .png, as in peers-nvidia-h200.json

The same network, weights and tasks for all of them; benchmarks/peer_drivers.py says who they are and how each is driven
(`pip install -e ".[bench]"` installs them; one that is missing is listed as such). For every setting:

1. Errors: the distance of the whole gradient to that of the plain loop, written out to its batch normalisation, in
   float64; once computed in float64 (below 1e-9 it is called exact), once in float32; on two tasks.
2. Times: everyone has a process of its own, so that nobody inherits another's threads, memory or settings. One call to
   warm up, then rounds. A round times everyone once, in an order of its own, on the same batch: the mean gradient of
   all its tasks, without an outer step. A ratio is the median over the rounds of (peer's time / ours).

Ours comes twice: in one process like everyone else's, and, on a CPU with several threads, by `train(processes=...)`, a
process for each thread, the exchange of the gradients included. A large matrix product takes its turn too, in a process
of its own: the arithmetic of a meta-gradient, at that rate, is the least time that it could take.

The first settings are Finn's own step (5-way 1-shot, 1 query per class, 32 tasks); the others have `--queries` and
`--tasks`, and on a CPU 20 ways half the tasks. A setting has as many rounds as fit into `--seconds`, at least 3 and at
most `--rounds`. The record says how many of both each setting had.
"""

import copy
import gc
import importlib
import importlib.metadata
import multiprocessing
import random
import re
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from peer_drivers import INNER_LR, PEERS, relative_error, textbook
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from mamlcourse import MAML, TaskBatch
from mamlcourse.errors import InputError, check_number
from mamlcourse.problems import Problem, choose_device
from mamlcourse.records import device_in_words, markdown_table, provenance, write_json
from mamlcourse.styles import COLOURS, MARKS
from mamlcourse.training.workers import Workers

OURS, PROCESSES, MATRIX = "mamlcourse", "mamlcourse, processes", "matrix product"
SHOTS, SEED, EXACT, SIDE = 1, 0, 1e-9, 2048  # the side of the matrices
FINN = dict(downsampling="stride", ways=5, steps=1, tasks=32, queries=1)
CHECKED_TASKS, FEWEST_ROUNDS = 2, 3
REST = 0.05  # seconds before each call, in which the threads of the one before go to sleep
WAYS, STEPS, DOWNSAMPLING, ORDERS = (5, 20), (1, 5), ("stride", "max-pool"), (2, 1)
TITLES = {2: "MAML", 1: "FOMAML"}
# By part of an operator's name.
KINDS = {"convolution": "convolution", "products": "bmm", "normalisation": "batch_norm", "pooling": "pool"}
BOOKKEEPING = {"aten::empty", "aten::empty_like", "aten::detach", "aten::view", "aten::alias", "aten::empty_strided"}


@dataclass(frozen=True)
class Setting:
    """What one meta-gradient is taken of."""

    order: int
    downsampling: str
    ways: int
    steps: int
    tasks: int
    filters: int
    queries: int

    def model(self, device):
        """Conv4 with γ, β and a head that are not 1 and 0, so that no part of it is idle."""
        problem = Problem(ways=self.ways, filters=self.filters, downsampling=self.downsampling)
        model, generator = problem.network(SEED), torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        return model.to(device)

    def batch(self, device) -> TaskBatch:
        problem = Problem(ways=self.ways, shots=SHOTS, queries=self.queries)
        return problem.tasks("train", self.tasks, SEED, device).batch(0)


class Ours:
    """Our driver, called as those of `peer_drivers` are: by one process, or shared among several."""

    def __init__(self, model, steps, order, processes: int = 1):
        self.maml = MAML(model, order=order, inner_steps=steps, inner_lr=INNER_LR)
        self.workers = Workers(self.maml, processes) if processes > 1 else None

    def __call__(self, batch):
        loss, _, gradients = self.maml.meta_gradients(batch, workers=self.workers)
        return loss, gradients.params

    def end(self):
        if self.workers:
            self.workers.end()


def driver_of(name: str):
    return PEERS[name].driver if name in PEERS else Ours


def taking_part(peers: dict) -> list[str]:
    """Ourselves and the peers that are there."""
    return [OURS, *(name for name, found in peers.items() if found["reason"] is None)]


def find_peers() -> dict:
    """{peer: {"version": of its package, "reason": why it cannot take part, or None}}."""
    found = {}
    for name, peer in PEERS.items():
        found[name] = {"version": str(torch.__version__), "reason": None}
        if peer.module is None:
            continue
        try:
            found[name]["version"] = importlib.metadata.version(peer.package)
            importlib.import_module(peer.module)
        except importlib.metadata.PackageNotFoundError:
            found[name] = {"version": None, "reason": "not installed"}
        except Exception as error:  # whatever a library that is too old for its surroundings raises
            found[name]["reason"] = f"cannot be imported: {in_one_line(error)}"
    return found


def in_one_line(error: Exception) -> str:
    """What went wrong, without the folders of this machine."""
    first = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"/\S*/", "", f"{type(error).__name__}: {first}")[:200]


def attempt(call):
    """(what the call returns, None), or (None, why it failed): no peer's failure ends the benchmark."""
    try:
        return call(), None
    except Exception as error:
        return None, in_one_line(error)


# Errors.


def errors(found: dict, names: list[str], setting: Setting, device) -> None:
    """Add to {name: entry} how far each gradient is from the plain loop's in float64."""
    model, few = setting.model(device), TaskBatch(*(x[:CHECKED_TASKS] for x in setting.batch(device)))

    def gradient(driver, dtype):
        batch = TaskBatch(*(x.to(dtype) if x.is_floating_point() else x for x in few))
        return driver(copy.deepcopy(model).to(dtype), setting.steps, setting.order)(batch)[1]

    expected = gradient(textbook, torch.float64)
    for name in names:
        for key, dtype in (("float64", torch.float64), ("float32", torch.float32)):
            error, reason = attempt(lambda: relative_error(gradient(driver_of(name), dtype), expected))  # noqa: B023
            found[name][f"error_{key}"] = error
            if reason:
                found[name][f"reason_{key}"] = reason
        found[name]["exact"] = is_exact(found[name])


def is_exact(entry: dict) -> bool:
    return entry.get("error_float64") is not None and entry["error_float64"] < EXACT


# Times.


class Runner:
    """An implementation in a process of its own."""

    def __init__(self, name: str, device, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, name, device, threads))
        self.process.start()
        there.close()

    def ask(self, what):
        """(the answer, None), or (None, why it failed); `what` is a `Setting` to take up, or None for the seconds of
        one call."""
        try:
            self.connection.send(what)
            return self.connection.recv()
        except (EOFError, OSError):
            return None, "its process ended"

    def end(self):
        self.connection.close()
        self.process.join()


def serve(connection, name, device, threads) -> None:
    """What a process does: take up settings and time calls, until nobody asks any more."""
    torch.set_num_threads(threads)
    call = batch = None

    def take_up(setting):
        """Make ready; of ours the backend that was chosen."""
        nonlocal call, batch
        end()
        call, chosen = None, None
        gc.unfreeze()
        if name == MATRIX:
            one = torch.randn(SIDE, SIDE, device=device)
            call = lambda batch: one @ one  # noqa: E731
            call(batch)
        else:
            model, batch = setting.model(device), setting.batch(device)
            more = {"processes": threads} if name == PROCESSES else {}
            call = driver_of(name)(model, setting.steps, setting.order, **more)
            call(batch)
            chosen = call.maml.fastest_backend(batch, workers=call.workers) if isinstance(call, Ours) else None
        gc.collect()
        gc.freeze()  # what is there now stays, so that collecting before each call is quick
        return chosen

    def end():
        if isinstance(call, Ours):
            call.end()

    while True:
        try:
            what = connection.recv()
            answer = attempt(lambda: timed(call, batch, device) if what is None else take_up(what))  # noqa: B023
            connection.send(answer)
        except (EOFError, OSError):
            return end()


@contextmanager
def runners(peers: dict, device):
    """{name: Runner} of everyone who can take part."""
    shared = [PROCESSES] if no_processes(device) is None else []
    made = {name: Runner(name, device, torch.get_num_threads()) for name in [*taking_part(peers), MATRIX, *shared]}
    try:
        yield made
    finally:
        for runner in made.values():
            runner.end()


def no_processes(device) -> str | None:
    """Why our processes cannot take part; None where they can."""
    if device.type == "cuda":
        return "there is one GPU"
    return "there is one thread" if torch.get_num_threads() == 1 else None


def times(found: dict, made: dict, setting: Setting, rounds: int, budget: float, shuffle) -> None:
    """Add to {name: entry} the seconds of each round; who fails gets a reason and leaves the rounds."""
    running = []
    for name, runner in made.items():
        backend, reason = runner.ask(setting)
        found[name] |= {"seconds": []} if reason is None else {"reason": reason}
        found[name] |= {"backend": backend} if backend else {}
        running += [name] if reason is None else []
    began = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() - began > budget:
            break
        for name in shuffle.sample(sorted(running), len(running)):
            time.sleep(REST)
            seconds, reason = made[name].ask(None)
            if reason is None:
                found[name]["seconds"].append(seconds)
            else:
                found[name]["reason"] = reason
                running.remove(name)


def timed(call, batch, device) -> float:
    gc.collect()  # so that no cycle from earlier calls is collected in this one
    if device.type == "cuda":
        call(batch)  # parallel-metalearn empties the allocator's cache: refill it before looking at the clock
        torch.cuda.synchronize()
    began = time.perf_counter()
    call(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def add_ratios(found: dict) -> None:
    """The median over the rounds of each one's time to ours, in one process and by several, and the quartiles."""
    for base, key in ((OURS, "ratio"), (PROCESSES, "ratio_to_processes")):
        for name, entry in found.items():
            if name == MATRIX:
                continue
            ratios = [own / other for own, other in zip(entry.get("seconds", []), found[base].get("seconds", []))]
            if ratios and entry["reason"] is None and found[base]["reason"] is None:
                low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
                entry[key] = {"median": median(ratios), "quartiles": [low, high]}


def measure(setting: Setting, peers: dict, made: dict, rounds: int, budget: float, device, shuffle) -> dict:
    """One setting's part of the record."""
    everyone = [OURS, PROCESSES, *PEERS, MATRIX]
    found = {name: {"reason": peers[name]["reason"] if name in peers else None} for name in everyone}
    found[PROCESSES]["reason"] = no_processes(device)
    errors(found, taking_part(peers), setting, device)
    times(found, made, setting, rounds, budget, shuffle)
    add_ratios(found)
    done = len(found[OURS].get("seconds", []))
    result = asdict(setting) | {"shots": SHOTS, "rounds": done, "implementations": found}
    result |= {"gflop": gflop(setting), "share_of_matrix_rate": None}
    result["share_of_matrix_rate"] = share_of_matrix_rate(result)
    shared = {"shares_of_our_time": shares(setting, found[OURS].get("backend", "loop"))} if device.type == "cpu" else {}
    return result | shared


def gflop(setting: Setting) -> float:
    """The floating-point operations of the convolutions and products of all tasks, in thousand millions."""
    one = TaskBatch(*(x[:1] for x in setting.batch("cpu")))
    maml = MAML(setting.model("cpu"), order=setting.order, inner_steps=setting.steps, backend="loop")
    maml.meta_gradients(one)  # the first call tries the model out too
    with FlopCounterMode(display=False) as counter:
        maml.meta_gradients(one)
    return counter.get_total_flops() * setting.tasks / 1e9


def share_of_matrix_rate(result: dict) -> float | None:
    """How near our one process comes to computing at the rate of a large matrix product, by the median round."""
    entries = [result["implementations"][name] for name in (OURS, MATRIX)]
    rounds = list(zip(*(entry.get("seconds", []) for entry in entries)))
    least = result["gflop"] / (2 * SIDE**3 / 1e9)  # in matrix products
    return median(least * product / own for own, product in rounds) if rounds else None


def shares(setting: Setting, backend: str) -> dict:
    """What part of our time goes to which kind of operator, by PyTorch's profiler, on one thread.

    The rest is everything between operators: Python, autograd and the calls themselves.
    """
    device, before = torch.device("cpu"), torch.get_num_threads()
    settings = dict(order=setting.order, inner_steps=setting.steps, inner_lr=INNER_LR)
    # The profiler sees one thread.
    maml = MAML(setting.model(device), backend="loop" if backend == "threads" else backend, **settings)
    batch = setting.batch(device)
    try:
        torch.set_num_threads(1)
        maml.meta_gradients(batch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            maml.meta_gradients(batch)
    finally:
        torch.set_num_threads(before)
    found = dict.fromkeys([*KINDS, "other operators", "rest"], 0.0)
    for event in profile.key_averages():
        kind = next((kind for kind, part in KINDS.items() if part in event.key and "aten::" in event.key), "rest")
        if kind == "rest" and event.key.startswith("aten::") and event.key not in BOOKKEEPING:
            kind = "other operators"
        found[kind] += event.self_cpu_time_total
    return {kind: time / sum(found.values()) for kind, time in found.items()}


# What the measurements amount to.


BASES = {"ratio": "one process", "ratio_to_processes": "processes"}


def target(result: dict, base: str) -> float:
    """How many times our time the fastest exact peer should take."""
    if base != "ratio":
        return 1.5
    if all(result[name] == value for name, value in FINN.items()):
        return 2.0
    return 1.5 if result["downsampling"] == "stride" and result["steps"] == 5 else 1.3


def fastest_exact(result: dict, base: str = "ratio") -> tuple[str, float] | None:
    """(the fastest peer whose gradient is exact, its time / ours) of one setting; None if there is none."""
    ratios = {
        name: entry[base]["median"] for name, entry in result["implementations"].items()
        if name not in (OURS, PROCESSES) and base in entry and is_exact(entry)
    }  # fmt: skip
    return min(ratios.items(), key=lambda pair: pair[1]) if ratios else None


def in_words(result: dict) -> str:
    steps = f"{result['steps']} step{'s' * (result['steps'] > 1)}"
    finn = ", 1 query, 32 tasks" if all(result[name] == value for name, value in FINN.items()) else ""
    return f"{TITLES[result['order']]}, {result['downsampling']}, {result['ways']}-way, {steps}{finn}"


def conclusions(record: dict) -> list[str]:
    """For each setting the fastest exact peer and our ratios to it, one line each; then one line about all of them."""
    lines, ratios = [], {base: [] for base in BASES}
    for result in record["results"]:
        fastest, own = fastest_exact(result), result["implementations"][OURS]
        if not is_exact(own):
            lines.append(f"{in_words(result)}: ours is not exact (error {_largest([own.get('error_float64')])})")
        elif fastest is None:
            lines.append(f"{in_words(result)}: no exact peer could be measured")
        else:
            words = []
            for base, title in BASES.items():
                if found := fastest_exact(result, base):
                    wanted = target(result, base)
                    ratios[base].append((found[1], wanted))
                    verdict = "reaches" if found[1] >= wanted else "misses"
                    words.append(f"{_ratio(result, base)} of ours in {title} ({verdict} {wanted})")
            if result["share_of_matrix_rate"] is not None:
                words.append(f"ours runs at {result['share_of_matrix_rate']:.2f} of the rate of a matrix product")
            lines.append(f"{in_words(result)}: the fastest exact peer, {fastest[0]}, takes {', '.join(words)}")
    totals = []
    for base, of_base in ratios.items():
        if of_base:
            reached, only = sum(ratio >= wanted for ratio, wanted in of_base), [ratio for ratio, _ in of_base]
            totals.append(
                f"in {BASES[base]} {reached} of {len(record['results'])} settings reach their target "
                f"(ratios: lowest {min(only):.2f}, median {median(only):.2f}, highest {max(only):.2f})"
            )
    return [*lines, *_where_time_goes(record), "; ".join(totals) if totals else "no setting could be judged"]


def _where_time_goes(record):
    known = [result["shares_of_our_time"] for result in record["results"] if "shares_of_our_time" in result]
    if not known:
        return []
    parts = [
        f"{kind} {min(each[kind] for each in known):.0%} to {max(each[kind] for each in known):.0%}"
        for kind in known[0]
    ]  # fmt: skip
    return [f"where our time goes, on one thread: {', '.join(parts)}{_what_would_be_needed(record)}"]


def _what_would_be_needed(record):
    """To what part of its time all but the convolutions would have to shrink, where one process misses its target."""
    needed = {}
    for result in record["results"]:
        fastest = fastest_exact(result)
        if "shares_of_our_time" in result and fastest and fastest[1] < target(result, "ratio"):
            kept = result["shares_of_our_time"]["convolution"] + result["shares_of_our_time"]["products"]
            needed[in_words(result)] = max((fastest[1] / target(result, "ratio") - kept) / (1 - kept), 0.0)
    if not needed:
        return ""
    hardest, easiest = min(needed, key=needed.get), max(needed, key=needed.get)
    return (
        "; with convolutions as they are, one process would reach its target where it misses it if everything else "
        f"took {needed[easiest]:.0%} ({easiest}) down to {needed[hardest]:.0%} ({hardest}) of its time"
    )


def markdown(record: dict) -> str:
    """For each setting the fastest exact peer and its time as a multiple of ours, as a Markdown table."""
    ratios = [f"its time / ours, {where}" for where in ("one process", "a process for each thread")]
    rows = [["setting", "fastest exact peer", *ratios, "ours / the rate of a matrix product"]]
    for result in record["results"]:
        if fastest := fastest_exact(result):
            cells = [_ratio(result, base) if fastest_exact(result, base) else "not measured" for base in BASES]
            share = result["share_of_matrix_rate"]
            rows.append([in_words(result), fastest[0], *cells, "not measured" if share is None else f"{share:.2f}"])
    return markdown_table(rows)


def _ratio(result, base):
    name, middle = fastest_exact(result, base)
    low, high = result["implementations"][name][base]["quartiles"]
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def reasons(record: dict) -> list[str]:
    """Who could not be measured and why, one line for each reason."""
    found = {}
    for result in record["results"]:
        for name, entry in result["implementations"].items():
            for key in ("reason", "reason_float64", "reason_float32"):
                if entry.get(key):
                    precision = key.removeprefix("reason").replace("_", " in ")
                    found.setdefault(f"{name}{precision}: {entry[key]}", []).append(in_words(result))
    everywhere = len(record["results"])
    return [
        f"{reason} ({'all settings' if len(where) == everywhere else '; '.join(where)})"
        for reason, where in found.items()
    ]


def report(record: dict, console: Console) -> None:
    table = Table(title="Time / ours: median over the rounds, and quartiles; ~ marks a gradient that is not exact")
    for column in ("setting", "tasks", "rounds", PROCESSES, *PEERS):
        table.add_column(column, justify="left" if column == "setting" else "right", overflow="fold")
    for result in record["results"]:
        cells = [_cell(result["implementations"][name]) for name in (PROCESSES, *PEERS)]
        table.add_row(in_words(result), str(result["tasks"]), str(result["rounds"]), *cells)
    console.print(table)
    table = Table(title="Relative error of the gradient against float64: largest over the settings")
    for column in ("implementation", "version", "in float64, MAML", "in float64, FOMAML", "in float32", "exact in"):
        table.add_column(column, justify="left" if column == "implementation" else "right")
    for name in [OURS, *PEERS]:  # the processes' gradients are ours, summed
        entries = [(result["order"], result["implementations"][name]) for result in record["results"]]
        by_order = [[e.get("error_float64") for order, e in entries if order == wanted] for wanted in ORDERS]
        single = [e.get("error_float32") for _, e in entries]
        exact = f"{sum(is_exact(e) for _, e in entries)} of {len(entries)}"
        table.add_row(name, record["versions"].get(name) or "", *map(_largest, [*by_order, single]), exact)
    console.print(table)
    for line in [*reasons(record), *conclusions(record)]:
        console.print(line, highlight=False, soft_wrap=True)


def _cell(entry):
    if "ratio" not in entry:
        return "not run"
    low, high = entry["ratio"]["quartiles"]
    mark = "~" if "exact" in entry and not is_exact(entry) else ""
    return f"{mark}{entry['ratio']['median']:.2f}\n{low:.2f}-{high:.2f}"


def _largest(values):
    known = [value for value in values if value is not None]
    return f"{max(known):.1e}" if known else ""


# The figure.


def comparison_figure(record: dict) -> Figure:
    """The ratio of each peer for each setting, a panel for each order."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    looks = {name: dict(color=c, marker=m) for name, c, m in zip(PEERS, COLOURS.values(), MARKS.values())}
    looks[PROCESSES] = dict(color="black", marker="*")
    places = list(dict.fromkeys(in_words(result).partition(", ")[2] for result in record["results"]))
    for axes, order in zip(panels, ORDERS):
        for result in record["results"]:
            if result["order"] == order:
                _draw(axes, result, places.index(in_words(result).partition(", ")[2]), looks)
        axes.axvline(1, color="black", linewidth=1.2)
        for place in range(1, len(places)):
            axes.axhline(place - 0.5, color="#DDDDDD", linewidth=0.6)
        axes.set_xscale("log")
        axes.set(title=TITLES[order], xlabel="time / our time (log scale)", ylim=(len(places) - 0.5, -0.5))
        for place, setting in enumerate(places):
            wanted = [target(r, "ratio") for r in record["results"] if in_words(r).partition(", ")[2] == setting][0]
            axes.plot([wanted, wanted], [place - 0.45, place + 0.45], color="grey", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(places)), places)
        axes.tick_params(axis="y", length=0)
    low, high = panels[0].get_xlim()
    ticks = [tick for tick in (0.25, 0.5, 0.8, 1, 1.3, 2, 3, 5, 10, 20, 50) if low <= tick <= high]
    panels[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].xaxis.minorticks_off()
    panels[1].xaxis.minorticks_off()
    marks = [Line2D([], [], linestyle="", label=name, **look) for name, look in looks.items()]
    marks.append(Line2D([], [], linestyle="", marker="o", color="grey", fillstyle="none", label="hollow: not exact"))
    marks += [
        Line2D([], [], color="black", label="ours, one process"),
        Line2D([], [], color="grey", linestyle="--", label="target for the fastest exact one"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncol=4, fontsize=8)
    base = record["settings"]
    tasks = " or ".join(str(number) for number in sorted({result["tasks"] for result in record["results"]}))
    figure.suptitle(
        f"Time of one meta-gradient against ours: Conv4 with {base['filters']} filters, {SHOTS}-shot, "
        f"queries per class: {base['queries']} unless named, tasks: {tasks};\n{device_in_words(record)}, "
        f"{record['date'][:10]}; medians and quartiles over the rounds", fontsize=10,
    )  # fmt: skip
    return figure


def _draw(axes, result, place, looks):
    for number, (name, look) in enumerate(looks.items()):
        entry = result["implementations"][name]
        if "ratio" in entry:
            middle, (low, high) = entry["ratio"]["median"], entry["ratio"]["quartiles"]
            axes.errorbar(
                middle, place + 0.7 * (number / (len(looks) - 1) - 0.5), xerr=[[middle - low], [high - middle]],
                fillstyle="full" if is_exact(entry) or name == PROCESSES else "none", markersize=6, linewidth=1, **look,
            )  # fmt: skip


def grid(quick: bool, tasks: int, filters: int, queries: int, device) -> list[Setting]:
    """All settings, those of 20 ways with half the tasks on a CPU."""
    if quick:
        return [
            Setting(order, downsampling, 2, 2, tasks, filters, queries)
            for order, downsampling in product(ORDERS, DOWNSAMPLING)
        ]
    fewer = {20: max(tasks // 2, 1)} if device.type == "cpu" else {}
    finns = [Setting(order, filters=filters, **FINN) for order in ORDERS]
    return finns + [
        Setting(order, downsampling, ways, steps, fewer.get(ways, tasks), filters, queries)
        for order, downsampling, ways, steps in product(ORDERS, DOWNSAMPLING, WAYS, STEPS)
    ]


def file_name(record: dict) -> str:
    """peers, with the device's name if it is not a CPU."""
    device = record["hardware"]["device"]
    return "peers" if device == "CPU" else "peers-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="Torch threads on the CPU; 0 for as many as PyTorch takes.")] = 0,
    tasks: Annotated[int, typer.Option(help="Tasks of a batch; 0 for 4 on a CPU and 32 on a GPU.")] = 0,
    filters: Annotated[int, typer.Option(help="Filters of each convolution.")] = 64,
    queries: Annotated[int, typer.Option(help="Queries per class.")] = 15,
    rounds: Annotated[int, typer.Option(help="Timed rounds of a setting at most.")] = 9,
    seconds: Annotated[float, typer.Option(help="Time for the rounds of a setting, after the first three.")] = 25.0,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny run, to see that everything works.")] = False,
    folder: Annotated[Path, typer.Option(help="Folder for the record and the figure.")] = Path("results"),
):
    """Compare the exactness and speed of our meta-gradient with other implementations of MAML and FOMAML."""
    check_number("threads", threads, at_least=0)
    check_number("tasks", tasks, at_least=0)
    check_number("queries", queries, at_least=1)
    check_number("rounds", rounds, at_least=1)
    check_number("seconds", seconds, at_least=0)
    chosen = choose_device(device)
    if threads:
        torch.set_num_threads(threads)
    tasks = tasks or (4 if chosen.type == "cpu" else 32)
    if quick:
        tasks, filters, queries, rounds = min(tasks, 2), min(filters, 4), 1, min(rounds, 2)
    peers = find_peers()
    record = {"kind": "peers", **provenance(chosen)}
    record["versions"] |= {name: found["version"] for name, found in peers.items() if PEERS[name].package}
    record |= {
        "seeds": {"weights": SEED, "tasks": SEED, "order_in_rounds": SEED},
        "settings": {
            "dataset": Problem().dataset, "filters": filters, "shots": SHOTS, "queries": queries, "inner_lr": INNER_LR,
            "tasks": tasks, "tasks_of_20_ways_halved": chosen.type == "cpu" and not quick, "rounds_at_most": rounds,
            "rounds_at_least": min(FEWEST_ROUNDS, rounds), "seconds_for_rounds": seconds, "quick": quick,
            "processes": 0 if no_processes(chosen) else torch.get_num_threads(), "side_of_matrices": SIDE,
            "exact_below": EXACT, "tasks_checked": CHECKED_TASKS,
            "convolution_tf32": chosen.type == "cuda" and torch.backends.cudnn.allow_tf32,
        },
        "results": [],
    }  # fmt: skip
    json, figure = (folder / f"{file_name(record)}.{kind}" for kind in ("json", "png"))
    shuffle = random.Random(SEED)
    with runners(peers, chosen) as made:
        for setting in tqdm(grid(quick, tasks, filters, queries, chosen), desc="settings"):
            record["results"].append(measure(setting, peers, made, rounds, seconds, chosen, shuffle))
            write_json(record, json)  # nothing gets lost if a later setting brings the machine down
    report(record, Console(width=140))
    comparison_figure(record).savefig(figure, dpi=110)
    typer.echo(f"Record: {json}\nFigure: {figure}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"peers.py: {error}") from None
