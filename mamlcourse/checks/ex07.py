"""Exercise 07: the annealed weights, and the multi-step loss (MSL)."""

from __future__ import annotations

from fractions import Fraction

import torch

from .judge import CheckFailed, Untouched, call, check, compare, fresh, integer, uniform


def _annealed(steps, epoch, epochs, floor=None):
    """The weights of the official MAML++ code, in exact fractions; Antoniou et al. 2019, section 4."""
    if epoch >= epochs:
        return [Fraction(0)] * (steps - 1) + [Fraction(1)]
    floor = Fraction(3, 100) / steps if floor is None else floor
    early = max(Fraction(1, steps) - Fraction(epoch, steps * epochs), floor)
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


@check
def loss_weights(function) -> None:
    """Exercise 07, part 1: loss_weights(steps, epoch, epochs) -> the weights of steps 1 to K."""
    generator = fresh()
    steps, epochs = integer(generator, 3, 6), 50
    middle = integer(generator, 10, 30)
    for case in ((5, 5, 10), (steps, 0, epochs), (steps, middle, epochs), (steps, 49, epochs), (steps, 50, epochs),
                 (steps, 77, epochs), (1, 3, epochs)):  # fmt: skip
        _judge_weights(case, call(function, *case))


def _judge_weights(case, seen):
    steps, epoch, epochs = case
    what = f"loss_weights{case}"
    if seen is None:
        raise CheckFailed(f"{what} returned None: is there a `return` missing?")
    try:
        weights = torch.tensor([float(w) for w in seen], dtype=torch.float64)
    except (TypeError, ValueError):
        raise CheckFailed(f"{what}: expected a list of {steps} numbers, got {type(seen).__name__}.") from None
    if len(weights) == steps + 1 and abs(weights[0]) < 1e-9:
        raise CheckFailed(
            f"{what}: expected {steps} weights, got {steps + 1}: the first would count the query loss before any step; "
            "give those after a step alone."
        )
    if len(weights) != steps:
        raise CheckFailed(f"{what}: expected {steps} weights, one for each step, got {len(weights)}.")

    def fractions(values):
        return torch.tensor([float(v) for v in values], dtype=torch.float64)

    expected = _annealed(*case)
    last_alone, uniformly = [0] * (steps - 1) + [1], [Fraction(1, steps)] * steps
    mistakes = [
        (expected[::-1], f"{what} is the wrong way round: the last step gains weight, not the first."),
        (uniformly, f"{what} is still uniform: over {epochs} epochs weight must move to the last step."),
        (last_alone, f"{what} counts the last step alone: that is plain MAML, and comes only after {epochs} epochs."),
        (_annealed(steps, epochs - 1, epochs),
         f"{what} still counts the early steps: from epoch {epochs} on only the last one counts."),
        (_annealed(steps, epoch + 1, epochs), f"{what} is one epoch ahead: epochs are counted from 0."),
        (_annealed(*case, floor=Fraction(0)),
         f"{what} lacks the floor: while annealing, an early weight stays at least 0.03 / steps."),
        (_annealed(*case, floor=Fraction(3, 100)), f"The floor of {what}: expected 0.03 / steps, got 0.03."),
    ]  # fmt: skip
    for wrong, message in mistakes:
        wrong = fractions(wrong)
        if torch.allclose(weights, wrong, atol=1e-6) and not torch.allclose(wrong, fractions(expected), atol=1e-6):
            raise CheckFailed(message)
    if abs(weights.sum() - 1) > 1e-6:
        raise CheckFailed(
            f"The weights do not sum to 1: {what} sums to {weights.sum():.4f}; the last step takes what the early "
            "ones lose."
        )
    if (weights < 0).any():
        raise CheckFailed(f"{what} has a negative weight, {weights.min():.4f}.")
    compare(what, weights, fractions(expected))


@check
def multi_step_loss(function) -> None:
    """Exercise 07, part 2: multi_step_loss(parameters, inner_step, query_loss, weights) -> the weighted loss."""
    generator = fresh()
    for weights in ([0.2, 0.3, 0.5], [0.0, 0.0, 0.0, 1.0], [0.0, 0.25, 0.0, 0.75]):
        _judge_multi_step(function, weights, generator)


def _judge_multi_step(function, weights, generator):
    shift, goal = uniform(generator, 3, low=0.5, high=1), uniform(generator, 3, low=-2, high=2)
    theta = {"weight": uniform(generator, 3).requires_grad_()}
    count = {"passes": 0, "steps": 0}

    def moved(p):
        return p * 0.8 + shift + 0.1 * p**2

    def distance(p):
        return ((p - goal) ** 2).sum() / 2

    def inner_step(parameters):
        count["steps"] += 1
        return {"weight": moved(parameters["weight"])}

    def query_loss(parameters):
        count["passes"] += 1
        return distance(parameters["weight"])

    given = dict(theta)
    untouched = Untouched(given)
    seen = call(function, given, inner_step, query_loss, list(weights))
    untouched.check()

    twin = theta["weight"].detach().clone().requires_grad_()
    path = [twin]
    for _ in weights:
        path.append(moved(path[-1]))
    by_step = [distance(p) for p in path]

    def weighted(losses, by=weights):
        return sum(w * loss for w, loss in zip(by, losses))

    expected = weighted(by_step[1:])
    compare("The multi-step loss", seen, expected, (
        (weighted(by_step[:-1]),
         "Each loss was taken before its step: weight k belongs to the parameters after step k."),
        (by_step[-1], "Only the last step was counted: add weight times query loss after every step."),
        (sum(by_step[1:]), "The weights were not used: each loss counts as much as its weight says."),
        (sum(by_step[1:]) / len(weights), "The weights were not used: this is the plain mean over the steps."),
        (weighted(by_step[1:], [w for w in weights if w > 0]),
         "Where a weight is zero the inner step was left out too: only the query pass may be, for each weight belongs "
         "to a step."),
        (weighted(by_step[1:], weights[::-1]),
         "The weights are in the reverse order: the first belongs to the first step."),
        (distance(weighted(path[1:])),
         "This is the loss of averaged parameters, but the losses are to be averaged."),
        (weighted([by_step[1]] * len(weights)),
         "Every step began at the initialisation again: each goes on from the result of the last."),
    ))  # fmt: skip
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise CheckFailed(
            "The value is right, but no gradient can flow back: keep tensors, without .item() or detach()."
        )
    (back,) = torch.autograd.grad(seen, theta["weight"], allow_unused=True, materialize_grads=True)
    (exact,) = torch.autograd.grad(expected, twin)
    compare("The gradient of the multi-step loss with respect to the initialisation", back, exact)
    needed = sum(w > 0 for w in weights)
    if count["passes"] > needed:
        raise CheckFailed(
            f"Query passes: expected {needed}, one for each weight above zero, got {count['passes']}: a loss that "
            "counts for nothing need not be computed, and passes are what the multi-step loss costs."
        )
    if count["steps"] > len(weights):
        raise CheckFailed(f"Inner steps: expected {len(weights)}, got {count['steps']}: go on from the last.")
