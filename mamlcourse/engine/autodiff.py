"""How to differentiate: the same four verbs in three styles, with the same gradients.

`EAGER` is ordinary autograd, for one task after the other. `FUNCTIONAL` is `torch.func`, which works within vmap.
`Below` is ordinary autograd again, from within vmap, on the tensors of all tasks.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .batched import of_all_tasks, tasks_first
from .trees import filled, leaves, tree_map


def detached(tree):
    """The same tensors, in the same dictionaries and tuples, cut off from what computed them."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def added(one, other):
    """Two trees of tensors, added tensor by tensor."""
    return tree_map(torch.add, one, other)


def zeros_like(tree):
    """A tree of zeros of the same shapes."""
    return tree_map(torch.zeros_like, tree)


class Autodiff:
    """What an algorithm asks of automatic differentiation. Parameters are dictionaries of tensors by name."""

    def grad(self, loss_fn, params: dict, *, create_graph: bool) -> dict:
        """∇ loss_fn(params) by name; constants unless `create_graph`. Of a parameter that is not used, zero.

        No parameter may be computed from another one here: a view of it may.
        """
        raise NotImplementedError

    def sgd_step(self, params: dict, lr: float | dict, grads: dict) -> dict:
        """params - lr * grads. A learning rate by name may be a scalar or have its parameter's shape."""
        raise NotImplementedError

    def vjp(self, function, *arguments):
        """(result, extra, pullback) of a function of trees that returns (result, extra).

        `pullback`, called once, takes cotangents of the result and returns those of each argument.
        """
        raise NotImplementedError

    def value_and_grad(self, loss_fn, meta):
        """(loss, extra, gradients in meta's own form) of a function that returns (loss, extra)."""
        loss, extra, pullback = self.vjp(loss_fn, meta)
        return loss, extra, pullback(torch.ones_like(loss))[0]


class Eager(Autodiff):
    def grad(self, loss_fn, params, *, create_graph):
        if not create_graph:
            params = _leaves(params)
        grads = torch.autograd.grad(
            loss_fn(params), list(params.values()), create_graph=create_graph, allow_unused=True
        )
        return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), grads)}

    def sgd_step(self, params, lr, grads):
        # All tensors in one call: measured faster than one by one, or than one flat vector (results/updates.json).
        values, grads = list(params.values()), list(grads.values())
        if isinstance(lr, dict):
            moved = torch._foreach_sub(values, torch._foreach_mul(grads, [lr[name] for name in params]))
        else:
            moved = torch._foreach_sub(values, grads, alpha=lr)
        return dict(zip(params, moved))

    def vjp(self, function, *arguments):
        arguments = _leaves(arguments)
        result, extra = function(*arguments)

        def pullback(cotangents):
            found = torch.autograd.grad(
                leaves(result), leaves(arguments), leaves(cotangents), allow_unused=True, materialize_grads=True
            )
            return filled(arguments, found)

        return detached(result), detached(extra), pullback


class Functional(Autodiff):
    def grad(self, loss_fn, params, *, create_graph):
        if create_graph:
            return torch.func.grad(loss_fn)(params)
        # The parameters are detached so that no graph is built; the gradients too, because the loss also depends on
        # meta-parameters that do not adapt (per-step batch norm, ANIL's body).
        return detached(torch.func.grad(loss_fn)(detached(params)))

    def sgd_step(self, params, lr, grads):
        # vmap has no rule for torch._foreach_*, but it updates a tensor of all tasks at once.
        lr = lr if isinstance(lr, dict) else dict.fromkeys(params, lr)
        return {name: p - lr[name] * grads[name] for name, p in params.items()}

    def vjp(self, function, *arguments):
        result, pullback, extra = torch.func.vjp(function, *arguments, has_aux=True)
        # Unlike `torch.func.grad`, this keeps no graph of the pullback itself.
        return result, extra, functools.partial(pullback, retain_graph=False, create_graph=False)


class Below(Functional):
    """Within `torch.func.vmap`, ordinary autograd on what lies below it: one backward pass for all tasks.

    Faster than `FUNCTIONAL`, which passes every operation through a level of vmap and one for each derivative, and
    keeps a graph of every backward pass. No backward pass goes through vmap, whose rule for that of `F.batch_norm` is
    slightly wrong when it is differentiated again.

    Args:
        like: any tensor of the vmapped function's arguments.
    """

    def __init__(self, like: Tensor):
        self.like = like

    def grad(self, loss_fn, params, *, create_graph):
        params = self._of_each_task(params, constant=not create_graph)
        loss = loss_fn(params)
        return filled(params, _gradients_of_all_tasks(1, create_graph, loss, torch.ones_like(loss), *leaves(params)))

    def vjp(self, function, *arguments):
        arguments = self._of_each_task(arguments, constant=True)
        result, extra = function(*arguments)

        def pullback(cotangents):
            outputs, along = leaves(result), leaves(cotangents)
            return filled(arguments, _gradients_of_all_tasks(len(outputs), False, *outputs, *along, *leaves(arguments)))

        return detached(result), detached(extra), pullback

    def _of_each_task(self, tree, constant):
        """The same values, for each task its own, to differentiate with respect to."""
        return filled(tree, _copies_of_all_tasks(constant, self.like, *leaves(tree)))


def _copies_rule(info, in_dims, constant, like, *tensors):
    copies = [tasks_first(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims[2:])]
    # A constant is a leaf: whatever computed it, nothing flows back there.
    copies = [t.detach().requires_grad_() if constant or not t.requires_grad else t for t in copies]
    return tuple(copies), (0,) * len(copies)


def _gradients_rule(info, in_dims, count, create_graph, *tensors):
    tasks, in_dims = info.batch_size, in_dims[2:]
    outputs, along = ([tasks_first(t, d, tasks) for t, d in zip(tensors[i : i + count], in_dims[i : i + count])]
                      for i in (0, count))  # fmt: skip
    inputs = tensors[2 * count :]  # those that `_copies_rule` made, as they are
    pairs = [(t, a) for t, a in zip(outputs, along) if t.requires_grad]
    found = torch.autograd.grad(
        [t for t, _ in pairs], inputs, [a for _, a in pairs], create_graph=create_graph, allow_unused=True
    ) if pairs else [None] * len(inputs)  # fmt: skip
    return tuple(torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found)), (0,) * len(inputs)


_copies_of_all_tasks, _gradients_of_all_tasks = of_all_tasks(_copies_rule), of_all_tasks(_gradients_rule)


def _leaves(tree):
    return tree_map(lambda x: x.detach().requires_grad_(), tree)


EAGER, FUNCTIONAL = Eager(), Functional()
