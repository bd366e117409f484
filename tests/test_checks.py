"""The checks of the exercises: right answers pass, each catalogued mistake gets its own sentence, and progress is kept.

A wrong answer here is written as a student would write it. The right ones are the solutions' own (test_exercises.py).
"""

import json
import math
import re
import runpy
import statistics
import threading
import time

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.functional import mse_loss

from mamlcourse import MLP, SinusoidTasks, TaskBatch, checks, cli
from mamlcourse.checks import judge, progress

NETWORK = MLP()


@pytest.fixture(autouse=True)
def own_progress(monkeypatch, tmp_path):
    monkeypatch.setenv("MAMLCOURSE_PROGRESS", str(tmp_path / "progress.json"))


def complaint(check, *answers):
    """The sentence that the check must end in: one line, a sentence, no sign of the check's own code."""
    with pytest.raises(checks.CheckFailed) as caught:
        check(*answers)
    message = str(caught.value)
    assert "\n" not in message and message[-1] in ".?" and message[0] != " ", message
    assert caught.value.__cause__ is None and " ".join(caught.value._render_traceback_()) == f"CheckFailed: {message}"
    return message


def nothing(*arguments):
    """An answer whose `return` was forgotten."""
    forgotten = len(arguments)  # noqa: F841


# --- 01 ---


def right_split(alphabets, tests):
    return [c for c, a in enumerate(alphabets) if a not in tests], [c for c, a in enumerate(alphabets) if a in tests]


def split_by_class(alphabets, tests):
    count = sum(a in tests for a in alphabets)
    return list(range(count, len(alphabets))), list(range(count))


SPLIT = {
    "is in both parts": lambda a, t: (list(range(len(a))), right_split(a, t)[1]),
    "got names of alphabets": lambda a, t: ([x for x in a if x not in t], [x for x in a if x in t]),
    "are exchanged": lambda a, t: right_split(a, t)[::-1],
    "keep whole alphabets apart|The test classes: expected": split_by_class,
    "are in neither part": lambda a, t: ([], right_split(a, t)[1]),
    "returned None": nothing,
    "expected (train classes, test classes), got list": lambda a, t: right_split(a, t)[0],
    "name a class twice": lambda a, t: (right_split(a, t)[0] * 2, right_split(a, t)[1]),
    "expected a list of integers, got int": lambda a, t: (7, []),
    "expected integers from 0": lambda a, t: ([-1], [0]),
}


def right_episode(
    images, ways, shots, queries, generator, *, replace=False, overlap=False, classes=None, labels="new",
    scale=255, channel=True, order=None, swap=False, kind=torch.float32, label_kind=torch.int64,
    in_place=False, shuffled=False,
):  # fmt: skip
    if in_place:
        images.zero_()
    generator = torch.Generator() if generator is None else generator
    if classes is None:
        classes = torch.randint(len(images), (ways,), generator=generator) if replace else torch.randperm(
            len(images), generator=generator
        )[:ways]  # fmt: skip
    classes = sorted(classes.tolist()) if labels == "sorted" else list(map(int, classes))
    parts = [[], [], [], []]
    for label, number in enumerate(classes):
        sampled = torch.randperm(images.shape[1], generator=generator)
        if replace == "examples":
            sampled = torch.randint(images.shape[1], sampled.shape, generator=generator)
        sampled = torch.arange(images.shape[1]) if order else sampled
        scaled = images[number].to(kind) / scale if scale != 1 else images[number].to(kind)
        scaled = scaled[:, None] if channel else scaled
        parts[0] += list(scaled[sampled[:shots]])
        parts[2] += list(scaled[sampled[:queries] if overlap else sampled[shots : shots + queries]])
        name = number if labels == "indices" else label
        parts[1] += [name] * shots
        parts[3] += [name] * queries
    result = [torch.stack(parts[0]), torch.tensor(parts[1], dtype=label_kind)]
    result += [torch.stack(parts[2]), torch.tensor(parts[3], dtype=label_kind)]
    if shuffled:
        result[2] = result[2].flip(0)
    return tuple(result[2:] + result[:2]) if swap else tuple(result)


def episode_with(**how):
    return lambda images, ways, shots, queries, generator: right_episode(images, ways, shots, queries, generator, **how)


def global_randomness(images, ways, shots, queries, generator):
    return right_episode(images, ways, shots, queries, torch.Generator().manual_seed(time.perf_counter_ns()))


def same_classes(images, ways, shots, queries, generator):
    return right_episode(images, ways, shots, queries, generator, classes=torch.arange(ways).flip(0))


def twice_the_same_class(images, ways, shots, queries, generator):
    first = torch.randperm(len(images), generator=generator)[: ways - 1]
    once = right_episode(images, ways, shots, queries, generator, classes=torch.cat([first, first[:1]]))
    return once


