"""How the tasks of a meta-batch are computed: one after the other, in threads, or all at once with vmap.

The algorithms hand over a function of one task; nothing here knows what an inner step is. All backends give the same
numbers within rounding. Which is fastest depends on the device and the model; `choose` holds what was measured.
"compiled", vmap's operations fused by torch.compile, is never chosen by itself: it takes from seconds to minutes to
begin and needs a C++ compiler (on a GPU, Triton) and torch 2.11 or later; torch 2.6 cannot do it. Then it is the
fastest for small networks, not for wide convolutions (results/compiled.json). On a GPU it was not run.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import queue
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import nn

from .errors import InputError, check_choice
from .inspection import widest_output
from .kernels import for_loop, for_vmap

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
    # Threads of one process wait for Python's lock at each call, so calls must take a while.
    return "threads" if several and widest >= WIDE_ENOUGH_FOR_THREADS else "loop"


class Calculus(NamedTuple):
    """How to differentiate.

    Attributes:
        inner: (loss of parameters, parameters, order) -> gradients; constants if order is 1.
        update: (parameters, rates, gradients) -> parameters - rates x gradients; rates are tensors by name or a number.
        vjp: (function, dictionaries of tensors) -> (result, extra, pull), where the function of the dictionaries
            returns (result, extra), and `pull` turns slopes along the result, once, into one dictionary of slopes for
            each argument. The result is one tensor or a dictionary.
    """

    inner: Callable
    update: Callable
    vjp: Callable

    def gradients(self, loss, meta):
        """(loss, extra, {name: gradient}) of a function from meta-parameters to (loss, extra)."""
        value, extra, pull = self.vjp(loss, meta)
        return value, extra, pull(torch.ones_like(value))[0]


def _autograd_inner(loss, parameters, order):
    if order == 1:
        parameters = _cut_off(parameters)
    slopes = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=order == 2)
    return dict(zip(parameters, slopes))


def _autograd_update(parameters, rates, slopes):
    # All tensors in one call: measured faster than one by one, or than one flat vector (results/updates.json).
    values, slopes = list(parameters.values()), list(slopes.values())
    if isinstance(rates, dict):
        moved = torch._foreach_sub(values, torch._foreach_mul(slopes, [rates[name] for name in parameters]))
    else:
        moved = torch._foreach_sub(values, slopes, alpha=rates)
    return dict(zip(parameters, moved))


def _autograd_vjp(function, *arguments):
    arguments = [_cut_off(argument) for argument in arguments]
    result, extra = function(*arguments)

    def pull(slopes):
        results, slopes = (list(x.values()) if isinstance(x, dict) else [x] for x in (result, slopes))
        inputs = [p for argument in arguments for p in argument.values()]
        found = iter(torch.autograd.grad(results, inputs, slopes, allow_unused=True, materialize_grads=True))
        return tuple({name: next(found) for name in argument} for argument in arguments)

    return _detached(result), _detached(extra), pull


def _cut_off(parameters):
    return {name: p.detach().requires_grad_() for name, p in parameters.items()}


def _detached(result):
    if isinstance(result, dict):
        return {name: value.detach() for name, value in result.items()}
    return result.detach() if isinstance(result, torch.Tensor) else result


def _functional_inner(loss, parameters, order):
    if order == 2:
        return torch.func.grad(loss)(parameters)
    # The parameters are cut off so that no graph is built; the gradients too, because the loss also depends on
    # meta-parameters that do not adapt (per-step norms, ANIL's body).
    slopes = torch.func.grad(loss)({name: p.detach() for name, p in parameters.items()})
    return {name: slope.detach() for name, slope in slopes.items()}


def _functional_update(parameters, rates, slopes):
    # vmap has no rule for torch._foreach_*, but it updates a tensor of all tasks at once.
    rates = rates if isinstance(rates, dict) else dict.fromkeys(parameters, rates)
    return {name: p - rates[name] * slopes[name] for name, p in parameters.items()}


def _functional_vjp(function, *arguments):
    result, pull, extra = torch.func.vjp(function, *arguments, has_aux=True)
    # Unlike `torch.func.grad`, this keeps no graph of the pull itself.
    return result, extra, functools.partial(pull, retain_graph=False, create_graph=False)


AUTOGRAD = Calculus(_autograd_inner, _autograd_update, _autograd_vjp)  # ordinary tensors
FUNCTIONAL = Calculus(_functional_inner, _functional_update, _functional_vjp)  # within vmap and its kind


def recomputed_gradients(step, loss, meta, start, weights, order, calculus):
    """The gradients of Σ_k w_k loss(θ'_k), with each inner step recomputed when its turn comes in the backward pass.

    Walking back from the last step, v = ∂loss/∂θ'_k is multiplied by the transposed Jacobian of one step, I - αH,
    whose graph is the only one alive: memory for one step, whatever their number.

    Args:
        step: (meta, adapted, number, order) -> adapted after that step.
        loss: (meta, adapted, steps taken) -> (loss, outputs).
        meta, start: the meta-parameters, and θ'_0 among them.
        weights: w_0 to w_K.
        order: of the derivatives.
        calculus: how to differentiate.
    """
    path = [_detached(start)]
    for number in range(len(weights) - 1):
        path.append(_detached(step(meta, path[-1], number, 1)))  # the way there is the same for either order
    total, outputs = 0.0, None
    gradients = {name: torch.zeros_like(p) for name, p in meta.items()}
    pulled = {name: torch.zeros_like(p) for name, p in start.items()}  # v
    for steps_taken in reversed(range(len(weights))):
        if weights[steps_taken]:
            graded = functools.partial(loss, steps_taken=steps_taken)
            value, seen, pull = calculus.vjp(graded, meta, path[steps_taken])
            outputs = seen if outputs is None else outputs
            total = total + weights[steps_taken] * value
            to_meta, to_adapted = pull(torch.full_like(value, weights[steps_taken]))
            gradients, pulled = _sum(gradients, to_meta), _sum(pulled, to_adapted)
        if steps_taken > 0:
            before = steps_taken - 1
            _, _, pull = calculus.vjp(lambda *at, number=before: (step(*at, number, order), ()), meta, path[before])
            to_meta, pulled = pull(pulled)
            gradients = _sum(gradients, to_meta)
    return total, outputs, gradients | _sum({name: gradients[name] for name in pulled}, pulled)


def _sum(some, others):
    return {name: value + others[name] for name, value in some.items()}


# Tasks. `one_task(module, task, calculus)` returns a dictionary of tensors.


def map_over_tasks(one_task, module, batch, backend, order):
    """{name: (tasks, ...)}: the results of every task, stacked. `order` is that of the derivatives taken."""
    if backend in ("vmap", "compiled"):  # what is looked at once is not worth compiling
        return _vmap(one_task, module, batch)
    results = list(_one_by_one(one_task, module, batch, backend, order))
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


def mean_over_tasks(one_task, module, batch, backend, order):
    """{name: mean over the tasks}; in a loop only the sum is kept. `order` is that of the derivatives taken."""
    if backend in ("vmap", "compiled"):
        results = _vmap(one_task, module, batch, backend == "compiled")
        return {name: value.mean(0) for name, value in results.items()}
    total = None
    for result in _one_by_one(one_task, module, batch, backend, order):
        total = result if total is None else _sum(total, result)
    return {name: value / len(batch[0]) for name, value in total.items()}


def _vmap(one_task, module, batch, compiled=False):
    # Differentiating inside vmap, not through it: the other order is slightly wrong for F.batch_norm, whose
    # batching rule takes the saved mean and deviation as constants.
    function = torch.func.vmap(lambda *task: one_task(module, task, FUNCTIONAL), randomness="different")
    with for_vmap(module):
        return _compiled(function, batch) if compiled else function(*batch)


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


def _one_by_one(one_task, module, batch, backend, order):
    keep_freed_memory()
    tasks = list(zip(*batch))
    if backend == "loop" or len(tasks) == 1:
        for task in tasks:
            with for_loop(module, order):
                result = one_task(module, task, AUTOGRAD)
            yield result
        return
    # functional_call swaps a module's parameters while it runs, so each thread needs a module of its own, though not
    # parameters of its own.
    workers = min(torch.get_num_threads(), len(tasks))
    modules, shared = queue.SimpleQueue(), {id(p): p for p in module.parameters()}
    for _ in range(workers):
        modules.put(copy.deepcopy(module, dict(shared)))

    def in_thread(task):
        own = modules.get()
        try:
            with for_loop(own, order):
                return one_task(own, task, AUTOGRAD)
        finally:
            modules.put(own)

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
