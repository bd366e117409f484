"""The short tasks of lessons 11 to 13: each check prints what is missing or wrong in a sentence, or "Right".

A lesson runs from top to bottom whatever was answered, so nothing is raised and no progress is noted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import combinations
from statistics import fmean, median

import torch
from torch import nn

from ..comparison import decide
from ..errors import InputError
from ..learner import MAML
from ..stats import STUDENT_95
from ..tasks import TaskBatch
from .judge import CheckFailed, call, compare, fresh, integer, uniform
from .lessons import unanswered


class _Unanswered(Exception):
    """The answer is still empty."""


def _short_task(right: str) -> Callable:
    """A check of a function that a reader was asked to write, with the sentence for a right one; one that still returns
    the dots is not answered yet."""

    def checked(judge: Callable) -> Callable:
        @functools.wraps(judge)
        def asked(function: Callable) -> None:
            def answered(*arguments):
                result = call(function, *arguments)
                if unanswered(result):
                    raise _Unanswered
                return result

            try:
                judge(answered)
            except _Unanswered:
                print("Not answered yet: replace the dots and run the cell again.")
            except CheckFailed as failure:
                print(f"Not yet: {failure}")
            else:
                print(f"Right: {right}")

        return asked

    return checked


# Lesson 11.


@_short_task("round by round, then the middle one.")
def middle_ratio(function: Callable) -> None:
    """`function(seconds, base)`: two lists, each round's times at the same place; the median of the rounds' ratios."""
    generator, apart = fresh(), False
    while not apart:  # by chance a mistake has the same value
        load = torch.linspace(1, 4, 7).double() + uniform(generator, 7, high=0)  # the machine gets busier
        seconds, base = (load * uniform(generator, 7, low=0.5, high=2)).tolist(), load.tolist()
        expected = median(own / other for own, other in zip(seconds, base))
        mistakes = [
            (median(seconds) / median(base), "That is the ratio of the medians: divide round by round first."),
            (fmean(seconds) / fmean(base), "That is the ratio of the means: divide round by round, then take the "
             "median."),
            (1 / expected, "That is the base's time over the other's: turn the ratio round."),
            (fmean(own / other for own, other in zip(seconds, base)), "That is the mean of the ratios: one disturbed "
             "round moves it; take the median."),
        ]  # fmt: skip
        values = [expected, *(value for value, _ in mistakes)]
        apart = all(abs(one / other - 1) > 0.02 for one, other in combinations(values, 2))
    compare("The ratio", function(seconds, base), expected, mistakes)


@_short_task("each later call pays a little of the first one back.")
def pays_after(function: Callable) -> None:
    """`function(first_call, other, compiled)`: after how many calls a slow first one is paid for; never is infinite."""
    compare("The number of calls", function(60.0, 0.5, 0.3), 60 / (0.5 - 0.3), [
        (60 / 0.3, "That is how many calls the first one lasts: divide by what each later call saves."),
        (60 / 0.5, "That is how many calls the first one lasts: divide by what each later call saves."),
    ])  # fmt: skip
    for slower in (0.5, 0.8):
        try:
            found = function(60.0, 0.5, slower)
        except CheckFailed as failure:
            raise CheckFailed(f"{failure} Here compiled is not faster than the other.") from None
        if found != math.inf:
            raise CheckFailed(f"A compiled call that takes {slower} s instead of 0.5 s never pays: expected math.inf, "
                              f"got {found!r}.")  # fmt: skip


@_short_task("weighted by their tasks, slices of any size give the mean of the whole batch.")
def whole_gradient(function: Callable) -> None:
    """`function(gradients, tasks)`: a process's mean gradient (a dictionary) and number of tasks at the same place; the
    mean over all tasks."""
    generator = fresh()
    tasks = [1, 3, integer(generator, 5, 8)]
    gradients = [{"weight": uniform(generator, 2, 3), "bias": uniform(generator, 2)} for _ in tasks]

    def weighted(weights):
        return {name: sum(w * g[name] for w, g in zip(weights, gradients)) for name in gradients[0]}

    mistakes = [
        (weighted([1 / 3] * 3), "That is the mean of the means: weigh each by its number of tasks."),
        (weighted([1] * 3), "That is the sum of the means: weigh each by its number of tasks, and divide by all."),
        (weighted(tasks), "That is the sum over the tasks: divide by their number."),
        (weighted([count / sum(tasks) / 3 for count in tasks]), "The weights sum to 1 already: do not divide again."),
    ]
    compare("The gradient", function(gradients, tasks), weighted([count / sum(tasks) for count in tasks]), mistakes)


# Lesson 12.


@_short_task("the statistics of the batch, and nothing kept from one task to the next.")
def normalisation(function: Callable) -> None:
    """`function(channels)`: a layer between a convolution and a linear layer with which MAML can be trained."""
    layer = function(4)
    if not isinstance(layer, nn.Module):
        raise CheckFailed(f"expected a layer (nn.Module), got {type(layer).__name__}.")
    if not sum(parameter.numel() for parameter in layer.parameters()):
        raise CheckFailed("expected a normalisation with a weight and a bias; this layer has no parameters.")
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(4 * 36, 2))
        images, labels = torch.rand(2, 4, 1, 8, 8), torch.tensor([[0, 1, 0, 1]] * 2)
    try:
        MAML(network, "maml", inner_steps=1).meta_gradients(TaskBatch(images, labels, images, labels))
    except InputError as refused:
        raise CheckFailed(str(refused)) from None
    inputs = uniform(fresh(), 3, 4, 6, 6, low=1, high=3).float()
    if not torch.allclose(call(layer, inputs), call(layer, 10 * inputs), atol=0.05):
        raise CheckFailed("this layer does not normalise: inputs ten times as large should give the same outputs.")


@_short_task("one family, and two numbers that differ from task to task.")
def parabola(function: Callable) -> None:
    """`function(x, a, b)`: a x² + b, for tensors."""
    generator = fresh()
    x, a, b = uniform(generator, 3, 5, 1), uniform(generator, 3, 1, 1), uniform(generator, 3, 1, 1, low=1, high=2)
    mistakes = [
        (a * x + b, "That is a line: square x."),
        ((a * x) ** 2 + b, "The square is of x alone, not of a x."),
        (a * x**2, "The shift b is missing."),
    ]
    compare("The parabola", function(x, a, b), a * x**2 + b, mistakes)


@_short_task("ink is 1 and paper 0, as in training.")
def like_the_letters(function: Callable) -> None:
    """`function(images)`: bytes with dark ink (0) on white paper (255) become floats with ink 1 on paper 0."""
    images = torch.randint(0, 256, (2, 4, 4), generator=fresh(), dtype=torch.uint8)
    images[0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    seen = function(images)
    share = images.double() / 255
    if isinstance(seen, torch.Tensor) and not seen.is_floating_point():
        raise CheckFailed(f"Expected floating values, got {seen.dtype}: convert with .float() first.")
    mistakes = [
        (share, "The ink is still 0: turn the values round."),
        (255 - images.double(), "Ink is 255: divide by 255."),
        (images.double(), "Those are the bytes as they were: divide by 255, and turn them round."),
    ]
    compare("The images", seen, 1 - share, mistakes)


# Lesson 13.


@_short_task("shown to be good enough, shown to be worse, or undecided.")
def choice(function: Callable) -> None:
    """`function(gap, half, margin)`: the cheaper algorithm's accuracy minus the best one's, half its interval, and how
    far behind it may be; "cheaper", "best" or "undecided"."""
    generator = fresh()
    known = [(-0.5, 1.0), (-5.0, 2.0), (-1.0, 5.0), (-1.0, 0.5), (-2.5, 1.0)]
    drawn = uniform(generator, 40, 2, low=0, high=6).tolist()
    for gap, half in [*known, *((-a, b) for a, b in drawn)]:
        decided = decide("best", {"cheaper": (gap, half)}, {"best": 2.0, "cheaper": 1.0}, margin=2.0)
        expected, seen = decided.use or "undecided", function(gap, half, 2.0)
        if seen != expected:
            low, high = gap - half, gap + half
            raise CheckFailed(
                f"{gap:.2f} ± {half:.2f} with a margin of 2 is from {low:.2f} to {high:.2f}: expected {expected!r}, "
                f"got {seen!r}."
            )


@_short_task("few seeds cost twice: a large quantile and a small root.")
def seeds_needed(function: Callable) -> None:
    """`function(std, half, quantiles)`: the smallest number of seeds, at least 2, with which half a mean's interval
    is at most `half`; `quantiles[n - 2]` is Student's for n seeds."""
    for std, half in ((1.0, 2.0), (2.0, 2.0), (0.2, 2.0), (3.0, 1.5)):
        enough = (n for n in range(2, 32) if STUDENT_95[n - 2] * std / math.sqrt(n) <= half)
        expected, seen = next(enough), function(std, half, STUDENT_95)
        normal = next(n for n in range(2, 100) if 1.96 * std / math.sqrt(n) <= half)
        if seen == expected:
            continue
        hint = ": with so few seeds 1.96 is too short, take Student's quantile" if seen == normal else ""
        raise CheckFailed(f"A standard deviation of {std} and a half interval of {half} take {expected} seeds, got "
                          f"{seen!r}{hint}.")  # fmt: skip
