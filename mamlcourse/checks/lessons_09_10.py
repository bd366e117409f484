"""The "your turn" cells of the lessons on MAML++, feature reuse and trajectories, in the manner of `lessons`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .lessons import Case, ask, numbers

# MAML++.


def cosine_lr(function: Callable) -> None:
    """(first, last, progress) -> the learning rate on half a cosine from first to last; progress from 0 to 1."""
    middle = 0.75 * 1.0 + 0.25 * 0.2  # a third of the way, where the cosine is a half
    cases = [
        Case((1.0, 0.2, 0.0), 1.0, ((0.2, "Not yet: it begins at the end: at progress 0 the cosine is 1."),)),
        Case((1.0, 0.2, 1.0), 0.2, (
            (-1.0, "Not yet: a cosine runs from 1 to -1; shift it so that it runs from 1 to 0."),
            (0.0, "Not yet: it must end at `last`, not at zero."),
            (1.0, "Not yet: that is a whole cosine; take half of one."),
        )),
        Case((1.0, 0.2, 1 / 3), middle, (
            (1.0 - 0.8 / 3, "Not yet: that is a straight line."),
            (0.2 + 0.8 * math.cos(math.pi / 6), "Not yet: that is a quarter of a cosine, which ends steeply."),
        )),
    ]  # fmt: skip
    ask(function, cases, "flat at both ends, steepest in the middle; MAML++ ends at a hundredth of its first rate.")


def graded_updates(function: Callable) -> None:
    """(updates, epochs, of): a training's updates, how many of its epochs -> the updates in those epochs."""
    cases = [
        Case((50, 10, 100), 5, (
            (10, "Not yet: 10 epochs are not 10 updates; here an epoch is half an update."),
            (500, "Not yet: that is 10 updates of each kind; take the share of the updates."),
            (0.1, "Not yet: that is the share; how many updates is it?"),
        )),
        Case((50_000, 10, 100), 5_000),
    ]  # fmt: skip
    ask(function, cases, "5 updates in the short run of this lesson, 5,000 in the paper's.")


def like_with_like(function: Callable) -> None:
    """({(algorithm, cosine): accuracy}) -> what MAML++ is worth, each pair with the same outer rate, averaged."""
    scores = {("maml", False): 0.80, ("maml", True): 0.75, ("maml++", False): 0.84, ("maml++", True): 0.77}
    cases = [Case((scores,), 0.03, (
        (-0.03, "Not yet: MAML++ *with* a cosine minus MAML *without* compares two things at once."),
        (0.09, "Not yet: MAML++ without a cosine minus MAML *with* one compares two things at once."),
        (-0.035, "Not yet: that is what the cosine is worth, not MAML++."),
        (0.06, "Not yet: that is the sum of the two differences; take their mean."),
        (0.04, "Not yet: that is one of the two pairs, the one without a cosine; take the mean of both."),
        (0.02, "Not yet: that is one of the two pairs, the one with a cosine; take the mean of both."),
    ))]  # fmt: skip
    ask(function, cases, "+3 points like with like, where the unlike pair says -3.")


# Feature reuse.


def head_step(function: Callable) -> None:
    """(params, grads: dictionaries by name, lr) -> a new dictionary in which the head alone took a step."""
    params = {"features.0.weight": numbers(1.0, 2.0), "head.weight": numbers(3.0), "head.bias": numbers(0.5)}
    grads = {"features.0.weight": numbers(10.0, 10.0), "head.weight": numbers(-10.0), "head.bias": numbers(5.0)}
    stepped = {name: p - 0.1 * grads[name] for name, p in params.items()}
    anil = stepped | {"features.0.weight": params["features.0.weight"]}
    boil = params | {"features.0.weight": stepped["features.0.weight"]}
    only_head = {name: p for name, p in anil.items() if name.startswith("head")}
    cases = [Case((params, grads, 0.1), anil, (
        (stepped, "Not yet: everything stepped, which is MAML."),
        (boil, "Not yet: that is BOIL, in which everything but the head steps."),
        (only_head, "Not yet: the features must be in the new dictionary too, unchanged."),
        (params, "Not yet: nothing has moved."),
    ))]  # fmt: skip
    ask(function, cases, "that one condition is all that tells ANIL from MAML.")


