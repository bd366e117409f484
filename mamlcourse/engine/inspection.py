"""What a model is made of, as far as meta-learning needs to know: which parameters adapt, which normalise."""

from __future__ import annotations

from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from ..errors import InputError
from .stateless import replica


def normalisation_parameters(model: nn.Module) -> list[str]:
    """The names of all trainable weights and biases (γ and β) of normalisation layers."""
    return [
        f"{name}.{part}".removeprefix(".")
        for name, layer in _normalisation_layers(model)
        for part, p in layer.named_parameters()
        if p.requires_grad
    ]


def refuse_running_statistics(model: nn.Module) -> None:
    """Raise `InputError` if a layer keeps running batch statistics."""
    for name, layer in _normalisation_layers(model):
        if getattr(layer, "track_running_stats", False):
            raise InputError(
                f"The layer {name or type(layer).__name__!r} keeps running batch statistics, which mix the tasks: "
                "build it with track_running_stats=False."
            )


def names_that_adapt(model: nn.Module, patterns: tuple[str, ...], excluded: list[str]) -> list[str]:
    """The parameters that the patterns choose: each pattern adds names, or with a leading "!" takes them out again.

    Raises:
        InputError: the model has no trainable parameter, or none is chosen.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        raise InputError("The model has no parameters that require gradients, so there is nothing to adapt.")
    everything, chosen = [name for name, _ in model.named_parameters()], set()
    for pattern in patterns:
        matching = {name for name in everything if fnmatch(name, pattern.removeprefix("!"))}
        if not matching:
            raise InputError(
                f"adapt: {pattern!r} matches no parameter of the model, which has {', '.join(everything)}."
            )
        matching &= set(names)
        chosen = chosen - matching if pattern.startswith("!") else chosen | matching
    if chosen and chosen <= set(excluded):
        raise InputError(
            f"adapt={patterns} names only the weight and bias of normalisation layers, which do not adapt where "
            "per_step_norm is True or adapt_norms False."
        )
    chosen -= set(excluded)
    if not chosen:
        raise InputError(f"adapt={patterns} matches no parameter of the model; its parameters are {', '.join(names)}.")
    return [name for name in names if name in chosen]


def draws_random_numbers(model: nn.Module, x: Tensor) -> bool:
    """Whether the model draws random numbers on a CPU when it runs on x, as dropout does. Leaves no trace."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        replica(model)(x)
        return not torch.equal(torch.get_rng_state(), before)


def _normalisation_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds)]
