"""Exercise 07: the annealed weights, and the multi-step loss (MSL)."""

from __future__ import annotations

from fractions import Fraction

import torch

from .judge import CheckFailed, Untouched, call, check, compare, fresh, integer, unchanged
from .reference import Coupled, sgd_step


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
    steps, epochs = integer(generator, 3, 6), integer(generator, 45, 60)
    middle = integer(generator, 10, 30)
    for case in ((5, 5, 10), (steps, 0, epochs), (steps, middle, epochs), (steps, epochs - 1, epochs),
                 (steps, epochs, epochs), (steps, epochs + 27, epochs), (1, 3, epochs)):  # fmt: skip
        _judge_weights(case, call(function, *case))


def _judge_weights(case, seen):
    steps, epoch, epochs = case
    what = f"loss_weights{case}"
    if seen is None:
        raise CheckFailed(f"Is there a `return` missing? {what} returned None.")
    try:
        weights = torch.tensor([float(w) for w in seen], dtype=torch.float64)
    except (TypeError, ValueError):
        raise CheckFailed(f"{what}: expected a list of {steps} numbers, got {type(seen).__name__}.") from None
    if len(weights) == steps + 1 and abs(weights[0]) < 1e-9:
        raise CheckFailed(
            f"Give the weights of the losses after a step alone: {what} has {steps + 1} for {steps} steps, and "
            "the first "
            "would count the query loss before any step."
        )
    if len(weights) != steps:
        raise CheckFailed(f"{what}: expected {steps} weights, one for each step, got {len(weights)}.")

    def fractions(values):
        return torch.tensor([float(v) for v in values], dtype=torch.float64)

    expected = _annealed(*case)
    last_alone, uniformly = [0] * (steps - 1) + [1], [Fraction(1, steps)] * steps
    mistakes = [
        (expected[::-1], f"Turn the list round: {what} is the wrong way round, the last step gains weight."),
        (uniformly, f"Move weight to the last step over {epochs} epochs: {what} is still uniform."),
        (last_alone,
         f"Count the early steps too until epoch {epochs}: {what} counts the last step alone, which is plain MAML."),
        (_annealed(steps, epochs - 1, epochs),
         f"Count the last step alone from epoch {epochs} on: {what} still counts the early steps."),
        (_annealed(steps, epoch + 1, epochs), f"Count epochs from 0: {what} is one epoch ahead."),
        (_annealed(*case, floor=Fraction(0)),
         f"Keep an early weight at 0.03 / steps or more while annealing: {what} lacks the floor."),
        (_annealed(*case, floor=Fraction(3, 100)),
         f"Divide the floor by the steps: that of {what} is 0.03, but expected is 0.03 / steps."),
    ]  # fmt: skip
    for wrong, message in mistakes:
        wrong = fractions(wrong)
        if torch.allclose(weights, wrong, atol=1e-6) and not torch.allclose(wrong, fractions(expected), atol=1e-6):
            raise CheckFailed(message)
    if abs(weights.sum() - 1) > 1e-6:
        raise CheckFailed(
            f"Give the last step what the early ones lose: the weights do not sum to 1, {what} sums to "
            f"{weights.sum():.4f}."
        )
    if (weights < 0).any():
        raise CheckFailed(f"{what} has a negative weight, {weights.min():.4f}.")
    compare(what, weights, fractions(expected))


@check
def multi_step_loss(function) -> None:
    """Exercise 07, part 2: multi_step_loss(parameters, inner_step, query_loss, weights) -> the weighted loss."""
    generator = fresh()
    for weights in ([0.2, 0.3, 0.5], [0, 0, 0, 1], [0.0, 0.25, 0.0, 0.75], [0.4, 0.6, 0.0], [1.0]):
        _judge_multi_step(function, weights, generator)


