"""Whether a model, a loss and a batch fit together, found out by trying, before anything is trained."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .engine.stateless import Stateless
from .errors import InputError
from .tasks import TaskBatch, is_labels


def try_out(model: nn.Module, loss_fn, batch: TaskBatch) -> int:
    """Call the model and the loss on the first task, without a trace: the size of the outputs' last dimension.

    Raises:
        InputError: the model cannot take the inputs, its outputs are no tensor with a row for each example, the loss
            cannot take outputs and targets, is no scalar, or does not tell which target belongs to which example.
    """
    devices = [batch.support_x.device] if batch.support_x.device.type == "cuda" else []
    # Constants, so that no graph is built although a model may differentiate by itself; and nothing stays in the model.
    stateless, constants = Stateless(model), {name: p.detach() for name, p in model.named_parameters()}
    with torch.no_grad(), torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is looked at below
        for name, x, y in (
            ("support", batch.support_x[0], batch.support_y[0]), ("query", batch.query_x[0], batch.query_y[0]),
        ):  # fmt: skip
            outputs = _outputs(lambda x: stateless(constants, x), name, x)
            _check_loss(loss_fn, name, outputs, y)
    return outputs.shape[-1]


def check_labels(batch: TaskBatch, outputs_count: int) -> None:
    """Raise `InputError` if a label is no output's number."""
    for name, labels in (("support_y", batch.support_y), ("query_y", batch.query_y)):
        if is_labels(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= outputs_count:
                raise InputError(
                    f"{name}: expected labels from 0 to {outputs_count - 1}, as the model has {outputs_count} outputs, "
                    f"got {low} to {high}."
                )


def _outputs(model, name, x) -> Tensor:
    try:
        with torch.enable_grad():  # a model may differentiate by itself
            outputs = model(x)
    except Exception as error:
        kind = f"shape {tuple(x.shape)} and dtype {str(x.dtype).removeprefix('torch.')}"
        raise InputError(f"{name}_x: the model cannot take inputs of {kind} ({_first_line(error)}).") from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"The model: expected one tensor of outputs, got a {type(outputs).__name__}.")
    if outputs.ndim == 0 or len(outputs) != len(x):
        raise InputError(
            f"The model: expected outputs for each of {len(x)} examples, got shape {tuple(outputs.shape)}."
        )
    return outputs.detach()


def _check_loss(loss_fn, name, outputs, y) -> None:
    if loss_fn is F.cross_entropy and outputs.shape[-1] == 1:
        raise InputError(
            "The loss is cross-entropy, but the model has 1 output, of which it is always 0: "
            "for regression pass loss=torch.nn.functional.mse_loss."
        )
    if is_labels(y) and outputs.ndim == 2 and (y.min() < 0 or y.max() >= outputs.shape[-1]):
        return  # `check_labels` says it better than the loss
    try:
        loss = loss_fn(outputs, y)
    except Exception as error:
        shapes = f"outputs of shape {tuple(outputs.shape)} and {name}_y of shape {tuple(y.shape)}"
        kinds = f"dtypes {str(outputs.dtype).removeprefix('torch.')} and {str(y.dtype).removeprefix('torch.')}"
        raise InputError(f"The loss cannot take {shapes}, {kinds} ({_first_line(error)}).") from error
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"The loss: expected a scalar, the mean over the examples, got {got}.")
    if _broadcasts(loss_fn, outputs, y):
        raise InputError(
            f"The loss does not depend on which target belongs to which example: outputs have shape "
            f"{tuple(outputs.shape)} and {name}_y has {tuple(y.shape)}, which broadcast; give both the same shape."
        )


def _broadcasts(loss_fn, outputs, y) -> bool:
    """Whether targets (N,) against outputs (N, 1), or the reverse, are compared all with all.

    Then, and only then, other orders of the targets give the same loss.
    """
    if is_labels(y) or len(y) < 2 or outputs.numel() != y.numel() or outputs.shape == y.shape:
        return False
    # Random values, since a network may begin with the same output for all.
    generator = torch.Generator().manual_seed(0)
    outputs, y = (torch.rand(t.shape, generator=generator).to(t) for t in (outputs, y))
    loss, other = loss_fn(outputs, y), loss_fn(outputs, y.roll(1, 0))
    return torch.allclose(loss, other, rtol=1e-6)


def _first_line(error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
