"""A meta-gradient in the memory of one inner step: each is recomputed when its turn comes in the backward pass."""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .autodiff import added, detached, zeros_like


def recomputed(inner, meta, task, order: int, weights):
    """(loss, query outputs, gradients) of `InnerLoop.meta_loss`, as differentiating it whole would give them.

    Walking back from the last step, v = ∂loss/∂θ'_k is multiplied by the transposed Jacobian of one step, I - αH,
    whose graph is the only one alive: memory for one step, whatever their number.
    """
    vjp, support, query = inner.autodiff.vjp, (task.support_x, task.support_y), (task.query_x, task.query_y)
    # The way there is the same for either order. A model that draws random numbers draws them again for a step.
    path, states = [], [random_states(task.support_x)]
    for params in inner.adapt(meta, *support, order=1, steps=len(weights) - 1):
        path.append(detached(params))
        states.append(random_states(task.support_x))
    total, outputs, gradients, v = 0.0, None, zeros_like(meta), zeros_like(path[0])
    for k in reversed(range(len(weights))):
        if weights[k]:
            query_loss = lambda meta, params, k=k: inner.query_loss(meta, params, k, *query)  # noqa: E731
            loss, seen, pullback = vjp(query_loss, meta, path[k])
            outputs = seen if outputs is None else outputs
            total = total + weights[k] * loss
            to_meta, to_params = pullback(torch.full_like(loss, weights[k]))
            gradients, v = added(gradients, to_meta), added(v, to_params)
        if k > 0:
            step = lambda meta, params, k=k: (inner.inner_step(meta, params, k - 1, *support, order), ())  # noqa: E731
            with drawing_from(states[k]):
                _, _, pullback = vjp(step, meta, path[k - 1])
            to_meta, v = pullback(v)
            gradients = added(gradients, to_meta)
    with drawing_from(states[0]):
        _, _, pullback = vjp(lambda meta: (inner.initial(meta, *support), ()), meta)
    return total, outputs, added(gradients, pullback(v)[0])


class RandomStates(NamedTuple):
    """The states of PyTorch's random generators; `gpu` is None where there is no GPU, or a CUDA graph is recorded."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device


def random_states(like: Tensor) -> RandomStates:
    """The present states, on the CPU and on the device of a tensor."""
    on_gpu = like.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    return RandomStates(torch.get_rng_state(), torch.cuda.get_rng_state(like.device) if on_gpu else None, like.device)


@contextmanager
def drawing_from(states: RandomStates):
    """Draw random numbers from these states inside, and afterwards go on as if nothing had been drawn."""
    devices = [] if states.gpu is None else [states.device]
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(states.cpu)
        if states.gpu is not None:
            torch.cuda.set_rng_state(states.gpu, states.device)
        yield
