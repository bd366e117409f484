"""The "your turn" cells of the lessons on MAML++, feature reuse and trajectories: each check is asked, and a known
mistake gets the sentence that names it. (That folded solutions are right, `test_lessons.py` has for all lessons.)"""

import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from mamlcourse.checks import lessons_09_10 as lessons

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("09_maml_plus_plus", "09b_feature_reuse", "10_trajectories")


def test_every_check_is_asked_in_a_lesson():
    sources = [cell.source for name in NAMES for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells]
    asked = {found for source in sources for found in re.findall(r"^lessons\.(\w+)\(", source, re.MULTILINE)}
    own = {name for name, part in vars(lessons).items() if getattr(part, "__module__", "") == lessons.__name__}
    assert asked == own


def uncentred(a, b):
    return (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())


def by_distance(support, labels, queries, ways):
    return torch.cdist(queries, torch.stack([support[labels == w].mean(0) for w in range(ways)])).argmin(1)


def all_step(params, grads, lr):
    return {name: p - lr * grads[name] for name, p in params.items()}


def from_the_end(theta, end, share):
    return {name: end[name] + share * (theta[name] - end[name]) for name in theta}


WRONG = [
    (lessons.cosine_lr, lambda first, last, x: first + x * (last - first), "a straight line"),
    (lessons.cosine_lr, lambda first, last, x: first * math.cos(math.pi * x), "from 1 to -1"),
    (lessons.graded_updates, lambda updates, epochs, of: epochs, "not 10 updates"),
    (lessons.like_with_like, lambda s: s["maml++", True] - s["maml", False], "two things at once"),
    (lessons.head_step, all_step, "which is MAML"),
    (lessons.cka, uncentred, "subtract each feature's mean"),
    (lessons.nearest_mean, by_distance, "take the cosine"),
    (lessons.point_on_the_line, from_the_end, "from the *end*"),
    (
        lessons.share_that_overshoots,
        lambda losses, size: (losses.diff() > 0).any(1).double().mean(),
        "not more than `size`",
    ),
    (lessons.share_that_overshoots, lambda losses, size: (losses.diff() > size).double().mean(), "share of *steps*"),
    (lessons.cosine, lambda one, other: one @ other, "divide by both lengths"),
]


@pytest.mark.parametrize("check, answer, words", WRONG, ids=[f"{n}-{w[0].__name__}" for n, w in enumerate(WRONG)])
def test_a_wrong_answer_gets_one_sentence(check, answer, words, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and words in said and len(said.splitlines()) == 1
