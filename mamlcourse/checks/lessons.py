"""The "your turn" cells of the lessons: each function here takes what the reader wrote and prints one sentence.

Nothing is raised and no progress is noted, so that a lesson runs from top to bottom with every cell unanswered: the
sentence is then "Not answered yet". Graded checks are those of the exercises, in the other modules of this folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """One trial of the reader's function.

    Attributes:
        arguments: what it is called with.
        expected: what a right answer returns: a number, a tensor, or a dictionary or list of them.
        mistakes: {what a known mistake returns: the sentence for it}, as pairs.
    """

    arguments: tuple
    expected: object
    mistakes: tuple = ()


def unanswered(answer) -> bool:
    """Whether the dots of the cell, or a part of them, are still what comes back."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (list, tuple)):
        return any(map(unanswered, answer))
    return answer is None or answer is Ellipsis


def same(answer, expected) -> bool:
    """Whether an answer has the form and, to rounding, the values expected."""
    if isinstance(expected, dict):
        return (
            isinstance(answer, dict)
            and answer.keys() == expected.keys()
            and all(same(answer[key], value) for key, value in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        return isinstance(answer, (list, tuple)) and len(answer) == len(expected) and all(map(same, answer, expected))
    if isinstance(expected, Tensor):
        return (
            isinstance(answer, Tensor)
            and answer.shape == expected.shape
            and torch.allclose(answer.to(expected.dtype), expected, rtol=1e-4, atol=1e-6)
        )
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if isinstance(expected, bool):
        return answer is expected
    return isinstance(answer, (int, float)) and math.isclose(answer, expected, rel_tol=1e-4, abs_tol=1e-6)


def shown(value) -> str:
    """A value in a sentence, short."""
    if isinstance(value, Tensor):
        value = [round(number, 4) for number in value.tolist()] if value.dim() == 1 else value.tolist()
    if isinstance(value, float):
        value = round(value, 4)
    words = " ".join(repr(value).split())
    return words if len(words) <= 120 else words[:117] + "..."


def ask(function: Callable, cases: list[Case], right: str, also: Callable = lambda answer: None) -> None:
    """Try a function on each case and print one sentence: "Not answered yet", "Not yet" with what went wrong, or
    "Right" with what is worth keeping. `also` may find fault with an answer of the right value: a sentence, or None."""
    for case in cases:
        try:
            answer = function(*case.arguments)
        except Exception as error:  # whatever the reader's line raises is an answer that is not right yet
            print(f"Not yet: it raised {type(error).__name__}: {' '.join(str(error).split())[:150]}")
            return
        if unanswered(answer):
            print("Not answered yet: replace the dots and run the cell again.")
            return
        if not same(answer, case.expected):
            known = [sentence for value, sentence in case.mistakes if same(answer, value)]
            print(known[0] if known else f"Not yet: expected {shown(case.expected)}, got {shown(answer)}.")
            return
        if fault := also(answer):
            print(fault)
            return
    print(f"Right: {right}")


def numbers(*values) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


# Lesson 00.


def share_correct(function: Callable) -> None:
    """(outputs (queries, ways), labels (queries,)) -> accuracy in [0, 1]."""
    outputs = numbers([2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5], [0.1, 0.2, 0.3])
    cases = [
        Case((outputs, torch.tensor([0, 1, 2, 2])), 0.75, (
            (3, "Not yet: that is how many are correct; divide by how many queries there are."),
            (75, "Not yet: that is in percent; return a share between 0 and 1."),
            (0.25, "Not yet: that is the share of the wrong ones."),
        )),
        Case((outputs[:2], torch.tensor([1, 0])), 0.0),
    ]  # fmt: skip
    ask(function, cases, "the largest output names the class, and its share of hits is the query accuracy.")


def images_seen(function: Callable) -> None:
    """(tasks, ways, shots, queries) -> the number of images in so many tasks."""
    cases = [
        Case((200, 5, 1, 15), 16_000, (
            (15_000, "Not yet: that leaves out the support set."), (1_000, "Not yet: that leaves out the query set."),
            (3_200, "Not yet: shots and queries are per class, and there are several classes."),
        )),
        Case((3, 20, 5, 2), 420),
    ]  # fmt: skip
    ask(function, cases, "200 tasks of this lesson hold 16,000 images.")


# Lesson 01.


def leaks(function: Callable) -> None:
    """(support (ways, shots), queries (ways, queries): numbers of drawings) -> whether a class has one in both."""
    cases = [
        Case((torch.tensor([[1], [2]]), torch.tensor([[3, 4], [5, 1]])), False, (
            (True, "Not yet: drawing 1 is in both, but of different classes, so it is not the same image."),
        )),
        Case((torch.tensor([[1], [2]]), torch.tensor([[3, 4], [5, 2]])), True, (
            (False, "Not yet: drawing 2 of the second class is a support image and a query."),
        )),
        Case((torch.tensor([[1, 7], [2, 8]]), torch.tensor([[7, 4], [5, 3]])), True),
    ]  # fmt: skip
    ask(function, cases, "compared class by class; this check on your own episodes takes one line and finds trap 1.")


def prototypes(function: Callable) -> None:
    """(support (examples, pixels), labels (examples,), ways) -> (ways, pixels): the mean image of each class."""
    support, labels = numbers([0.0, 2.0], [4.0, 0.0], [2.0, 4.0], [0.0, 2.0]), torch.tensor([0, 1, 0, 1])
    expected = numbers([1.0, 3.0], [2.0, 1.0])
    cases = [Case((support, labels, 2), expected, (
        (2 * expected, "Not yet: that is the sum of each class; take the mean."),
        (support.mean(0), "Not yet: that is the mean of all images; take one mean for each class."),
    ))]  # fmt: skip
    ask(function, cases, "one mean image per class. Means of *features* instead of pixels make ProtoNet.")


# Lesson 02.


def meta_factor(function: Callable) -> None:
    """(h, lr, steps) -> dθ'_K/dθ for the support loss ½h(θ - a)²."""
    cases = [
        Case((2.0, 0.25, 1), 0.5), Case((2.0, 0.25, 3), 0.125, (
            (0.5, "Not yet: that is one step; K steps multiply."),
            (1.5, "Not yet: the factors of the steps multiply, they do not add up."),
            (-0.5, "Not yet: the factors of the steps multiply, they do not add up."),
        )), Case((8.8, 0.25, 10), 1.2**10),
    ]  # fmt: skip
    ask(function, cases, "a factor 1 - αh for each step, so it vanishes or explodes with K.")


def meta_gradient(function: Callable) -> None:
    """(H (n, n), lr, g (n,)) -> the gradient at the initialisation after one step."""
    H, g = numbers([3.0, 1.0], [1.0, 1.0]), numbers(-2.0, 1.0)
    cases = [Case((H, 0.25, g), numbers(-0.75, 1.25), (
        (g, "Not yet: that is the first-order gradient; the factor I - αH is missing."),
        (g + 0.25 * H @ g, "Not yet: the step goes *down* the support loss, so the sign before αH is a minus."),
        (-0.25 * H @ g, "Not yet: that is the part that comes through the support gradient; the identity is missing."),
    ))]  # fmt: skip
    ask(function, cases, "(I - αH) g, the pencil numbers above.")


def central_difference(function: Callable) -> None:
    """(f, x, eps) -> the derivative of f at x by a step to both sides."""
    cube = lambda x: x**3  # noqa: E731
    cases = [Case((cube, 2.0, 0.1), 12.01, (
        (((2.1**3) - 8) / 0.1, "Not yet: that steps to one side only."),
        (2 * 12.01, "Not yet: the two points are 2 eps apart."),
    ))]  # fmt: skip
    ask(function, cases, "12.01 at eps = 0.1, where the derivative is 12: the error is eps squared.")


# Lesson 03.


def inner_step(function: Callable) -> None:
    """(params, grads: dictionaries of tensors, lr) -> the parameters one step downhill, as a new dictionary."""
    params, grads = {"w": numbers(1.0, 2.0), "b": numbers(0.5)}, {"w": numbers(10.0, -10.0), "b": numbers(5.0)}
    before = {name: p.clone() for name, p in params.items()}
    uphill, downhill = ({name: p + sign * 0.1 * grads[name] for name, p in before.items()} for sign in (1, -1))

    def overwritten(answer):
        if not same(params, before):
            return (
                "Not yet: it overwrote the parameters that came in, so the next task would begin where this one ended."
            )

    right = "a new dictionary, and the old one is untouched, so the next task can begin from it."
    ask(function, [Case((params, grads, 0.1), downhill, ((uphill, "Not yet: that goes uphill."),))], right, overwritten)


def mean_over_tasks(function: Callable) -> None:
    """(list of dictionaries of gradients, one for each task) -> their mean, a dictionary."""
    one, other = {"w": numbers(1.0, 3.0), "b": numbers(0.0)}, {"w": numbers(3.0, 5.0), "b": numbers(2.0)}
    mean = {"w": numbers(2.0, 4.0), "b": numbers(1.0)}
    total = {name: 2 * value for name, value in mean.items()}
    cases = [Case(([one, other],), mean, (
        (total, "Not yet: that is the sum; divide by the number of tasks."),
        (other, "Not yet: only the last task counts. That is the very bug."),
        (one, "Not yet: only the first task counts."),
    ))]  # fmt: skip
    ask(function, cases, "every task counts, and turning the list around changes nothing.")


# Lesson 04.


def under_a_mean(function: Callable) -> None:
    """(lr, ways): a rate for Finn's loss, a sum over ways x shots divided by the shots -> the same under a mean."""
    cases = [
        Case(
            (0.4, 5), 2.0, ((0.08, "Not yet: his loss is `ways` times the mean, so under a mean the rate is larger."),)
        ),
        Case((0.1, 20), 2.0),
    ]
    ask(function, cases, "times the number of ways: his two rates are one.")


def batch_norm(function: Callable) -> None:
    """(x (examples, features)) -> x with mean 0 and standard deviation 1 over the batch; eps is 1e-5."""
    x = numbers([1.0, 10.0], [3.0, 30.0], [5.0, 80.0])
    centred = x - x.mean(0)
    cases = [
        Case((x,), centred / (x.var(0, unbiased=False) + 1e-5).sqrt(), (
            (centred, "Not yet: that has mean 0; divide by the standard deviation too."),
            (centred / (x.var(0) + 1e-5).sqrt(), "Not yet: almost. Batch norm divides by the number of examples, not "
             "by one less: unbiased=False."),
            ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt(), "Not yet: each feature has its own mean: over "
             "dimension 0 alone."),
        )),
    ]  # fmt: skip
    ask(function, cases, "each row depends on all the others. A batch of one class loses what its rows have in common.")


def half_width(function: Callable) -> None:
    """(accuracies: a tensor with one for each task) -> half a 95% confidence interval of their mean, by the normal."""
    values = torch.linspace(0.5, 1.0, 100, dtype=torch.float64)
    deviation = values.std().item()
    cases = [Case((values,), 1.96 * deviation / 10, (
        (1.96 * deviation, "Not yet: that is for a single task; for a mean divide by the square root of their number."),
        (1.96 * deviation / 100, "Not yet: divide by the square root of the number of tasks."),
        (deviation / 10, "Not yet: that is one standard error; 95% takes 1.96 of them."),
    ))]  # fmt: skip
    ask(function, cases, "four times the tasks halve it.")


# Lesson 05.


def constant(function: Callable) -> None:
    """(grads: list of tensors with a graph) -> the same values, as constants."""
    w = numbers(1.0, 2.0).requires_grad_()
    grads = list(torch.autograd.grad((w**3).sum(), [w], create_graph=True))

    def still_a_graph(answer):
        if any(g.requires_grad for g in answer):
            return "Not yet: the values are right, but the graph is still there (`requires_grad`), so this is MAML."

    right = "the values are those of MAML, and the derivative stops here. That is FOMAML."
    ask(function, [Case((grads,), [numbers(3.0, 12.0)])], right, still_a_graph)


def gap(function: Callable) -> None:
    """(second, first: flat gradients of MAML and FOMAML) -> the dropped part's norm, relative to MAML's gradient."""
    second, first = numbers(3.0, 4.0), numbers(3.0, 1.0)
    cases = [Case((second, first), 0.6, (
        (3.0, "Not yet: that is the norm of what is dropped; divide by the norm of MAML's gradient."),
        (3 / 10**0.5, "Not yet: relative to MAML's gradient, not to FOMAML's."),
    ))]  # fmt: skip
    ask(function, cases, "0 would mean that nothing is lost, 1 that the dropped part is as large as the gradient.")


def first_order_expansion(function: Callable) -> None:
    """(avg_grad, avg_grad_inner, alpha, steps) -> FOMAML's gradient to first order in alpha."""
    a, b = numbers(1.0, 2.0), numbers(10.0, -10.0)
    cases = [Case((a, b, 0.01, 5), a - 0.05 * b, (
        (a - 0.1 * b, "Not yet: that is MAML's: twice the second term."),
        (a - 0.01 * b, "Not yet: that is one step; K steps on the same support set count K times."),
        (a + 0.05 * b, "Not yet: the sign. A step against this gradient must *raise* the inner product."),
    ))]  # fmt: skip
    ask(function, cases, "MAML's would have a 2 before the second term, and that is all that differs at small α.")
