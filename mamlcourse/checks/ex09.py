"""Exercise 09: a problem of one's own is sound, and the choice of an algorithm agrees with what was measured."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time

import numpy as np
import torch
from torch import nn

from ..comparison import NOT_WORTH_NAMING, decide
from ..errors import InputError
from ..learner import MAML
from ..models import MLP, Conv4
from ..stats import ci95, verdict
from ..tasks import CharacterTasks, SinusoidTasks, check_batch
from .judge import CheckFailed, call, check, fresh, integer, not_answered

BATCHES = 3
MANY = 300  # meta-batches which a stream must have; as many as come in SECONDS are asked for
SECONDS = 1.0
ENOUGH_TASKS = 50
IMAGE = 16  # inputs of so many numbers do not come twice by chance
CLAIMS = ("better", "worse", "undecided")


@check
def problem(build_model, build_tasks) -> None:
    """Exercise 09, part 1: build_model(seed) -> nn.Module and build_tasks(part, seed) -> meta-batches without end."""
    seed = integer(fresh(), 0, 1000)
    model, twin = (call(build_model, seed) for _ in range(2))
    _judge_model(model, twin)
    train, test = (_first_batches(build_tasks, part, seed) for part in ("train", "test"))
    tasks = call(build_tasks, "train", seed)
    if isinstance(model, (MLP, Conv4)) and isinstance(tasks, (SinusoidTasks, CharacterTasks)):
        raise CheckFailed("Bring a network or a task distribution: both are the course's own.")
    _judge_seed(build_tasks, train, seed)
    if all(torch.equal(a, b) for batch in train for a, b in zip(train[0], batch)):
        raise CheckFailed("Sample new tasks for each meta-batch: every meta-batch of build_tasks is the same.")
    _judge_leakage(train, test)
    stream = _first_batches(build_tasks, "train", seed, MANY)
    judge_variety(stream)
    _judge_overlap(stream, test, "the same seed")
    for other in (seed - 1, seed + 1):  # of several seeds one's test tasks are another's training tasks
        if other >= 0:
            _judge_overlap(_first_batches(build_tasks, "train", other), test, "the neighbouring seed")
    _judge_fit(model, train)


def _judge_model(model, twin):
    if model is None:
        raise CheckFailed("Is there a `return` missing? build_model returned None.")
    if not isinstance(model, nn.Module):
        raise CheckFailed(f"build_model: expected an nn.Module, got {type(model).__name__}.")
    if not list(model.parameters()):
        raise CheckFailed("Give the model something to adapt: it has no parameters.")
    if any(getattr(layer, "track_running_stats", False) for layer in model.modules()):
        raise CheckFailed(
            "Build the layer with track_running_stats=False: the model keeps running batch statistics, which mix the "
            "tasks."
        )
    if not all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters())):
        raise CheckFailed("Call torch.manual_seed(seed) first: build_model gave other weights for the same seed.")


def _first_batches(build_tasks, part, seed, count=BATCHES, between=lambda: None):
    def first(part, seed):
        tasks = build_tasks(part, seed)
        if tasks is None:
            return None
        found, began = [], time.monotonic()
        for batch in itertools.islice(tasks, count):
            found.append(batch)
            between()
            if len(found) >= BATCHES and time.monotonic() - began > SECONDS:
                break
        else:
            return found, len(found) < count
        return found, False

    first.__name__ = "build_tasks"
    answer = call(first, part, seed)
    if answer is None:
        raise CheckFailed(not_answered("build_tasks") + " Or is there a `return` or `yield` missing?")
    batches, ended = answer
    if ended:
        raise CheckFailed(
            f"Go on without end, with `while True`: build_tasks gave {len(batches)} meta-batches for {part!r} and "
            "ended."
        )
    try:
        return [check_batch(batch) for batch in batches]
    except InputError as error:
        raise CheckFailed(f"A meta-batch of build_tasks is not sound: {error}") from None


def _judge_seed(build_tasks, train, seed):
    """The same tasks again, although something else samples at the same time."""

    def equal(again):
        return all(torch.equal(a, b) for one, two in zip(train, again) for a, b in zip(one, two))

    def disturb():
        torch.rand(3), np.random.rand(3), random.random()

    kept = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            if not equal(_first_batches(build_tasks, "train", seed)):
                raise CheckFailed(
                    "Sample with a generator of that seed: build_tasks gave other tasks for the same seed."
                )
            if not equal(_first_batches(build_tasks, "train", seed, between=disturb)):
                raise CheckFailed(
                    "Sample with a torch.Generator of your own: build_tasks gave other tasks as soon as something else "
                    "used the global random state too, as training does."
                )
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])


def _examples(x, y):
    """The examples of a set, in whatever order."""
    return frozenset((*a.flatten().tolist(), *b.flatten().tolist()) for a, b in zip(x, y))


def _judge_leakage(train, test):
    for batch in (*train, *test):
        for support, query in zip(batch.support_x, batch.query_x):
            shared = {tuple(x.flatten().tolist()) for x in support} & {tuple(x.flatten().tolist()) for x in query}
            if shared:
                raise CheckFailed(
                    "Keep support and query inputs apart: an example is in both support and query set of a task, so "
                    "memory alone answers it."
                )
    if test[0].support_x.shape[2:] != train[0].support_x.shape[2:]:
        raise CheckFailed(
            f"Test inputs: expected the shape of the training inputs, {tuple(train[0].support_x.shape[2:])}, got "
            f"{tuple(test[0].support_x.shape[2:])}."
        )


def _judge_overlap(train, test, whose):
    tasks = [
        {_examples(x, y) for batch in part for x, y in zip(batch.support_x, batch.support_y)} for part in (train, test)
    ]
    if tasks[0] & tasks[1]:
        raise CheckFailed(
            'Sample unseen tasks apart, as with the seed 2 * seed + (part == "test"): a task of "train" is also one of '
            f'"test", for {whose}.'
        )
    if test[0].support_x[0, 0].numel() >= IMAGE and test[0].support_y.dtype == torch.int64:
        images = [{tuple(x.flatten().tolist()) for batch in part for x in batch.support_x.flatten(0, 1)}
                    for part in (train[:20], test)]  # fmt: skip
        if images[0] & images[1]:
            raise CheckFailed('Keep the classes apart: an input of "train" is also in a task of "test".')


def judge_variety(train):
    """Whether tasks differ: if one function answers all of them, there is nothing to adapt to.

    Where two tasks have been asked (nearly) the same, their answers must differ, more than the answers of one function.
    """
    x, y = (
        torch.cat([torch.cat(pair, 1).double()[:, -10:] for pair in pairs])[:100]
        for pairs in (
            [(b.support_x.flatten(2), b.query_x.flatten(2)) for b in train[:100]],
            [(b.support_y.flatten(2) if b.support_y.ndim > 2 else b.support_y[..., None],
              b.query_y.flatten(2) if b.query_y.ndim > 2 else b.query_y[..., None]) for b in train[:100]],
        )
    )  # fmt: skip
    task = torch.arange(len(x)).repeat_interleave(x.shape[1])
    inputs, answers = x.flatten(0, 1), y.flatten(0, 1)
    apart = torch.cdist(inputs, inputs) / (inputs.std() + 1e-12)
    apart[task[:, None] <= task[None]] = math.inf  # each pair of tasks once, and no task with itself
    nearest = apart.flatten().topk(30, largest=False).indices
    first, second = nearest // len(task), nearest % len(task)
    differ = (answers[first] - answers[second]).abs().amax(1) / (answers.std() + 1e-12)
    if apart.flatten()[nearest].max() < 0.05 and differ.quantile(0.9) < 0.005:
        raise CheckFailed(
            "Vary the tasks: all of them give the same answer to the same input, so one function fits them all "
            "and there "
            "is nothing to adapt to."
        )


def _judge_fit(model, train):
    batch = train[0]
    x, y = batch.support_x[0], batch.support_y[0]
    if x.is_floating_point() and x.dtype != next(model.parameters()).dtype:
        raise CheckFailed(
            f"Give inputs as float32, x.float(): expected the dtype of the model's weights, "
            f"{next(model.parameters()).dtype}, got {x.dtype}."
        )

    def forward(x):
        return model(x)

    forward.__name__ = "The model"
    outputs = call(forward, x)
    if y.dtype == torch.int64:
        highest = int(torch.cat([batch.support_y.flatten(), batch.query_y.flatten()]).max())
        if outputs.ndim != 2 or outputs.shape[1] <= highest:
            raise CheckFailed(f"The model's outputs have shape {tuple(outputs.shape)}, but labels go up to {highest}.")
        loss = nn.functional.cross_entropy
    else:
        if outputs.shape != y.shape and y.ndim == 1 and outputs.ndim == 2 and torch.equal(y, y.round()):
            raise CheckFailed(
                f"Give labels as int64, y.long(): the targets are integers of dtype {y.dtype}, which stand for "
                "values, while the model has an output for each class."
            )
        if outputs.shape != y.shape:
            raise CheckFailed(
                f"Make outputs and targets of equal shape, or the loss broadcasts and compares every output with every "
                f"target: the model's outputs are {tuple(outputs.shape)}, the targets {tuple(y.shape)}."
            )
        loss = nn.functional.mse_loss
    maml = MAML(model, loss=loss, inner_steps=1, inner_lr=0.01, backend="loop")
    if not all(torch.isfinite(g).all() for g in call(maml.meta_gradients, batch).gradients.tensors()):
        raise CheckFailed("The meta-gradient of the first meta-batch is not finite: are inputs and targets scaled?")


@check
def evidence(measured, choice, claim) -> None:
    """Exercise 09, part 2: {algorithm: {"scores": one for each test task, "seconds": s}}, a choice, and a claim."""
    if not measured and choice is None and claim is None:
        raise CheckFailed("The evidence is not answered yet: fill `measured`, `choice` and `claim` in the cell above.")
    if not isinstance(measured, dict) or len(measured) < 2:
        raise CheckFailed(
            "The evidence: expected a dictionary with at least two algorithms, as a choice needs an alternative."
        )
    scores = {name: _scores(name, found) for name, found in measured.items()}
    seconds = {name: _seconds(name, found) for name, found in measured.items()}
    lengths = {name: len(values) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise CheckFailed(
            f"Test all algorithms on the same tasks in the same order: the scores are not paired, {lengths}."
        )
    if len(set(scores.values())) < len(scores):
        raise CheckFailed("Was one model measured twice? Two algorithms have exactly the same scores.")
    if not isinstance(choice, str) or choice not in measured:
        raise CheckFailed(f"The choice: expected one of the measured {', '.join(map(repr, measured))}, got {choice!r}.")
    if not isinstance(claim, str) or claim not in CLAIMS:
        raise CheckFailed(f"The claim: expected one of {', '.join(map(repr, CLAIMS))}, got {claim!r}.")
    _judge_claim(scores, seconds, choice, claim)


def _scores(name, found):
    if not isinstance(found, dict) or not {"scores", "seconds"} <= found.keys():
        raise CheckFailed(f'The evidence of {name!r}: expected a dictionary with "scores" and "seconds".')
    try:
        scores = tuple(float(score) for score in found["scores"])
    except (TypeError, ValueError, RuntimeError):
        raise CheckFailed(f"The scores of {name!r}: expected a list with one number for each test task.") from None
    if len(scores) < ENOUGH_TASKS:
        raise CheckFailed(f"The scores of {name!r}: expected at least {ENOUGH_TASKS}, got {len(scores)}.")
    if not all(map(math.isfinite, scores)):
        raise CheckFailed(f"Train with smaller steps, or scale inputs and targets: a score of {name!r} is not finite.")
    if not any(scores):
        raise CheckFailed(
            "Hand in the loss, as in MAML(model, name, loss=mse_loss), which is the cross-entropy otherwise: all "
            "scores "
            f"of {name!r} are zero."
        )
    if len(set(scores)) == 1:
        raise CheckFailed(f"Give each task's own score, not their mean: all scores of {name!r} are equal.")
    return scores


def _seconds(name, found):
    try:
        seconds = float(found["seconds"])
    except (TypeError, ValueError, RuntimeError):
        raise CheckFailed(f"The seconds of {name!r}: expected one number, the training time.") from None
    if not seconds > 0:
        raise CheckFailed(
            f"Training takes time, so measure it: the seconds of {name!r} must be above 0, got {found['seconds']}."
        )
    return seconds


def _judge_claim(scores, seconds, choice, claim):
    """The claim is about the choice against the best of the others, paired, higher scores being better."""
    rival = max((name for name in scores if name != choice), key=lambda name: statistics.fmean(scores[name]))
    differences = [a - b for a, b in zip(scores[choice], scores[rival])]
    difference, half_width = statistics.fmean(differences), ci95(differences)
    right = {"held": "better", "did not hold": "worse"}.get(verdict(difference, half_width), "undecided")
    if claim != right:
        raise CheckFailed(
            f"Claim {right!r}, or look again how the interval was computed: {choice} minus {rival} is "
            f"{difference:+.4f} ± "
            f"{half_width:.4f} (paired 95% confidence interval), with which the claim {claim!r} does not agree."
        )
    if right == "worse" and seconds[choice] > NOT_WORTH_NAMING * seconds[rival]:
        raise CheckFailed(
            f"Choose {rival}: {choice} is clearly worse and slower too, so the evidence speaks against your choice."
        )


@check
def choose(function) -> None:
    """Exercise 09, bonus: choose(behind, half_width, times_faster, margin) -> "cheaper", "best" or "undecided"."""
    generator = fresh()

    def between(low, high):
        return low + (high - low) * float(torch.rand((), generator=generator))

    margin = between(0.02, 0.05)
    cases = [  # (how far the faster one is behind in margins, half the interval in margins, what the mistake would be)
        (0.2, 0.3, "A faster algorithm that is shown to be at most the margin behind is good enough: say"),
        (0.6, 0.2, "Clearly behind, but surely by less than the margin, is good enough: say"),
        (0.5, 1.5, "A wide interval shows nothing, also where the difference is small: say"),
        (1.2, 1.9, "An interval that holds both zero and more than the margin leaves it open: say"),
        (3.0, 1.0, "One that is clearly behind by more than the margin is not good enough: say"),
        (1.5, 0.9, "One that is clearly behind, and not surely by less than the margin, is not good enough: say"),
    ]
    for gap, half, message in cases:
        behind, half = gap * margin, half * margin
        faster = between(1.3, 3)
        decided = decide("best", {"cheaper": (-behind, half)}, {"best": faster, "cheaper": 1.0}, margin)
        right, said = decided.use or "undecided", call(function, behind, half, faster, margin)
        if said is None:
            raise CheckFailed("Is there a `return` missing? choose returned None.")
        if said != right:
            raise CheckFailed(
                f"{message} {right!r}; choose({behind:.3f}, {half:.3f}, {faster:.2f}, {margin:.3f}) returned {said!r}."
            )
    said = call(function, 0.1 * margin, 0.2 * margin, 1.02, margin)
    if said != "best":
        raise CheckFailed(f"A difference in time below a factor of 1.1 decides nothing: say 'best', got {said!r}.")
