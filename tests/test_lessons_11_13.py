"""The short tasks of lessons 11 to 13: what a reader is told who did not answer, was wrong in a known way, or right."""

import math
from statistics import fmean, median

import pytest
from torch import nn

from mamlcourse.checks import lessons_11_13 as tasks


def weighed(gradients, counts):
    pairs = list(zip(counts, gradients))
    return {name: sum(count * g[name] for count, g in pairs) / sum(counts) for name in gradients[0]}


def paid(first_call, other, compiled):
    return first_call / (other - compiled) if compiled < other else math.inf


def chosen(gap, half, margin):
    if gap - half > -margin:
        return "cheaper"
    return "best" if gap + half < 0 else "undecided"


def enough(std, half, quantiles):
    return next(n for n in range(2, 32) if quantiles[n - 2] * std / math.sqrt(n) <= half)


RIGHT = {
    "middle_ratio": lambda seconds, base: median(own / other for own, other in zip(seconds, base)),
    "pays_after": paid,
    "whole_gradient": weighed,
    "normalisation": lambda channels: nn.GroupNorm(1, channels),
    "parabola": lambda x, a, b: a * x**2 + b,
    "like_the_letters": lambda images: 1 - images.float() / 255,
    "choice": chosen,
    "seeds_needed": enough,
}

MISTAKES = [
    ("middle_ratio", lambda seconds, base: median(seconds) / median(base), "ratio of the medians"),
    ("middle_ratio", lambda seconds, base: fmean(seconds) / fmean(base), "ratio of the means"),
    ("middle_ratio", lambda seconds, base: 1 / RIGHT["middle_ratio"](seconds, base), "turn the ratio round"),
    ("pays_after", lambda first, other, compiled: first / compiled, "what each later call saves"),
    ("pays_after", lambda first, other, compiled: first / (other - compiled), "Here compiled is not faster"),
    ("pays_after", lambda first, other, compiled: first / abs(other - compiled + 1e-12), "never pays"),
    ("whole_gradient", lambda gradients, counts: weighed(gradients, [1, 1, 1]), "the mean of the means"),
    ("whole_gradient", lambda gradients, counts: gradients[0], "The gradient"),
    ("normalisation", lambda channels: nn.BatchNorm2d(channels), "track_running_stats=False"),
    ("normalisation", lambda channels: nn.ReLU(), "no parameters"),
    ("normalisation", lambda channels: nn.Conv2d(channels, channels, 1, bias=False), "does not normalise"),
    ("normalisation", lambda channels: nn.GroupNorm(1, 2 * channels), "cannot take inputs"),
    ("parabola", lambda x, a, b: a * x + b, "That is a line"),
    ("parabola", lambda x, a, b: (a * x) ** 2 + b, "of x alone"),
    ("like_the_letters", lambda images: images.float() / 255, "The ink is still 0"),
    ("like_the_letters", lambda images: 255 - images, "convert with .float()"),
    ("choice", lambda gap, half, margin: "cheaper" if gap > -margin else "best", "expected 'undecided'"),
    ("choice", lambda gap, half, margin: "undecided" if gap + half > 0 else "best", "expected 'cheaper'"),
    ("seeds_needed", lambda std, half, quantiles: max(2, math.ceil((1.96 * std / half) ** 2)), "Student's quantile"),
    ("seeds_needed", lambda std, half, quantiles: 5, "take 4 seeds, got 5"),
]  # fmt: skip


def said(capsys, name, function):
    for _ in range(3):  # inputs are random
        assert getattr(tasks, name)(function) is None
    return capsys.readouterr().out


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_and_none(name, capsys):
    assert said(capsys, name, RIGHT[name]).count("Right: ") == 3
    assert said(capsys, name, lambda *arguments: ...).count("Not answered yet: ") == 3


@pytest.mark.parametrize("name, function, words", MISTAKES, ids=[f"{m[0]}-{n}" for n, m in enumerate(MISTAKES)])
def test_each_known_mistake_gets_its_sentence(name, function, words, capsys):
    lines = said(capsys, name, function).splitlines()
    assert all(line.startswith("Not yet: ") and words in line for line in lines), lines


def test_a_failing_answer_is_no_exception(capsys):
    assert "raised ZeroDivisionError" in said(capsys, "parabola", lambda x, a, b: 1 / 0)
