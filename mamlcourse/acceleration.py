"""How the tasks of a meta-batch are computed: one after the other, in threads, or all at once with vmap.

The algorithms hand over a function of one task; nothing here knows what an inner step is. All backends give the same
numbers within rounding. Which is fastest depends on the device and the model; `choose` holds what was measured.
"""

from __future__ import annotations

import copy
import functools
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import nn

from .errors import check_choice

BACKENDS = ("auto", "loop", "threads", "vmap")


def choose(backend: str, model: nn.Module) -> str:
    """The backend to use for this model where it stands; `backend` itself unless that is "auto".

    Raises:
        InputError: the backend is unknown.
    """
    check_choice("The backend", backend, BACKENDS)
    if backend != "auto":
        return backend
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    convolves = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in model.modules())
    # On a CPU, vmap turns convolutions with a weight for each task into grouped convolutions, which are slow there;
    # small dense models gain most from it, because for them the cost is in the number of calls.
    if on_cpu and convolves:
        return "threads" if torch.get_num_threads() > 1 else "loop"
    return "vmap"


class Calculus(NamedTuple):
    """How to differentiate.

    Attributes:
        inner: (loss of parameters, parameters, order) -> gradients; constants if order is 1.
        update: (parameters, rates, gradients) -> parameters - rates x gradients; rates are tensors by name or a number.
        outer: (loss and outputs of meta-parameters, meta-parameters) -> (loss, outputs, gradients), used once.
    """

    inner: Callable
    update: Callable
    outer: Callable


def _autograd_inner(loss, parameters, order):
    if order == 1:
        parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
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


def _autograd_outer(task_loss, meta):
    meta = {name: p.detach().requires_grad_() for name, p in meta.items()}
    loss, outputs = task_loss(meta)
    slopes = torch.autograd.grad(loss, list(meta.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), outputs.detach(), dict(zip(meta, slopes))


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


def _functional_outer(task_loss, meta):
    loss, pull, outputs = vjp(task_loss, meta, has_aux=True)
    return loss, outputs, pull(torch.ones_like(loss))[0]


def vjp(function, *arguments, has_aux=False):
    """`torch.func.vjp` with a pull-back to use once: unlike `torch.func.grad`, it keeps no graph of itself."""
    result, pull, *aux = torch.func.vjp(function, *arguments, has_aux=has_aux)
    return result, functools.partial(pull, retain_graph=False, create_graph=False), *aux


AUTOGRAD = Calculus(_autograd_inner, _autograd_update, _autograd_outer)  # ordinary tensors
FUNCTIONAL = Calculus(
    _functional_inner, _functional_update, _functional_outer
)  # under vmap and other function transforms


def recomputed_gradients(step, loss, meta, start, weights):
    """The gradients of Σ_k w_k loss(θ'_k), with each inner step recomputed when its turn comes in the backward pass.

    Walking back from the last step, v = ∂loss/∂θ'_k is multiplied by the transposed Jacobian of one step, I - αH,
    whose graph is the only one alive: memory for one step, whatever their number.

    Args:
        step: (meta, adapted, number) -> adapted after that step.
        loss: (meta, adapted, steps taken) -> (loss, outputs).
        meta, start: the meta-parameters, and θ'_0 among them.
        weights: w_0 to w_K.
    """
    path = [{name: p.detach() for name, p in start.items()}]
    for number in range(len(weights) - 1):
        path.append({name: p.detach() for name, p in step(meta, path[-1], number).items()})
    total, outputs = 0.0, None
    gradients = {name: torch.zeros_like(p) for name, p in meta.items()}
    pulled = {name: torch.zeros_like(p) for name, p in start.items()}  # v
    for steps_taken in reversed(range(len(weights))):
        if weights[steps_taken]:
            graded = functools.partial(loss, steps_taken=steps_taken)
            value, pull, seen = vjp(graded, meta, path[steps_taken], has_aux=True)
            outputs = seen if outputs is None else outputs
            total = total + weights[steps_taken] * value
            to_meta, to_adapted = pull(torch.full_like(value, weights[steps_taken]))
            gradients, pulled = _sum(gradients, to_meta), _sum(pulled, to_adapted)
        if steps_taken > 0:
            _, pull = vjp(functools.partial(step, number=steps_taken - 1), meta, path[steps_taken - 1])
            to_meta, pulled = pull(pulled)
            gradients = _sum(gradients, to_meta)
    return total, outputs, gradients | _sum({name: gradients[name] for name in pulled}, pulled)


def _sum(some, others):
    return {name: value + others[name] for name, value in some.items()}


# Tasks. `one_task(module, task, calculus)` returns a dictionary of tensors.


def map_over_tasks(one_task, module, batch, backend):
    """{name: (tasks, ...)}: the results of every task, stacked."""
    if backend == "vmap":
        return _vmap(one_task, module, batch)
    results = list(_one_by_one(one_task, module, batch, backend))
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


def mean_over_tasks(one_task, module, batch, backend):
    """{name: mean over the tasks}; in a loop only the sum is kept."""
    if backend == "vmap":
        return {name: value.mean(0) for name, value in _vmap(one_task, module, batch).items()}
    total = None
    for result in _one_by_one(one_task, module, batch, backend):
        total = result if total is None else _sum(total, result)
    return {name: value / len(batch[0]) for name, value in total.items()}


def _vmap(one_task, module, batch):
    # Differentiating inside vmap, not through it: the other order is slightly wrong for F.batch_norm, whose
    # batching rule takes the saved mean and deviation as constants.
    function = lambda *task: one_task(module, task, FUNCTIONAL)  # noqa: E731
    return torch.func.vmap(function, randomness="different")(*batch)


def _one_by_one(one_task, module, batch, backend):
    tasks = list(zip(*batch))
    if backend == "loop" or len(tasks) == 1:
        for task in tasks:
            yield one_task(module, task, AUTOGRAD)
        return
    # functional_call swaps a module's parameters while it runs, so each thread needs a module of its own.
    workers = min(torch.get_num_threads(), len(tasks))
    modules = queue.SimpleQueue()
    for _ in range(workers):
        modules.put(copy.deepcopy(module))

    def in_thread(task):
        own = modules.get()
        try:
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
