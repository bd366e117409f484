"""What learners do with one task, step by step, and the loss landscape they cross: the numbers behind the explorer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.autodiff import EAGER
from ..engine.stateless import Stateless
from ..errors import InputError, check_choice, check_number
from ..evaluation import Evaluation, evaluate
from ..learner import MAML, Trajectory
from ..meta_params import MetaParams
from ..styles import title_of
from ..tasks import CharacterTasks, TaskBatch, check_batch

QUERIES = 5  # per class: as many as fit a figure
CROWD = 100  # tasks to see one task against


def few_shot_tasks(characters, ways: int = 5, shots: int = 1, seed: int = 0, script: str | None = None):
    """Character tasks to look at one by one: batch `number` of the result is task `number` alone.

    Args:
        characters: the classes to sample from.
        ways, shots, seed: as in `CharacterTasks`; there are 5 queries per class.
        script: sample from the letters of this script alone.

    Raises:
        InputError: the script is unknown or has too few letters, or a number is not allowed.
    """
    if script is not None:
        check_choice("The script", script, sorted(set(characters.alphabets)))
        of_script = [c for c, alphabet in enumerate(characters.alphabets) if alphabet == script]
        characters = characters.select(of_script, script)
    return CharacterTasks(characters, ways, shots, QUERIES, tasks_per_batch=1, seed=seed)


def with_inner_lr_times(factor: float, maml: MAML) -> MAML:
    """A copy of the learner whose every inner learning rate, learned or not, is multiplied by `factor`.

    Raises:
        InputError: the factor is not above 0.
    """
    check_number("The factor of the inner learning rates", factor, above=0)
    changed = copy.deepcopy(maml)
    changed.settings = replace(maml.settings, inner_lr=factor * maml.settings.inner_lr)
    with torch.no_grad():
        for lr in changed.learning_rates.parameters():
            lr.mul_(factor)
    return changed


class Slice(NamedTuple):
    """The query loss of a task on a plane through weight space, and the path of adaptation seen in that plane.

    The origin is θ, the initialisation that all tasks share; distances are Euclidean, over all weights that adapt.

    Attributes:
        path: (K + 1, 2) where θ'_0 to θ'_K lie, their shadows where the path leaves the plane.
        x, y: (points,) coordinates of the grid.
        loss: (points of y, points of x) the query loss there.
        seen: the share, in [0, 1], of the path's squared distances from θ that lies in the plane.
    """

    path: Tensor
    x: Tensor
    y: Tensor
    loss: Tensor
    seen: float


def loss_slice(maml: MAML, task: TaskBatch, trajectory: Trajectory, points: int = 7, margin: float = 0.3) -> Slice:
    """The loss landscape around one task's adaptation, on the plane that holds θ, θ'_K and most of the way between.

    The first axis points from θ to θ'_K; the second is the direction in which the path strays furthest from it, or,
    after a single step, the one in which the query loss rises. Per-step γ and β (BNWB) are those of the last step in
    the whole plane.

    Args:
        maml: the learner that adapted.
        task: a batch of that one task.
        trajectory: what `maml.trajectory(task, parameters=True)` returned.
        points: grid points along each axis.
        margin: how far the grid reaches beyond the path, as a share of its extent.

    Raises:
        InputError: the trajectory has no parameters, no step or several tasks, or adaptation moved nothing.
    """
    check_number("points", points, at_least=2, integer=True)
    check_number("margin", margin, above=0)
    task = check_batch(task)
    if trajectory.parameters is None or trajectory.query_loss.shape[0] != 1 or trajectory.query_loss.shape[1] < 2:
        raise InputError("A slice needs the trajectory of one task, of at least one step and with parameters=True.")
    moves = {name: (p[0] - p[0, :1]) for name, p in trajectory.parameters.items()}  # θ'_k - θ
    flat = torch.cat([move.flatten(1) for move in moves.values()], 1).double()  # (K + 1, weights)
    distance = flat[-1].norm()
    if not torch.isfinite(flat).all() or distance == 0:
        raise InputError("A slice needs θ and θ'_K that differ, and finite weights between them.")
    loss_at = _loss_at(maml, task, trajectory)
    first = flat[-1] / distance
    aside = flat - flat @ first[:, None] * first
    if aside.norm() < 1e-6 * distance:  # a straight path leaves the second axis open
        gradient = loss_at(torch.zeros_like(first), gradient=True)
        aside = (gradient - gradient @ first * first)[None]
    second = torch.linalg.svd(aside, full_matrices=False).Vh[0]
    axes = torch.stack([first, second])
    path = flat @ axes.T
    low, high = path.min(0).values, path.max(0).values
    reach = (0.5 + margin) * (high - low).max()
    x, y = (torch.linspace(float(c - reach), float(c + reach), points) for c in (low + high) / 2)
    loss = torch.tensor([[loss_at(a * first + b * second) for a in x] for b in y])
    return Slice(path.float(), x, y, loss, float(path.square().sum() / flat.square().sum()))


def _loss_at(maml, task, trajectory):
    """A function from a move away from θ, a flat vector, to the query loss there (or to its gradient)."""
    inner, steps = maml.inner_loop(Stateless(maml.model), EAGER), trajectory.query_loss.shape[1] - 1
    # Channels last: the same numbers, three times as fast, for the hundreds of passes that a figure takes.
    compact = lambda t: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t  # noqa: E731
    meta = MetaParams(*({n: compact(p.detach()) for n, p in part.items()} for part in maml.meta_params()))
    theta = {name: compact(p[0, 0]) for name, p in trajectory.parameters.items()}
    sizes = [p.numel() for p in theta.values()]
    query_x, query_y = compact(task.query_x[0]), task.query_y[0]

    def loss_at(move, gradient=False):
        move = move.float().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            parts = zip(theta.items(), move.split(sizes))
            moved = {name: p + compact(part.view(p.shape)) for (name, p), part in parts}
            loss, _ = inner.query_loss(meta, moved, steps, query_x, query_y)
        return torch.autograd.grad(loss, move)[0].double() if gradient else loss.item()

    return loss_at


def measure_crowd(learners: dict[str, MAML], tasks, number: int = CROWD, steps: int | None = None, report=None):
    """What each learner does with many tasks: {name: `Evaluation`} over tasks 0 to number - 1.

    Args:
        learners: by recipe's name.
        tasks: a task family with one task in a batch, such as `few_shot_tasks` makes.
        number: how many tasks.
        steps: adaptation steps; default the K that each was trained with.
        report: called with how many of how many tasks are done, now and then.
    """
    done, every = 0, 10

    def groups():
        nonlocal done
        for first in range(0, number, every):
            if report is not None:
                report(done, number * len(learners))
            group = range(first, min(first + every, number))
            done += len(group)
            yield TaskBatch(*map(torch.cat, zip(*(tasks.batch(index) for index in group))))

    return {name: evaluate(maml, groups(), number, steps) for name, maml in learners.items()}


def crowd_record(evaluation: Evaluation) -> dict:
    """An evaluation as plain values for a result file."""
    parts = {"losses": evaluation.losses, "accuracies": evaluation.accuracies, "support": evaluation.support_losses}
    return {name: [[round(v, 4) for v in row] for row in part.tolist()] for name, part in parts.items()}


def read_crowd(record: dict) -> dict[str, Evaluation]:
    """The crowds of a result file of benchmarks/pretrain.py: {name: `Evaluation`}."""
    crowds = {name: entry["crowd"] for name, entry in record["algorithms"].items()}
    return {
        name: Evaluation(*(torch.tensor(crowd[part]) for part in ("losses", "accuracies", "support")))
        for name, crowd in crowds.items()
    }


# Where it goes wrong: numbers of tasks to look at.


def worst_task(crowd: dict[str, Evaluation]) -> int:
    """The task with the lowest accuracy after the last step, all learners together; of equals, the one with the
    highest loss."""
    return _first(crowd, lambda e: -e.accuracies[:, -1], lambda e: e.losses[:, -1], lambda values: values.mean(0))


def most_disputed_task(crowd: dict[str, Evaluation]) -> int:
    """The task after whose last step the learners' accuracies lie furthest apart; of equals, their losses."""
    apart = lambda values: values.max(0).values - values.min(0).values  # noqa: E731
    return _first(crowd, lambda e: e.accuracies[:, -1], lambda e: e.losses[:, -1], apart)


