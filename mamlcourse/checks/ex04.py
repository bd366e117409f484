"""Exercise 04: the outer loop, and a test that sees whether every task counts.

The tasks are quadratics: their loss and gradient are known in closed form, and no network is needed. All four tensors
of a task have an influence on its gradient, and the parameters on each other's.
"""

from __future__ import annotations

import itertools

import torch

from .detector import judge_detector
from .judge import CheckFailed, Untouched, as_tensor, call, check, compare, fresh, integer, same_parts, uniform
from .reference import sgd_step

PULL = 0.5  # of the support set, beside the query's


def quadratic_loss(parameters, support_x, support_y, query_x, query_y):
    """The loss of one task: of a linear prediction for the query, and of the distance from the support set."""
    off = query_x @ parameters["weight"] + parameters["bias"] - query_y
    pulled = ((parameters["weight"] - support_x) ** 2).sum() + (parameters["bias"] - support_y) ** 2
    return off**2 / 2 + PULL * pulled / 2


def _quadratic_grads(parameters, support_x, support_y, query_x, query_y):
    off = query_x @ parameters["weight"] + parameters["bias"] - query_y
    return {
        "weight": off * query_x + PULL * (parameters["weight"] - support_x),
        "bias": off + PULL * (parameters["bias"] - support_y),
    }


def _quadratics(generator, tasks):
    """A batch of four tensors with a leading task dimension, for `quadratic_loss`."""
    return (
        uniform(generator, tasks, 3, low=-3, high=3), uniform(generator, tasks, low=-3, high=3),
        uniform(generator, tasks, 3), uniform(generator, tasks, low=-3, high=3),
    )  # fmt: skip


def _initialisation(generator):
    return {"weight": uniform(generator, 3, low=-2, high=2), "bias": uniform(generator, low=-2, high=2)}


def _grads_by_task(parameters, batch):
    return [_quadratic_grads(parameters, *task) for task in zip(*batch)]


def _mean(grads):
    return {name: torch.stack([g[name] for g in grads]).mean(0) for name in grads[0]}


def _train(parameters, batches, lr, combine):
    """Gradient descent in closed form; `combine` makes one gradient of the tasks'. Losses are before each update."""
    losses = []
    for batch in batches:
        losses.append(torch.stack([quadratic_loss(parameters, *task) for task in zip(*batch)]))
        parameters = sgd_step(parameters, combine(_grads_by_task(parameters, batch)), lr)
    return parameters, losses


def _task_after_task(parameters, batches, lr, shared=False):
    for batch in batches:
        for task in zip(*batch):
            parameters = sgd_step(parameters, _quadratic_grads(parameters, *task), lr / len(batch[0]) if shared else lr)
    return parameters


def _accumulating(parameters, batches, lr):
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for batch in batches:
        mean = _mean(_grads_by_task(parameters, batch))
        total = {name: total[name] + mean[name] for name in total}
        parameters = sgd_step(parameters, total, lr)
    return parameters


