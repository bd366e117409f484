"""How much memory meta-training takes at its peak.

On a GPU PyTorch counts its allocations. On a CPU the resident memory of a fresh process is sampled while it trains,
so that what other work left behind in this process does not count. `python -m mamlcourse.memory` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import torch

from .data import Characters
from .engine.backends import give_back_freed_memory
from .errors import InputError
from .learner import learner
from .meta_params import outer_step
from .problems import Problem
from .settings import Settings
from .tasks import CharacterTasks

SAMPLE_SECONDS = 0.001
ITERATIONS = 2


def peak_of_training(settings: Settings, problem: Problem, tasks_per_batch: int, device, backend: str = "auto") -> int:
    """Bytes that meta-training adds to the model and data at its peak, in the first epoch (where the
    multi-step loss of MAML++ has every step).

    Raises:
        InputError: the measuring process failed; the message has its last line.
    """
    order = {
        "settings": settings.to_record(), "problem": problem.describe(), "tasks_per_batch": tasks_per_batch,
        "backend": backend, "threads": torch.get_num_threads(),
    }  # fmt: skip
    if torch.device(device).type == "cuda":
        return _measure_cuda(*_build(order, device))
    command = [sys.executable, "-m", "mamlcourse.memory"]
    result = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"Measuring memory failed with exit code {result.returncode}: {last}")
    return json.loads(result.stdout)


def _build(order, device):
    """The learner and a batch of noise: memory does not depend on what the images show."""
    problem = Problem(**order["problem"])
    shape = (problem.ways, problem.shots + problem.queries, problem.side, problem.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    noise = Characters("noise", images, ("",) * problem.ways, ("",) * problem.ways, frozenset())
    tasks = CharacterTasks(noise, problem.ways, problem.shots, problem.queries, order["tasks_per_batch"], device=device)
    maml = learner(problem.network(0, device), Settings.from_record(order["settings"]), backend=order["backend"])
    batch = tasks.batch(0)
    in_colour = (x.repeat(1, 1, problem.channels, 1, 1) for x in (batch.support_x, batch.query_x))
    return maml, batch._replace(**dict(zip(("support_x", "query_x"), in_colour)))


def _train(maml, batch):
    meta = maml.meta_params()
    optimizer = torch.optim.Adam(meta.tensors())
    for _ in range(ITERATIONS):
        outer_step(optimizer, meta, maml.meta_gradients(batch).gradients)


def _measure_cuda(maml, batch):
    torch.cuda.reset_peak_memory_stats(batch.support_x.device)
    before = torch.cuda.memory_allocated(batch.support_x.device)
    _train(maml, batch)
    return torch.cuda.max_memory_allocated(batch.support_x.device) - before


def _measure_resident(maml, batch):
    with _resident_samples() as samples:
        before = samples[0]
        _train(maml, batch)
    return max(samples) - before


@contextmanager
def _resident_samples():
    import psutil  # needed on a CPU alone, and missing on some GPU machines

    process, stop = psutil.Process(), threading.Event()
    samples = [process.memory_info().rss]

    def sample():
        while not stop.is_set():
            samples.append(process.memory_info().rss)
            time.sleep(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    # What a first pass loads (kernels, the optimizer's imports, thread stacks) is not training's own: load it with a
    # network too small to count.
    tiny = order | {"problem": order["problem"] | {"filters": 1, "queries": 1}}
    _train(*_build(tiny, "cpu"))
    built = _build(order, "cpu")
    give_back_freed_memory()  # or training finds what building freed, and seems to take less
    print(json.dumps(_measure_resident(*built)))