EPISODE = {
    "support examples appear in the query set": episode_with(overlap=True),
    "without replacement|different examples of each class": episode_with(replace="examples"),
    "indices in the data set": episode_with(labels="indices"),
    "images and labels are in different orders": episode_with(shuffled=True),
    "Divide by 255, so that ink is 1: support_x": episode_with(scale=1),
    "still bytes": episode_with(scale=1, kind=torch.uint8),
    "which lacks it": episode_with(channel=False),
    "two generators of the same seed": global_randomness,
    "the same 3 classes|the same 4 classes": same_classes,
    "Assign the labels at random": episode_with(labels="sorted"),
    "same examples of a class": episode_with(order=True),
    "are exchanged": episode_with(swap=True),
    "expected dtype torch.float32": episode_with(kind=torch.float64),
    "expected dtype torch.int64": episode_with(label_kind=torch.int32),
    "in place": episode_with(in_place=True),
    "under two labels|in the query set|is twice": twice_the_same_class,
    "expected (support_x, support_y, query_x, query_y), got tuple of 3": lambda *a: right_episode(*a)[:3],
    "none of the data set's": lambda *arguments: (1 - (e := right_episode(*arguments))[0], *e[1:]),
}

# --- 02 ---


def eye(theta):
    return torch.eye(len(theta), dtype=theta.dtype)


def stepped(theta, H, a, alpha):
    return theta - alpha * H @ (theta - a)


BY_HAND = {
    "first-order (FOMAML)": lambda t, H, a, G, b, r: G @ (stepped(t, H, a, r) - b),
    "query gradient at theta": lambda t, H, a, G, b, r: G @ (t - b),
    "after the step, at theta'": lambda t, H, a, G, b, r: (eye(t) - r * H) @ (G @ (t - b)),
    "its derivative has a minus": lambda t, H, a, G, b, r: (eye(t) + r * H) @ (G @ (stepped(t, H, a, r) - b)),
    "inner step is gradient ascent": lambda t, H, a, G, b, r: (eye(t) + r * H) @ (G @ (stepped(t, H, a, -r) - b)),
    "not (I - H)": lambda t, H, a, G, b, r: (eye(t) - H) @ (G @ (stepped(t, H, a, r) - b)),
    "Use H in the factor": lambda t, H, a, G, b, r: (eye(t) - r * G) @ (G @ (stepped(t, H, a, r) - b)),
    "Use H (theta - a)": lambda t, H, a, G, b, r: (eye(t) - r * H) @ (G @ (t - r * H @ t - b)),
    "Use G (theta' - b)": lambda t, H, a, G, b, r: (eye(t) - r * H) @ (G @ stepped(t, H, a, r)),
    "only the diagonal": lambda t, H, a, G, b, r: (1 - r * H.diag()) * (G @ (stepped(t, H, a, r) - b)),
    "Turn the sign: the gradient": lambda t, H, a, G, b, r: (r * H - eye(t)) @ (G @ (stepped(t, H, a, r) - b)),
    "is off: expected": lambda t, H, a, G, b, r: 1.1 * (eye(t) - r * H) @ (G @ (stepped(t, H, a, r) - b)),
    "expected shape (2,), got (2, 1)": lambda t, H, a, G, b, r: t[:, None],
    "Is there a `return` missing": nothing,
    "expected a tensor, got str": lambda *arguments: "three",
}


def autograd(graph=True, frozen=False, more=0, sign=1, steps=None, returns="gradient", in_place=False, at_theta=False):
    def answer(theta, support, query, alpha, asked):
        start = theta.detach().clone().requires_grad_()
        adapted, grad = start, None
        for _ in range((asked if steps is None else steps) + more):
            if grad is None or not frozen:
                (grad,) = torch.autograd.grad(support(adapted), adapted, create_graph=graph)
            adapted = adapted - sign * alpha * grad
        if in_place:
            theta.copy_(adapted.detach())
        if returns != "gradient":
            return {"adapted": adapted, "loss": query(adapted)}[returns]
        return torch.autograd.grad(query(start if at_theta else adapted), start)[0]

    return answer


def into_grad(theta, support, query, alpha, steps):
    theta.requires_grad_()
    theta -= alpha * torch.autograd.grad(support(theta), theta)[0]


BY_AUTOGRAD = {
    "so this is the FOMAML gradient": autograd(graph=False),
    "query gradient at theta": autograd(at_theta=True),
    "every step used the gradient at theta": autograd(frozen=True),
    "got 1.": autograd(steps=1),
    "one too many": autograd(more=1),
    "inner steps are gradient ascent": autograd(sign=-1),
    "adapted parameters": autograd(returns="adapted"),
    "this is the query loss": autograd(returns="loss"),
    "'theta' of the input has changed": autograd(in_place=True),
    "It failed in line": into_grad,
    "Return the gradient, not the direction": lambda *arguments: -autograd()(*arguments),
    "is off: expected": lambda *arguments: 2 * autograd()(*arguments),
}

# --- 03 ---