@check
def outer_loop(meta_train) -> None:
    """Exercise 04, part 1: meta_train(task_loss, parameters, batches, outer_lr) -> (parameters, losses)."""
    generator = fresh()
    theta, lr = _initialisation(generator), float(uniform(generator, low=0.1, high=0.2))
    batches = [_quadratics(generator, tasks) for tasks in (integer(generator, 5, 6), 3, 1, 4)]
    given = {name: p.clone() for name, p in theta.items()}
    untouched = Untouched(given)
    # A generator, as the figure of the notebook hands in: whoever asks for its length or goes twice through it fails.
    result = call(meta_train, quadratic_loss, given, (tuple(p.clone() for p in batch) for batch in batches), lr)
    seen, losses = same_parts("meta_train", result, ("parameters", "losses"))
    untouched.check()
    expected, by_task = _train(theta, batches, lr, _mean)

    def summed(grads):
        return {name: sum(g[name] for g in grads) for name in theta}

    def scaled(factor):
        return lambda grads: {name: value * factor(len(grads)) for name, value in _mean(grads).items()}

    compare("The parameters after training", seen, expected, (
        (_train(theta, batches, lr, lambda grads: grads[-1])[0],
         "Add the gradients of all tasks up and divide by their number: only the last task contributed, as each "
         "overwrites the one before."),
        (_train(theta, batches, lr, lambda grads: grads[0])[0],
         "Take the mean over all tasks of a meta-batch: only the first task contributed."),
        (_train(theta, batches, lr, lambda grads: _mean(grads[:-1] or grads))[0],
         "Take the mean over all tasks of a meta-batch: the last one was left out."),
        (_train(theta, batches, lr, lambda grads: _mean(grads[1:] or grads))[0],
         "Take the mean over all tasks of a meta-batch: the first one was left out."),
        (_train(theta, batches, lr, lambda grads: _mean(grads[:4]))[0], LENGTH),
        (_train(theta, batches, lr, scaled(lambda tasks: tasks / 4))[0], LENGTH),
        (_train(theta, batches, lr, scaled(lambda tasks: tasks / len(batches[0][0])))[0],
         "Divide by the number of tasks of this batch: that of the first one was used, but batches differ in size."),
        (_train(theta, batches, lr, summed)[0],
         "Divide by the number of tasks: the gradients were summed over the tasks, not averaged, so the outer "
         "learning rate would depend on the size of the batch."),
        (_train(theta, batches, lr, scaled(lambda tasks: 1 / tasks))[0],
         "Divide by the number of tasks once: the mean was divided by the number of tasks once more."),
        *[(_task_after_task(theta, batches, lr, shared),
           "Start all tasks of a meta-batch from the same parameters, and update once at its end: they moved after "
           "every task.") for shared in (False, True)],
        (_accumulating(theta, batches, lr),
         "Set the sum (or .grad) back to zero before each batch: the gradients of earlier batches are still counted."),
        (theta, "Return the trained parameters: they came back as they were."),
        (_train(theta, batches[:1], lr, _mean)[0],
         "Go on from the result of the last update: only the first batch was used."),
        (_train(theta, batches[-1:], lr, _mean)[0],
         "Go on from the result of the last update, not from the first initialisation: only the last batch was used."),
        (_train(theta, batches, -lr, _mean)[0], "Subtract the gradient: the outer loop is gradient ascent."),
    ))  # fmt: skip
    if any(isinstance(p, torch.Tensor) and p.grad_fn is not None for p in seen.values()):
        raise CheckFailed(
            "Detach the parameters after each update: the values are right, but the result still hangs on the graph of "
            "the whole training, so memory grows with every batch."
        )
    _judge_losses(losses, by_task)


LENGTH = (
    "Take the number of tasks from one of the four tensors, len(batch[0]): len(batch) is 4 whatever the batch "
    "holds, as "
    "it counts the tensors."
)


def _judge_losses(losses, by_task):
    count = len(by_task)
    if isinstance(losses, torch.Tensor) and losses.ndim == 1:
        losses = list(losses)
    if as_tensor(losses) is None or as_tensor(losses).ndim == 0 or len(losses) != count:
        got = f"{len(losses)}" if isinstance(losses, (list, tuple)) else type(losses).__name__
        raise CheckFailed(f"The losses: expected a list of {count} numbers, one for each batch, got {got}.")
    if any(isinstance(loss, torch.Tensor) and loss.requires_grad for loss in losses):
        raise CheckFailed("Keep loss.item(): the losses still hold their graphs, so memory grows with every batch.")
    compare("The list of losses", torch.tensor([float(loss) for loss in losses]), torch.stack(
        [task_losses.mean() for task_losses in by_task]
    ), (
        (torch.stack([task_losses[-1] for task_losses in by_task]),
         "Average the losses over the tasks of the batch: these are those of the last task."),
        (torch.stack([task_losses.sum() for task_losses in by_task]),
         "Average the losses over the tasks: the losses are summed."),
        (torch.stack([task_losses.sum() / 4 for task_losses in by_task]), LENGTH),
    ))  # fmt: skip


def _autograd(task_loss, parameters, task):
    theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    return dict(zip(theta, torch.autograd.grad(task_loss(theta, *task), list(theta.values()))))


def _version(choose, noise=0.0):
    """A function that computes a meta-gradient from the tasks that `choose` leaves; with noise, its last digits are
    others in each of nine calls, up to four times so much (relative)."""
    calls = itertools.count()

    def meta_gradient(task_loss, parameters, batch):
        tasks = choose(list(zip(*batch)))
        mean = _mean([_autograd(task_loss, parameters, task) for task in tasks])
        factor = 1 + noise * (next(calls) % 9 - 4)
        return {name: g * factor for name, g in mean.items()}

    return meta_gradient


