"""The "your turn" cells of lessons 06 to 08, as those of `lessons`: each prints one sentence and raises nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..stats import ci95
from .lessons import Case, ask, numbers

# Lesson 06.


def paired_half(function: Callable) -> None:
    """(first, second: accuracies, task by task) -> half the 95% confidence interval of the mean difference."""
    hard = [30 + 1.7 * task for task in range(40)]
    first = [h + (4, -3, 1, -2)[task % 4] for task, h in enumerate(hard)]
    second = [h + (1, 2, -3)[task % 3] for task, h in enumerate(hard)]
    cases = [Case((first, second), ci95([a - b for a, b in zip(first, second)]), (
        (math.hypot(ci95(first), ci95(second)),
         "Not yet: that is the interval of two separate means; subtract task by task first."),
        (abs(ci95(first) - ci95(second)),
         "Not yet: that is a difference of intervals; take the interval of the differences."),
        (sum(first) / 40 - sum(second) / 40, "Not yet: that is the mean difference; its interval is asked for."),
    ))]  # fmt: skip
    ask(function, cases, "what is hard for both has left the interval.")


def good_enough(function: Callable) -> None:
    """(difference: the cheaper one's accuracy minus the best's, half_width, margin) -> "yes", "no" or "open"."""
    trials = {
        (-0.5, 1.0, 2.0): "yes", (-0.5, 0.3, 2.0): "yes", (-5.0, 1.0, 2.0): "no", (-1.3, 1.1, 2.0): "no",
        (-0.8, 5.6, 2.0): "open", (-1.0, 1.5, 2.0): "open", (-1.0, 1.5, 3.0): "yes",
    }  # fmt: skip
    words = ("no", "open", "yes")

    def coded(*arguments):  # as the place of the word, for `ask` compares numbers
        word = function(*arguments)
        if isinstance(word, str) and word not in words:
            raise ValueError(f'expected "yes", "no" or "open", got {word!r}')
        return words.index(word) if isinstance(word, str) else word

    cases = []
    for (difference, half, margin), expected in trials.items():
        ends = f"{difference:+.1f} ± {half:.1f} reaches from {difference - half:+.1f} to {difference + half:+.1f}"
        sentence = f'Not yet: {ends}; with a margin of {margin:.0f} the answer is "{expected}".'
        mistakes = tuple((place, sentence) for place, word in enumerate(words) if word != expected)
        cases.append(Case((difference, half, margin), words.index(expected), mistakes))
    ask(coded, cases, '-1.3 ± 1.1 is "no", and -0.8 ± 5.6 is "open": a wide interval shows nothing.')


def recomputed(function: Callable) -> None:
    """(steps, queries for each support example) -> MAML's cost with recomputed steps as a multiple of that without."""
    cases = [
        Case((k, q), (12 * k + 3 * q) / (9 * k + 3 * q), (
            ((10 * k + 3 * q) / (9 * k + 3 * q),
             "Not yet: recomputing a step is more than a forward pass, for the step contains a gradient."),
            ((9 * k + 3 * q) / (12 * k + 3 * q), "Not yet: the ratio is upside down."),
            (12 / 9, "Not yet: the query loss costs the same in both; put it above and below."),
            ((12 * k + 3 * q) / (3 * k + 3 * q), "Not yet: that compares with FOMAML; compare with MAML."),
        ))
        for k, q in ((5, 5), (3, 15))
    ]  # fmt: skip
    ask(function, cases, "a quarter more time for five steps and five queries, by the count.")


# Lesson 07.


def overshoots(function: Callable) -> None:
    """(losses (tasks, K + 1), size) -> (tasks, K): whether a step raised the loss by more than `size`."""
    losses = numbers([1.6, 1.0, 1.2, 1.21], [1.6, 1.7, 0.9, 0.8], [1.6, 1.4, 1.2, 1.0])
    change = losses[:, 1:] - losses[:, :-1]
    cases = [
        Case((losses, size), change > size, (
            (change > 0, "Not yet: any rise was counted, but only those by more than `size` are asked for."),
            (change, "Not yet: these are the changes; compare them with `size`."),
            (change < -size, "Not yet: these are the falls; subtract the earlier loss from the later one."),
            ((change > size).any(1), "Not yet: one answer for each step, not for each task."),
        ))
        for size in (0.05, 0.15)
    ]  # fmt: skip

    def no_truth(answer):
        if answer.dtype is not torch.bool:
            return f"Not yet: expected True and False, got {answer.dtype}."

    ask(function, cases, "K + 1 losses have K steps between them.", no_truth)


