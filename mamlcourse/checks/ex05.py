"""Exercise 05: the first-order step, and a test that sees whether a graph of the gradient is built."""

from __future__ import annotations

import torch

from .detector import judge_detector
from .judge import CheckFailed, Untouched, call, check, compare, fresh, uniform
from .reference import ONE_BY_ONE, Coupled, one_by_one, sgd_step, vjp

SHAPES = {"weight": (3, 2), "scale": (2,), "bias": (2,)}


@check
def first_order(step) -> None:
    """Exercise 05, part 1: first_order_step(loss, parameters, alpha) -> new parameters, the gradient a constant."""
    generator = fresh()
    loss, alpha = Coupled(generator, SHAPES), float(uniform(generator, low=0.05, high=0.15))
    theta = loss.initialisation(generator)
    given = dict(theta)
    untouched = Untouched(given)
    seen = call(step, loss, given, alpha)
    built = loss.graph
    untouched.check()
    constant = {name: p.detach() for name, p in theta.items()}
    grads = loss.grads(constant)
    compare("The parameters after the step", seen, sgd_step(constant, grads, alpha), (
        (sgd_step(constant, grads, -alpha), "Subtract alpha times the gradient: the step is gradient ascent."),
        (sgd_step(constant, grads, 1.0), "Multiply the gradient by alpha: the inner learning rate was not used."),
        (grads, "Return the parameters after the step: these are the gradients."),
        (constant, "Return the new parameters: they came back as they were."),
        *[(one_by_one(loss, constant, lambda name, step: alpha, graph), ONE_BY_ONE) for graph in (True, False)],
    ))  # fmt: skip
    weights = {name: uniform(generator, *p.shape) for name, p in theta.items()}
    back = dict(zip(theta, vjp(seen, weights, list(theta.values()))))
    curvature = loss.named(alpha * loss.hessian(constant) @ loss.flat(weights))
    compare("The gradient that flows back to the initialisation", back, weights, (
        ({name: torch.zeros_like(w) for name, w in weights.items()},
         "Leave the parameters attached, where only the gradient must be a constant: you detached the parameters, so "
         "no gradient flows back to the initialisation and nothing would be learned."),
        ({name: weights[name] - curvature[name] for name in weights},
         "Make the inner gradient a constant: it is differentiated too (I - alpha H), so this is still MAML."),
        ({name: -curvature[name] for name in weights},
         "Detach the gradient and leave the parameters attached: the wrong half was detached."),
    ))  # fmt: skip
    if built:
        raise CheckFailed(
            "Leave out what asks for a graph (with create_graph=True, or torch.func.grad of tensors that require "
            "gradients): the values are right, but a graph of the gradient was built and discarded, so the time and "
            "memory that FOMAML should save are spent."
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


def _one_with_graph(place):
    def step(loss, parameters, alpha):
        name = list(parameters)[place]
        grads = _grads(loss, parameters) | {name: _grads(loss, parameters, create_graph=True)[name]}
        return sgd_step(parameters, _detached(grads), alpha), grads

    return step


STEPS = {  # version: (does it build a graph, the function)
    "plain": (False, _plain),
    "copies": (False, _from_copies),
    "graph": (True, _with_graph),
    "end": (True, _detached_at_the_end),
    "first": (True, _one_with_graph(0)),
    "middle": (True, _one_with_graph(1)),
    "last": (True, _one_with_graph(-1)),
    "maml": (True, _maml),
}
LOOK_AT_ALL = "Look at all of the gradients: it says False where only {} of the gradients has a graph."
MESSAGES = {
    ("graph", "end", "first", "middle", "last"):
    "Look at grad_fn of the gradients instead of at values: only MAML itself was caught, as a graph that is built and "
    "discarded leaves every value as it is.",
    ("first", "middle", "last"): LOOK_AT_ALL.format("one") + " One is enough, so any(), not all().",
    "plain":
    "Look at the gradients: it says True of a correct first-order step, whose adapted parameters have a grad_fn "
    "because they depend on the initialisation.",
    "copies":
    "Look at grad_fn of the gradients alone: it says True of a correct first-order step that takes its gradients from "
    "detached copies.",
    "graph":
    "Look at the gradients as autograd gave them: it says False of a step with create_graph=True whose gradients are "
    "detached where they are used.",
    "end":
    "Look at the gradients, not at the adapted parameters: it says False of a step with create_graph=True that "
    "detaches the parameters at the end.",
    "first": LOOK_AT_ALL.format("the first"),
    "middle": LOOK_AT_ALL.format("the middle one"),
    "last": LOOK_AT_ALL.format("the last"),
    "maml": "Look at grad_fn: it says False of MAML's own step, whose gradients have a graph.",
}  # fmt: skip


@check
def builds_a_graph(detector) -> None:
    """Exercise 05, part 2: builds_a_graph(step, loss, parameters, alpha) -> bool."""
    generator = fresh()

    def ask(step):
        loss = Coupled(generator, SHAPES)
        theta = loss.initialisation(generator)
        untouched = Untouched(theta)
        answer = call(detector, step, loss, dict(theta), 0.1)
        untouched.check()
        return answer

    judge_detector(ask, STEPS, MESSAGES)


@check
def left_out(function) -> None:
    """Exercise 05, bonus: left_out(loss, parameters, vector, alpha) -> alpha H v, what FOMAML leaves out."""
    generator = fresh()
    loss, alpha = Coupled(generator, SHAPES), float(uniform(generator, low=0.05, high=0.15))
    theta = loss.initialisation(generator)
    vector = {name: uniform(generator, *p.shape) for name, p in theta.items()}
    untouched = Untouched(theta)
    seen = call(function, loss, dict(theta), dict(vector), alpha)
    untouched.check()
    constant = {name: p.detach() for name, p in theta.items()}
    curvature = loss.hessian(constant) @ loss.flat(vector)
    compare("What FOMAML leaves out", seen, loss.named(alpha * curvature), (
        (loss.named(curvature), "Multiply by alpha: this is H v."),
        (loss.named(-alpha * curvature), "Leave the sign out: MAML subtracts alpha H v, and you return alpha H v."),
        (loss.named(loss.flat(vector) - alpha * curvature), "Return alpha H v alone: this is (I - alpha H) v."),
        (loss.named(alpha * loss.hessian(constant).diag() * loss.flat(vector)),
         "Let all tensors count: only the diagonal of H was used."),
        (loss.named(alpha * loss.hessian(constant).sum(0)),
         "Weight the gradients by the vector before you differentiate them again: this is the Hessian's row sums."),
    ))  # fmt: skip