def inner(
    graph=True, frozen=False, more=0, sign=1, once=False, mean=True, detached=False, in_place=False, lr=None,
    new_tensor=False, grads_only=False,
):  # fmt: skip
    def answer(parameters, x, y, steps, alpha):
        given, grads = parameters, None
        for _ in range((min(steps, 1) if once else steps) + more):
            if grads is None or not frozen:
                outputs = functional_call(NETWORK, parameters, (x,))
                loss = mse_loss(outputs, y, reduction="mean" if mean else "sum")
                grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=graph)
            step = sign * (alpha if lr is None else lr)
            parameters = {name: p - step * g for (name, p), g in zip(parameters.items(), grads)}
        if grads_only:
            return dict(zip(given, grads))
        if in_place:
            for name, p in given.items():
                p.data.copy_(parameters[name])
        if new_tensor:
            for name, p in given.items():
                given[name] = p.detach().clone()
        return {n: p.detach() for n, p in parameters.items()} if detached else parameters

    return answer


def one_step(**how):
    return lambda parameters, x, y, alpha: inner(**how)(parameters, x, y, 1, alpha)


INNER_STEP = {
    "but this is first order": one_step(graph=False),
    "detached from the initialisation": one_step(detached=True),
    "of the input has changed": one_step(in_place=True),
    "new tensor into the input dictionary": one_step(new_tensor=True),
    "gradient ascent": one_step(sign=-1),
    "mean squared error, not the sum": one_step(mean=False),
    "inner learning rate was not used": one_step(lr=1.0),
    "came back as they were": lambda parameters, x, y, alpha: dict(parameters),
    "these are the gradients": one_step(grads_only=True),
    "expected a dictionary of tensors by name, got list": lambda *a: list(one_step()(*a).values()),
    "expected the names": lambda *a: {"weight": torch.zeros(1)},
    "is off: expected": one_step(lr=0.001),
}
INNER_LOOP = {
    "steps, got 1.": inner(once=True),
    "one too many": lambda p, x, y, steps, alpha: inner(more=bool(steps))(p, x, y, steps, alpha),
    "every step used the gradient at the initialisation": inner(frozen=True),
    "gradient ascent": inner(sign=-1),
    "first order": inner(graph=False),
    "detached from the initialisation": inner(detached=True),
    "of the input has changed": inner(in_place=True),
    "mean squared error, not the sum": inner(mean=False),
    "with steps=0": lambda p, x, y, steps, alpha: inner()(p, x, y, max(steps, 1), alpha),
}

# --- 04 ---


def outer(
    combine="mean", sign=-1, one_by_one=False, accumulating=False, batches_used=None, graph=False, loss="mean",
    in_place=False, loss_tensor=False,
):  # fmt: skip
    def answer(task_loss, parameters, batches, lr):
        given, losses, total = parameters, [], None
        for batch in list(batches)[batches_used or slice(None)]:
            tasks, grads, values = list(zip(*batch)), [], []
            if not graph:
                parameters = {n: p.detach().clone() for n, p in parameters.items()}
            start = {n: p.requires_grad_() if p.is_leaf else p for n, p in parameters.items()}
            for task in tasks:
                if one_by_one:
                    start = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
                value = task_loss(start, *task)
                values.append(value)
                grads.append(torch.autograd.grad(value, list(start.values()), retain_graph=True, create_graph=graph))
                if one_by_one:
                    parameters = {n: p.detach() - lr * g for (n, p), g in zip(start.items(), grads[-1])}
            by_name = list(zip(*grads))
            pick = {
                "mean": lambda g: sum(g) / len(g), "sum": sum, "last": lambda g: g[-1], "first": lambda g: g[0],
                "twice": lambda g: sum(g) / len(g) ** 2,
            }[combine]  # fmt: skip
            step = [pick(g) for g in by_name]
            if accumulating:
                total = step if total is None else [a + b for a, b in zip(total, step)]
                step = total
            if not one_by_one:
                parameters = {n: p + sign * lr * g for (n, p), g in zip(start.items(), step)}
                parameters = parameters if graph else {n: p.detach() for n, p in parameters.items()}
            value = {"mean": sum(values) / len(values), "sum": sum(values), "last": values[-1]}[loss]
            losses.append(value if loss_tensor else value.item())
        if in_place:
            for n, p in given.items():
                p.data.copy_(parameters[n])
        return parameters, losses

    return answer


OUTER_LOOP = {
    "only the last task contributed": outer("last"),
    "only the first task contributed": outer("first"),
    "summed over the tasks, not averaged": outer("sum"),
    "divided by the number of tasks once more": outer("twice"),
    "they moved after every task": outer(one_by_one=True),
    "earlier batches are still counted": outer(accumulating=True),
    "came back as they were": lambda loss, p, batches, lr: (dict(p), [0.0 for _ in batches]),
    "only the first batch": outer(batches_used=slice(0, 1)),
    "only the last batch": outer(batches_used=slice(-1, None)),
    "outer loop is gradient ascent": outer(sign=1),
    "graph of the whole training|Track a copy": outer(graph=True),
    "still hold their graphs": outer(loss_tensor=True),
    "these are those of the last task": outer(loss="last"),
    "losses are summed": outer(loss="sum"),
    "of the input has changed": outer(in_place=True),
    "expected (parameters, losses), got dict": lambda *a: outer()(*a)[0],
    "expected a list of 4 numbers": lambda *a: (outer()(*a)[0], 1.0),
}


def same(a, b, exact=False):
    return all(torch.equal(a[n], b[n]) if exact else torch.allclose(a[n], b[n], rtol=1e-4, atol=1e-6) for n in a)


