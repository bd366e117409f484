"""Exercises 02 and 03: the meta-gradient of a quadratic, and the inner loop on sinusoids."""

from __future__ import annotations

import torch

from .judge import CheckFailed, Untouched, agree, call, check, compare, fresh, uniform, whole


@check
def by_hand(meta_gradient) -> None:
    """Exercise 02, part 1: meta_gradient(theta, H, a, G, b, alpha), of one step, from matrices alone."""
    generator = fresh()
    for size in (2, whole(generator, 3, 5)):
        theta, a, b = (uniform(generator, size, low=-3, high=3) for _ in range(3))
        H, G = (_curvature(generator, size) for _ in range(2))
        alpha = float(uniform(generator, low=0.1, high=0.3))
        seen = call(meta_gradient, theta.clone(), H.clone(), a.clone(), G.clone(), b.clone(), alpha)
        # By differences instead of the formula: the exam is a quadratic in the start, so central ones are exact.
        expected = _central_differences(lambda t: _exam(t - alpha * H @ (t - a), G, b), theta)  # noqa: B023
        after, identity = theta - alpha * H @ (theta - a), torch.eye(size, dtype=torch.float64)
        slope, at_start = G @ (after - b), G @ (theta - b)
        factor = identity - alpha * H
        compare("The meta-gradient", seen, expected, (
            (slope,
             "This is the first-order (FOMAML) gradient: the factor (I - alpha H) that carries it back to the start "
             "is missing."),
            (at_start,
             "This is the query gradient at the start: take the inner step first, the query loss grades what comes "
             "after it."),
            (factor @ at_start,
             "The factor is right, but the query gradient must be taken after the step, at theta', not at the start."),
            ((identity + alpha * H) @ slope,
             "The factor is (I + alpha H), but a step goes downhill: its derivative has a minus."),
            ((identity + alpha * H) @ (G @ (theta + alpha * H @ (theta - a) - b)),
             "The inner step goes uphill: theta' is theta minus alpha times the support gradient."),
            ((identity - H) @ slope, "The inner rate is missing in the factor: it is (I - alpha H), not (I - H)."),
            ((identity - alpha * G) @ slope,
             "The factor holds G, the query loss's curvature, but the step was taken on the support loss: it needs H."),
            (factor @ (G @ (theta - alpha * H @ theta - b)),
             "The support loss is lowest at a, not at zero: its gradient is H (theta - a)."),
            (factor @ (G @ after), "The query loss is lowest at b, not at zero: its gradient is G (theta' - b)."),
            (torch.diag(factor) * slope,
             "Only the diagonal of (I - alpha H) was used: multiply by the matrix with @, not entry by entry with *."),
            (-expected, "The sign is the opposite: the gradient points uphill, whoever descends subtracts it."),
        ))  # fmt: skip


@check
def by_autograd(meta_gradient) -> None:
    """Exercise 02, part 2: meta_gradient(theta, support_loss, query_loss, alpha, steps), of any losses."""
    generator = fresh()
    for steps in (1, 3):
        _by_autograd(meta_gradient, generator, steps)


def _by_autograd(meta_gradient, generator, steps):
    size, bend = 3, 0.05
    theta, a, b = (uniform(generator, size, low=-2, high=2) for _ in range(3))
    H, G = (_curvature(generator, size) for _ in range(2))
    alpha = float(uniform(generator, low=0.08, high=0.15))

    def support_loss(t):
        return (t - a) @ H @ (t - a) / 2 + bend * ((t - a) ** 4).sum()

    def query_loss(t):
        return _exam(t, G, b)

    given = {"theta": theta.clone()}
    untouched = Untouched(given)
    seen = call(meta_gradient, given["theta"], support_loss, query_loss, alpha, steps)
    untouched.check()

    def slope(t):  # worked out on paper, as are the Hessians: no autograd
        return H @ (t - a) + 4 * bend * (t - a) ** 3

    identity, product, point, once = torch.eye(size, dtype=torch.float64), None, theta, theta - alpha * slope(theta)
    for _ in range(steps):
        factor = identity - alpha * (H + torch.diag(12 * bend * (point - a) ** 2))
        product = factor if product is None else product @ factor
        point = point - alpha * slope(point)
    first_order = G @ (point - b)
    first_factor = identity - alpha * (H + torch.diag(12 * bend * (theta - a) ** 2))
    mistakes = [
        (first_order,
         "This is the FOMAML gradient: did the graph of the inner step get lost? Autograd needs create_graph=True "
         "there, and no detach()."),
        (G @ (theta - b), "This is the query gradient at the start: the query loss must see the adapted parameters."),
        (point, "These are the adapted parameters, but the gradient of their query loss for the start is asked for."),
        (query_loss(point).reshape(()), "This is the query loss, but its gradient for the start is asked for."),
        (-(product @ first_order), "The sign is the opposite: return the gradient, not the direction of descent."),
    ]  # fmt: skip
    frozen = theta - steps * alpha * slope(theta)
    frozen_factor = identity - steps * (identity - first_factor)
    if steps > 1:
        mistakes += [
            (frozen_factor @ (G @ (frozen - b)),
             "Every step used the slope at the start: work the support gradient out anew after each step."),
        ]  # fmt: skip
    mistakes += [(first_factor @ (G @ (once - b)), f"Only one inner step was taken, but steps is {steps}.")]
    further = identity - alpha * (H + torch.diag(12 * bend * (point - a) ** 2))
    mistakes += [
        (product @ further @ (G @ (point - alpha * slope(point) - b)), f"One inner step too many: steps is {steps}."),
    ]
    up, rise = theta, identity
    for _ in range(steps):
        rise = rise @ (identity + alpha * (H + torch.diag(12 * bend * (up - a) ** 2)))
        up = up + alpha * slope(up)
    mistakes += [(rise @ (G @ (up - b)), "The inner steps go uphill: subtract alpha times the support gradient.")]
    compare("The meta-gradient", seen, product @ first_order, mistakes)


