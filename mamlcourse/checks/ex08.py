"""Exercise 08: learned learning rates (LSLR), and batch normalisation with parameters for each step (BNWB)."""

from __future__ import annotations

import torch

from .judge import CheckFailed, Untouched, call, check, compare, fresh, integer, uniform
from .reference import ONE_BY_ONE, Coupled, first_order_advice, one_by_one, vjp

SHAPES = {"weight": (3, 2), "scale": (2,), "bias": (3,)}


@check
def learned_rates(adapt) -> None:
    """Exercise 08, part 1: adapt(loss, parameters, learning_rates, steps), one for each tensor and step."""
    generator = fresh()
    for trained, steps in ((4, 3), (3, 3), (3, 6), (integer(generator, 4, 5), 8), (1, 2)):
        _judge_learning_rates(adapt, generator, trained, steps)


def _judge_learning_rates(adapt, generator, trained, steps):
    loss = Coupled(generator, SHAPES)
    theta = loss.initialisation(generator)
    # Another order of names, and one below zero: learned learning rates are free to change sign.
    fixed = {name: uniform(generator, trained, low=0.05, high=0.3) for name in list(SHAPES)[::-1]}
    fixed["bias"][min(1, trained - 1)] *= -1
    learning_rates = {name: lr.clone().requires_grad_() for name, lr in fixed.items()}

    given, given_lr = dict(theta), dict(learning_rates)
    untouched, lr_untouched = Untouched(given), Untouched(given_lr)
    seen = call(adapt, loss, given, given_lr, steps)
    built = loss.graph
    untouched.check()
    lr_untouched.check()

    def adapted(parameters, lr_at, grad_at=lambda parameters: parameters):
        for step in range(steps):
            grads = loss.grads(grad_at(parameters))
            parameters = {n: p - lr_at(n, step) * grads[n] for n, p in parameters.items()}
        return parameters

    def at(step):
        return min(step, trained - 1)

    constant = {name: p.detach() for name, p in theta.items()}
    by_place = dict(zip(SHAPES, fixed.values()))
    frozen = adapted(constant, lambda n, s: fixed[n][at(s)], lambda parameters: constant)
    mistakes = [
        (adapted(constant, lambda n, s: fixed[n][0]),
         "Use learning_rates[name][k] in step k: every step used the first learning rate."),
        (adapted(constant, lambda n, s: by_place[n][at(s)]),
         "Take each learning rate by its name: they were matched by position, but the dictionaries may have different "
         "orders."),
        (adapted(constant, lambda n, s: fixed[n][at(s)].abs()),
         "Leave out abs() and softplus, as learned learning rates are free to change sign: one below zero was made "
         "positive."),
        (adapted(constant, lambda n, s: fixed[n][at(s)].clamp(min=0)),
         "Leave a learning rate below zero as it is, as learned ones are free to change sign: it was clamped at zero."),
        (adapted(constant, lambda n, s: fixed[n].mean()),
         "Use learning_rates[name][k] in step k: every step used the mean of the learning rates."),
        (adapted(constant, lambda n, s: fixed["weight"][at(s)]),
         "Take learning_rates[name]: every tensor used the learning rate of 'weight'."),
        (adapted(constant, lambda n, s: fixed[n][at(s + 1)]),
         "Count the steps from 0: step k used the learning rate of step k + 1."),
        (adapted(constant, lambda n, s: fixed[n][at(max(s - 1, 0))]),
         "Count the steps from 0: step k used the learning rate of step k - 1."),
        (adapted(constant, lambda n, s: fixed[n][at(s - 1)]),
         "Count the steps from 0: the first step used the last learning rate."),
        (adapted(constant, lambda n, s: fixed[n][trained - 1 - at(s)]),
         "Turn the order round: the learning rates were used from last to first."),
        (adapted(constant, lambda n, s: fixed[n][s % trained]),
         f"Use the last learning rate in steps beyond it: after {trained} steps they began again with the first."),
        (adapted(constant, lambda n, s: fixed[n][s] if s < trained else 0.0),
         f"Use the last learning rate in steps beyond it: nothing moved after step {trained}."),
        (adapted(constant, lambda n, s: -fixed[n][at(s)]),
         "Subtract learning rate times gradient: the steps are gradient ascent."),
        (frozen, "Compute the gradient anew in each step: every step used the gradient at the initialisation."),
        # With a graph each update is one more order of derivatives, whose cost grows exponentially.
        *[(one_by_one(loss, constant, lambda n, s: fixed[n][at(s)], graph, steps), ONE_BY_ONE)
          for graph in (True, False) if steps <= 3 or not graph],
    ]  # fmt: skip
    compare("The adapted parameters", seen, adapted(constant, lambda n, s: fixed[n][at(s)]), mistakes)
    weights = {name: uniform(generator, *p.shape) for name, p in theta.items()}
    back = vjp(seen, weights, [*theta.values(), *learning_rates.values()])
    twins = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
    twin_lr = {name: lr.detach().clone().requires_grad_() for name, lr in learning_rates.items()}
    learnable = [*twins.values(), *twin_lr.values()]
    exact = vjp(adapted(twins, lambda n, s: twin_lr[n][at(s)]), weights, learnable)
    without = adapted(twins, lambda n, s: twin_lr[n][at(s)], lambda p: {n: q.detach() for n, q in p.items()})
    first_order = vjp(without, weights, learnable)
    names = list(theta) + [f"learning rates of {name!r}" for name in learning_rates]
    for name, one, right, first in zip(names, back, exact, first_order):
        part = name if "learning" in name else f"initialisation of {name!r}"
        compare(f"The gradient for the {part}", one, right, (
            (torch.zeros_like(right),
             "Use the tensors of the learning rates themselves, without .item(), float() or detach(): no "
             "gradient flows "
             "back to them, so they would never be learned." if "learning" in name else
             "Leave the parameters attached, without detach(): no gradient flows back to the initialisation."),
            (first, f"{first_order_advice(built)}, so the parameters are right, but their gradient is first order."),
        ))  # fmt: skip


