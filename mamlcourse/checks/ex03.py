"""Exercise 03: the inner loop on sinusoids, against a network whose gradient is written out by hand."""

from __future__ import annotations

import torch

from ..models import MLP
from .judge import CheckFailed, Untouched, agree, call, check, compare, fresh, integer, uniform
from .reference import ONE_BY_ONE, first_order_advice, one_by_one, sgd_step, vjp

USE_PREDICT = "in predict(parameters, x)"
NAMES = ("features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias", "head.weight", "head.bias")


@check
def inner_step(step) -> None:
    """Exercise 03, part 1: inner_step(parameters, x, y, alpha) -> new parameters after one step."""
    _judge_inner(lambda parameters, x, y, steps, alpha: call(step, parameters, x, y, alpha), (1, 1))


@check
def inner_loop(adapt) -> None:
    """Exercise 03, part 2: adapt(parameters, x, y, steps, alpha) -> new parameters after that many steps."""
    _judge_inner(lambda *arguments: call(adapt, *arguments), (integer(fresh(), 3, 5), 1, 0))


def _judge_inner(adapt, all_steps):
    generator = fresh()
    for steps in all_steps:
        points = integer(generator, 5, 9)
        x, y = uniform(generator, points, 1, low=-3, high=3), uniform(generator, points, 1, low=-2, high=2)
        alpha = float(uniform(generator, low=0.02, high=0.05))
        theta = {name: p.requires_grad_() for name, p in _network(generator).items()}
        while not _moderate(_adapted({name: p.detach() for name, p in theta.items()}, x, y, steps, -alpha)):
            alpha /= 2  # gradient ascent that overflows would not be recognised
        given = dict(theta)
        untouched, built = Untouched(given), []
        for p in theta.values():  # a hook sees whether autograd records during the backward pass: create_graph=True
            p.register_hook(lambda grad, built=built: built.append(torch.is_grad_enabled()))
        seen = adapt(given, x, y, steps, alpha)
        untouched.check()
        _judge_network(seen, theta)
        constant = {name: p.detach() for name, p in theta.items()}
        _judge_values(seen, constant, x, y, steps, alpha)
        if steps > 0:
            _judge_graph(seen, theta, x, y, steps, alpha, generator, any(built))


def _judge_network(seen, theta):
    """A network of another width was passed: whoever uses the notebook's own parameters gives that away."""
    with torch.random.fork_rng(devices=[]):
        own = {name: p.shape for name, p in MLP().named_parameters()}
    if isinstance(seen, dict) and any(getattr(p, "shape", None) == own.get(n) != theta[n].shape for n, p in seen.items()
                                      if n in theta):  # fmt: skip
        raise CheckFailed(f"Use the parameters that you are given, {USE_PREDICT}: these are those of `network` itself.")


def _network(generator, hidden=7):
    shapes = ((hidden, 1), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,))
    return {name: uniform(generator, *shape) for name, shape in zip(NAMES, shapes)}


def _layers(parameters, x):
    W1, b1, W2, b2, W3, b3 = (parameters[name] for name in NAMES)
    one = torch.relu(x @ W1.T + b1)
    two = torch.relu(one @ W2.T + b2)
    return one, two, two @ W3.T + b3


def _grads(parameters, x, y):
    """The gradient of the mean squared error, by the chain rule layer by layer."""
    W2, W3 = parameters["features.2.weight"], parameters["head.weight"]
    one, two, outputs = _layers(parameters, x)
    error = 2 * (outputs - y) / len(x)
    back_two = error @ W3 * (two > 0)
    back_one = back_two @ W2 * (one > 0)
    values = (back_one.T @ x, back_one.sum(0), back_two.T @ one, back_two.sum(0), error.T @ two, error.sum(0))
    return dict(zip(NAMES, values))


def _adapted(parameters, x, y, steps, alpha):
    for _ in range(steps):
        parameters = sgd_step(parameters, _grads(parameters, x, y), alpha)
    return parameters


def _moderate(parameters):
    return all((p.abs() < 100).all() for p in parameters.values())


