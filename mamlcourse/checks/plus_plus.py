"""Exercises 07 and 08: the annealed weights, the multi-step loss, learned rates, and a norm for each step."""

from __future__ import annotations

from fractions import Fraction

import torch

from .judge import CheckFailed, Untouched, call, check, compare, fresh, uniform, whole

# Exercise 07.


def annealed(steps, epoch, epochs):
    """The weights of the official MAML++ code, in exact fractions; Antoniou et al. 2019, section 4."""
    if epoch >= epochs:
        return [Fraction(0)] * (steps - 1) + [Fraction(1)]
    floor = Fraction(3, 100) / steps
    early = max(Fraction(1, steps) - Fraction(epoch, steps * epochs), floor)
    last = min(Fraction(1, steps) + Fraction(epoch * (steps - 1), steps * epochs), 1 - (steps - 1) * floor)
    return [early] * (steps - 1) + [last]


def _without_floor(steps, epoch, epochs):
    early = max(Fraction(1, steps) - Fraction(epoch, steps * epochs), Fraction(0))
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


def _high_floor(steps, epoch, epochs):
    early = max(Fraction(1, steps) - Fraction(epoch, steps * epochs), Fraction(3, 100))
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


@check
def loss_weights(function) -> None:
    """Exercise 07, part 1: loss_weights(steps, epoch, epochs) -> the weights of steps 1 to K."""
    generator = fresh()
    steps, epochs = whole(generator, 3, 6), 50
    middle = whole(generator, 10, 30)
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
        raise CheckFailed(f"{what} must be a list of {steps} numbers, but came {type(seen).__name__}.") from None
    if len(weights) == steps + 1 and abs(weights[0]) < 1e-9:
        raise CheckFailed(
            f"{what} has {steps + 1} weights: the first would grade the start, before any step; give the {steps} of "
            "the steps alone."
        )
    if len(weights) != steps:
        raise CheckFailed(f"{what}: expected {steps} weights, one for each step, came {len(weights)}.")

    def fractions(values):
        return torch.tensor([float(v) for v in values], dtype=torch.float64)

    expected = annealed(*case)
    zeros, uniformly = [0] * (steps - 1), [Fraction(1, steps)] * steps
    mistakes = [
        (fractions(expected[::-1]), f"{what} is the wrong way round: the last step gains weight, not the first."),
        (fractions(uniformly), f"{what} is still uniform: over {epochs} epochs weight must move to the last step."),
        (fractions(zeros + [1]),
         f"{what} grades the last step alone: that is plain MAML, and comes only after {epochs} epochs."),
        (fractions(annealed(steps, epochs - 1, epochs)),
         f"{what} still grades the early steps: from epoch {epochs} on only the last one counts."),
        (fractions(annealed(steps, epoch + 1, epochs)), f"{what} is one epoch ahead: epochs are counted from 0."),
        (fractions(_without_floor(*case)),
         f"{what} lacks the floor: while annealing, an early weight stays at least 0.03 / steps."),
        (fractions(_high_floor(*case)), f"The floor of {what} is 0.03, but must be 0.03 / steps."),
    ]  # fmt: skip
    for wrong, message in mistakes:
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
    start = {"weight": uniform(generator, 3).requires_grad_()}
    graded, stepped = [], []

    def inner_step(parameters):
        stepped.append(True)
        return {"weight": parameters["weight"] * 0.8 + shift + 0.1 * parameters["weight"] ** 2}

    def query_loss(parameters):
        graded.append(True)
        return ((parameters["weight"] - goal) ** 2).sum() / 2

    given = dict(start)
    untouched = Untouched(given)
    seen = call(function, given, inner_step, query_loss, list(weights))
    untouched.check()
    passes, steps_taken = len(graded), len(stepped)

    def losses(points):
        return [((p - goal) ** 2).sum() / 2 for p in points]

    twin = start["weight"].detach().clone().requires_grad_()
    path = [twin]
    for _ in weights:
        path.append(path[-1] * 0.8 + shift + 0.1 * path[-1] ** 2)
    by_step = losses(path)

    def weighted(chosen, by=weights):
        return sum(w * loss for w, loss in zip(by, chosen))

    expected = weighted(by_step[1:])
    mean = sum(w * p for w, p in zip(weights, path[1:]))
    once = path[1]
    compare("The multi-step loss", seen, expected, (
        (weighted(by_step[:-1]),
         "Each loss was taken before its step: weight k belongs to the parameters after step k."),
        (by_step[-1], "Only the last step was graded: add weight times query loss after every step."),
        (sum(by_step[1:]), "The weights were not used: each loss counts as much as its weight says."),
        (sum(by_step[1:]) / len(weights), "The weights were not used: this is the plain mean over the steps."),
        (weighted(by_step[1:], [w for w in weights if w > 0]),
         "Where a weight is zero the inner step was left out too: only the query pass may be, for each weight belongs "
         "to a step."),
        (weighted(by_step[1:], weights[::-1]),
         "The weights are in the reverse order: the first belongs to the first step."),
        (weighted(losses([mean])[:1], [1.0]),
         "This is the loss of averaged parameters, but the losses are to be averaged."),
        (weighted(losses([once] * len(weights))),
         "Every step began at the start again: each goes on from the result of the last."),
    ))  # fmt: skip
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise CheckFailed("The number is right, but no gradient can flow back: keep tensors, without .item() or "
                          "detach().")
    (back,) = torch.autograd.grad(seen, start["weight"], allow_unused=True, materialize_grads=True)
    (exact,) = torch.autograd.grad(expected, twin)
    compare("The gradient of the multi-step loss at the start", back, exact)
    if passes > sum(w > 0 for w in weights):
        raise CheckFailed(
            f"{passes} query passes were made, but the number of weights above zero is {sum(w > 0 for w in weights)}: "
            "a loss that counts for nothing need not be worked out, and passes are what the multi-step loss costs."
        )
    if steps_taken > len(weights):
        raise CheckFailed(f"{steps_taken} inner steps were taken, but {len(weights)} are enough: go on from the last.")


