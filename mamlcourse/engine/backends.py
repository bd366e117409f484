"""How the tasks of a meta-batch are computed: one after the other, in threads, or all at once with vmap.

The algorithms hand over a function of one task; nothing here knows what an inner step is. All backends give the same
numbers within rounding. Which is fastest depends on the device and the model; `choose` holds what was measured.
"compiled", vmap's operations fused by torch.compile, is never chosen by itself: it takes from seconds to minutes to
begin and needs a C++ compiler (on a GPU, Triton) and torch 2.11 or later; torch 2.6 cannot do it. Then it is the
fastest for small networks, not for wide convolutions (results/compiled.json). On a GPU it was not run.
"""

from __future__ import annotations

import ctypes
import functools
import queue
import sys
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from ..errors import InputError, check_choice
from .autodiff import EAGER, FUNCTIONAL
from .inspection import draws_random_numbers, widest_output
from .kernels import for_loop, for_vmap
from .stateless import Stateless
from .trees import filled, leaves, tree_map

BACKENDS = ("auto", "loop", "threads", "vmap", "compiled")
# Numbers in the largest layer output of one task up to which vmap was measured to be faster than the loop, with one
# thread and with two; and from which threads of one core each are faster than a loop on both (results/backends.json).
WIDE, WIDE_FOR_SEVERAL, WIDE_ENOUGH_FOR_THREADS = 200_000, 500_000, 1_200_000


def choose(backend: str, model: nn.Module, batch=None) -> str:
    """The backend to use for this model where it stands; `backend` itself unless that is "auto".

    For a network with convolutions on a CPU it depends on the batch: without one the answer is still "auto".

    Raises:
        InputError: the backend is unknown.
    """
    check_choice("The backend", backend, BACKENDS)
    if backend != "auto":
        return backend
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    convolves = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in model.modules())
    if not on_cpu or not convolves:
        return "vmap"
    if batch is None:
        return "auto"
    # Few numbers in a layer: the time goes to the number of calls, and vmap makes one of many. Many: it goes to
    # arithmetic, and there vmap loses, as it turns convolutions with weights for each task into grouped ones.
    examples = max(batch.support_x.shape[1], batch.query_x.shape[1]) / batch.support_x.shape[1]
    widest, several = widest_output(model, batch.support_x[0]) * examples, torch.get_num_threads() > 1
    if widest <= (WIDE_FOR_SEVERAL if several else WIDE):
        return "vmap"
    # Threads of one process wait for Python's lock at each call, so calls must take a while. They draw random numbers
    # from one generator in any order, so that the same seed would not give the same numbers.
    threads = several and widest >= WIDE_ENOUGH_FOR_THREADS
    return "threads" if threads and not draws_random_numbers(model, batch.support_x[0]) else "loop"


def stacked(trees):
    """Trees of tensors as one, every tensor with a new leading dimension."""
    return tree_map(lambda *values: torch.stack(values), *trees)


# Below, `function(model, autodiff, *task)` is of one task, four tensors without a task dimension, and returns a tree of
# tensors; `model` is `Stateless`, `autodiff` is how it must differentiate, `order` of what order its derivatives are.


def map_over_tasks(function, model: nn.Module, batch, backend: str, order: int):
    """The function's results for every task, stacked."""
    if backend in ("vmap", "compiled"):  # what is looked at once is not worth compiling
        return _vmap(function, model, batch)
    return stacked(list(_one_by_one(function, model, batch, backend, order)))


def mean_over_tasks(function, model: nn.Module, batch, backend: str, order: int):
    """The mean of the function's results over the tasks; in a loop only their sum is kept."""
    if backend in ("vmap", "compiled"):
        return tree_map(lambda value: value.mean(0), _vmap(function, model, batch, backend == "compiled"))
    total = None
    for result in _one_by_one(function, model, batch, backend, order):
        values = leaves(result)
        total = values if total is None else torch._foreach_add(total, values)  # one call, faster than one by one
    return filled(result, torch._foreach_div(total, len(batch[0])))


def _vmap(function, model, batch, compiled=False):
    # Differentiating inside vmap, not through it: the other order is slightly wrong for F.batch_norm, whose
    # batching rule takes the saved mean and standard deviation as constants.
    all_tasks = torch.func.vmap(functools.partial(function, Stateless(model), FUNCTIONAL), randomness="different")
    with for_vmap(model):
        return _compiled(all_tasks, batch) if compiled else all_tasks(*batch)


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


def _one_by_one(function, model, batch, backend, order):
    keep_freed_memory()
    tasks = list(zip(*batch))
    if backend == "loop" or len(tasks) == 1:
        stateless = Stateless(model)
        for task in tasks:
            with for_loop(model, order):
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
