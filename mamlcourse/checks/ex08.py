"""Exercise 08: learned learning rates (LSLR), and batch normalisation with parameters for each step (BNWB)."""

from __future__ import annotations

import torch

from .judge import Untouched, call, check, compare, fresh, uniform
from .reference import vjp


@check
def learned_rates(adapt) -> None:
    """Exercise 08, part 1: adapt(loss, parameters, learning_rates, steps), one for each tensor and step."""
    generator = fresh()
    for trained, steps in ((4, 3), (3, 3), (3, 5)):
        _judge_learning_rates(adapt, generator, trained, steps)


def _judge_learning_rates(adapt, generator, trained, steps):
    names = ("weight", "bias")
    theta = {name: uniform(generator, 3).requires_grad_() for name in names}
    stiffness = {name: uniform(generator, 3, low=0.5, high=1.5) for name in names}
    goal = {name: uniform(generator, 3, low=1.5, high=3) for name in names}
    # The other order of names, and one below zero: learned learning rates are free to change sign.
    learning_rates = {name: uniform(generator, trained, low=0.05, high=0.4) for name in names[::-1]}
    learning_rates["bias"][1] *= -1
    learning_rates = {name: lr.requires_grad_() for name, lr in learning_rates.items()}

    def loss(parameters):
        return sum((stiffness[n] * (parameters[n] - goal[n]) ** 2).sum() / 2 for n in names)

    given = dict(theta)
    untouched, lr_untouched = Untouched(given), Untouched(learning_rates)
    seen = call(adapt, loss, given, learning_rates, steps)
    untouched.check()
    lr_untouched.check()

    def adapted(parameters, lr_at, point_of_grad=lambda p: p):
        for step in range(steps):
            parameters = {
                n: p - lr_at(n, step) * stiffness[n] * (point_of_grad(p) - goal[n]) for n, p in parameters.items()
            }
        return parameters

    fixed = {name: lr.detach() for name, lr in learning_rates.items()}
    constant = {name: p.detach() for name, p in theta.items()}
    other = {"weight": "bias", "bias": "weight"}

    def at(step):
        return min(step, trained - 1)

    expected = adapted(constant, lambda n, s: fixed[n][at(s)])
    mistakes = [
        (adapted(constant, lambda n, s: fixed[n][0]),
         "Every step used the first learning rate: step k has its own, learning_rates[name][k]."),
        (adapted(constant, lambda n, s: fixed[other[n]][at(s)]),
         "The learning rates were matched by position: the dictionaries may have different orders, so take each by "
         "its name."),
        (adapted(constant, lambda n, s: fixed[n][at(s)].abs()),
         "A learning rate below zero was made positive: learned ones are free to change sign, so leave out abs() and "
         "softplus."),
        (adapted(constant, lambda n, s: fixed[n][at(s)].clamp(min=0)),
         "A learning rate below zero was cut off at zero: learned ones are free to change sign."),
        (adapted(constant, lambda n, s: fixed[n].mean()),
         "Every step used the mean of the learning rates: step k has its own."),
        (adapted(constant, lambda n, s: fixed["weight"][at(s)]),
         "Every tensor used the learning rate of 'weight': take learning_rates[name]."),
        (adapted(constant, lambda n, s: fixed[n][trained - 1 - at(s)]),
         "The learning rates were used from last to first."),
        (adapted(constant, lambda n, s: fixed[n][s % trained]),
         f"After {trained} steps the learning rates began again with the first, but steps beyond the last use the "
         "last one."),
        (adapted(constant, lambda n, s: fixed[n][s] if s < trained else 0.0),
         f"Nothing moved after step {trained}, but steps beyond the last learning rate use the last one."),
        (adapted(constant, lambda n, s: -fixed[n][at(s)]),
         "The steps are gradient ascent: subtract learning rate times gradient."),
    ]  # fmt: skip
    compare("The adapted parameters", seen, expected, mistakes)
    weights = {name: uniform(generator, 3) for name in names}
    back = vjp(seen, weights, [*theta.values(), *learning_rates.values()])
    twins = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
    twin_lr = {name: lr.detach().clone().requires_grad_() for name, lr in learning_rates.items()}
    learnable = [*twins.values(), *twin_lr.values()]
    exact = vjp(adapted(twins, lambda n, s: twin_lr[n][at(s)]), weights, learnable)
    no_graph = adapted(twins, lambda n, s: twin_lr[n][at(s)], torch.Tensor.detach)
    first_order = vjp(no_graph, weights, learnable)
    nothing = torch.zeros(trained, dtype=torch.float64)
    for place, name in enumerate(learning_rates, start=2):
        compare(f"The gradient for the learning rates of {name!r}", back[place], exact[place], (
            (nothing,
             "No gradient comes back to the learning rates, so they would never be learned: use the tensors "
             "themselves, without .item(), float() or detach()."),
            (first_order[place],
             "The parameters are right, but the gradient of the learning rates and the initialisation's is first "
             "order: did you forget create_graph=True?"),
        ))  # fmt: skip
    for place, name in enumerate(theta):
        compare(f"The gradient for the initialisation of {name!r}", back[place], exact[place], (
            (weights[name],
             "The learning rates get their gradient, but the initialisation's is first order: did you forget "
             "create_graph=True?"),
            (torch.zeros(3, dtype=torch.float64),
             "No gradient comes back to the initialisation: leave the parameters connected."),
        ))  # fmt: skip


