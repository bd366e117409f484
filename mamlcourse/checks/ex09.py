"""Exercise 09: a problem of one's own is sound, and the choice of an algorithm agrees with what was measured."""

from __future__ import annotations

import itertools
import math
import statistics

import torch
from torch import nn

from ..errors import InputError
from ..learner import MAML
from ..models import MLP, Conv4
from ..stats import ci95, verdict
from ..tasks import CharacterTasks, SinusoidTasks, check_batch
from .judge import CheckFailed, call, check, fresh, integer

BATCHES = 3
ENOUGH_TASKS = 50
CLAIMS = ("better", "worse", "undecided")


@check
def problem(build_model, build_tasks) -> None:
    """Exercise 09, part 1: build_model(seed) -> nn.Module and build_tasks(part, seed) -> meta-batches without end."""
    seed = integer(fresh(), 0, 1000)
    model, twin = (call(build_model, seed) for _ in range(2))
    _judge_model(model, twin)
    train, again = (_first_batches(build_tasks, "train", seed) for _ in range(2))
    test = _first_batches(build_tasks, "test", seed)
    tasks = call(build_tasks, "train", seed)
    if isinstance(model, (MLP, Conv4)) and isinstance(tasks, (SinusoidTasks, CharacterTasks)):
        raise CheckFailed("Network and tasks are both the course's own: bring a network or a task distribution.")
    if not all(torch.equal(a, b) for one, two in zip(train, again) for a, b in zip(one, two)):
        raise CheckFailed("build_tasks gave other tasks for the same seed: nobody could repeat your run.")
    if all(torch.equal(a, b) for batch in train for a, b in zip(train[0], batch)):
        raise CheckFailed("Every meta-batch of build_tasks is the same: there must be new tasks in each.")
    _judge_leakage(train, test)
    _judge_fit(model, train)


def _judge_model(model, twin):
    if not isinstance(model, nn.Module):
        raise CheckFailed(f"build_model: expected an nn.Module, got {type(model).__name__}.")
    if not list(model.parameters()):
        raise CheckFailed("The model has no parameters, so there is nothing to adapt.")
    if any(getattr(layer, "track_running_stats", False) for layer in model.modules()):
        raise CheckFailed(
            "The model keeps running batch statistics, which mix the tasks: build the layer with "
            "track_running_stats=False."
        )
    if not all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters())):
        raise CheckFailed("build_model gave other weights for the same seed: call torch.manual_seed(seed) first.")


def _first_batches(build_tasks, part, seed):
    def first(part, seed):
        return list(itertools.islice(build_tasks(part, seed), BATCHES))

    first.__name__ = "build_tasks"
    batches = call(first, part, seed)
    if len(batches) < BATCHES:
        raise CheckFailed(
            f"build_tasks gave {len(batches)} meta-batches for {part!r} and ended: it must go on without end."
        )
    try:
        return [check_batch(batch) for batch in batches]
    except InputError as error:
        raise CheckFailed(f"A meta-batch of build_tasks is not sound: {error}") from None


def _judge_leakage(train, test):
    def key(x, y):
        return tuple(x.flatten().tolist()), tuple(y.flatten().tolist())

    for batch in (*train, *test):
        for support, query in zip(batch.support_x, batch.query_x):
            shared = {tuple(x.flatten().tolist()) for x in support} & {tuple(x.flatten().tolist()) for x in query}
            if shared:
                raise CheckFailed("An example is in both support and query set of a task: memory alone answers it.")
    tasks = [{key(x, y) for batch in part for x, y in zip(batch.support_x, batch.support_y)} for part in (train, test)]
    if tasks[0] & tasks[1]:
        raise CheckFailed('A task of "train" is also one of "test": unseen tasks must be unseen, so sample them apart.')
    if test[0].support_x.shape[2:] != train[0].support_x.shape[2:]:
        raise CheckFailed(
            f"Test inputs: expected the shape of the training inputs, {tuple(train[0].support_x.shape[2:])}, got "
            f"{tuple(test[0].support_x.shape[2:])}."
        )


