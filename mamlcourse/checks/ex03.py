"""Exercise 03: the inner loop on sinusoids, against a network whose gradient is written out by hand."""

from __future__ import annotations

import torch

from .judge import CheckFailed, Untouched, agree, call, check, compare, fresh, integer, uniform
from .reference import sgd_step, vjp

NAMES = ("features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias", "head.weight", "head.bias")


@check
def inner_step(step) -> None:
    """Exercise 03, part 1: inner_step(parameters, x, y, alpha) -> new parameters after one step."""
    _judge_inner(lambda parameters, x, y, steps, alpha: call(step, parameters, x, y, alpha), (1, 1))


@check
def inner_loop(adapt) -> None:
    """Exercise 03, part 2: adapt(parameters, x, y, steps, alpha) -> new parameters after that many steps."""
    _judge_inner(lambda *arguments: call(adapt, *arguments), (4, 1, 0))


def _judge_inner(adapt, all_steps):
    generator = fresh()
    for steps in all_steps:
        points = integer(generator, 5, 9)
        x, y = uniform(generator, points, 1, low=-3, high=3), uniform(generator, points, 1, low=-2, high=2)
        alpha = float(uniform(generator, low=0.02, high=0.05))
        theta = {name: p.requires_grad_() for name, p in _network(generator).items()}
        given = dict(theta)
        untouched = Untouched(given)
        seen = adapt(given, x, y, steps, alpha)
        untouched.check()
        constant = {name: p.detach() for name, p in theta.items()}
        _judge_values(seen, constant, x, y, steps, alpha)
        if steps > 0:
            _judge_graph(seen, theta, x, y, steps, alpha, generator)


def _network(generator, hidden=7):
    shapes = ((hidden, 1), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,))
    return {name: uniform(generator, *shape) for name, shape in zip(NAMES, shapes)}


def _grads(parameters, x, y):
    """The gradient of the mean squared error, by the chain rule layer by layer."""
    W1, b1, W2, b2, W3, b3 = (parameters[name] for name in NAMES)
    one = torch.relu(x @ W1.T + b1)
    two = torch.relu(one @ W2.T + b2)
    error = 2 * (two @ W3.T + b3 - y) / len(x)
    back_two = error @ W3 * (two > 0)
    back_one = back_two @ W2 * (one > 0)
    values = (back_one.T @ x, back_one.sum(0), back_two.T @ one, back_two.sum(0), error.T @ two, error.sum(0))
    return dict(zip(NAMES, values))


def _adapted(parameters, x, y, steps, alpha):
    for _ in range(steps):
        parameters = sgd_step(parameters, _grads(parameters, x, y), alpha)
    return parameters


def _judge_values(seen, theta, x, y, steps, alpha):
    grads, once = _grads(theta, x, y), _adapted(theta, x, y, 1, alpha)
    mistakes = [(grads, "These are the gradients, but the parameters after the step are asked for.")]
    if steps == 0:
        mistakes += [(once, "With steps=0 the parameters must stay as they are, but one step was taken.")]
    else:
        mistakes += [
            (theta, "The parameters came back as they were: the new ones must be returned, after the step."),
            (once, f"Expected {steps} steps, got 1: each step goes on from the result of the last."),
            (_adapted(theta, x, y, steps + 1, alpha), f"Expected {steps} steps, got {steps + 1}, one too many."),
            (_adapted(theta, x, y, steps, -alpha),
             "The steps are gradient ascent: subtract alpha times the gradient."),
            (sgd_step(theta, grads, steps * alpha),
             "Every step used the gradient at the initialisation: compute the gradient anew after each step."),
            (_adapted(theta, x, y, steps, len(x) * alpha),
             f"The steps are {len(x)} times too long for {len(x)} points: the loss must be the mean squared error, "
             "not the sum."),
            (sgd_step(theta, grads, 1.0),
             "The inner learning rate was not used: multiply the gradient by alpha."),
        ]  # fmt: skip
    compare("The adapted parameters", seen, _adapted(theta, x, y, steps, alpha), mistakes)


def _judge_graph(seen, theta, x, y, steps, alpha, generator):
    """The adapted parameters must still depend on the initialisation, to second order."""
    weights = {name: uniform(generator, *p.shape) for name, p in theta.items()}
    if not all(p.requires_grad for p in seen.values()):
        raise CheckFailed(
            "The values are right, but the result is cut off from the initialisation: no gradient can flow back to "
            "the parameters, so leave out detach(), .data and no_grad()."
        )
    back = dict(zip(theta, vjp(seen, weights, list(theta.values()))))
    # The hand-written gradient is ordinary arithmetic, so its derivative needs no graph of a graph.
    twin = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
    exact = dict(zip(theta, vjp(_adapted(twin, x, y, steps, alpha), weights, list(twin.values()))))
    if agree(back, {name: torch.zeros_like(p) for name, p in weights.items()}):
        raise CheckFailed(
            "The values are right, but the result is cut off from the initialisation: no gradient comes back."
        )
    compare("The derivative of the adapted parameters with respect to the initialisation", back, exact, (
        (weights,
         "The values are right, but this is first order: the graph of the inner step got lost, so MAML would "
         "silently be FOMAML; autograd needs create_graph=True."),
    ))  # fmt: skip
