"""Exercise 02: the meta-gradient of a quadratic, by hand and by autograd."""

from __future__ import annotations

import torch

from .judge import Untouched, call, check, compare, fresh, integer, uniform


@check
def by_hand(meta_gradient) -> None:
    """Exercise 02, part 1: meta_gradient(theta, H, a, G, b, alpha), of one step, from matrices alone."""
    generator = fresh()
    for size in (2, integer(generator, 3, 5)):
        theta, a, b = (uniform(generator, size, low=-3, high=3) for _ in range(3))
        H, G = (_hessian(generator, size) for _ in range(2))
        alpha = float(uniform(generator, low=0.1, high=0.3))
        seen = call(meta_gradient, theta.clone(), H.clone(), a.clone(), G.clone(), b.clone(), alpha)
        # The query loss is a quadratic of the initialisation, so central differences are exact; no formula is needed.
        expected = _central_differences(lambda t: _query_loss(t - alpha * H @ (t - a), G, b), theta)  # noqa: B023
        adapted, identity = theta - alpha * H @ (theta - a), torch.eye(size, dtype=torch.float64)
        grad, not_adapted = G @ (adapted - b), G @ (theta - b)
        factor = identity - alpha * H
        compare("The meta-gradient", seen, expected, (
            (grad,
             "This is the first-order (FOMAML) gradient: the factor (I - alpha H), the derivative of theta' with "
             "respect to theta, is missing."),
            (not_adapted,
             "This is the query gradient at theta: take the inner step first, the query loss is evaluated at theta'."),
            (factor @ not_adapted,
             "The factor is right, but the query gradient must be taken after the step, at theta', not at theta."),
            ((identity + alpha * H) @ grad,
             "The factor is (I + alpha H), but a step subtracts the gradient: its derivative has a minus."),
            ((identity + alpha * H) @ (G @ (theta + alpha * H @ (theta - a) - b)),
             "The inner step is gradient ascent: theta' is theta minus alpha times the support gradient."),
            ((identity - H) @ grad,
             "The inner learning rate is missing in the factor: it is (I - alpha H), not (I - H)."),
            ((identity - alpha * G) @ grad,
             "The factor holds G, the query loss's Hessian, but the step was taken on the support loss: it needs H."),
            (factor @ (G @ (theta - alpha * H @ theta - b)),
             "The support loss is lowest at a, not at zero: its gradient is H (theta - a)."),
            (factor @ (G @ adapted), "The query loss is lowest at b, not at zero: its gradient is G (theta' - b)."),
            (torch.diag(factor) * grad,
             "Only the diagonal of (I - alpha H) was used: multiply by the matrix with @, not elementwise with *."),
            (-expected, "The sign is the opposite: the gradient points uphill, and gradient descent subtracts it."),
        ))  # fmt: skip


@check
def by_autograd(meta_gradient) -> None:
    """Exercise 02, part 2: meta_gradient(theta, support_loss, query_loss, alpha, steps), of any losses."""
    generator = fresh()
    for steps in (1, 3):
        _by_autograd(meta_gradient, generator, steps)


def _by_autograd(meta_gradient, generator, steps):
    size, quartic = 3, 0.05
    theta, a, b = (uniform(generator, size, low=-2, high=2) for _ in range(3))
    H, G = (_hessian(generator, size) for _ in range(2))
    alpha = float(uniform(generator, low=0.08, high=0.15))

    def support_loss(t):
        return (t - a) @ H @ (t - a) / 2 + quartic * ((t - a) ** 4).sum()

    def query_loss(t):
        return _query_loss(t, G, b)

    given = {"theta": theta.clone()}
    untouched = Untouched(given)
    seen = call(meta_gradient, given["theta"], support_loss, query_loss, alpha, steps)
    untouched.check()

    def grad(t):  # by hand, as are the Hessians: no autograd
        return H @ (t - a) + 4 * quartic * (t - a) ** 3

    def hessian(t):
        return H + torch.diag(12 * quartic * (t - a) ** 2)

    identity = torch.eye(size, dtype=torch.float64)
    jacobian, adapted = identity, theta
    for _ in range(steps):
        jacobian = jacobian @ (identity - alpha * hessian(adapted))
        adapted = adapted - alpha * grad(adapted)
    first_order = G @ (adapted - b)
    mistakes = [
        (first_order,
         "This is the FOMAML gradient: did the graph of the inner step get lost? Autograd needs create_graph=True "
         "there, and no detach()."),
        (G @ (theta - b), "This is the query gradient at theta: the query loss must see the adapted parameters."),
        (adapted, "These are the adapted parameters, but the gradient of their query loss for theta is asked for."),
        (query_loss(adapted).reshape(()), "This is the query loss, but its gradient for theta is asked for."),
        (-(jacobian @ first_order), "The sign is the opposite: return the gradient, not the direction of descent."),
    ]  # fmt: skip
    if steps > 1:
        frozen = theta - steps * alpha * grad(theta)
        mistakes += [
            ((identity - steps * alpha * hessian(theta)) @ (G @ (frozen - b)),
             "Every step used the gradient at theta: compute the support gradient anew after each step."),
        ]  # fmt: skip
    once = theta - alpha * grad(theta)
    mistakes += [
        ((identity - alpha * hessian(theta)) @ (G @ (once - b)),
         f"The inner steps: expected {steps}, got 1."),
        (jacobian @ (identity - alpha * hessian(adapted)) @ (G @ (adapted - alpha * grad(adapted) - b)),
         f"The inner steps: expected {steps}, got {steps + 1}, one too many."),
    ]  # fmt: skip
    ascended, ascent = theta, identity
    for _ in range(steps):
        ascent = ascent @ (identity + alpha * hessian(ascended))
        ascended = ascended + alpha * grad(ascended)
    mistakes += [
        (ascent @ (G @ (ascended - b)),
         "The inner steps are gradient ascent: subtract alpha times the support gradient."),
    ]  # fmt: skip
    compare("The meta-gradient", seen, jacobian @ first_order, mistakes)


def _hessian(generator, size):
    half = uniform(generator, size, size)
    return half @ half.T + 0.5 * torch.eye(size, dtype=torch.float64)


def _query_loss(theta, G, b):
    return (theta - b) @ G @ (theta - b) / 2


def _central_differences(function, point, width=1e-3):
    shifts = width * torch.eye(len(point), dtype=torch.float64)
    return torch.stack([(function(point + s) - function(point - s)) / (2 * width) for s in shifts])