def replacing(places, exact=False):
    def answer(meta_gradient, task_loss, parameters, batch):
        before = meta_gradient(task_loss, parameters, batch)
        for place in places(len(batch[0])):
            changed = tuple(part.clone() for part in batch)
            for part, original in zip(changed, batch):
                part[place] = original[place - 1]
            if same(meta_gradient(task_loss, parameters, changed), before, exact):
                return False
        return True

    return answer


def reversing(exact):
    def answer(meta_gradient, task_loss, parameters, batch):
        flipped = tuple(part.flip(0) for part in batch)
        return same(*(meta_gradient(task_loss, parameters, b) for b in (batch, flipped)), exact)

    return answer


EVERY_TASK_COUNTS = {
    "True of every version": lambda *a: True,
    "False of every version": lambda *a: False,
    "Replace every single task in turn": replacing(lambda tasks: [0]),
    "leaves out the first one|only the last": replacing(lambda tasks: [tasks - 1]),
    "leaves out the task in the middle": reversing(False),
    "exactly|with a tolerance|False of every version": reversing(True),
    "last digits vary|Compare with a tolerance": replacing(range, exact=True),
    "the opposite": lambda *a: not replacing(range)(*a),
    "expected True or False, got int": lambda *a: 1,
    "returned None": nothing,
}

# --- 05 ---


def first_order(lr=None, graph=False, detach_grad=True, detach_theta=False, in_place=False, sign=1, only=None):
    def answer(loss, parameters, alpha):
        grads = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=graph)
        if only == "grads":
            return dict(zip(parameters, grads))
        grads = [g.detach() for g in grads] if detach_grad else grads
        step = sign * (alpha if lr is None else lr)
        moved = {n: (p.detach() if detach_theta else p) - step * g for (n, p), g in zip(parameters.items(), grads)}
        if in_place:
            for n, p in parameters.items():
                p.data.copy_(moved[n])
        return moved

    return answer


FIRST_ORDER = {
    "this is still MAML": first_order(graph=True, detach_grad=False),
    "with create_graph=True": first_order(graph=True),
    "you detached the parameters": first_order(detach_theta=True),
    "wrong half was detached": first_order(graph=True, detach_grad=False, detach_theta=True),
    "of the input has changed": first_order(in_place=True),
    "gradient ascent": first_order(sign=-1),
    "inner learning rate was not used": first_order(lr=1.0),
    "these are the gradients": first_order(only="grads"),
    "came back as they were": lambda loss, parameters, alpha: dict(parameters),
    "is off: expected": first_order(lr=0.5),
}


def graph_in(which):
    def answer(step, loss, parameters, alpha):
        adapted, grads = step(loss, parameters, alpha)
        tensors = {"adapted": list(adapted.values()), "first": list(grads.values())[:1]}.get(which)
        return any(t.grad_fn is not None for t in tensors)

    return answer


def by_values(step, loss, parameters, alpha):
    adapted, _ = step(loss, parameters, alpha)
    if not any(p.grad_fn for p in adapted.values()):
        return False
    total = sum(p.sum() for p in adapted.values())
    return not all(torch.equal(g, torch.ones_like(g)) for g in torch.autograd.grad(total, list(parameters.values())))


BUILDS_A_GRAPH = {
    "True of every version": lambda *a: True,
    "False of every version": lambda *a: False,
    "Look at the gradients": graph_in("adapted"),
    "only the middle one of the gradients": graph_in("first"),
    "only MAML itself was caught": by_values,
    "expected True or False, got str": lambda *a: "yes",
}

# --- 06 ---


def interval(width):
    def answer(first, second):
        d = [a - b for a, b in zip(first, second)]
        return statistics.fmean(d), width(first, second, d)

    return answer


def good_half(first, second, d):
    return 1.96 * statistics.stdev(d) / math.sqrt(len(d))


def unpaired(first, second, d):
    return 1.96 * math.sqrt((statistics.variance(first) + statistics.variance(second)) / len(first))


PAIRED_INTERVAL = {
    "not paired": interval(unpaired),
    "opposite sign": lambda first, second: interval(good_half)(second, first),
    "whole width": interval(lambda *a: 2 * good_half(*a)),
    "which is missing: this says": interval(lambda f, s, d: 1.96 * statistics.stdev(d)),
    "standard error": interval(lambda f, s, d: statistics.stdev(d) / math.sqrt(len(d))),
    "standard deviation of the differences": interval(lambda f, s, d: statistics.stdev(d)),
    "not by the number itself": interval(lambda f, s, d: 1.96 * statistics.stdev(d) / len(d)),
    "n - 1": interval(lambda f, s, d: 1.96 * statistics.pstdev(d) / math.sqrt(len(d))),
    "difference of two standard deviations": interval(
        lambda f, s, d: 1.96 * abs(statistics.stdev(f) - statistics.stdev(s)) / math.sqrt(len(d))
    ),
    "median of the differences": lambda f, s: (statistics.median([a - b for a, b in zip(f, s)]), 0.1),
    "expected (mean difference, half width), got float": lambda f, s: 0.1,
    "expected a number, got str": lambda f, s: ("0.1", 0.1),
}


