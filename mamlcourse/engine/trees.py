"""Tensors in dictionaries and (named) tuples, handled as one thing.

As `torch.utils._pytree`, which is private to PyTorch and takes several times as long for trees as small as ours.
"""

from __future__ import annotations


def tree_map(function, tree, *others):
    """The same tree of function(leaf, leaves of the others at the same place)."""
    if isinstance(tree, dict):
        return {name: tree_map(function, value, *(other[name] for other in others)) for name, value in tree.items()}
    if isinstance(tree, tuple):
        parts = [tree_map(function, *values) for values in zip(tree, *others)]
        return tree._make(parts) if hasattr(tree, "_make") else tuple(parts)
    return function(tree, *others)


def leaves(tree) -> list:
    """All leaves, always in the same order."""
    found = []
    tree_map(found.append, tree)
    return found


def filled(tree, values):
    """The same tree with these leaves, in the order of `leaves`."""
    values = iter(values)
    return tree_map(lambda _: next(values), tree)