def early_batches(function: Callable) -> None:
    """(batches, E) -> in how many of the batches the early losses count, if all batches are 100 epochs."""
    cases = [
        Case((batches, epochs), math.ceil(batches * epochs / 100), (
            (epochs, "Not yet: that is the number of epochs; a batch is an epoch only where there are 100 batches."),
            (batches - batches * epochs // 100, "Not yet: those are the batches without early losses."),
            (batches * epochs / 100, "Not yet: it does not always come out even; round up."),
            (batches * epochs // 100, "Not yet: it does not always come out even; round up, not down."),
        ))
        for batches, epochs in ((50, 10), (50_000, 10), (55, 10), (200, 100))
    ]  # fmt: skip
    ask(function, cases, "5,000 of the authors' 50,000 batches, and five of fifty.")


def price(function: Callable) -> None:
    """(steps, queries for each support example) -> the uniform multi-step loss's cost as a multiple of MAML's."""
    cases = [
        Case((k, q), (9 * k + 3 * q * k) / (9 * k + 3 * q), (
            (k, "Not yet: that multiplies everything by K, but the inner steps are taken once in both."),
            ((9 * k + 3 * q * (k - 1)) / (9 * k + 3 * q),
             "Not yet: there is a query loss after every step, the last included."),
            ((9 * k + 3 * q) / (9 * k + 3 * q * k), "Not yet: the ratio is upside down."),
            ((3 * k + 3 * q * k) / (3 * k + 3 * q), "Not yet: an inner step of MAML costs 9; 3 is FOMAML's."),
            ((9 * k + q * k) / (9 * k + q), "Not yet: a query loss needs its gradient too, so 3 for each query."),
        ))
        for k, q in ((5, 5), (4, 15))
    ]  # fmt: skip
    ask(function, cases, "twice MAML's cost with five queries, by the count.")


# Lesson 08.


def best_lr(function: Callable) -> None:
    """(theta, goal) -> the α with which one step on ½θ² leads to the goal."""
    cases = [
        Case((theta, goal), (theta - goal) / theta, (
            (theta - goal, "Not yet: that is how far to go, and the step is α times the gradient, which is θ."),
            (goal / theta, "Not yet: that is the share of θ that is left; α is the share that goes."),
            ((goal - theta) / theta, "Not yet: the sign; descent subtracts α times the gradient."),
        ))
        for theta, goal in ((2.0, 1.0), (4.0, -1.0))
    ]  # fmt: skip
    ask(function, cases, "0.5 for the numbers above, where the gradient of α was zero.")


def lr_gradients(function: Callable) -> None:
    """(support, query: {name: gradient}) -> {name: gradient of the query loss in that tensor's learning rate}."""
    support = {"weight": numbers([1.0, 2.0], [0.0, -1.0]), "bias": numbers(3.0, 1.0)}
    query = {"weight": numbers([2.0, 0.5], [4.0, 1.0]), "bias": numbers(-1.0, 2.0)}
    products = {name: support[name] * query[name] for name in support}
    dots = {name: product.sum() for name, product in products.items()}
    cases = [Case((support, query), {name: -dot for name, dot in dots.items()}, (
        (dots, "Not yet: the sign; a step along both gradients lowers the query loss."),
        ({name: -product for name, product in products.items()},
         "Not yet: one learning rate for each tensor has one number as its gradient; sum over the elements."),
        ({name: -product.mean() for name, product in products.items()}, "Not yet: that is a mean; take the sum."),
        (-sum(dots.values()), "Not yet: that is for one learning rate for all; give one number for each tensor."),
    ))]  # fmt: skip
    ask(function, cases, "where support and query gradient agree, the gradient is negative: a longer step helps.")


def reach(function: Callable) -> None:
    """(outer_lrs: Adam's in each update, first: where it begins) -> how far a learned learning rate can go / first."""
    rates = [0.003 - 0.00005 * update for update in range(50)]
    cases = [Case((rates, 0.1), sum(rates) / 0.1, (
        (sum(rates), "Not yet: that is how far it can go; divide by where it began."),
        (sum(rates) / 50 / 0.1, "Not yet: that is one update; add up all of them."),
        (0.15 / 0.1, "Not yet: the outer learning rate changes in the course of training; add up its values."),
    ))]  # fmt: skip
    ask(function, cases, "less than one means that it cannot even reach zero.")
