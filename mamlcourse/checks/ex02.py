"""Exercise 02: the meta-gradient of a quadratic, by hand and by autograd."""

from __future__ import annotations

import torch

from .judge import Untouched, call, check, compare, fresh, integer, uniform
from .reference import Coupled, first_order_advice, spd


@check
def by_hand(meta_gradient) -> None:
    """Exercise 02, part 1: meta_gradient(theta, H, a, G, b, alpha), of one step, from matrices alone."""
    generator = fresh()
    for size in (2, integer(generator, 3, 5)):
        theta, H, a, G, b, alpha = given = _quadratics(generator, size)
        seen = _called(meta_gradient, given)
        # The query loss is a quadratic of the initialisation, so central differences are exact; no formula is needed.
        expected = _central_differences(given, 1)
        adapted, identity = theta - alpha * H @ (theta - a), torch.eye(size)
        grad, not_adapted = G @ (adapted - b), G @ (theta - b)
        factor = identity - alpha * H
        compare("The meta-gradient", seen, expected, (
            (grad,
             "Multiply by (I - alpha H), the derivative of theta' with respect to theta: without it this is the "
             "first-order (FOMAML) gradient."),
            (not_adapted,
             "Take the inner step first: this is the query gradient at theta, but the query loss is evaluated at "
             "theta'."),
            (factor @ not_adapted,
             "Take the query gradient after the step, at theta', not at theta: the factor is right."),
            ((identity + alpha * H) @ grad,
             "Turn the sign in the factor: a step subtracts the gradient, so its derivative has a minus, I - alpha H."),
            ((identity + alpha * H) @ (G @ (theta + alpha * H @ (theta - a) - b)),
             "Subtract alpha times the support gradient: your inner step is gradient ascent."),
            ((identity - H) @ grad,
             "Put the inner learning rate into the factor: it is (I - alpha H), not (I - H)."),
            ((1 - alpha * H) @ grad,
             "Subtract from the identity matrix, torch.eye(n): 1 - alpha * H subtracts every element of alpha H from "
             "a one, also beside the diagonal."),
            ((identity - alpha * G) @ grad,
             "Use H in the factor, as the step was taken on the support loss: G is the query loss's Hessian."),
            (factor @ (G @ (theta - alpha * H @ theta - b)),
             "Use H (theta - a) as the support gradient: that loss is lowest at a, not at zero."),
            (factor @ (G @ adapted),
             "Use G (theta' - b) as the query gradient: that loss is lowest at b, not at zero."),
            (torch.diag(factor) * grad,
             "Multiply by the matrix with @, not elementwise with *: only the diagonal of (I - alpha H) was used."),
            (-expected, "Turn the sign: the gradient points uphill, and gradient descent subtracts it."),
        ))  # fmt: skip


def _quadratics(generator, size):
    theta, a, b = (uniform(generator, size, low=-3, high=3) for _ in range(3))
    return theta, spd(generator, size), a, spd(generator, size), b, float(uniform(generator, low=0.1, high=0.3))


def _called(meta_gradient, given, *more):
    """The answer for copies of what is given, none of which may be changed."""
    copies = {name: tensor.clone() for name, tensor in zip(("theta", "H", "a", "G", "b"), given)}
    untouched = Untouched(copies)
    seen = call(meta_gradient, *copies.values(), given[-1], *more)
    untouched.check()
    return seen


@check
def by_autograd(meta_gradient) -> None:
    """Exercise 02, part 2: meta_gradient(theta, support_loss, query_loss, alpha, steps), of any losses."""
    generator = fresh()
    for steps in (1, integer(generator, 3, 4), 0):
        _by_autograd(meta_gradient, generator, steps)


def _by_autograd(meta_gradient, generator, steps):
    size = integer(generator, 3, 5)
    support, query = (Coupled(generator, {"theta": (size,)}) for _ in range(2))
    theta = uniform(generator, size)
    alpha = float(uniform(generator, low=0.08, high=0.15))

    def support_loss(t):
        return support({"theta": t})

    def query_loss(t):
        return query({"theta": t})

    given = {"theta": theta.clone()}
    untouched = Untouched(given)
    seen = call(meta_gradient, given["theta"], support_loss, query_loss, alpha, steps)
    untouched.check()

    def grad(t, loss=support):  # by hand, as are the Hessians: no autograd
        return loss.grads({"theta": t})["theta"]

    def after(count, lr=alpha, frozen=False):
        """(the meta-gradient, the parameters) after so many steps: the product of the steps' derivatives."""
        jacobian, adapted, identity = torch.eye(size), theta, torch.eye(size)
        for _ in range(count):
            at = theta if frozen else adapted
            change = lr * support.hessian({"theta": at})
            jacobian = jacobian - change if frozen else jacobian @ (identity - change)
            adapted = adapted - lr * grad(at)
        return jacobian @ grad(adapted, query), adapted

    expected, adapted = after(steps)
    mistakes = [
        (grad(adapted, query), f"{first_order_advice(support.graph)}, so this is the FOMAML gradient."),
        (grad(theta, query),
         "Evaluate the query loss at the adapted parameters: this is the query gradient at theta."),
        (adapted, "Return the gradient of the query loss for theta: these are the adapted parameters."),
        (query_loss(adapted), "Return the gradient for theta: this is the query loss itself."),
        (-expected, "Return the gradient, not the direction of descent: the sign is the opposite."),
        (after(1)[0], f"Take {steps} inner steps: expected {steps}, got 1."),
        (after(steps + 1)[0], f"Take {steps} inner steps: expected {steps}, got {steps + 1}, one too many."),
        (after(steps, -alpha)[0],
         "Subtract alpha times the support gradient: your inner steps are gradient ascent."),
        (after(steps, frozen=True)[0],
         "Compute the support gradient anew after each step: every step used the gradient at theta."),
    ]  # fmt: skip
    compare("The meta-gradient", seen, expected, mistakes)


@check
def many_by_hand(meta_gradient) -> None:
    """Exercise 02, bonus: meta_gradient(theta, H, a, G, b, alpha, steps), of several steps, from matrices alone."""
    generator = fresh()
    for steps in (1, integer(generator, 3, 5), 0):
        given = theta, H, a, G, b, alpha = _quadratics(generator, integer(generator, 2, 4))
        seen = _called(meta_gradient, given, steps)
        adapted = theta
        for _ in range(steps):
            adapted = adapted - alpha * H @ (adapted - a)
        factor, grad = torch.eye(len(theta)) - alpha * H, G @ (adapted - b)
        compare("The meta-gradient", seen, _central_differences(given, steps), (
            (grad, "Multiply by the factor (I - alpha H) once for each step: this is the FOMAML gradient."),
            (factor @ grad, f"Multiply by the factor (I - alpha H) {steps} times, once for each step, not once."),
            (factor @ (G @ (theta - alpha * H @ (theta - a) - b)), f"Take {steps} inner steps: got 1."),
        ))  # fmt: skip


def _central_differences(given, steps, width=1e-3):
    """The gradient of the query loss after the steps, in double precision."""
    theta, H, a, G, b = (tensor.double() for tensor in given[:-1])

    def loss(t):
        for _ in range(steps):
            t = t - given[-1] * H @ (t - a)
        return (t - b) @ G @ (t - b) / 2

    shifts = width * torch.eye(len(theta), dtype=torch.float64)
    return torch.stack([(loss(theta + s) - loss(theta - s)) / (2 * width) for s in shifts])
