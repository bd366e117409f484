"""Exercise 05: the first-order step, and a test that sees whether a graph of the gradient is built."""

from __future__ import annotations

import torch

from .detector import judge_detector
from .judge import CheckFailed, Untouched, call, check, compare, fresh, uniform
from .reference import sgd_step, vjp


class _Probe:
    """A quartic loss that notices when its gradient is taken with a graph.

    With create_graph=True autograd keeps recording during the backward pass, and a hook can see that.
    """

    def __init__(self, goal, stiffness):
        self.goal, self.stiffness, self.graph = goal, stiffness, False

    def __call__(self, parameters):
        total = 0.0
        for name, p in parameters.items():
            seen = p * 1.0
            if seen.requires_grad and not _function_transform(seen):
                seen.register_hook(self.notice)
            off = seen - self.goal[name]
            total = total + self.stiffness * (off**2).sum() / 2 + 0.1 * (off**4).sum()
        return total

    def notice(self, grad):
        self.graph = self.graph or torch.is_grad_enabled()

    def grads(self, parameters):
        off = {name: p - self.goal[name] for name, p in parameters.items()}
        return {name: self.stiffness * d + 0.4 * d**3 for name, d in off.items()}

    def hessian(self, parameters):
        """Its diagonal; the rest is zero."""
        off = {name: p - self.goal[name] for name, p in parameters.items()}
        return {name: self.stiffness + 1.2 * d**2 for name, d in off.items()}


def _function_transform(tensor) -> bool:
    """Whether the tensor lives inside torch.func.grad, which always records during the backward pass."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return True
    return False


def _probe(generator):
    shapes = {"weight": (3, 2), "bias": (2,)}
    theta = {name: uniform(generator, *shape).requires_grad_() for name, shape in shapes.items()}
    goal = {name: uniform(generator, *shape, low=1.5, high=2.5) for name, shape in shapes.items()}
    return theta, _Probe(goal, float(uniform(generator, low=0.5, high=1.5)))


@check
def first_order(step) -> None:
    """Exercise 05, part 1: first_order_step(loss, parameters, alpha) -> new parameters, the gradient a constant."""
    generator = fresh()
    theta, loss = _probe(generator)
    alpha = float(uniform(generator, low=0.05, high=0.15))
    given = dict(theta)
    untouched = Untouched(given)
    seen = call(step, loss, given, alpha)
    untouched.check()
    constant = {name: p.detach() for name, p in theta.items()}
    grads = loss.grads(constant)
    compare("The parameters after the step", seen, sgd_step(constant, grads, alpha), (
        (sgd_step(constant, grads, -alpha), "The step is gradient ascent: subtract alpha times the gradient."),
        (sgd_step(constant, grads, 1.0), "The inner learning rate was not used: multiply the gradient by alpha."),
        (grads, "These are the gradients, but the parameters after the step are asked for."),
        (constant, "The parameters came back as they were."),
    ))  # fmt: skip
    weights = {name: uniform(generator, *p.shape) for name, p in theta.items()}
    back = dict(zip(theta, vjp(seen, weights, list(theta.values()))))
    hessian = loss.hessian(constant)
    compare("The gradient that comes back to the initialisation", back, weights, (
        ({name: torch.zeros_like(w) for name, w in weights.items()},
         "No gradient comes back to the initialisation: you cut off the parameters, where only the gradient must be a "
         "constant; the network's .grad would stay empty and nothing would be learned."),
        ({name: w * (1 - alpha * hessian[name]) for name, w in weights.items()},
         "This is still MAML: the inner gradient is differentiated too (I - alpha H), so make it a constant."),
        ({name: -alpha * hessian[name] * w for name, w in weights.items()},
         "The wrong half was detached: the gradient must be constant, and the parameters stay connected."),
    ))  # fmt: skip
    if loss.graph:
        raise CheckFailed(
            "The values are right, but the gradient was computed with create_graph=True: a graph of the gradient was "
            "built and thrown away, so the time and memory that FOMAML should save are spent."
        )


def _grads(loss, parameters, create_graph=False):
    found = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=create_graph)
    return dict(zip(parameters, found))


def _detached(tensors):
    return {name: t.detach() for name, t in tensors.items()}


def _plain(loss, parameters, alpha):
    grads = _grads(loss, parameters)
    return sgd_step(parameters, grads, alpha), grads


def _with_graph(loss, parameters, alpha):
    grads = _grads(loss, parameters, create_graph=True)
    return sgd_step(parameters, _detached(grads), alpha), grads


def _maml(loss, parameters, alpha):
    grads = _grads(loss, parameters, create_graph=True)
    return sgd_step(parameters, grads, alpha), grads


def _from_copies(loss, parameters, alpha):
    grads = _grads(loss, {name: p.clone().requires_grad_() for name, p in _detached(parameters).items()})
    return _detached(sgd_step(parameters, grads, alpha)), grads


def _detached_at_the_end(loss, parameters, alpha):
    adapted, grads = _with_graph(loss, parameters, alpha)
    return {name: p.requires_grad_() for name, p in _detached(adapted).items()}, grads


def _last_with_graph(loss, parameters, alpha):
    last = list(parameters)[-1]
    grads = _grads(loss, parameters) | {last: _grads(loss, parameters, create_graph=True)[last]}
    return sgd_step(parameters, _detached(grads), alpha), grads


STEPS = {  # version: (does it build a graph, the function)
    "plain": (False, _plain),
    "copies": (False, _from_copies),
    "graph": (True, _with_graph),
    "end": (True, _detached_at_the_end),
    "last": (True, _last_with_graph),
    "maml": (True, _maml),
}
MESSAGES = {
    ("graph", "end", "last"):
    "Only MAML itself was caught: a graph that is built and thrown away leaves every value as it is, so look at "
    "grad_fn of the gradients instead of at values.",
    "plain":
    "It says True of a correct first-order step: adapted parameters have a grad_fn because they depend on the "
    "initialisation, so look at the gradients.",
    "copies": "It says True of a correct first-order step that takes its gradients from detached copies.",
    "graph": "It says False of a step with create_graph=True whose gradients are detached where they are used.",
    "end":
    "It says False of a step with create_graph=True that detaches the parameters at the end: look at the gradients, "
    "not at the adapted parameters.",
    "last": "It says False where only the last of the gradients has a graph: look at all of them.",
    "maml": "It says False of MAML's own step, whose gradients have a graph.",
}  # fmt: skip


@check
def builds_a_graph(detector) -> None:
    """Exercise 05, part 2: builds_a_graph(step, loss, parameters, alpha) -> bool."""
    generator = fresh()

    def ask(step):
        theta, loss = _probe(generator)
        return call(detector, step, loss, theta, 0.1)

    judge_detector(ask, STEPS, MESSAGES)