def cka(function: Callable) -> None:
    """(a, b: (examples, features)) -> linear CKA."""
    a = numbers([1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [2.0, 5.0])
    b = numbers([1.0], [-1.0], [4.0], [0.5])
    rotation = numbers([0.6, -0.8], [0.8, 0.6])
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    value = lambda x, y: ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()  # noqa: E731
    right = value(centred_a, centred_b)
    cases = [
        Case((a, b), right, (
            (value(a, b), "Not yet: subtract each feature's mean over the examples first."),
            (math.sqrt(right), "Not yet: the numerator is the *squared* norm."),
            ((centred_a.T @ centred_b).norm().item() ** 2, "Not yet: divide by the norms of each set with itself."),
        )),
        Case((a, 3 * a @ rotation + 1), 1.0),
    ]  # fmt: skip
    ask(function, cases, "1 for features that are only turned, stretched as a whole and shifted.")


def nearest_mean(function: Callable) -> None:
    """(support features, labels, query features, ways) -> (queries,) the class whose mean has the largest cosine."""
    support, labels = numbers([1.0, 0.0], [0.0, 3.0], [5.0, 1.0], [0.0, 1.0]), torch.tensor([0, 1, 0, 1])
    queries = numbers([0.5, 0.1], [2.0, 4.0], [4.0, 3.9])
    means = torch.stack([support[labels == way].mean(0) for way in (0, 1)])
    cases = [Case((support, labels, queries, 2), torch.tensor([0, 1, 0]), (
        (torch.cdist(queries, means).argmin(1), "Not yet: that is the nearest by distance; take the cosine."),
        ((queries @ means.T).argmax(1), "Not yet: divide by the lengths: an inner product prefers the longer mean."),
        ((queries @ means.T).argmin(1), "Not yet: the *largest* cosine wins."),
    ))]  # fmt: skip
    ask(function, cases, "no head and no inner step at test time: the paper calls it NIL.")


# Trajectories.


def point_on_the_line(function: Callable) -> None:
    """(theta, end: dictionaries of tensors, share) -> the dictionary at that share of the way from theta to the end."""
    theta, end = {"w": numbers(1.0, 2.0), "b": numbers(0.0)}, {"w": numbers(3.0, 2.0), "b": numbers(4.0)}
    there = {"w": numbers(1.5, 2.0), "b": numbers(1.0)}
    cases = [
        Case((theta, end, 0.25), there, (
            ({"w": numbers(2.5, 2.0), "b": numbers(3.0)}, "Not yet: that is a quarter of the way from the *end*."),
            ({"w": numbers(0.5, 0.0), "b": numbers(1.0)}, "Not yet: that is the move alone; add it to theta."),
        )),
        Case((theta, end, 1.5), {"w": numbers(4.0, 2.0), "b": numbers(6.0)}),
    ]  # fmt: skip
    ask(function, cases, "0 is theta, 1 is the end, and 1.5 is half as far again.")


def share_that_overshoots(function: Callable) -> None:
    """(losses (tasks, steps + 1), size) -> the share of tasks in which some step raises the loss by more than size."""
    losses = numbers([2.0, 1.0, 0.5, 0.4], [2.0, 1.0, 1.02, 0.4], [2.0, 0.5, 0.7, 0.4], [0.4, 0.6, 0.8, 1.0])
    cases = [Case((losses, 0.05), 0.5, (
        (0.75, "Not yet: a rise of 0.02 is not more than `size`."),
        (0.25, "Not yet: compare each step with the one before it, not the end with the start."),
        (4 / 12, "Not yet: that is the share of *steps*; a task counts once, however many of its steps rise."),
        (2, "Not yet: that is how many; divide by the number of tasks."),
    ))]  # fmt: skip
    ask(function, cases, "that is `Evaluation.overshoot`, with the package's size of 0.05.")


def cosine(function: Callable) -> None:
    """(one, other: flat moves) -> the cosine of the angle between them."""
    one, other = numbers(3.0, 4.0), numbers(4.0, 3.0)
    cases = [
        Case((one, other), 0.96, (
            (24.0, "Not yet: that is the inner product; divide by both lengths."),
            (24 / 5, "Not yet: divide by both lengths, not by one."),
        )),
        Case((one, -2 * one), -1.0),
    ]  # fmt: skip
    ask(function, cases, "1 for the same direction, 0 for nothing in common, -1 for opposite ways.")
