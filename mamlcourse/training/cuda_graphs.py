"""Whole training steps as one CUDA graph: episodes, meta-gradients and Adam start with a single call.

A meta-gradient is thousands of small operations, which a GPU finishes faster than Python can ask for them. Recorded
once and replayed, they wait for nobody. The numbers are those of the same steps taken one operation at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.backends import ONE_BY_ONE
from ..learner import MAML
from ..tasks import is_family

WARM_UP = 3  # steps before recording, so that libraries choose their kernels and allocate their workspaces


def why_not(maml: MAML, tasks, device: torch.device) -> str | None:
    """Why training cannot be captured here, as the end of a sentence; None if it can."""
    if device.type != "cuda":
        return f"the model is on the {device.type}, not on a CUDA GPU"
    if maml.backend in ONE_BY_ONE:
        return f"only a backend that computes all tasks at once can be recorded, not {maml.backend}"
    if not is_family(tasks):
        return "the tasks come from a loader, not from a task family that draws them on the GPU"
    return None


class CapturedStep:
    """A training step of one kind of epoch, recorded. Recording changes no parameter.

    Args:
        maml: the meta-learner, on the GPU; it is trained in place.
        optimizer: from `steppers.adam`, capturable.
        tasks: a task family on the same GPU.
        epoch: decides the derivative order and the loss weights, which are part of the recording.
        index: number of the next batch.

    Raises:
        RuntimeError: the model, the loss or the tasks do something that cannot be recorded, such as `.item()`.
    """

    def __init__(self, maml: MAML, optimizer: torch.optim.Adam, tasks, epoch: int, index: int):
        self.kind = kind_of_epoch(maml, epoch)
        self.index = torch.tensor(index, device=optimizer.param_groups[0]["lr"].device)
        parameters = maml.meta_params().tensors()
        _begin(optimizer)
        maml.fastest_backend(tasks.batch(self.index), epoch)  # measuring cannot be recorded

        def gradients():
            batch = tasks.batch(self.index)
            self.number_of_tasks = len(batch.support_x)
            loss, accuracy, found = maml.meta_gradients(batch, epoch)
            for parameter, gradient in zip(parameters, found.tensors()):
                parameter.grad = gradient
            return loss, accuracy

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                gradients()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss, self.accuracy = gradients()
            optimizer.step()
            self.index.add_(1)

    def replay(self) -> tuple[Tensor, Tensor | None]:
        """Take the step: (meta-loss, query accuracy), on the GPU."""
        self.graph.replay()
        # The next replay writes over these.
        return self.loss.clone(), None if self.accuracy is None else self.accuracy.clone()


def kind_of_epoch(maml: MAML, epoch: int) -> tuple:
    """What makes the steps of an epoch a different program."""
    return maml.settings.order_at(epoch), maml.settings.loss_weights(epoch)


def _begin(optimizer: torch.optim.Adam) -> None:
    """Give a new optimizer its state: made while recording, it would begin again at every replay."""
    if optimizer.state:
        return
    lrs = [group["lr"].clone() for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"].zero_()
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for group, lr in zip(optimizer.param_groups, lrs):
        group["lr"].copy_(lr)
    for state in optimizer.state.values():
        state["step"].zero_()