def ratios(time=None, memory=None):
    def answer(s, o, p, q):
        right = statistics.median(a / b for a, b in zip(s, o)), max(p) / max(q)
        return time(s, o) if time else right[0], memory(p, q) if memory else right[1]

    return answer


COSTS = {
    "time ratio is upside down": ratios(lambda s, o: 1 / statistics.median(a / b for a, b in zip(s, o))),
    "ratio of the means": ratios(lambda s, o: sum(s) / sum(o)),
    "mean of the ratios": ratios(lambda s, o: statistics.fmean(a / b for a, b in zip(s, o))),
    "ratio of the medians": ratios(lambda s, o: statistics.median(s) / statistics.median(o)),
    "fastest runs": ratios(lambda s, o: min(s) / min(o)),
    "memory ratio is upside down": ratios(memory=lambda p, q: max(q) / max(p)),
    "mean peaks": ratios(memory=lambda p, q: sum(p) / sum(q)),
    "memory is not like time": ratios(memory=lambda p, q: statistics.median(a / b for a, b in zip(p, q))),
    "difference in bytes": ratios(memory=lambda p, q: max(p) - max(q)),
    "The time ratio is off": ratios(lambda s, o: 1e6),  # far from what any known mistake could give
}


def right_verdict(d, h):
    return "better" if d > h else "worse" if d < -h else "undecided"


VERDICT = {
    "interval is not looked at": lambda d, h: "better" if d > 0 else "worse" if d < 0 else "undecided",
    "are exchanged": lambda d, h: right_verdict(-d, h),
    "whatever the numbers are": lambda d, h: "undecided",
    'was called "better"': lambda d, h: "better" if d > -h else "worse",
    "Look below zero too": lambda d, h: "better" if d > h else "undecided",
    "Do not double": lambda d, h: right_verdict(d, 2 * h),
    "a number is nan": lambda d, h: "worse" if d < -h else "undecided" if abs(d) <= h else "better",
    'expected "better", "worse" or "undecided", got': lambda d, h: "good",
}

# --- 07 ---


def weights(steps, epoch, epochs, floor=None, ahead=0, after=True):
    if after and epoch >= epochs:
        return [0.0] * (steps - 1) + [1.0]
    floor = 0.03 / steps if floor is None else floor
    early = max(1 / steps - (epoch + ahead) / (steps * epochs), floor)
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


LOSS_WEIGHTS = {
    "do not sum to 1": lambda k, e, n: [*weights(k, e, n)[:-1], 1.0],
    "wrong way round": lambda k, e, n: weights(k, e, n)[::-1],
    "still uniform": lambda k, e, n: [1 / k] * k,
    "plain MAML": lambda k, e, n: [0.0] * (k - 1) + [1.0],
    "lacks the floor": lambda k, e, n: weights(k, e, n, floor=0.0),
    "but expected is 0.03 / steps": lambda k, e, n: weights(k, e, n, floor=0.03),
    "still counts the early steps": lambda k, e, n: weights(k, min(e, n - 1), n),
    "one epoch ahead": lambda k, e, n: weights(k, e, n, ahead=1),
    "before any step": lambda k, e, n: [0.0, *weights(k, e, n)],
    "expected 5 weights": lambda k, e, n: weights(k, e, n)[:-1],
    "expected a list of 5 numbers, got float": lambda k, e, n: 0.2,
    "is off: expected": lambda k, e, n: [w := 0.7 / k] * (k - 1) + [1 - w * (k - 1)],
    "returned None": nothing,
}


def multi_step(before=False, skip=True, restart=False, use=None, item=False, in_place=False):
    def answer(parameters, step, loss, weights):
        start, total = parameters, 0.0
        chosen = weights if use is None else use(weights)
        for weight in chosen:
            after = step(start if restart else parameters)
            if weight > 0 or not skip:
                value = loss(parameters if before else after)
                total = total + weight * (value.item() if item else value)
            parameters = after
        if in_place:
            start["weight"].data.copy_(parameters["weight"])
        return total

    return answer


MULTI_STEP_LOSS = {
    "taken before its step": multi_step(before=True),
    "only the last step was counted": multi_step(use=lambda w: [0.0] * (len(w) - 1) + [1.0]),
    "weights were not used": multi_step(use=lambda w: [1.0] * len(w)),
    "this is the plain mean": multi_step(use=lambda w: [1 / len(w)] * len(w)),
    "reverse order": multi_step(use=lambda w: w[::-1]),
    "began at the initialisation again": multi_step(restart=True),
    "no gradient can flow back": multi_step(item=True),
    "counts for nothing need not be computed": multi_step(skip=False),
    "of the input has changed": multi_step(in_place=True),
    "is off: expected": lambda *a: 3 * multi_step()(*a),
}

# --- 08 ---