def most_overshooting_task(crowd: dict[str, Evaluation]) -> int:
    """The task on which some learner's query loss climbs highest above what it had already reached."""
    climb = lambda e: (e.losses - e.losses.cummin(1).values).max(1).values  # noqa: E731
    return _first(crowd, climb, climb, lambda values: values.max(0).values)


def _first(crowd, value, tie_breaker, together) -> int:
    """The task with the highest value, computed for each learner and taken together."""
    if not crowd:
        raise InputError("The crowd has no learners, so there is no task to choose.")
    keys = [together(torch.stack([of(e) for e in crowd.values()])).nan_to_num(math.inf) for of in (value, tie_breaker)]
    return max(range(len(keys[0])), key=lambda task: (keys[0][task].item(), keys[1][task].item()))


def in_words(trajectories: dict[str, Trajectory], step: int) -> str:
    """What each learner's query accuracy and loss are after a step, for whoever cannot see the images."""
    parts = []
    for name, trajectory in trajectories.items():
        queries = trajectory.query_outputs.shape[2]
        correct = round(trajectory.query_accuracy[0, step].item() * queries)
        loss = trajectory.query_loss[0, step].item()
        parts.append(f"{title_of(name)} {correct} of {queries} correct, loss {loss:.2f}")
    return "; ".join(parts)
