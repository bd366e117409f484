"""Exercise 04: the outer loop, and a test that sees whether every task counts.

The tasks are quadratics: their loss and gradient are known in closed form, and no network is needed.
"""

from __future__ import annotations

import torch

from .detector import judge_detector
from .judge import CheckFailed, Untouched, call, check, compare, fresh, integer, same_parts, uniform
from .reference import sgd_step


def quadratic_loss(parameters, support_x, support_y, query_x, query_y):
    """The loss of one task: support_x, support_y say where its minimum is, query_x how steep it is."""
    return (
        (query_x * (parameters["weight"] - support_x) ** 2).sum() / 2
        + (parameters["bias"] - support_y) ** 2 / 2
        + query_y
    )


def _quadratic_grads(parameters, support_x, support_y, query_x, query_y):
    return {"weight": query_x * (parameters["weight"] - support_x), "bias": parameters["bias"] - support_y}


def _quadratics(generator, tasks):
    """A batch of four tensors with a leading task dimension, for `quadratic_loss`."""
    return (
        uniform(generator, tasks, 3, low=-3, high=3), uniform(generator, tasks, low=-3, high=3),
        uniform(generator, tasks, 3, low=0.3, high=1.5), uniform(generator, tasks),
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
    batches = [_quadratics(generator, tasks) for tasks in (4, 3, integer(generator, 4, 6))]
    given = {name: p.clone() for name, p in theta.items()}
    untouched = Untouched(given)
    result = call(meta_train, quadratic_loss, given, batches, lr)
    seen, losses = same_parts("meta_train", result, ("parameters", "losses"))
    untouched.check()
    expected, by_task = _train(theta, batches, lr, _mean)

    def summed(grads):
        return {name: sum(g[name] for g in grads) for name in theta}

    def divided_twice(grads):
        return {name: value / len(grads) for name, value in _mean(grads).items()}

    compare("The parameters after training", seen, expected, (
        (_train(theta, batches, lr, lambda grads: grads[-1])[0],
         "Only the last task contributed: each task's gradient overwrites the one before, so add them up and divide "
         "by the number of tasks."),
        (_train(theta, batches, lr, lambda grads: grads[0])[0],
         "Only the first task contributed: the gradient of a meta-batch is the mean over all its tasks."),
        (_train(theta, batches, lr, summed)[0],
         "The gradients were summed over the tasks, not averaged: the outer learning rate would depend on the size of "
         "the batch."),
        (_train(theta, batches, lr, divided_twice)[0],
         "The mean was divided by the number of tasks once more: the step is too short."),
        *[(_task_after_task(theta, batches, lr, shared),
           "The parameters moved after every task: all tasks of a meta-batch must start from the same parameters, and "
           "one update comes at its end.") for shared in (False, True)],
        (_accumulating(theta, batches, lr),
         "The gradients of earlier batches are still counted: set the sum (or .grad) back to zero before each batch."),
        (theta, "The parameters came back as they were: return the trained ones."),
        (_train(theta, batches[:1], lr, _mean)[0],
         "Only the first batch was used: each update must go on from the result of the last."),
        (_train(theta, batches[-1:], lr, _mean)[0],
         "Only the last batch was used: each update must go on from the result of the last, not from the first "
         "initialisation."),
        (_train(theta, batches, -lr, _mean)[0], "The outer loop is gradient ascent: subtract the gradient."),
    ))  # fmt: skip
    if any(p.grad_fn is not None for p in seen.values()):
        raise CheckFailed(
            "The values are right, but the result still hangs on the graph of the whole training, so memory grows "
            "with every batch: detach the parameters after each update."
        )
    _judge_losses(losses, by_task)


def _judge_losses(losses, by_task):
    if not isinstance(losses, (list, tuple)) or len(losses) != len(by_task):
        got = f"{len(losses)}" if isinstance(losses, (list, tuple)) else type(losses).__name__
        raise CheckFailed(f"The losses: expected a list of {len(by_task)} numbers, one for each batch, got {got}.")
    if any(isinstance(loss, torch.Tensor) and loss.requires_grad for loss in losses):
        raise CheckFailed("The losses still hold their graphs, so memory grows with every batch: keep loss.item().")
    compare("The list of losses", torch.tensor([float(loss) for loss in losses]), torch.stack(
        [task_losses.mean() for task_losses in by_task]
    ), (
        (torch.stack([task_losses[-1] for task_losses in by_task]),
         "The losses are those of the last task alone: average over the tasks of the batch."),
        (torch.stack([task_losses.sum() for task_losses in by_task]),
         "The losses are summed over the tasks: average them."),
    ))  # fmt: skip


def _autograd(task_loss, parameters, task):
    theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    return dict(zip(theta, torch.autograd.grad(task_loss(theta, *task), list(theta.values()))))


def _version(choose, noise=0.0):
    """A function that computes a meta-gradient from the tasks that `choose` leaves."""

    def meta_gradient(task_loss, parameters, batch):
        tasks = choose(list(zip(*batch)))
        mean = _mean([_autograd(task_loss, parameters, task) for task in tasks])
        return {name: g * (1 + noise * (torch.rand(()).item() - 0.5)) for name, g in mean.items()}

    return meta_gradient


VERSIONS = {  # version: (does every task count, the function)
    "mean": (True, _version(lambda tasks: tasks)),
    "shuffled": (True, _version(lambda tasks: tasks[::-1], noise=1e-10)),
    "last": (False, _version(lambda tasks: tasks[-1:])),
    "rounded": (False, _version(lambda tasks: tasks[-1:], noise=1e-10)),
    "first": (False, _version(lambda tasks: tasks[:1])),
    "middle": (False, _version(lambda tasks: tasks[: len(tasks) // 2] + tasks[len(tasks) // 2 + 1 :])),
}
MESSAGES = {
    "last":
    "It says True for the version in which only the last task counts: replace a task by another one, and the gradient "
    "must change.",
    "first":
    "It says True for the version in which only the first task counts: replacing the first task alone is not enough, "
    "try every task.",
    "middle":
    "It says True for the version that leaves out the task in the middle: reversing the batch, or leaving tasks out, "
    "does not show that, so replace every single task in turn.",
    "rounded":
    "It says True for a version in which only the last task counts and the last digits vary: compare with a tolerance "
    "(torch.allclose), not exactly.",
    "shuffled":
    "It says False for a correct version that adds the tasks up in another order: the last digits may differ, so "
    "compare with a tolerance (torch.allclose), not exactly.",
    "mean":
    "It says False for the plain mean over all tasks, which is correct: where the last digits decide, compare with a "
    "tolerance (torch.allclose), not exactly.",
}  # fmt: skip


@check
def every_task_counts(detector) -> None:
    """Exercise 04, part 2: every_task_counts(meta_gradient, task_loss, parameters, batch) -> bool."""
    generator = fresh()

    def ask(version):
        parameters, batch = _initialisation(generator), _quadratics(generator, 5)
        before = [part.clone() for part in batch]
        with torch.random.fork_rng(devices=[]):
            answer = call(detector, version, quadratic_loss, parameters, batch)
        if not all(map(torch.equal, batch, before)):
            raise CheckFailed(
                "Your test changed the batch that it was given: write the other task into a copy, part.clone()."
            )
        return answer

    judge_detector(ask, VERSIONS, MESSAGES)