# Exercise 08.


@check
def learned_rates(adapt) -> None:
    """Exercise 08, part 1: adapt(loss, parameters, rates, steps), each tensor and step with a rate of its own."""
    generator = fresh()
    for trained, steps in ((4, 3), (3, 3), (3, 5)):
        _judge_rates(adapt, generator, trained, steps)


def _judge_rates(adapt, generator, trained, steps):
    names = ("weight", "bias")
    start = {name: uniform(generator, 3).requires_grad_() for name in names}
    stiff = {name: uniform(generator, 3, low=0.5, high=1.5) for name in names}
    goal = {name: uniform(generator, 3, low=1.5, high=3) for name in names}
    # The other order of names, and one rate below zero: learned rates are free to change sign.
    rates = {name: uniform(generator, trained, low=0.05, high=0.4) for name in names[::-1]}
    rates["bias"][1] *= -1
    rates = {name: rate.requires_grad_() for name, rate in rates.items()}

    def loss(parameters):
        return sum((stiff[n] * (parameters[n] - goal[n]) ** 2).sum() / 2 for n in names)

    given = dict(start)
    untouched, rates_untouched = Untouched(given), Untouched(rates)
    seen = call(adapt, loss, given, rates, steps)
    untouched.check()
    rates_untouched.check()

    def path(parameters, rate_at, slope_at=lambda p: p):
        for step in range(steps):
            parameters = {
                n: p - rate_at(n, step) * stiff[n] * (slope_at(p) - goal[n]) for n, p in parameters.items()
            }
        return parameters

    fixed = {name: rate.detach() for name, rate in rates.items()}
    frozen = {name: p.detach() for name, p in start.items()}
    other = {"weight": "bias", "bias": "weight"}

    def last(step):
        return min(step, trained - 1)

    expected = path(frozen, lambda n, s: fixed[n][last(s)])
    mistakes = [
        (path(frozen, lambda n, s: fixed[n][0]),
         "Every step used the first rate: step k has a rate of its own, rates[name][k]."),
        (path(frozen, lambda n, s: fixed[other[n]][last(s)]),
         "The rates were matched by position: the dictionaries may have different orders, so take each rate by its "
         "name."),
        (path(frozen, lambda n, s: fixed[n][last(s)].abs()),
         "A rate below zero was made positive: learned rates are free to change sign, so leave out abs() and "
         "softplus."),
        (path(frozen, lambda n, s: fixed[n][last(s)].clamp(min=0)),
         "A rate below zero was cut off at zero: learned rates are free to change sign."),
        (path(frozen, lambda n, s: fixed[n].mean()),
         "Every step used the mean of the rates: step k has one of its own."),
        (path(frozen, lambda n, s: fixed["weight"][last(s)]),
         "Every tensor used the rate of 'weight': take rates[name]."),
        (path(frozen, lambda n, s: fixed[n][trained - 1 - last(s)]), "The rates were used from last to first."),
        (path(frozen, lambda n, s: fixed[n][s % trained]),
         f"After {trained} steps the rates began again with the first, but steps beyond the last use the last rate."),
        (path(frozen, lambda n, s: fixed[n][s] if s < trained else 0.0),
         f"Nothing moved after step {trained}, but steps beyond the last rate use the last one."),
        (path(frozen, lambda n, s: -fixed[n][last(s)]), "The steps go uphill: subtract rate times gradient."),
    ]  # fmt: skip
    compare("The adapted parameters", seen, expected, mistakes)
    weights = {name: uniform(generator, 3) for name in names}
    back = _derivative(seen, weights, [*start.values(), *rates.values()])
    twins = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
    twin_rates = {name: rate.detach().clone().requires_grad_() for name, rate in rates.items()}
    learnable = [*twins.values(), *twin_rates.values()]
    exact = _derivative(path(twins, lambda n, s: twin_rates[n][last(s)]), weights, learnable)
    no_graph = path(twins, lambda n, s: twin_rates[n][last(s)], torch.Tensor.detach)
    first_order = _derivative(no_graph, weights, learnable)
    nothing = torch.zeros(trained, dtype=torch.float64)
    for place, name in enumerate(rates, start=2):
        compare(f"The gradient for the rates of {name!r}", back[place], exact[place], (
            (nothing,
             "No gradient comes back to the rates, so they would never be learned: use the tensors themselves, "
             "without .item(), float() or detach()."),
            (first_order[place],
             "The parameters are right, but the gradient of the rates and the start's is first order: did you forget "
             "create_graph=True?"),
        ))  # fmt: skip
    for place, name in enumerate(start):
        compare(f"The gradient for the start of {name!r}", back[place], exact[place], (
            (weights[name],
             "The rates get their gradient, but the start's is first order: did you forget create_graph=True?"),
            (torch.zeros(3, dtype=torch.float64),
             "No gradient comes back to the start: leave the parameters connected."),
        ))  # fmt: skip


