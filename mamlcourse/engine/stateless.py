"""A model as a function of its parameters, which leaves the model itself alone."""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Stateless:
    """Calls a model, or a part of it, with other parameters than its own.

    It works on a replica of the model's modules, which share parameters and buffers with it: nothing of a computation
    stays in the model, and several threads can each have one. Unlike `torch.func.functional_call` it sets a parameter
    that several modules share, or a module that stands in several places, once for all of them.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module):
        self.model = replica(model)
        names = {id(p): name for name, p in model.named_parameters()}
        self.places = [
            (names[id(p)], module._parameters, attribute)
            for module in self.model.modules()
            for attribute, p in module._parameters.items()
            if p is not None
        ]

    def __call__(self, params: dict[str, Tensor], x: Tensor, part: str | None = None) -> Tensor:
        """The outputs of the model, or of one of its direct parts, on x with these parameters by the model's names."""
        if torch.compiler.is_compiling():  # torch.compile knows functional_call, and not the assignments below
            if part is None:
                return functional_call(self.model, params, (x,))
            inside = {n.removeprefix(f"{part}."): p for n, p in params.items() if n.startswith(f"{part}.")}
            return functional_call(getattr(self.model, part), inside, (x,))
        for name, parameters, attribute in self.places:
            if name in params:
                parameters[attribute] = params[name]
        return (self.model if part is None else getattr(self.model, part))(x)


def replica(model: nn.Module) -> nn.Module:
    """The same modules over again, with the same parameters and buffers in them."""
    copies = {}

    def copied(module):
        if module is None or id(module) in copies:
            return copies.get(id(module))
        new = copies[id(module)] = module.__new__(type(module))
        # Containers are copied one level deep, as some layers keep lists of their weights.
        new.__dict__ = {
            name: value.copy() if isinstance(value, (dict, list, set)) else value
            for name, value in module.__dict__.items()
        }
        new._modules = {name: copied(child) for name, child in module._modules.items()}
        return new

    whole = copied(model)
    for new in copies.values():  # a method kept as an attribute belongs to the copy now
        for name, value in new.__dict__.items():
            if isinstance(value, types.MethodType) and id(value.__self__) in copies:
                new.__dict__[name] = types.MethodType(value.__func__, copies[id(value.__self__)])
    return whole