VERSIONS = {  # version: (does every task count, the function)
    "mean": (True, _version(lambda tasks: tasks)),
    "shuffled": (True, _version(lambda tasks: tasks[::-1], noise=2.4e-7)),
    "last": (False, _version(lambda tasks: tasks[-1:])),
    "rounded": (False, _version(lambda tasks: tasks[-1:], noise=2.4e-7)),
    "first": (False, _version(lambda tasks: tasks[:1])),
    "middle": (False, _version(lambda tasks: tasks[: len(tasks) // 2] + tasks[len(tasks) // 2 + 1 :])),
    "but the last": (False, _version(lambda tasks: tasks[:-1])),
    "but the first": (False, _version(lambda tasks: tasks[1:])),
}
EVERY_SINGLE_ONE = "Replace every single task in turn: it says True for the version "
MESSAGES = {
    "last":
    "Replace a task by another one, whereupon the gradient must change: it says True for the version in which only the "
    "last task counts.",
    "first": EVERY_SINGLE_ONE + "in which only the first task counts: replacing the first task alone is not enough.",
    "middle":
    EVERY_SINGLE_ONE + "that leaves out the task in the middle, which reversing the batch, or leaving tasks out, does "
    "not show.",
    "but the last":
    EVERY_SINGLE_ONE + "that leaves out the last one; a batch has len(batch[0]) tasks, while len(batch) is 4, the "
    "number of tensors.",
    "but the first": EVERY_SINGLE_ONE + "that leaves out the first one.",
    "rounded":
    "Compare with a tolerance (torch.allclose), not exactly: it says True for a version in which only the last task "
    "counts and the last digits vary.",
    "shuffled":
    "Compare with a tolerance (torch.allclose), not exactly: it says False for a correct version that adds the "
    "tasks up "
    "in another order, so that the last digits may differ.",
    "mean":
    "Ask for no more than a change of the gradient, with a tolerance (torch.allclose): it says False for the "
    "plain mean "
    "over all tasks, which is correct.",
}  # fmt: skip


@check
def every_task_counts(detector) -> None:
    """Exercise 04, part 2: every_task_counts(meta_gradient, task_loss, parameters, batch) -> bool."""
    generator = fresh()

    def ask(version, tasks):
        parameters, batch = _initialisation(generator), _quadratics(generator, tasks)
        before, untouched = [part.clone() for part in batch], Untouched(parameters)
        with torch.random.fork_rng(devices=[]):
            answer = call(detector, version, quadratic_loss, dict(parameters), batch)
        untouched.check()
        if not all(map(torch.equal, batch, before)):
            raise CheckFailed(
                "Write the other task into a copy, part.clone(): your test changed the batch that it was given."
            )
        return answer

    # An odd number, or leaving out the middle one would not look the same from both ends.
    judge_detector(lambda version: ask(version, 2 * integer(generator, 2, 3) + 1), VERSIONS, MESSAGES)
    two = {name: VERSIONS[name] for name in ("mean", "last", "first")}
    judge_detector(lambda version: ask(version, 2), two, MESSAGES)


@check
def reptile_step(function) -> None:
    """Exercise 04, bonus: reptile_step(parameters, adapted, outer_lr), a step towards the mean of `adapted`."""
    generator = fresh()
    for tasks in (integer(generator, 3, 5), 1):
        theta, lr = _initialisation(generator), float(uniform(generator, low=0.1, high=0.5))
        adapted = [_initialisation(generator) for _ in range(tasks)]
        untouched = Untouched(theta)
        seen = call(function, dict(theta), [dict(one) for one in adapted], lr)
        untouched.check()

        def towards(goal, lr=lr, theta=theta):
            return {name: p + lr * (goal[name] - p) for name, p in theta.items()}

        mean = _mean(adapted)
        compare("The parameters after the step", seen, towards(mean), (
            (mean, "Multiply by the outer learning rate: these are the adapted parameters' means."),
            (towards(mean, -lr), "Go towards the adapted parameters: the step leads away from them."),
            (towards(adapted[-1]), "Take the mean over all tasks: only the last one counted."),
            (towards(adapted[0]), "Take the mean over all tasks: only the first one counted."),
            ({n: p + lr * sum(one[n] - p for one in adapted) for n, p in theta.items()},
             "Divide by the number of tasks: the differences were summed."),
        ))  # fmt: skip