def _judge_multi_step(function, weights, generator):
    loss, support = (Coupled(generator, {"weight": (3,), "bias": (2,)}) for _ in range(2))
    theta = loss.initialisation(generator)
    count = {"passes": 0, "steps": 0}

    def moved(parameters):
        return sgd_step(parameters, support.grads(parameters), 0.2)

    def inner_step(parameters):
        count["steps"] += 1
        return moved(parameters)

    def query_loss(parameters):
        count["passes"] += 1
        return loss(parameters)

    given, given_weights = dict(theta), list(weights)
    untouched = Untouched(given)
    seen = call(function, given, inner_step, query_loss, given_weights)
    untouched.check()
    unchanged(weights=(given_weights, weights))

    twin = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
    path = [twin]
    for _ in weights:
        path.append(moved(path[-1]))
    by_step = [loss(p) for p in path]

    def weighted(losses, by=weights):
        return sum(w * value for w, value in zip(by, losses))

    expected = weighted(by_step[1:])
    averaged = {name: weighted([p[name] for p in path[1:]]) for name in twin}
    compare("The multi-step loss", seen, expected, (
        (weighted(by_step[:-1]),
         "Take the step first, and then the loss: weight k belongs to the parameters after step k, and each loss was "
         "taken before its step."),
        (by_step[-1], "Add weight times query loss after every step: only the last step was counted."),
        (sum(by_step[1:]), "Multiply each loss by its weight: the weights were not used."),
        (sum(by_step[1:]) / len(weights), "Multiply each loss by its weight: this is the plain mean over the steps."),
        (weighted(by_step[1:], [w for w in weights if w > 0]),
         "Take the inner step also where the weight is zero, as each weight belongs to a step: only the query pass may "
         "be left out."),
        (weighted(by_step[1:], weights[::-1]),
         "Turn the weights round: they are in the reverse order, but the first belongs to the first step."),
        (loss(averaged), "Average the losses: this is the loss of averaged parameters."),
        (weighted([by_step[1]] * len(weights)),
         "Go on from the result of the last step: every step began at the initialisation again."),
    ))  # fmt: skip
    keep = "Keep tensors, without .item() or detach(): the value is right, but "
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise CheckFailed(f"{keep}no gradient can flow back.")
    back = torch.autograd.grad(seen, list(theta.values()), allow_unused=True, materialize_grads=True)
    exact = torch.autograd.grad(expected, list(twin.values()))
    if not any(map(torch.any, back)):
        raise CheckFailed(f"{keep}no gradient flows back to the initialisation.")
    compare("The gradient of the multi-step loss with respect to the initialisation", dict(zip(theta, back)),
            dict(zip(theta, exact)))  # fmt: skip
    needed = sum(w > 0 for w in weights)
    if count["passes"] > needed:
        raise CheckFailed(
            "Leave the query pass out where the weight is zero: a loss that counts for nothing need not be computed, "
            f"and passes are what the multi-step loss costs; expected {needed} passes, got {count['passes']}."
        )
    if count["steps"] > len(weights):
        raise CheckFailed(f"Go on from the last step: expected {len(weights)} inner steps, got {count['steps']}.")


@check
def query_passes(function) -> None:
    """Exercise 07, bonus: query_passes(steps, annealed, epochs) -> how many query passes a task costs in training."""
    generator = fresh()
    steps, annealed = integer(generator, 3, 6), integer(generator, 5, 20)
    for epochs in (annealed + integer(generator, 5, 50), annealed, annealed - 3):
        compare(f"query_passes({steps}, {annealed}, {epochs})", call(function, steps, annealed, epochs),
                min(annealed, epochs) * steps + max(epochs - annealed, 0), (
            (epochs * steps, "Count one pass from the end of the annealing on: all epochs have a pass for every step."),
            (annealed * steps, "Count the epochs after the annealing too: each has one pass."),
            (annealed * steps + epochs - annealed, "Stop where training stops, perhaps before the annealing ends."),
            (min(annealed, epochs) * steps + epochs,
             "Count each epoch once: the annealed ones have a pass for every step, and only the others have one."),
        ), tolerance=1e-6)  # fmt: skip