def learned(pick=None, graph=True, by_place=False, detach_lr=False, sign=1, in_place=False, late=None, cut=False):
    def answer(loss, parameters, learning_rates, steps):
        start = parameters
        for step in range(steps):
            grads = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=graph)
            moved = {}
            for place, ((n, p), g) in enumerate(zip(parameters.items(), grads)):
                lr = list(learning_rates.values())[place] if by_place else learning_rates[n]
                at = late(step, len(lr)) if late else min(step, len(lr) - 1)
                lr = pick(lr, at) if pick else lr[at]
                moved[n] = (p.detach() if cut else p) - sign * (lr.detach() if detach_lr else lr) * g
            parameters = moved
        if in_place:
            for n, p in start.items():
                p.data.copy_(parameters[n])
        return parameters

    return answer


LEARNED_RATES = {
    "every step used the first learning rate": learned(lambda r, k: r[0]),
    "matched by position": learned(by_place=True),
    "was made positive": learned(lambda r, k: r[k].abs()),
    "clamped at zero": learned(lambda r, k: r[k].clamp(min=0)),
    "mean of the learning rates": learned(lambda r, k: r.mean()),
    "from last to first|Count the steps": learned(lambda r, k: r[len(r) - 1 - k]),
    "began again with the first": learned(late=lambda k, trained: k % trained),
    "nothing moved after step 3": learned(lambda r, k: r[k] if k >= 0 else 0 * r[0],
                                          late=lambda k, trained: k if k < trained else -1),
    "raised IndexError in line": learned(late=lambda k, trained: k),
    "never be learned": learned(detach_lr=True),
    "their gradient is first order": learned(graph=False),
    "gradient ascent": learned(sign=-1),
    "of the input has changed": learned(in_place=True),
}  # fmt: skip


def norm(dims=(0, 2, 3), correction=0, epsilon=1e-5, row=None, channels=True, beta_too=True, detach=False, divide=True):
    def answer(x, gamma, beta, step, epsilon=epsilon):
        at = min(step, len(gamma) - 1) if row is None else row(step, len(gamma))
        g, b = gamma[at], beta[at]
        if detach:
            g, b = g.detach(), b.detach()
        g, b = (g[:, None, None], b[:, None, None]) if channels else (g, b)
        y = x - x.mean(dims, keepdim=True) if dims else x
        y = y / torch.sqrt(x.var(dims, correction=correction, keepdim=True) + epsilon) if divide and dims else y
        return g * y + b if beta_too else g * y

    return answer


STEP_NORM = {
    "broadcast along the width": norm(channels=False),
    "layer normalisation": norm((1, 2, 3)),
    "instance normalisation": norm((2, 3)),
    "over the examples alone": norm((0,)),
    "divided by n - 1": norm(correction=1),
    "epsilon is missing": norm(epsilon=0.0),
    "used γ and β of step 0": norm(row=lambda step, trained: 0),
    "γ and β were not used": lambda x, g, b, s: nn.functional.batch_norm(x, None, None, training=True),
    "β was not added": norm(beta_too=False),
    "the result was not divided": norm(divide=False),
    "nothing was normalised": norm(dims=None),
    "no gradient flows back to γ": norm(detach=True),
    "expected shape": lambda x, g, b, s: x.flatten(1),
}

# --- 09 ---


def waves(part, seed, *, share=False, overlap=False, random=False, same=False, targets=1, batches=None):
    generator = torch.Generator().manual_seed(time.perf_counter_ns() if random else seed + 7 * (part == "test"))
    count = 0
    while batches is None or count < batches:
        if same or share and count == 0:
            generator.manual_seed(3)
        count += 1
        phase = torch.rand(2, 1, 1, generator=generator)
        x = torch.rand(2, 8, 1, generator=generator)
        y = torch.sin(x + phase).expand(2, 8, targets)
        yield TaskBatch(x[:, :4], y[:, :4], x[:, 3 if overlap else 4 :], y[:, 3 if overlap else 4 :])


def own_model(seed, *layers):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 4), *layers, nn.Tanh(), nn.Linear(4, 1))


def with_waves(**how):
    return own_model, lambda part, seed: waves(part, seed, **how)


def labelled(part, seed):
    for batch in waves(part, seed):
        yield TaskBatch(batch[0], torch.arange(4).repeat(2, 1), batch[2], torch.arange(4).repeat(2, 1))


PROBLEM = {
    "keeps running batch statistics": (lambda seed: own_model(seed, nn.BatchNorm1d(4)), waves),
    "expected an nn.Module, got str": (lambda seed: "a network", waves),
    "has no parameters": (lambda seed: nn.Tanh(), waves),
    "other weights for the same seed": (lambda seed: own_model(time.perf_counter_ns()), waves),
    "other tasks for the same seed": with_waves(random=True),
    "every meta-batch of build_tasks is the same": with_waves(same=True),
    "is also one of": with_waves(share=True),
    "in both support and query": with_waves(overlap=True),
    "or the loss broadcasts": with_waves(targets=3),
    "but labels go up to 3": (own_model, labelled),
    "without end": with_waves(batches=2),
    "both are the course's own": (lambda seed: (torch.manual_seed(seed), MLP())[1], lambda part, seed: SinusoidTasks(
        seed=2 * seed + (part == "test"))),
    "is not sound": (own_model, lambda part, seed: iter([torch.zeros(3)] * 5)),
    "build_tasks raised KeyError": (own_model, lambda part, seed: {}[part]),
}  # fmt: skip

