"""How good adaptation is on tasks that were not trained on, step by step, with 95% confidence intervals.

Evaluation is transductive unless asked otherwise, as in the papers: the queries of a task go through the network
together, and its normalisation sees their statistics.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from .errors import InputError, check_number
from .learner import MAML
from .stats import ci95, worst_decile
from .tasks import TaskBatch, check_batch

AT_ONCE = 400  # examples; their activations must fit into memory
LARGEST_NUMBER_OF_TASKS, LARGEST_NUMBER_OF_STEPS = 10**7, 10**4  # beyond these an evaluation would not end
# A step that raises a loss by no more than this is said to leave it level. Of a cross-entropy, 0.05 nats mean that the
# right class keeps 95% of its probability; five ways by chance have a loss of 1.61.
RISE = 0.05


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Measurements on T tasks, before adaptation and after each of K steps.

    Attributes:
        losses: (T, K + 1) query loss.
        accuracies: (T, K + 1) query accuracy in [0, 1]; None for regression.
        support_losses: (T, K + 1).
    """

    losses: Tensor
    accuracies: Tensor | None
    support_losses: Tensor

    @property
    def per_task(self) -> list[float]:
        """What each task scored after the last step: its accuracy, or its loss for regression."""
        values = self.losses if self.accuracies is None else self.accuracies
        return values[:, -1].tolist()

    @property
    def accuracy(self) -> float:
        """Mean query accuracy after the last step; nan for regression."""
        return math.nan if self.accuracies is None else fmean(self.per_task)

    @property
    def loss(self) -> float:
        """Mean query loss after the last step."""
        return self.losses[:, -1].mean().item()

    @property
    def score(self) -> float:
        """Higher is better: the accuracy, or minus the loss for regression."""
        return -self.loss if self.accuracies is None else self.accuracy

    @property
    def interval(self) -> float:
        """Half the 95% confidence interval over tasks of the accuracy (of the loss for regression)."""
        return ci95(self.per_task)

    @property
    def std(self) -> float:
        """Standard deviation over tasks of the accuracy (of the loss for regression)."""
        return stdev(self.per_task) if len(self.per_task) > 1 else math.nan

    @property
    def worst_decile(self) -> float:
        """Mean over the worst tenth of the tasks."""
        return worst_decile(self.per_task, highest=self.accuracies is None)

    @property
    def by_step(self) -> list[float]:
        """Mean accuracy (loss for regression) after 0, 1, ..., K steps."""
        return (self.losses if self.accuracies is None else self.accuracies).mean(0).tolist()

    @property
    def loss_by_step(self) -> list[float]:
        """Mean query loss after 0, 1, ..., K steps."""
        return self.losses.mean(0).tolist()

    @property
    def rises(self) -> Tensor:
        """(T, K): whether a step raised a task's query loss at all, however little."""
        return self._climbs(self.losses) > 0

    def overshoots(self, size: float = RISE) -> Tensor:
        """(T, K): whether a step raised a task's query loss by more than `size`."""
        return self._climbs(self.losses) > size

    def too_long(self, size: float = RISE) -> Tensor:
        """(T, K): whether a step was too long: it raised by more than `size` the support loss that it should lower."""
        return self._climbs(self.support_losses) > size

    def overfits(self, size: float = RISE) -> Tensor:
        """(T, K): whether a step raised the query loss by more than `size` while it lowered the support loss."""
        return self.overshoots(size) & (self._climbs(self.support_losses) < 0)

    @property
    def overshoot(self) -> float:
        """Share of tasks in which some step raises the query loss by more than `RISE`."""
        return share_of_tasks(self.overshoots())

    @staticmethod
    def _climbs(losses: Tensor) -> Tensor:
        return losses[:, 1:] - losses[:, :-1]


def share_of_tasks(steps: Tensor) -> float:
    """The share of tasks with some step of which something is true, from (T, K)."""
    return steps.any(1).float().mean().item()


def evaluate(
    maml: MAML, tasks, number_of_tasks: int = 600, steps: int | None = None, *, only_last: bool = False,
    transductive: bool = True,
) -> Evaluation:  # fmt: skip
    """Adapt to tasks and measure each step. Leaves parameters, buffers, modes and random state as they are.

    Args:
        maml: the meta-learner to measure.
        tasks: a task family, or an iterable of task batches; its first `number_of_tasks` tasks are used.
        number_of_tasks: T; fewer if the iterable ends before.
        steps: adaptation steps; default the K that was trained.
        only_last: measure the last step alone (one column instead of K + 1), much faster where queries are many.
        transductive: whether a task's queries go through the network together, or each with the support set alone.

    Raises:
        InputError: a number is not allowed, a parameter is not finite, a batch does not fit, or there is none.
    """
    check_number("number_of_tasks", number_of_tasks, at_least=1, integer=True)
    check_number("number_of_tasks", number_of_tasks, at_most=LARGEST_NUMBER_OF_TASKS, integer=True)
    if steps is not None:
        check_number("steps", steps, at_least=0, integer=True)
        check_number("steps", steps, at_most=LARGEST_NUMBER_OF_STEPS, integer=True)
    for name, parameter in maml.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(
                f"The learner: expected finite parameters, got nan or inf in {name.removeprefix('model.')}."
            )
    device, seen = next(maml.model.parameters()).device, []
    with _left_as_it_was(maml.model):
        for batch in _larger(map(check_batch, tasks), number_of_tasks):
            trajectory = maml.trajectory(batch.to(device), steps, only_last=only_last, transductive=transductive)
            seen.append([part if part is None else part.cpu() for part in trajectory[:3]])
    if not seen:
        raise InputError("tasks: expected at least one batch to evaluate on, got none (any more).")
    support, query, accuracy = zip(*seen)
    return Evaluation(torch.cat(query), None if accuracy[0] is None else torch.cat(accuracy), torch.cat(support))


def _larger(batches, number_of_tasks: int):
    """The same tasks in the same order, in batches of about `AT_ONCE` examples, which take less time for each.

    No more batches are asked for than are needed.
    """
    waiting, missing = [], number_of_tasks
    for batch in batches:
        if waiting and not _alike(waiting[0], batch):
            yield _joined(waiting)
            waiting = []
        waiting.append(TaskBatch(*(x[:missing] for x in batch)))
        missing -= len(waiting[-1].support_x)
        if missing <= 0 or sum(map(_examples, waiting)) >= AT_ONCE:
            yield _joined(waiting)
            waiting = []
        if missing <= 0:
            return
    if waiting:
        yield _joined(waiting)


def _alike(one: TaskBatch, other: TaskBatch) -> bool:
    return all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(one, other))


def _examples(batch: TaskBatch) -> int:
    return len(batch.support_x) * (batch.support_x.shape[1] + batch.query_x.shape[1])


def _joined(batches: list[TaskBatch]) -> TaskBatch:
    return TaskBatch(*map(torch.cat, zip(*batches))) if len(batches) > 1 else batches[0]


@contextmanager
def _left_as_it_was(model):
    """Evaluation mode inside; every module's own mode and the random state restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