def _curvature(generator, size):
    half = uniform(generator, size, size)
    return half @ half.T + 0.5 * torch.eye(size, dtype=torch.float64)


def _exam(theta, G, b):
    return (theta - b) @ G @ (theta - b) / 2


def _central_differences(function, point, width=1e-3):
    shifts = width * torch.eye(len(point), dtype=torch.float64)
    return torch.stack([(function(point + s) - function(point - s)) / (2 * width) for s in shifts])


# Exercise 03. The reference is a network with two hidden layers whose gradient is written out by hand.

NAMES = ("features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias", "head.weight", "head.bias")


def _network(generator, hidden=7):
    shapes = ((hidden, 1), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,))
    return {name: uniform(generator, *shape) for name, shape in zip(NAMES, shapes)}


def _slopes(parameters, x, y):
    """The gradient of the mean squared error, by the chain rule layer by layer."""
    W1, b1, W2, b2, W3, b3 = (parameters[name] for name in NAMES)
    one = torch.relu(x @ W1.T + b1)
    two = torch.relu(one @ W2.T + b2)
    error = 2 * (two @ W3.T + b3 - y) / len(x)
    back_two = error @ W3 * (two > 0)
    back_one = back_two @ W2 * (one > 0)
    values = (back_one.T @ x, back_one.sum(0), back_two.T @ one, back_two.sum(0), error.T @ two, error.sum(0))
    return dict(zip(NAMES, values))


def _moved(parameters, slopes, alpha):
    return {name: p - alpha * slopes[name] for name, p in parameters.items()}


def _path(parameters, x, y, steps, alpha):
    for _ in range(steps):
        parameters = _moved(parameters, _slopes(parameters, x, y), alpha)
    return parameters


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
        points = whole(generator, 5, 9)
        x, y = uniform(generator, points, 1, low=-3, high=3), uniform(generator, points, 1, low=-2, high=2)
        alpha = float(uniform(generator, low=0.02, high=0.05))
        start = {name: p.requires_grad_() for name, p in _network(generator).items()}
        given = dict(start)
        untouched = Untouched(given)
        seen = adapt(given, x, y, steps, alpha)
        untouched.check()
        constant = {name: p.detach() for name, p in start.items()}
        _judge_values(seen, constant, x, y, steps, alpha)
        if steps > 0:
            _judge_graph(seen, start, x, y, steps, alpha, generator)


def _judge_values(seen, start, x, y, steps, alpha):
    slopes, once = _slopes(start, x, y), _path(start, x, y, 1, alpha)
    uphill = _path(start, x, y, steps, -alpha)
    mistakes = [(slopes, "These are the gradients, but the parameters after the step are asked for.")]
    if steps == 0:
        mistakes += [(once, "With steps=0 nothing may move, but one step was taken.")]
    else:
        mistakes += [
            (start, "The parameters came back as they were: the new ones must be returned, after the step."),
            (once, f"Only one step was taken, but steps is {steps}: each step goes on from the result of the last."),
            (_path(start, x, y, steps + 1, alpha), f"One step too many was taken: steps is {steps}."),
            (uphill, "The steps go uphill: subtract alpha times the gradient."),
            (_moved(start, slopes, steps * alpha),
             "Every step used the slope at the start: work the gradient out anew after each step."),
            (_path(start, x, y, steps, len(x) * alpha),
             f"The steps are {len(x)} times too long for {len(x)} points: the loss must be the mean squared error, "
             "not the sum."),
            (_moved(start, slopes, 1.0), "The inner rate was not used: multiply the gradient by alpha."),
        ]  # fmt: skip
    compare("The adapted parameters", seen, _path(start, x, y, steps, alpha), mistakes)


def _judge_graph(seen, start, x, y, steps, alpha, generator):
    """The adapted parameters must still depend on the start, to second order."""
    weights = {name: uniform(generator, *p.shape) for name, p in start.items()}

    def graded(adapted):
        return sum((weights[name] * p).sum() for name, p in adapted.items())

    if not all(p.requires_grad for p in seen.values()):
        raise CheckFailed(
            "The numbers are right, but the result is cut off from the start: no gradient can flow back to the "
            "parameters, so leave out detach(), .data and no_grad()."
        )
    back = torch.autograd.grad(graded(seen), list(start.values()), allow_unused=True, materialize_grads=True)
    # The hand-written gradient is ordinary arithmetic, so its derivative needs no graph of a graph.
    twin = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
    exact = torch.autograd.grad(graded(_path(twin, x, y, steps, alpha)), list(twin.values()))
    names = list(start)
    back, exact = dict(zip(names, back)), dict(zip(names, exact))
    if agree(back, {name: torch.zeros_like(p) for name, p in weights.items()}):
        raise CheckFailed("The numbers are right, but the result is cut off from the start: no gradient comes back.")
    compare("The derivative of the adapted parameters with respect to the start", back, exact, (
        (weights,
         "The numbers are right, but this is first order: the graph of the inner step got lost, so MAML would "
         "silently be FOMAML; autograd needs create_graph=True."),
    ))  # fmt: skip