def _judge_values(seen, theta, x, y, steps, alpha):
    grads, once = _grads(theta, x, y), _adapted(theta, x, y, 1, alpha)
    mistakes = [(grads, "Return the parameters after the step: these are the gradients.")]
    if steps == 0:
        mistakes += [(once, "Leave the parameters as they are with steps=0: one step was taken.")]
    else:
        mistakes += [
            (theta, "Return the new parameters, after the step: they came back as they were."),
            (once, f"Go on from the result of the last step: expected {steps} steps, got 1."),
            (_adapted(theta, x, y, steps + 1, alpha), f"Take {steps} steps: got {steps + 1}, one too many."),
            (_adapted(theta, x, y, steps, -alpha),
             "Subtract alpha times the gradient: the steps are gradient ascent."),
            (sgd_step(theta, grads, steps * alpha),
             "Compute the gradient anew after each step: every step used the gradient at the initialisation."),
            (_adapted(theta, x, y, steps, len(x) * alpha),
             f"Use the mean squared error, not the sum: the steps are {len(x)} times too long for {len(x)} points."),
            (sgd_step(theta, grads, 1.0),
             "Multiply the gradient by alpha: the inner learning rate was not used."),
            *[(_one_by_one(theta, x, y, steps, alpha, graph), ONE_BY_ONE) for graph in (steps == 1, False)],
        ]  # fmt: skip
    compare("The adapted parameters", seen, _adapted(theta, x, y, steps, alpha), mistakes)


def _one_by_one(parameters, x, y, steps, alpha, create_graph):
    def loss(parameters):
        return ((_layers(parameters, x)[2] - y) ** 2).mean()

    return one_by_one(loss, parameters, lambda name, step: alpha, create_graph, steps)


def _judge_graph(seen, theta, x, y, steps, alpha, generator, built):
    """The adapted parameters must still depend on the initialisation, to second order."""
    weights = {name: uniform(generator, *p.shape) for name, p in theta.items()}
    nothing = {name: torch.zeros_like(p) for name, p in weights.items()}
    detached = (
        "Leave out detach(), .data and no_grad(): the values are right, but the result is detached from the "
        "initialisation"
    )
    if not all(p.requires_grad for p in seen.values()):
        raise CheckFailed(f"{detached}, and no gradient can flow back to the parameters.")
    back = dict(zip(theta, vjp(seen, weights, list(theta.values()))))
    # The hand-written gradient is ordinary arithmetic, so its derivative needs no graph of a graph.
    twin = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
    exact = dict(zip(theta, vjp(_adapted(twin, x, y, steps, alpha), weights, list(twin.values()))))
    if agree(back, nothing):
        raise CheckFailed(f"{detached}: no gradient flows back.")
    compare("The derivative of the adapted parameters with respect to the initialisation", back, exact, (
        (weights,
         f"{first_order_advice(built)}, so the values are right, but this is first order, and MAML would silently be "
         "FOMAML."),
    ))  # fmt: skip


@check
def head_alone(adapt_head) -> None:
    """Exercise 03, bonus: adapt_head(parameters, x, y, steps, alpha), which moves the tensors of the head alone."""
    generator = fresh()
    for steps in (1, integer(generator, 3, 5)):
        x, y = uniform(generator, 6, 1, low=-3, high=3), uniform(generator, 6, 1, low=-2, high=2)
        theta = {name: p.requires_grad_() for name, p in _network(generator).items()}
        untouched = Untouched(theta)
        seen = call(adapt_head, dict(theta), x, y, steps, 0.1)
        untouched.check()
        expected = constant = {name: p.detach() for name, p in theta.items()}
        for _ in range(steps):
            grads = _grads(expected, x, y)
            expected = {n: p - 0.1 * grads[n] if n.startswith("head.") else p for n, p in expected.items()}
        compare("The adapted parameters", seen, expected, (
            (_adapted(constant, x, y, steps, 0.1), "Move the tensors of the head alone: all of them moved."),
            (constant, "Move the tensors whose names begin with 'head.': none moved."),
            ({n: p if n.startswith("head.") else _adapted(constant, x, y, steps, 0.1)[n] for n, p in constant.items()},
             "Move the head and leave the features as they are: it was the other way round."),
        ))  # fmt: skip
        weights = {name: uniform(generator, *p.shape) for name, p in theta.items()}
        if not any(g.any() for g in vjp({n: seen[n] for n in NAMES[4:]}, weights, list(theta.values())[:4])):
            raise CheckFailed(
                f"{first_order_advice(True)}: the adapted head depends on the features too, through the gradients."
            )
