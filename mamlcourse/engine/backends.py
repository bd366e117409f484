"""How the tasks of a meta-batch are computed: one after the other, in threads, or all at once with vmap.

The algorithms hand over a function of one task; nothing here knows what an inner step is. All backends give the same
numbers within rounding:

* "loop": one task after the other. "threads": as many at a time as there are cores.
* "vmap": all at once, differentiated within vmap (`torch.func`).
* "batched", "products": all at once, differentiated below vmap, by layers of two kinds (`batched`).
* "compiled": vmap's operations fused by torch.compile. Never chosen by itself: it takes from seconds to minutes to
  begin and needs a C++ compiler, Python's headers (on a GPU, Triton) and torch 2.11 or later; torch 2.6 cannot do it.
  Then it is the fastest for small networks, not for wide convolutions (results/compiled.json).
* "auto": whichever of them the first batches show to be the fastest (`choice`).
"""

from __future__ import annotations

import ctypes
import functools
import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import InputError
from .autodiff import EAGER, FUNCTIONAL, Below
from .batched import PRODUCTS, WIDENED
from .kernels import Instead, for_loop, for_vmap
from .stateless import Stateless
from .trees import filled, leaves, tree_map

BACKENDS = ("auto", "loop", "threads", "vmap", "batched", "products", "compiled")
ONE_BY_ONE, LAYERS = ("loop", "threads"), {"batched": WIDENED, "products": PRODUCTS}
BELOW_VMAP = tuple(LAYERS)


def candidates(model: nn.Module, tasks: int, draws: bool, threads: int, order: int | None) -> list[str]:
    """Whom "auto" chooses from for this model where it stands, with this many tasks at a time.

    Args:
        model: the model.
        tasks: in a batch.
        draws: whether the model draws random numbers. They are the same with the same seed in a loop alone.
        threads: of this process.
        order: of the meta-gradients; None of an evaluation, which has none.
    """
    kinds = {p.device.type for p in model.parameters()}
    convolves = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    if kinds == {"cuda"}:  # where one task after the other is far behind, and so are convolutions in many groups
        return ["products" if convolves else "batched", "vmap"]
    if kinds != {"cpu"}:
        return ["vmap"]
    if draws or tasks == 1:
        return ["loop"]
    # Left out, so that the measuring stays short: of second order vmap, which keeps a graph of each backward pass and
    # was faster by a sixth at most (MLP), and in an evaluation, whose batches are few, products.
    at_once = ["batched", *["products"] * (convolves and order is not None), *["vmap"] * (order == 1)]
    return ["loop", *at_once, *["threads"] * (threads > 1)]


def stacked(trees):
    """Trees of tensors as one, every tensor with a new leading dimension."""
    return tree_map(lambda *values: torch.stack(values), *trees)


# Below, `function(model, autodiff, *task)` is of one task, four tensors without a task dimension, and returns a tree of
# tensors; `model` is `Stateless`, `autodiff` is how it must differentiate, `order` of what order its derivatives are.


def map_over_tasks(function, model: nn.Module, batch, backend: str, order: int, seed: int | None = None):
    """The function's results for every task, stacked. In a loop task i draws its random numbers from `seed` + i."""
    if backend not in ONE_BY_ONE:
        # What is looked at once is not worth compiling.
        return _all_at_once(function, model, batch, "vmap" if backend == "compiled" else backend)
    return stacked(list(_one_by_one(function, model, batch, backend, order, seed)))


def mean_over_tasks(function, model: nn.Module, batch, backend: str, order: int, seed: int | None = None):
    """The mean of the function's results over the tasks, as `map_over_tasks`; in a loop only their sum is kept."""
    if backend not in ONE_BY_ONE:
        return tree_map(lambda value: value.mean(0), _all_at_once(function, model, batch, backend))
    total = None
    for result in _one_by_one(function, model, batch, backend, order, seed):
        values = leaves(result)
        total = values if total is None else torch._foreach_add(total, values)  # one call, faster than one by one
    return filled(result, torch._foreach_div(total, len(batch[0])))


def _below(function, model, *task):
    return function(model, Below(task[0]), *task)


def _all_at_once(function, model, batch, backend):
    # Differentiating inside vmap, or below it, but not through it: that is slightly wrong for F.batch_norm, whose
    # backward pass has a batching rule that takes the saved mean and standard deviation as constants.
    if backend in LAYERS:
        of_one_task = functools.partial(_below, function, Stateless(model))
    else:
        of_one_task = functools.partial(function, Stateless(model), FUNCTIONAL)
    all_tasks = torch.func.vmap(of_one_task, randomness="different")
    keep_freed_memory()
    with Instead(LAYERS[backend]) if backend in LAYERS else for_vmap(model):
        return _compiled(all_tasks, batch) if backend == "compiled" else all_tasks(*batch)


@functools.cache
def _fuser():
    return torch.compile(lambda function, batch: function(*batch), fullgraph=True, dynamic=False)


def _compiled(function, batch):
    # What was compiled for the same code, shapes and loss weights is found again, though the function is a new one.
    # Annealed weights are compiled anew in each epoch: more often than the limit, which is against endless compiling
    # (by its old names, which torch 2.6 knows too, so that it gets as far as saying what it cannot do).
    limits = torch._dynamo.config.patch(cache_size_limit=1000, accumulated_cache_size_limit=1000)
    try:
        with limits:
            return _fuser()(function, batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The backend is 'compiled', but torch.compile cannot do it here ({reason}): take another."
        ) from error


def _one_by_one(function, model, batch, backend, order, seed):
    keep_freed_memory()
    tasks = list(zip(*batch))
    if backend == "loop" or len(tasks) == 1:
        stateless = Stateless(model)
        for number, task in enumerate(tasks):
            with for_loop(model, order), _drawing_from(None if seed is None else seed + number):
                result = function(stateless, EAGER, *task)
            yield result
        return
    workers, models = min(torch.get_num_threads(), len(tasks)), queue.SimpleQueue()
    for _ in range(workers):
        models.put(Stateless(model))

    device = next(model.parameters()).device.type
    autocast = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

    def in_thread(task):
        own = models.get()
        try:
            with for_loop(model, order), autocast:  # a thread does not inherit autocast
                return function(own, EAGER, *task)
        finally:
            models.put(own)

    # The threads take one core each, and end with the batch: OpenMP counts every thread that lives, and once there
    # are more than cores it puts the main thread to sleep at each operation, several times slower from then on.
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(in_thread, tasks)
    finally:
        torch.set_num_threads(before)  # what threads started later begin with


@contextmanager
def _drawing_from(seed):
    """Random numbers on the CPU from this seed, and those outside as if nothing had been drawn."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@functools.cache
def keep_freed_memory(at_most: int = 2**29) -> bool:
    """Let this process keep up to `at_most` bytes that it freed (default 512 MiB), and return whether it could.

    Every task needs the same memory again. GNU's C library gives it back to the system in between, which then clears it
    page by page. Other systems' libraries have no such setting.
    """
    mallopt = _from_c_library("mallopt")
    trim_threshold, mmap_threshold, largest_allowed = -1, -3, 2**25  # the names are those of malloc.h
    return bool(mallopt and mallopt(trim_threshold, at_most) and mallopt(mmap_threshold, largest_allowed))


def give_back_freed_memory() -> None:
    """Give the system back what this process freed and kept, where GNU's C library can."""
    trim = _from_c_library("malloc_trim")
    if trim:
        trim(0)


def _from_c_library(name):
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