def _judge_fit(model, train):
    batch = train[0]
    x, y = batch.support_x[0], batch.support_y[0]
    if x.is_floating_point() and x.dtype != next(model.parameters()).dtype:
        raise CheckFailed(
            f"The inputs: expected the dtype of the model's weights, {next(model.parameters()).dtype}, "
            f"got {x.dtype}: give inputs as float32, x.float()."
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
        if outputs.shape != y.shape:
            raise CheckFailed(
                f"The model's outputs: expected the targets' shape {tuple(y.shape)}, got {tuple(outputs.shape)}: they "
                "must be equal, or the loss broadcasts and compares every output with every target."
            )
        loss = nn.functional.mse_loss
    maml = MAML(model, loss=loss, inner_steps=1, inner_lr=0.01, backend="loop")
    if not all(torch.isfinite(g).all() for g in call(maml.meta_gradients, batch).gradients.tensors()):
        raise CheckFailed("The meta-gradient of the first meta-batch is not finite: are inputs and targets scaled?")


@check
def evidence(measured, choice, claim) -> None:
    """Exercise 09, part 2: {algorithm: {"scores": one for each test task, "seconds": s}}, a choice, and a claim."""
    if not measured and choice is None and claim is None:
        raise CheckFailed("The evidence is still empty: fill `measured`, `choice` and `claim` in the cell above first.")
    if not isinstance(measured, dict) or len(measured) < 2:
        raise CheckFailed(
            "The evidence: expected a dictionary with at least two algorithms, as a choice needs an alternative."
        )
    for name, found in measured.items():
        if not isinstance(found, dict) or not {"scores", "seconds"} <= found.keys():
            raise CheckFailed(f'The evidence of {name!r}: expected a dictionary with "scores" and "seconds".')
        try:
            scores = [float(score) for score in found["scores"]]
        except (TypeError, ValueError, RuntimeError):
            raise CheckFailed(f"The scores of {name!r}: expected a list with one number for each test task.") from None
        if len(scores) < ENOUGH_TASKS:
            raise CheckFailed(f"The scores of {name!r}: expected at least {ENOUGH_TASKS}, got {len(scores)}.")
        if not all(map(math.isfinite, scores)):
            raise CheckFailed(f"A score of {name!r} is not finite.")
        if len(set(scores)) == 1:
            if not any(scores):
                raise CheckFailed(
                    f"All scores of {name!r} are zero: MAML's loss is the cross-entropy unless you hand "
                    "in another one, as in MAML(model, name, loss=mse_loss)."
                )
            raise CheckFailed(f"All scores of {name!r} are equal: give each task's own score, not their mean.")
        try:
            seconds = float(found["seconds"])
        except (TypeError, ValueError, RuntimeError):
            raise CheckFailed(f"The seconds of {name!r}: expected one number, the training time.") from None
        if not seconds > 0:
            raise CheckFailed(
                f"The seconds of {name!r}: expected a number above 0, got {found['seconds']}: training "
                "takes time, so measure it."
            )
    lengths = {name: len(found["scores"]) for name, found in measured.items()}
    if len(set(lengths.values())) > 1:
        raise CheckFailed(
            f"The scores are not paired: {lengths}; test all algorithms on the same tasks in the same order."
        )
    every = [tuple(map(float, found["scores"])) for found in measured.values()]
    if len(set(every)) < len(every):
        raise CheckFailed("Two algorithms have exactly the same scores: was one model measured twice?")
    if choice not in measured:
        raise CheckFailed(f"The choice: expected one of the measured {', '.join(map(repr, measured))}, got {choice!r}.")
    if claim not in CLAIMS:
        raise CheckFailed(f"The claim: expected one of {', '.join(map(repr, CLAIMS))}, got {claim!r}.")
    _judge_claim(measured, choice, claim)


def _judge_claim(measured, choice, claim):
    """The claim is about the choice against the best of the others, paired, higher scores being better."""
    others = [name for name in measured if name != choice]
    rival = max(others, key=lambda name: statistics.fmean(map(float, measured[name]["scores"])))
    pairs = zip(measured[choice]["scores"], measured[rival]["scores"])
    differences = [float(a) - float(b) for a, b in pairs]
    difference, half_width = statistics.fmean(differences), ci95(differences)
    right = {"held": "better", "did not hold": "worse"}.get(verdict(difference, half_width), "undecided")
    if claim != right:
        raise CheckFailed(
            f"The claim {claim!r} does not agree with the evidence: {choice} minus {rival} is {difference:+.4f} ± "
            f"{half_width:.4f} (paired 95% confidence interval), which is {right!r}."
        )
    slower = float(measured[choice]["seconds"]) > 1.1 * float(measured[rival]["seconds"])
    if right == "worse" and slower:
        raise CheckFailed(
            f"{choice} is clearly worse than {rival} and slower too: the evidence speaks against your choice."
        )