@check
def step_norm(function) -> None:
    """Exercise 08, part 2: step_norm(x, gamma, beta, step), batch normalisation with the step's own γ and β."""
    generator = fresh()
    for step in (1, 0, 2, 5):
        _judge_norm(function, generator, step)


def _judge_norm(function, generator, step, trained=3, epsilon=1e-5):
    channels = side = 4  # equal, so that a γ broadcast along the wrong dimension goes unnoticed by shapes
    x = uniform(generator, 5, channels, side, side, low=-0.02, high=0.02)  # so small that epsilon counts
    x = x + uniform(generator, 1, channels, 1, 1)
    gamma = uniform(generator, trained, channels, low=0.5, high=2).requires_grad_()
    beta = uniform(generator, trained, channels).requires_grad_()
    given = {"x": x.clone(), "gamma": gamma, "beta": beta}
    untouched = Untouched(given)
    seen = call(function, given["x"], gamma, beta, step)
    untouched.check()
    g, b = gamma.detach(), beta.detach()
    row = min(step, trained - 1)

    def scaled(normal, r=row):
        return normal * g[r][:, None, None] + b[r][:, None, None]

    def normal(dims, correction=0, epsilon=epsilon):
        variance = x.var(dims, correction=correction, keepdim=True)
        return (x - x.mean(dims, keepdim=True)) / torch.sqrt(variance + epsilon)

    right = torch.nn.functional.batch_norm(x, None, None, training=True, eps=epsilon)
    everything = (0, 2, 3)
    centred, std = x - x.mean(everything, keepdim=True), x.std(everything, correction=0, keepdim=True)
    mistakes = [(scaled(right, r),
                 f"Step {step} used γ and β of step {r}: each step has its own, and steps beyond the last use the "
                 "last.") for r in range(trained) if r != row]  # fmt: skip
    mistakes += [
        (right * g[row] + b[row],
         "γ and β were broadcast along the width: give them the shape (channels, 1, 1), so that each channel has its "
         "own."),
        (scaled(normal((1, 2, 3))),
         "This is layer normalisation: each example was normalised by itself, but the mean is over examples, height "
         "and width."),
        (scaled(normal((2, 3))),
         "This is instance normalisation: the mean must be over the examples too."),
        (scaled(normal((0,))),
         "The mean was taken over the examples alone, for each pixel: height and width belong to it."),
        (scaled(normal(everything, correction=1)),
         "The variance was divided by n - 1: batch normalisation divides by n (correction=0)."),
        *[(scaled(normal((0, 1, 2, 3), correction)),
           "Mean and variance were taken over all channels together: each channel has its own.")
          for correction in (0, 1)],
        (scaled(centred / (std + epsilon)),
         "Epsilon was added to the root, but belongs under it: the root is of variance + eps."),
        (scaled(normal(everything, epsilon=0)), "Epsilon is missing: the root is of variance + eps."),
        (right, "γ and β were not used."),
        (right * g[row][:, None, None], "β was not added."),
        (scaled(centred), "The mean was subtracted, but the result was not divided by the standard deviation."),
        (scaled(x), "Nothing was normalised: subtract the mean and divide by the standard deviation."),
    ]  # fmt: skip
    compare("The result of step_norm", seen, scaled(right), mistakes)
    weights = uniform(generator, *x.shape)
    (back,) = vjp({"y": seen}, {"y": weights}, [gamma])
    exact = torch.zeros_like(g)
    exact[row] = (weights * right).sum(everything)
    compare("The gradient for γ", back, exact, (
        (torch.zeros_like(g),
         "No gradient comes back to γ, so it would never be learned: leave out detach() and no_grad()."),
    ))  # fmt: skip
