"""The "your turn" cells of lessons 06 to 08: right answers, known mistakes, and cells left as they are."""

import re
from pathlib import Path

import nbformat
import pytest

from mamlcourse.checks import lessons_06_08 as lessons
from mamlcourse.stats import ci95

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SOLUTION = re.compile(r"<summary>Solution</summary>\n\n```python\n(def (\w+).+?)\n```", re.DOTALL)


def folded_solutions():
    """{name: function}, as the lessons have them."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("0[678]_*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for code, name in SOLUTION.findall(cell.source):
                defined = {"ci95": ci95}
                exec(code, defined)
                found[name] = defined[name]
    return found


RIGHT = folded_solutions()
WRONG = [
    ("paired_half", lambda a, b: (ci95(a) ** 2 + ci95(b) ** 2) ** 0.5, "two separate means"),
    ("good_enough", lambda d, h, m: "yes" if abs(d) < h else "no", 'with a margin of 2 the answer is "yes"'),
    ("good_enough", lambda d, h, m: "yes" if d + h > -m else "no", "-1.3 ± 1.1 reaches from -2.4 to -0.2"),
    ("good_enough", lambda d, h, m: "maybe", "got 'maybe'"),
    ("recomputed", lambda k, q: (10 * k + 3 * q) / (9 * k + 3 * q), "more than a forward pass"),
    ("recomputed", lambda k, q: 12 / 9, "the query loss costs the same"),
    ("overshoots", lambda losses, size: losses[:, 1:] > losses[:, :-1], "any rise was counted"),
    ("overshoots", lambda losses, size: (losses[:, 1:] - losses[:, :-1] > size).any(1), "not for each task"),
    ("overshoots", lambda losses, size: (losses[:, 1:] - losses[:, :-1] > size).double(), "expected"),
    ("early_batches", lambda batches, epochs: epochs, "the number of epochs"),
    ("early_batches", lambda batches, epochs: batches * epochs // 100, "round up, not down"),
    ("price", lambda k, q: k, "the inner steps are taken once"),
    ("price", lambda k, q: (3 * k + 3 * q * k) / (3 * k + 3 * q), "3 is FOMAML's"),
    ("best_lr", lambda theta, goal: goal / theta, "the share of θ that is left"),
    ("lr_gradients", lambda s, q: {n: (s[n] * q[n]).sum() for n in s}, "the sign"),
    ("lr_gradients", lambda s, q: {n: -(s[n] * q[n]) for n in s}, "sum over the elements"),
    ("reach", lambda rates, first: len(rates) * rates[0] / first, "changes in the course of training"),
]


def said(name, function, capsys):
    getattr(lessons, name)(function)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return printed


def test_each_lesson_has_three():
    assert len(RIGHT) == 9 and {name for name, *_ in WRONG} == set(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_right_and_an_unanswered_cell_says_so(name, capsys):
    assert said(name, RIGHT[name], capsys).startswith("Right: ")
    assert said(name, lambda *arguments: ..., capsys).startswith("Not answered yet")
    assert said(name, lambda *arguments: None, capsys).startswith("Not answered yet")


@pytest.mark.parametrize("name, function, sentence", WRONG, ids=[f"{w[0]}-{n}" for n, w in enumerate(WRONG)])
def test_a_known_mistake_gets_its_sentence(name, function, sentence, capsys):
    printed = said(name, function, capsys)
    assert printed.startswith("Not yet") and sentence in printed


def test_whatever_the_readers_line_raises_is_said(capsys):
    assert "ZeroDivisionError" in said("price", lambda steps, queries: 1 / 0, capsys)