def _derivative(adapted, weights, inputs):
    graded = sum((weights[name] * p).sum() for name, p in adapted.items())
    if not graded.requires_grad:
        return [torch.zeros_like(p) for p in inputs]
    return torch.autograd.grad(graded, inputs, allow_unused=True, materialize_grads=True)


@check
def step_norm(function) -> None:
    """Exercise 08, part 2: step_norm(x, gain, bias, step), batch normalisation with the step's own gain and bias."""
    generator = fresh()
    for step in (1, 0, 2, 5):
        _judge_norm(function, generator, step)


def _judge_norm(function, generator, step, trained=3, epsilon=1e-5):
    channels = side = 4  # equal, so that a gain laid along the wrong dimension goes unnoticed by shapes
    x = uniform(generator, 5, channels, side, side, low=-0.02, high=0.02)  # so small that epsilon counts
    x = x + uniform(generator, 1, channels, 1, 1)
    gain = uniform(generator, trained, channels, low=0.5, high=2).requires_grad_()
    bias = uniform(generator, trained, channels).requires_grad_()
    given = {"x": x.clone(), "gain": gain, "bias": bias}
    untouched = Untouched(given)
    seen = call(function, given["x"], gain, bias, step)
    untouched.check()
    g, b = gain.detach(), bias.detach()
    row = min(step, trained - 1)

    def scaled(normal, g, b):
        return normal * g[:, None, None] + b[:, None, None]

    def normal(dims, correction=0, epsilon=epsilon):
        variance = x.var(dims, correction=correction, keepdim=True)
        return (x - x.mean(dims, keepdim=True)) / torch.sqrt(variance + epsilon)

    right = torch.nn.functional.batch_norm(x, None, None, training=True, eps=epsilon)
    everything = (0, 2, 3)
    mistakes = [(scaled(right, g[r], b[r]),
                 f"Step {step} used gain and bias of step {r}: each step has its own, and steps beyond the last use "
                 "the last.") for r in range(trained) if r != row]  # fmt: skip
    mistakes += [
        (right * g[row] + b[row],
         "Gain and bias were laid along the width: give them the shape (channels, 1, 1), so that each channel has "
         "its own."),
        (scaled(normal((1, 2, 3)), g[row], b[row]),
         "This is layer normalisation: each example was normalised by itself, but the mean is over examples, height "
         "and width."),
        (scaled(normal((2, 3)), g[row], b[row]),
         "This is instance normalisation: the mean must be over the examples too."),
        (scaled(normal((0,)), g[row], b[row]),
         "The mean was taken over the examples alone, for each pixel: height and width belong to it."),
        (scaled(normal(everything, correction=1), g[row], b[row]),
         "The variance was divided by n - 1: batch normalisation divides by n (correction=0)."),
        *[(scaled(normal((0, 1, 2, 3), correction), g[row], b[row]),
           "Mean and variance were taken over all channels together: each channel has its own.")
          for correction in (0, 1)],
        (scaled((x - x.mean(everything, keepdim=True)) / (x.std(everything, correction=0, keepdim=True) + epsilon),
                g[row], b[row]),
         "Epsilon was added to the root, but belongs under it: the root is of variance + eps."),
        (scaled(normal(everything, epsilon=0), g[row], b[row]), "Epsilon is missing: the root is of variance + eps."),
        (right, "Gain and bias were not used."),
        (right * g[row][:, None, None], "The bias was not added."),
        (scaled(x - x.mean(everything, keepdim=True), g[row], b[row]),
         "The mean was subtracted, but the result was not divided by the standard deviation."),
        (scaled(x, g[row], b[row]),
         "Nothing was normalised: subtract the mean and divide by the standard deviation."),
    ]  # fmt: skip
    compare("The result of step_norm", seen, scaled(right, g[row], b[row]), mistakes)
    weights = uniform(generator, *x.shape)
    back = torch.zeros_like(g)
    if seen.requires_grad:
        (found,) = torch.autograd.grad((weights * seen).sum(), gain, allow_unused=True, materialize_grads=True)
        back = found
    exact = torch.zeros_like(g)
    exact[row] = (weights * right).sum((0, 2, 3))
    compare("The gradient for the gain", back, exact, (
        (torch.zeros_like(g),
         "No gradient comes back to the gain, so it would never be learned: leave out detach() and no_grad()."),
    ))  # fmt: skip
