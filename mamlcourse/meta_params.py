"""What the outer loop learns, with names: θ, and learned learning rates and per-step norms where there are any."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

Parameters = dict[str, Tensor]


class MetaParams(NamedTuple):
    """The meta-parameters, or a gradient of them; each part a dictionary of tensors by parameter name.

    Attributes:
        params: θ.
        learning_rates: α where it is learned, of shape (), (K,) or the parameter's (`Settings.learned_lr`); else empty.
        norms: γ and β of batch norm for each step, (K, channels), in place of θ's own (BNWB); else empty.
    """

    params: Parameters
    learning_rates: Parameters
    norms: Parameters

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        return [tensor for part in self for tensor in part.values()]


class MetaGradient(NamedTuple):
    """What a meta-batch, or one task, says to the outer loop.

    Attributes:
        loss: the meta-loss, a scalar.
        accuracy: query accuracy after the last step, in [0, 1]; of regression None (of one task nan).
        gradients: of the meta-loss, for each meta-parameter.
    """

    loss: Tensor
    accuracy: Tensor | None
    gradients: MetaParams


def outer_step(optimizer: torch.optim.Optimizer, meta: MetaParams, gradients: MetaParams) -> None:
    """Take one step of the outer loop's optimizer along these gradients. `.grad` is left empty."""
    for parameter, gradient in zip(meta.tensors(), gradients.tensors()):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


def nested(parameters: dict[str, Tensor]) -> nn.Module:
    """A module that holds these as parameters of the same names, dots included (`nn.ParameterDict` allows none)."""
    root = nn.Module()
    for name, value in parameters.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(value))
    return root


def with_current_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `MAML`; files of the first edition have "rates.head/weight" for "learning_rates.head.weight"."""

    def current(name):
        kind, _, rest = name.partition(".")
        kinds = {"rates": "learning_rates", "norms": "norms"}
        return f"{kinds[kind]}.{rest.replace('/', '.')}" if kind in kinds else name

    return {current(name): value for name, value in state.items()}
