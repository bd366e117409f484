"""A model as a function of its parameters, which leaves the model itself alone."""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Stateless:
    """Calls a model, or a part of it, with other parameters than its own.

    Each call has modules of its own, which share with the model's whatever is not a parameter: nothing of a
    computation stays in the model, two threads do not meet, and what is recomputed in a backward pass
    (`torch.utils.checkpoint`) still sees the parameters of its call. Unlike `torch.func.functional_call` it sets a
    parameter that several modules share, or a module that stands in several places, once for all of them.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module):
        self.model = replica(model)
        names = {id(p): name for name, p in model.named_parameters()}
        modules = list(self.model.modules())
        numbers = {id(module): number for number, module in enumerate(modules)}
        # For each module: what it is, what it has, its parameters' names and the numbers of its children.
        self._plans = [
            (
                type(module),
                module.__dict__,
                {attribute: names.get(id(p)) for attribute, p in module._parameters.items()},
                {name: None if child is None else numbers[id(child)] for name, child in module._modules.items()},
            )
            for module in modules
        ]
        self._keeps_methods = any(isinstance(v, types.MethodType) for m in modules for v in m.__dict__.values())

    def __call__(self, params: dict[str, Tensor], x: Tensor, part: str | None = None) -> Tensor:
        """The outputs of the model, or of one of its direct parts, on x with these parameters by the model's names."""
        if torch.compiler.is_compiling():  # torch.compile knows functional_call, and not what `_with` does
            if part is None:
                return functional_call(self.model, params, (x,))
            inside = {n.removeprefix(f"{part}."): p for n, p in params.items() if n.startswith(f"{part}.")}
            return functional_call(getattr(self.model, part), inside, (x,))
        model = self._with(params)
        return (model if part is None else getattr(model, part))(x)

    def _with(self, params) -> nn.Module:
        copies = []
        for kind, contents, _, _ in self._plans:
            new = kind.__new__(kind)
            new.__dict__ = contents.copy()
            copies.append(new)
        for new, (_, contents, names, children) in zip(copies, self._plans):
            own = contents["_parameters"]
            new.__dict__["_parameters"] = {a: params.get(name, own[a]) for a, name in names.items()}
            new.__dict__["_modules"] = {n: None if c is None else copies[c] for n, c in children.items()}
        if self._keeps_methods:
            _rebind({id(module): new for module, new in zip(self.model.modules(), copies)})
        return copies[0]


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
        new.__dict__["_modules"] = {name: copied(child) for name, child in module._modules.items()}
        return new

    whole = copied(model)
    _rebind(copies)
    return whole


def _rebind(copies: dict[int, nn.Module]) -> None:
    """Have methods that are kept as attributes belong to the copies, given by the identity of what was copied."""
    for new in copies.values():
        for name, value in new.__dict__.items():
            if isinstance(value, types.MethodType) and id(value.__self__) in copies:
                new.__dict__[name] = types.MethodType(value.__func__, copies[id(value.__self__)])
