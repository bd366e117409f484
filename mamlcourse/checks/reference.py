"""What the reference answers of several exercises are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .judge import uniform

Tensors = dict[str, Tensor]
ONE_BY_ONE = (
    "Compute all gradients before you update any tensor: here each tensor moved before the gradient of the next was "
    "computed."
)


def sgd_step(parameters: Tensors, grads: Tensors, lr: float) -> Tensors:
    """New parameters after one step of gradient descent."""
    return {name: p - lr * grads[name] for name, p in parameters.items()}


def vjp(adapted: Tensors, weights: Tensors, inputs: list[Tensor]) -> list[Tensor]:
    """The vector-Jacobian product of adapted parameters with these weights, for each input; zeros without a graph."""
    weighted = sum((weights[name] * p).sum() for name, p in adapted.items())
    if not weighted.requires_grad:
        return [torch.zeros_like(p) for p in inputs]
    return list(torch.autograd.grad(weighted, inputs, allow_unused=True, materialize_grads=True))


class Coupled:
    """A loss of named tensors for which the gradient of every element depends on all the others, and not linearly.

    With u all elements minus a goal it is u'Au/2 + 0.02 sum(u^4); gradient and Hessian are known in closed form. Where
    tensors are separate, the order of steps and of updates could not be seen.

    Attributes:
        graph: whether somebody has computed its gradient with a graph (create_graph=True) so far.
    """

    def __init__(self, generator: torch.Generator, shapes: dict[str, tuple]):
        self.shapes, self.graph = shapes, False
        size = sum(math.prod(shape) for shape in shapes.values())
        self.goal = uniform(generator, size, low=1, high=2)
        self.matrix = spd(generator, size)

    def __call__(self, parameters: Tensors) -> Tensor:
        off = self._watched(self.flat(parameters)) - self.goal
        return off @ self.matrix @ off / 2 + 0.02 * (off**4).sum()

    def initialisation(self, generator: torch.Generator) -> Tensors:
        return {name: uniform(generator, *shape).requires_grad_() for name, shape in self.shapes.items()}

    def grads(self, parameters: Tensors) -> Tensors:
        off = self.flat(parameters) - self.goal
        return self.named(self.matrix @ off + 0.08 * off**3)

    def hessian(self, parameters: Tensors) -> Tensor:
        """The matrix, of the elements in the order of `flat`."""
        return self.matrix + torch.diag(0.24 * (self.flat(parameters) - self.goal) ** 2)

    def flat(self, parameters: Tensors) -> Tensor:
        return torch.cat([parameters[name].reshape(-1) for name in self.shapes])

    def named(self, vector: Tensor) -> Tensors:
        parts = vector.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts)}

    def _watched(self, flat: Tensor) -> Tensor:
        # While a graph of the gradient is built, autograd records during the backward pass, which a hook sees. In
        # torch.func it always records; there the graph is one of the tensor below the transform.
        below = (
            torch._C._functorch.get_unwrapped(flat) if torch._C._functorch.is_functorch_wrapped_tensor(flat) else None
        )
        if below is not None:
            self.graph = self.graph or below.requires_grad
        elif flat.requires_grad:
            flat.register_hook(self._notice)
        return flat

    def _notice(self, grad: Tensor) -> None:
        self.graph = self.graph or torch.is_grad_enabled()


def one_by_one(loss, parameters: Tensors, lr_at, create_graph: bool, steps: int = 1) -> Tensors:
    """Each tensor moves before the gradient of the next one is computed: a known mistake.

    Args:
        lr_at: (name, number of the step) -> learning rate.
        create_graph: with a graph the tensors that have moved depend on the others, and the gradient sees that.
    """
    moved = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    for step in range(steps):
        for name in parameters:
            (grad,) = torch.autograd.grad(loss(moved), moved[name], create_graph=create_graph)
            moved[name] = moved[name] - lr_at(name, step) * grad
    return {name: p.detach() for name, p in moved.items()}


def spd(generator: torch.Generator, size: int) -> Tensor:
    """A symmetric, positive definite matrix in which no element is zero."""
    half = uniform(generator, size, size)
    return 1.5 * half @ half.T / size + 0.5 * torch.eye(size)


def first_order_advice(built: bool) -> str:
    """What to do about a second-order gradient that came out first order, by whether the graph was built at all."""
    if built:
        return (
            "Leave the inner gradients attached: they were computed with create_graph=True, but then detached, by "
            "detach(), .data, .item() or no_grad()"
        )
    return "Compute the inner gradients with create_graph=True: the graph of the inner step was not built"