@check
def step_norm(function) -> None:
    """Exercise 08, part 2: step_norm(x, gamma, beta, step), batch normalisation with the step's own γ and β."""
    generator = fresh()
    for step in (1, 0, 2, 3, 4):
        _judge_norm(function, generator, step)
    _judge_norm(function, generator, 1, epsilon=float(uniform(generator, low=1e-4, high=1e-3)))


def _judge_norm(function, generator, step, trained=3, epsilon=None, over=(0, 2, 3)):
    channels = side = 4  # equal, so that a γ broadcast along the wrong dimension goes unnoticed by shapes
    x = uniform(generator, 5, channels, side, side, low=-0.02, high=0.02)  # so small that epsilon counts
    x = (x + uniform(generator, 1, channels, 1, 1, low=-0.05, high=0.05)).requires_grad_()
    gamma = uniform(generator, trained, channels, low=0.5, high=2).requires_grad_()
    beta = uniform(generator, trained, channels).requires_grad_()
    given = {"x": x, "gamma": gamma, "beta": beta}
    untouched = Untouched(given)
    seen = call(function, x, gamma, beta, step, *([] if epsilon is None else [epsilon]))
    untouched.check()
    default, epsilon = 1e-5, 1e-5 if epsilon is None else epsilon
    g, b, constant = gamma.detach(), beta.detach(), x.detach()
    row = min(step, trained - 1)

    def scaled(normal, r=row):
        return normal * g[r][:, None, None] + b[r][:, None, None]

    def normal(dims, correction=0, epsilon=epsilon, x=constant):
        variance = x.var(dims, correction=correction, keepdim=True)
        return (x - x.mean(dims, keepdim=True)) / torch.sqrt(variance + epsilon)

    right = normal(over)
    centred = constant - constant.mean(over, keepdim=True)
    std = constant.std(over, correction=0, keepdim=True)
    mistakes = [(scaled(right, r),
                 f"Use γ and β of step {row}: step {step} used γ and β of step {r}, but each has its own, and steps "
                 "beyond the last use the last.") for r in range(trained) if r != row]  # fmt: skip
    mistakes += [
        (right * b[row][:, None, None] + g[row][:, None, None],
         "Multiply by γ and add β: the two are exchanged."),
        (right * g[row] + b[row],
         "Give γ and β the shape (channels, 1, 1), so that each channel has its own: they were broadcast along the "
         "width."),
        *[(scaled(normal(dims)), message) for dims, message in KINDS.items() if dims != over],
        (scaled(normal(over, correction=1)),
         "Divide the variance by n (correction=0): it was divided by n - 1."),
        *[(scaled(normal((0, 1, 2, 3), correction)),
           "Normalise each channel by itself: mean and variance were computed over all channels together.")
          for correction in (0, 1)],
        (scaled(centred / (std + epsilon)),
         "Put epsilon under the root, of variance + epsilon: it was added to the root."),
        (scaled(normal(over, epsilon=0)), "Add epsilon under the root: epsilon is missing."),
        (scaled(normal(over, epsilon=default)),
         "Use the argument epsilon: its default was used whatever was passed."),
        (right, "Multiply by γ and add β: γ and β were not used."),
        (right * g[row][:, None, None], "Add β: β was not added."),
        (scaled(centred), "Divide by the standard deviation: the mean was subtracted, but the result was not divided."),
        (scaled(constant), "Subtract the mean and divide by the standard deviation: nothing was normalised."),
    ]  # fmt: skip
    compare("The result of step_norm", seen, scaled(right), mistakes, tolerance=3e-4)
    weights = uniform(generator, *x.shape)
    back = vjp({"y": seen}, {"y": weights}, [gamma, beta, x])
    twins = [t.detach().clone().requires_grad_() for t in (gamma, beta, x)]

    def twin(moments):
        z = moments(twins[2])
        y = (twins[2] - z.mean(over, keepdim=True)) / torch.sqrt(z.var(over, correction=0, keepdim=True) + epsilon)
        return twins[0][row][:, None, None] * y + twins[1][row][:, None, None]

    exact = vjp({"y": twin(lambda z: z)}, {"y": weights}, twins)
    no_moments = vjp({"y": twin(torch.Tensor.detach)}, {"y": weights}, twins)
    for name, one, true, cut in zip(("γ", "β", "x"), back, exact, no_moments):
        mistakes = [(torch.zeros_like(true),
                     f"Leave out detach() and no_grad(): no gradient flows back to {name}, so nothing would be learned "
                     "through it.")]  # fmt: skip
        if name == "x":
            mistakes += [
                (cut, "Leave mean and variance in the graph: the statistics were detached, but they depend on x.")
            ]
        compare(f"The gradient for {name}", one, true, mistakes, tolerance=1e-3)


KINDS = {
    (0, 2, 3): "Take mean and variance over examples, height and width: this is batch normalisation.",
    (1, 2, 3):
    "Take the mean over examples, height and width: this is layer normalisation, each example was normalised by "
    "itself.",
    (2, 3): "Take the mean over the examples too: this is instance normalisation.",
    (0,): "Take the mean over height and width too: it was computed over the examples alone, for each pixel.",
}  # fmt: skip
LAYER = {(0, 2, 3): "Normalise each example by itself, over channels, height and width: this is batch normalisation."}


@check
def step_layer_norm(function) -> None:
    """Exercise 08, bonus: step_layer_norm(x, gamma, beta, step), the same for each example by itself."""
    generator = fresh()
    for step in (1, 4):
        try:
            _judge_norm(function, generator, step, over=(1, 2, 3))
        except CheckFailed as failure:
            if str(failure) == KINDS[0, 2, 3]:
                raise CheckFailed(LAYER[0, 2, 3]) from None
            raise