LOW, HIGH = [0.5 + 0.001 * i for i in range(60)], [0.7 + 0.001 * (i % 7) for i in range(60)]
MEASURED = {"maml": {"scores": HIGH, "seconds": 3.0}, "fomaml": {"scores": LOW, "seconds": 2.0}}


def measured(**changes):
    return {name: {**found, **changes.get(name, {})} for name, found in MEASURED.items()}


EVIDENCE = {
    "at least two algorithms": ({"maml": MEASURED["maml"]}, "maml", "better"),
    'with "scores" and "seconds"': ({"maml": 0.9, "fomaml": 0.8}, "maml", "better"),
    "expected at least 50, got 10": (measured(maml={"scores": HIGH[:10]}), "maml", "better"),
    "are not paired": (measured(maml={"scores": HIGH + [1.0]}), "maml", "better"),
    "Was one model measured twice": (measured(maml={"scores": LOW}), "maml", "undecided"),
    "are equal": (measured(maml={"scores": [0.9] * 60}), "maml", "better"),
    "is not finite": (measured(maml={"scores": [math.nan, *HIGH[1:]]}), "maml", "better"),
    "measure it": (measured(maml={"seconds": 0}), "maml", "better"),
    "expected one of the measured": (MEASURED, "reptile", "better"),
    "got 'good'": (MEASURED, "maml", "good"),
    "does not agree": (MEASURED, "maml", "undecided"),
    "speaks against your choice": (measured(fomaml={"seconds": 9.0}), "fomaml", "worse"),
}

MISTAKES = {
    "split": SPLIT, "episode": EPISODE, "by_hand": BY_HAND, "by_autograd": BY_AUTOGRAD, "inner_step": INNER_STEP,
    "inner_loop": INNER_LOOP, "outer_loop": OUTER_LOOP, "every_task_counts": EVERY_TASK_COUNTS,
    "first_order": FIRST_ORDER, "builds_a_graph": BUILDS_A_GRAPH, "paired_interval": PAIRED_INTERVAL, "costs": COSTS,
    "verdict": VERDICT, "loss_weights": LOSS_WEIGHTS, "multi_step_loss": MULTI_STEP_LOSS,
    "learned_rates": LEARNED_RATES, "step_norm": STEP_NORM, "problem": PROBLEM, "evidence": EVIDENCE,
}  # fmt: skip
RIGHT = {
    "split": right_split, "episode": right_episode, "by_autograd": autograd(), "inner_step": one_step(),
    "by_hand": lambda t, H, a, G, b, r: (eye(t) - r * H) @ (G @ (stepped(t, H, a, r) - b)), "inner_loop": inner(),
    "outer_loop": outer(), "every_task_counts": replacing(range), "first_order": first_order(),
    "builds_a_graph": lambda *a: any(s.requires_grad for s in a[0](*a[1:])[1].values()),
    "paired_interval": interval(good_half), "costs": ratios(), "verdict": right_verdict, "loss_weights": weights,
    "multi_step_loss": multi_step(), "learned_rates": learned(), "step_norm": norm(), "problem": with_waves(),
    "evidence": (MEASURED, "maml", "better"),
}  # fmt: skip


def answers(answer):
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize(
    "name, words", [(name, words) for name, mistakes in MISTAKES.items() for words in mistakes], ids=str
)
def test_every_catalogued_mistake_gets_its_own_sentence(name, words):
    for _ in range(4):  # the inputs are new each time
        message = complaint(getattr(checks, name), *answers(MISTAKES[name][words]))
        assert any(part in message for part in words.split("|")), message
    assert not progress.load()


