"""The "your turn" cells of the lessons: unanswered they say so, folded solutions are right, mistakes are named."""

import re

import nbformat
import pytest
import torch
from test_notebooks import FOLDER, SECOND_EDITION

from mamlcourse.checks import lessons


def turns():
    """(lesson, imports, cell, folded solution) of every cell that the reader fills."""
    for name in SECOND_EDITION:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        imports = notebook.cells[1].source.replace("%matplotlib inline\n", "")
        for cell, below in zip(notebook.cells, notebook.cells[1:]):
            if cell.source.startswith("# Your turn"):
                solution = re.search(r"```python\n(.+?)```", below.source, re.DOTALL)[1]
                yield pytest.param(imports, cell.source, solution, id=f"{name}-{cell.id.rsplit('-', 1)[-1]}")


def said_by(capsys, *sources):
    names = {}
    for source in sources:
        exec(source, names)
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("imports, cell, solution", list(turns()))
def test_unanswered_cells_say_so_and_folded_solutions_are_right(imports, cell, solution, capsys):
    definition, call = cell.rsplit("\n", 1)
    assert said_by(capsys, imports, cell) == "Not answered yet: replace the dots and run the cell again."
    assert said_by(capsys, imports, definition, solution, call).startswith("Right: ")
    assert len(solution.strip().splitlines()) <= 5


def overwriting(params, grads, lr):
    for name in params:
        params[name] -= lr * grads[name]
    return params


WRONG = [
    (lessons.share_correct, lambda outputs, labels: (outputs.argmax(-1) == labels).sum(), "how many are correct"),
    (lessons.images_seen, lambda tasks, ways, shots, queries: tasks * ways * queries, "leaves out the support set"),
    (lessons.leaks, lambda support, queries: bool(torch.isin(queries, support).any()), "of different classes"),
    (lessons.prototypes, lambda x, y, ways: torch.stack([x[y == way].sum(0) for way in range(ways)]), "is the sum"),
    (lessons.meta_factor, lambda h, lr, steps: 1 - lr * h, "that is one step"),
    (lessons.meta_gradient, lambda H, lr, g: g, "first-order"),
    (lessons.central_difference, lambda f, x, eps: (f(x + eps) - f(x)) / eps, "one side only"),
    (lessons.inner_step, lambda params, grads, lr: {n: p + lr * grads[n] for n, p in params.items()}, "uphill"),
    (lessons.inner_step, overwriting, "overwrote"),
    (lessons.mean_over_tasks, lambda gradients: gradients[-1], "only the last task counts"),
    (lessons.under_a_mean, lambda lr, ways: lr / ways, "the rate is larger"),
    (lessons.batch_norm, lambda x: (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt(), "unbiased=False"),
    (lessons.half_width, lambda accuracies: 1.96 * accuracies.std(), "for a single task"),
    (lessons.constant, lambda grads: grads, "so this is MAML"),
    (lessons.gap, lambda second, first: (second - first).norm(), "divide by the norm"),
    (lessons.first_order_expansion, lambda a, b, alpha, steps: a - 2 * alpha * steps * b, "that is MAML's"),
    (lessons.gap, lambda second, first: second / 0, "expected 0.6, got"),
    (lessons.gap, lambda second, first: second @ torch.ones(3), "it raised RuntimeError"),
    (lessons.inner_step, lambda params, grads, lr: {"w": params["w"]}, "Not yet: expected"),
]


@pytest.mark.parametrize("check, answer, words", WRONG, ids=[f"{n}-{w[0].__name__}" for n, w in enumerate(WRONG)])
def test_a_wrong_answer_gets_one_sentence(check, answer, words, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("answer", [None, ..., [1.0, ...], {"w": ..., "b": 1.0}])
def test_dots_anywhere_are_no_answer(answer):
    assert lessons.unanswered(answer) and not lessons.unanswered([1.0, torch.zeros(2)])


@pytest.mark.parametrize(
    "answer, expected, alike",
    [(1, 1.0, True), (torch.tensor(1.0), 1.0, True), (True, 1.0, True), (1.0, True, False),
     (torch.ones(2), torch.ones(1, 2), False),
     ("1", 1.0, False), ({"a": 1.0}, {"b": 1.0}, False), ([1.0], [1.0, 2.0], False), (float("nan"), 1.0, False)],
)  # fmt: skip
def test_same(answer, expected, alike):
    assert lessons.same(answer, expected) == alike
