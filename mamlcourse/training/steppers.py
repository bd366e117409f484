"""One iteration of the outer loop: a meta-batch, its meta-gradients, a step of Adam.

There are two steppers with the same two methods: one operation after the other, and recorded as a CUDA graph.
`prepared` returns the stepper that takes the next step, which is another one where recording turns out impossible.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import InputError
from ..learner import MAML
from ..meta_params import outer_step
from ..tasks import TaskBatch, check_batch, is_family
from . import cuda_graphs
from .distributed import Ranks

if TYPE_CHECKING:
    from .workers import Workers


LR_FACTOR = "lr_factor"  # a key of Adam's groups, beside PyTorch's own


class Step(NamedTuple):
    """The meta-loss and query accuracy (None for regression) of an iteration, how many tasks it had, and its batch
    where it is still there."""

    loss: Tensor
    accuracy: Tensor | None
    number_of_tasks: int
    batch: TaskBatch | None = None


class EagerStepper:
    """One operation after the other; with several ranks each computes some of the tasks.

    Args:
        maml, optimizer: what is trained, and by what.
        tasks: a task family, or an iterable of batches.
        ranks: the processes that share the tasks.
        start: number of the first batch.
        workers: processes of this rank that share its tasks; default none.
    """

    def __init__(self, maml: MAML, optimizer, tasks, ranks: Ranks, start: int, workers: Workers | None = None):
        self.maml, self.optimizer, self.ranks, self.workers, self.epoch = maml, optimizer, ranks, workers, 0
        self.meta = maml.meta_params()
        self.batches = _batches(tasks, start, self.meta.tensors()[0].device)

    def prepared(self, epoch: int, iteration: int) -> EagerStepper:
        self.epoch = epoch
        return self

    def step(self, lr: float) -> Step:
        batch = next(self.batches)
        share = self.ranks.slice(batch)
        first = self.ranks.first(batch)
        mine = self.maml.meta_gradients(share, self.epoch, workers=self.workers, first_task=first)
        weight = len(share.support_x) / len(batch.support_x)
        loss, accuracy, gradients = self.ranks.average(mine, weight, self.maml.backend)
        self.maml.settle(self.ranks.backend)
        # Where reading it makes nobody wait, a loss that is not finite spoils no parameter: its reader stops the run.
        if loss.device.type != "cpu" or loss.isfinite():
            set_lr(self.optimizer, lr)
            outer_step(self.optimizer, self.meta, gradients)
        return Step(loss, accuracy, len(batch.support_x), batch)


class RecordedStepper:
    """Whole steps as CUDA graphs: one for each kind of epoch, recorded when the first such epoch begins.

    Args:
        maml, optimizer: what is trained, and by what.
        tasks: a task family on the same GPU.
    """

    def __init__(self, maml: MAML, optimizer, tasks):
        self.maml, self.optimizer, self.tasks, self.recording = maml, optimizer, tasks, None

    def prepared(self, epoch: int, iteration: int) -> RecordedStepper | EagerStepper:
        if self.recording is not None and self.recording.kind == cuda_graphs.kind_of_epoch(self.maml, epoch):
            return self
        self.recording = None  # its memory is the next one's
        try:
            self.recording = cuda_graphs.CapturedStep(self.maml, self.optimizer, self.tasks, epoch, iteration)
        except RuntimeError as error:
            tqdm.write(f"Training without a CUDA graph: the step cannot be recorded ({str(error).splitlines()[0]}).")
            return EagerStepper(self.maml, self.optimizer, self.tasks, Ranks(), iteration).prepared(epoch, iteration)
        return self

    def step(self, lr: float) -> Step:
        set_lr(self.optimizer, lr)
        loss, accuracy = self.recording.replay()
        return Step(loss, accuracy, self.recording.number_of_tasks)


def can_record(maml: MAML, tasks, ranks: Ranks, wanted: bool | None) -> bool:
    """Whether steps are to be recorded: where that is possible, unless `wanted` is False.

    Raises:
        InputError: it is insisted on (True) and not possible.
    """
    device = next(maml.parameters()).device
    several = "several processes share the tasks" if ranks.size > 1 else None
    why_not = several or cuda_graphs.why_not(maml, tasks, device)
    if wanted and why_not:
        raise InputError(f"capture is True, but {why_not}: leave it out to train without a CUDA graph.")
    if why_not and wanted is None and device.type == "cuda" and ranks.rank == 0:
        tqdm.write(f"Training without a CUDA graph: {why_not}.")
    return why_not is None and wanted is not False


def adam(maml: MAML, capturable: bool = False) -> torch.optim.Adam:
    """Adam on the meta-parameters. If `capturable`, its learning rates and step count are tensors on the GPU."""
    groups = parameter_groups(maml, as_tensors=capturable)
    return torch.optim.Adam(groups, lr=groups[0]["lr"], capturable=capturable)


def parameter_groups(maml: MAML, as_tensors: bool = False) -> list[dict]:
    """The meta-parameters in Adam's groups: one, or a second for learned learning rates that have an Adam learning
    rate of their own (`Settings.learned_lr_outer_lr`), which is `lr_factor` times that of the first.

    Args:
        maml: whose they are.
        as_tensors: whether Adam's learning rates are tensors on the device, one for each group, to be set in place.
    """
    meta, settings = maml.meta_params(), maml.settings
    groups = [{"params": meta.tensors(), "lr": settings.outer_lr}]
    if meta.learning_rates and settings.learned_lr_outer_lr is not None:
        # In units of inner_lr: Adam is invariant to scale, so this is Adam on multiples of it.
        lr = settings.learned_lr_outer_lr * settings.inner_lr
        groups[0]["params"] = meta._replace(learning_rates={}).tensors()
        own = {"params": list(meta.learning_rates.values()), "lr": lr, LR_FACTOR: lr / settings.outer_lr}
        groups.append(own)
    for group in groups if as_tensors else ():
        group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    return groups


def set_lr(optimizer: torch.optim.Adam, lr: float) -> None:
    """Set Adam's learning rate, where it is a tensor in place; a group may have its own multiple of it."""
    for group in optimizer.param_groups:
        own = lr * group.get(LR_FACTOR, 1)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def load_adam(optimizer: torch.optim.Adam, state: dict) -> None:
    """Load Adam's state, which may come from the other kind of run: with a graph or without.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: it is not Adam's, or of other parameters.
    """
    ours = ("lr", LR_FACTOR, "capturable")
    kinds = [{name: group[name] for name in ours if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, kind in zip(optimizer.param_groups, kinds):
        group |= kind
        for parameter in group["params"]:
            moments = optimizer.state[parameter]
            if moments:
                for name in ("exp_avg", "exp_avg_sq"):
                    if moments[name].shape != parameter.shape:
                        raise ValueError(f"{name} of another shape")
                moments["step"] = moments["step"].to(parameter.device if kind["capturable"] else "cpu")


def _batches(tasks, start: int, device):
    """Batches from number `start` on, without end, on the device."""
    if is_family(tasks):
        yield from (tasks.batch(index).to(device) for index in itertools.count(start))
    # A DataLoader draws random numbers when it begins; those of the batches that are skipped were drawn long ago.
    random_state = torch.get_rng_state()
    skipped = 0
    while True:
        empty = True
        for batch in tasks:
            empty = False
            if skipped < start:
                skipped += 1
                if skipped == start:
                    torch.set_rng_state(random_state)
                continue
            yield check_batch(batch).to(device)
        if empty:
            raise InputError("tasks: expected at least one batch each time the loader is begun, got none (any more).")