def test_each_check_has_at_least_four_mistakes_and_none_is_missing():
    public = {name for name in checks.__all__ if name != "CheckFailed"}
    assert MISTAKES.keys() == RIGHT.keys() == {check for exercise in progress.EXERCISES for check in exercise.checks}
    assert public == MISTAKES.keys() | {exercise.bonus for exercise in progress.EXERCISES}
    assert all(len(mistakes) >= 4 for mistakes in MISTAKES.values())


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass_on_every_sample(name, capsys):
    state = torch.get_rng_state()
    for _ in range(12):
        getattr(checks, name)(*answers(RIGHT[name]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all(line.startswith(f"Passed: {name} (") for line in lines)
    assert list(progress.load()) == [name]
    if name not in {"problem", "every_task_counts"}:  # whose students sample from the global state themselves
        assert torch.equal(torch.get_rng_state(), state)


def test_other_ways_of_being_right_pass():
    def with_functions(loss, parameters, alpha):
        grads = grad(loss)({name: p.detach() for name, p in parameters.items()})
        return {name: p - alpha * grads[name] for name, p in parameters.items()}

    checks.first_order(with_functions)
    checks.inner_step(lambda p, x, y, alpha: {
        n: q - alpha * grad(lambda p: mse_loss(functional_call(NETWORK, p, (x,)), y))(p)[n] for n, q in p.items()
    })  # fmt: skip
    checks.loss_weights(lambda *case: torch.tensor(weights(*case)))
    checks.split(lambda a, t: tuple(map(tuple, right_split(a, t))))


def test_an_answer_in_a_folder_called_as_the_package_is_the_student_s(tmp_path):
    """A clone of the course is called so: its files are no library's."""
    path = tmp_path / "mamlcourse" / "lib" / "python" / "answers.py"
    path.parent.mkdir(parents=True)
    path.write_text("def by_hand(*arguments):\n    return arguments[99]\n", encoding="utf-8")
    answer = runpy.run_path(str(path))["by_hand"]
    assert "raised IndexError in line 2, `return arguments[99]`" in complaint(checks.by_hand, answer)


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "evidence"])
def test_stub_exception_and_endless_loop_end_in_one_sentence(name, monkeypatch):
    monkeypatch.setattr(judge, "SECONDS", 0.2)
    parts = 2 if name == "problem" else 1

    def stub(*arguments):
        raise NotImplementedError()

    def untouched(*arguments):
        """As it was handed out."""
        ...  # YOUR CODE HERE

    def broken(*arguments):
        return {}["no such key"]

    def endless(*arguments):
        while True:
            try:
                time.sleep(0.01)
            except:  # noqa: E722 - as students write it
                pass

    def leaves(*arguments):
        raise SystemExit

    def told(answer):
        return complaint(getattr(checks, name), *[answer] * parts)

    assert "is not answered yet" in told(stub) and "is not answered yet" in told(untouched)
    assert re.search(r"raised KeyError in line \d+, `return \{\}\[.no such key.\]`", told(broken))
    assert "raised SystemExit" in told(leaves)
    assert "Expected a function, got 3" in complaint(getattr(checks, name), *[3] * parts)
    if name in ("episode", "problem"):
        assert "did not answer in time" in told(endless)


def test_endless_loop_is_stopped_outside_the_main_thread_too(monkeypatch):
    monkeypatch.setattr(judge, "SECONDS", 0.1)
    told, stop = [], threading.Event()

    def endless(*arguments):
        stop.wait(20)

    thread = threading.Thread(target=lambda: told.append(complaint(checks.verdict, endless)))
    thread.start()
    thread.join(10)
    stop.set()
    assert "did not answer in time" in told[0] and "restart the kernel" in told[0]


def test_exceptions_and_results_come_through_the_thread():
    outcome = []

    def work():
        checks.verdict(right_verdict)
        outcome.append(complaint(checks.verdict, lambda d, h: 1 / 0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert "raised ZeroDivisionError" in outcome[0]


# --- Progress ---


def test_progress_counts_parts_and_exercises(capsys):
    checks.split(right_split)
    assert capsys.readouterr().out == "Passed: split (1 of 2 parts of exercise 01, 0 of 9 in all).\n"
    checks.episode(right_episode)
    assert capsys.readouterr().out == "Passed: episode (exercise 01 is done, 1 of 9 in all).\n"
    kept = json.loads(progress.location().read_text())
    assert kept["format"] == 1 and list(kept["passed"]) == ["split", "episode"]
    heading, first, *_ = progress.rows()
    assert first[:5] == ["01 Sample an episode", "easy", "4 of 5", "25", "2 of 2"] and first[5].startswith("20")


@pytest.mark.parametrize("damage", [
    "", "{", "[]", '{"format": 1}', '{"format": 9, "passed": {}}', '{"format": 1, "passed": {"split": 3}}',
    '{"format": 1, "passed": []}',
])  # fmt: skip
def test_a_damaged_file_is_said_and_kept(damage, capsys):
    path = progress.location()
    for number in (1, 2):
        path.write_text(damage)
        checks.split(right_split)
        said = capsys.readouterr().out
        assert "is damaged; it is kept as progress-damaged-" in said and said.count("\n") == 2
        assert path.with_name(f"progress-damaged-{number}.json").read_text() == damage
        assert list(progress.load()) == ["split"]


def test_progress_that_cannot_be_written_is_said_and_fails_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAMLCOURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    checks.split(right_split)
    assert "cannot be" in capsys.readouterr().out


def test_progress_can_be_off_and_lies_in_the_users_data_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MAMLCOURSE_PROGRESS", "off")
    checks.split(right_split)
    assert capsys.readouterr().out == "Passed: split.\n" and progress.location() is None
    monkeypatch.delenv("MAMLCOURSE_PROGRESS")
    assert progress.location() is None  # under pytest
    for variable in progress.UNDER_TEST:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert progress.location() == tmp_path / "data" / "mamlcourse" / "progress.json"


def test_the_command_shows_progress(monkeypatch, capsys):
    checks.verdict(right_verdict)
    monkeypatch.setattr("sys.argv", ["mamlcourse", "progress"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "06 A fair comparison" in out and "1 of 3" in out and "0 of 9 exercises done" in out
    assert "Next: exercises/01_sample_an_episode.ipynb" in out


def test_a_mistake_that_diverges_is_recognised():
    inf = float("inf")
    wrong, right = torch.tensor([inf, -2e31, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert judge.agree(wrong.clone(), wrong) and not judge.agree(wrong, right) and not judge.agree(right, wrong)
