"""The outer loop: what is learned, how it is kept, and that nothing is lost when it is stopped, killed or diverges."""

import contextlib
import copy
import errno
import io
import math
import os
import pickle
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FORKING, refusal
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from mamlcourse import (
    MAML,
    MLP,
    RECIPES,
    CharacterTasks,
    Conv4,
    InputError,
    SinusoidTasks,
    evaluate,
    learner,
    load_characters,
    load_checkpoint,
    train,
    train_maml,
)  # fmt: skip
from mamlcourse.training import loop, outer_lr_at

POSIX = os.name == "posix"
needs_posix = pytest.mark.skipif(not POSIX, reason="this system has no forked processes and signals as POSIX has them")
if POSIX:
    import resource


class Network(nn.Module):
    """A tiny network whose training draws random numbers (dropout) and normalises."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(3),
            nn.Flatten(), nn.Dropout(0.3),
        )  # fmt: skip
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.features(x))


def classifier(recipe="maml", seed=0, **changes):
    torch.manual_seed(seed)
    return learner(Network(), recipe, **{"inner_lr": 0.2, "outer_lr": 0.01, "backend": "loop", **changes})


def regressor(seed=0, hidden=8, **changes):
    torch.manual_seed(seed)
    settings = {"inner_lr": 0.01, "inner_steps": 1, "outer_lr": 0.01, "loss": F.mse_loss, "backend": "loop", **changes}
    return MAML(MLP(hidden=hidden), **settings)


def waves(seed=0):
    return SinusoidTasks(shots=5, queries=5, tasks_per_batch=2, seed=seed)


@pytest.fixture
def characters(noise):
    return CharacterTasks(noise, ways=3, shots=1, queries=2, tasks_per_batch=2, rotations=True)


def quietly(maml, tasks, iterations, **settings):
    return train(maml, tasks, iterations, progress=False, **settings)


def same(one, other):
    """Whether two nests of tensors and plain values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def kept(path):
    """All of a checkpoint but the time that it took."""
    state = load_checkpoint(path)
    state["history"].pop("seconds")
    return state


class Wrapped:
    """A task family that does something each time that a batch is asked for."""

    def __init__(self, tasks, before_batch):
        self.tasks, self.before_batch = tasks, before_batch

    def batch(self, index):
        changed = self.before_batch(index)
        return self.tasks.batch(index) if changed is None else changed


def press_ctrl_c(at, times=1):
    def before_batch(index):
        if index == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return before_batch


@pytest.fixture(autouse=True)
def interrupt_handler():
    """Every test must leave Ctrl-C as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    after = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert after is before


# What is learned.


@pytest.mark.parametrize("relative, factor", [(None, 1), (0.25, 5)])  # 0.25 x 0.2, the inner one, is 5 x 0.01
def test_training_is_adam_on_the_meta_gradients(relative, factor, noise):
    settings = dict(inner_steps=2, learned_lr_outer_lr=relative)
    maml, by_hand = classifier("maml++", **settings), classifier("maml++", **settings)
    tasks = CharacterTasks(noise, 3, 1, 2, 2)
    torch.manual_seed(1)
    history = quietly(maml, tasks, 6, epochs=20)
    torch.manual_seed(1)
    theta, learning_rates, norms = (list(part.values()) for part in by_hand.meta_params())
    optimizer = torch.optim.Adam([{"params": theta + norms}, {"params": learning_rates}])
    losses = []
    for index in range(6):
        lr = 0.0001 + (0.01 - 0.0001) * (1 + math.cos(math.pi * index / 6)) / 2
        loss, _, gradients = by_hand.meta_gradients(tasks.batch(index), epoch=index * 20 // 6)
        losses.append(loss.item())
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr, factor * lr
        for parameter, gradient in zip(by_hand.meta_params().tensors(), gradients.tensors()):
            parameter.grad = gradient
        optimizer.step()
    assert history.losses == losses
    assert same(maml.state_dict(), by_hand.state_dict())
    assert all(p.grad is None for p in maml.parameters())
    assert len(history.accuracies) == 6 and history.finished and history.seconds > 0


def test_seconds_include_the_waiting_for_losses(characters, monkeypatch):
    # A GPU computes while nobody waits: whoever reads its losses does.
    clock = [0.0]
    read = loop._Run._read_losses

    def slowly(self, batch=None):
        clock[0] += 1.0
        read(self, batch)

    monkeypatch.setattr(loop._Run, "_read_losses", slowly)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])
    assert quietly(classifier(), characters, 3).seconds == 3


@pytest.mark.parametrize("learned_lr", ["parameter", "parameter_step", "element"])
def test_learned_learning_rates_by_an_adam_of_their_own_are_multiples_of_the_first(learned_lr):
    """What Adam learns by hand, at the cosine's share of 0.05, are multiples that begin at 1; and weights at 0.01."""
    settings = dict(inner_lr=0.02, inner_steps=3, learned_lr=learned_lr, cosine=True, backend="loop")
    maml, by_hand = regressor(learned_lr_outer_lr=0.05, **settings), regressor(**settings)
    quietly(maml, waves(), 6)
    meta = by_hand.meta_params()
    multiples = {name: torch.ones_like(lr).requires_grad_() for name, lr in meta.learning_rates.items()}
    # Adam's epsilon is what is not invariant to scale.
    optimizer = torch.optim.Adam(
        [{"params": list(meta.params.values())}, {"params": list(multiples.values()), "eps": 0.02 * 1e-8}]
    )
    for index in range(6):
        _, _, gradients = by_hand.meta_gradients(waves().batch(index))
        share = 0.01 + 0.99 * (1 + math.cos(math.pi * index / 6)) / 2
        for group, lr in zip(optimizer.param_groups, (0.01, 0.05)):
            group["lr"] = lr * share
        for name, parameter in meta.params.items():
            parameter.grad = gradients.params[name]
        for name, multiple in multiples.items():
            multiple.grad = 0.02 * gradients.learning_rates[name]
        optimizer.step()
        with torch.no_grad():
            for name, lr in meta.learning_rates.items():
                lr.copy_(0.02 * multiples[name])
    for found, expected in zip(maml.meta_params().tensors(), meta.tensors()):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert max((m - 1).abs().max().item() for m in multiples.values()) > 0.04  # they did move


def test_official_learning_rates_are_those_of_one_adam_for_all():
    official, relative = (regressor(learned_lr="parameter", learned_lr_outer_lr=lr) for lr in (None, 1.0))
    quietly(official, waves(), 5)
    quietly(relative, waves(), 5)  # inner_lr is outer_lr here
    assert same(official.state_dict(), relative.state_dict())
    without, anyway = (regressor(learned_lr_outer_lr=lr) for lr in (None, 0.1))
    quietly(without, waves(), 3)
    quietly(anyway, waves(), 3)  # where none is learned it says nothing
    assert same(without.state_dict(), anyway.state_dict())


def test_sinusoids_are_learned():
    maml = regressor(hidden=40, inner_steps=1)
    tasks, unseen = SinusoidTasks(tasks_per_batch=10), SinusoidTasks(tasks_per_batch=50, seed=1)
    before = evaluate(maml, unseen, 100).loss
    history = quietly(maml, tasks, 150)
    assert evaluate(maml, unseen, 100).loss < 0.8 * before
    assert history.accuracies == [] and len(history.losses) == 150


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("plus_plus", [False, True])
def test_flags_alone_choose_the_algorithm(first_order, plus_plus):
    torch.manual_seed(0)
    family = CharacterTasks(load_characters("glyphs"), ways=3, shots=1, queries=3, tasks_per_batch=2)
    tasks = [family.batch(index) for index in range(2)]
    model = Conv4(3, 8)
    start = copy.deepcopy(model.state_dict())
    found, maml, losses = train_maml(
        model, tasks, inner_lr=0.4, outer_lr=0.02, inner_steps=2, first_order=first_order, plus_plus=plus_plus,
        iterations=30, progress=False,
    )  # fmt: skip
    assert found is model is maml.model
    convolutions = {name: value for name, value in model.state_dict().items() if value.ndim == 4}
    assert len(convolutions) == 4
    assert not any(torch.equal(value, start[name]) for name, value in convolutions.items())
    assert len(losses) == 30 and sum(losses[-4:]) < 0.7 * sum(losses[:4])
    settings = maml.settings
    assert settings.order == (1 if first_order else 2)
    assert settings.name == ("fo" if first_order else "") + "maml" + ("++" if plus_plus else "")
    assert (settings.inner_lr, settings.outer_lr, settings.inner_steps) == (0.4, 0.02, 2)
    assert (settings.multi_step_loss == "annealed") == (settings.learned_lr == "parameter_step") == plus_plus
    assert (
        settings.per_step_norm
        == settings.cosine
        == plus_plus
        == bool(maml.meta_params().learning_rates)
        == bool(maml.meta_params().norms)
    )
    if plus_plus:
        assert any((lr != 0.4).any() for lr in maml.learning_rates.parameters())  # the learning rates were learned too


def test_plus_plus_without_normalisation_leaves_that_part_out():
    model, maml, losses = train_maml(
        MLP(hidden=8), waves(), 0.01, plus_plus=True, first_order=True, iterations=3, loss=F.mse_loss, progress=False
    )
    assert not maml.settings.per_step_norm and maml.meta_params().learning_rates and len(losses) == 3


class Stream(IterableDataset):
    def __init__(self, tasks):
        self.tasks = tasks

    def __iter__(self):
        return ([part[0] for part in batch] for batch in self.tasks)


def loader(tasks, length, before_task=lambda number: None):
    """An ordinary DataLoader of single tasks, two to a batch, in order."""

    class Episodes:
        def __len__(self):
            return 2 * length

        def __getitem__(self, number):
            before_task(number)
            return tuple(part[number % 2] for part in tasks.batch(number // 2))

    return DataLoader(Episodes(), batch_size=2, shuffle=False)


def test_default_iterations():
    settings = dict(inner_lr=0.01, inner_steps=1, loss=F.mse_loss, progress=False)
    for tasks, iterations in (
        (waves(), 50), (loader(waves(), 7), 7), ([waves().batch(0)] * 3, 3), (iter([waves().batch(0)] * 4), 4),
        (DataLoader(Stream(waves()), batch_size=2), 50), ((waves().batch(index) for index in range(60)), 50),
    ):  # fmt: skip
        assert len(train_maml(MLP(hidden=2), tasks, **settings)[2]) == iterations


def test_a_data_loader_of_four_tensors_trains_like_the_same_family():
    """Batches arrive as lists, and the loader is begun again when it ends."""
    assert isinstance(next(iter(loader(waves(), 3))), list)
    ours, theirs = regressor(), regressor()
    repeated = Wrapped(waves(), lambda index: waves().batch(index % 3))
    assert quietly(ours, repeated, 8).losses == quietly(theirs, loader(waves(), 3), 8).losses
    assert same(ours.state_dict(), theirs.state_dict())


def test_the_outer_rate_follows_its_schedule(monkeypatch):
    constant, cosine = regressor(outer_lr=0.01), regressor(outer_lr=0.01, cosine=True)
    assert [outer_lr_at(constant, number, 100) for number in (0, 50, 99)] == [0.01] * 3
    assert outer_lr_at(cosine, 0, 100) == pytest.approx(0.01)
    assert outer_lr_at(cosine, 50, 100) == pytest.approx((0.01 + 0.0001) / 2)
    assert outer_lr_at(cosine, 25, 100) == pytest.approx(0.0001 + 0.0099 * (1 + math.sqrt(0.5)) / 2)
    assert outer_lr_at(cosine, 100, 100) == pytest.approx(0.0001)
    used = []

    class Spy(torch.optim.Adam):
        def step(self):
            used.append([group["lr"] for group in self.param_groups])
            return super().step()

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    quietly(cosine, waves(), 10)
    expected = [outer_lr_at(cosine, number, 10) for number in range(10)]
    assert used == [[lr] for lr in expected]
    assert expected == sorted(expected, reverse=True) and len(set(expected)) == 10
    used.clear()
    quietly(regressor(outer_lr=0.01, cosine=True, learned_lr="parameter", learned_lr_outer_lr=0.5), waves(), 10)
    assert used == [[lr, pytest.approx(0.5 * lr)] for lr in expected]  # 0.5 x 0.01, the inner one, is half of 0.01


@pytest.mark.parametrize(
    "iterations, epochs, expected", [(6, 3, [0, 0, 1, 1, 2, 2]), (3, 100, [0, 33, 66]), (5, 2, [0, 0, 0, 1, 1])]
)
def test_iterations_are_divided_into_epochs(iterations, epochs, expected, monkeypatch):
    maml, seen = regressor(), []
    step = maml.meta_gradients
    monkeypatch.setattr(maml, "meta_gradients", lambda batch, epoch, **_: seen.append(epoch) or step(batch, epoch))
    quietly(maml, waves(), iterations, epochs=epochs)
    assert seen == expected


def test_validation_is_recorded_and_changes_nothing(characters, noise):
    unseen = CharacterTasks(noise, 3, 1, 2, 4, seed=5)
    watched, alone = classifier(), classifier()
    torch.manual_seed(3)
    history = quietly(watched, characters, 7, validation=unseen, validation_tasks=6, validate_every=3)
    torch.manual_seed(3)
    assert quietly(alone, characters, 7).losses == history.losses
    assert same(watched.state_dict(), alone.state_dict())
    assert [done for done, _ in history.validation] == [3, 6, 7]
    assert history.validation[-1][1] == evaluate(watched, unseen, 6).score
    by_default = quietly(classifier(), characters, 20, validation=unseen, validation_tasks=1)
    assert [done for done, _ in by_default.validation] == list(range(2, 21, 2))


def test_the_progress_bar_shows_loss_and_accuracy(characters, capsys):
    train(classifier(), Wrapped(characters, lambda index: time.sleep(0.15)), 3)  # it is drawn ten times a second
    shown = capsys.readouterr().err
    assert "maml" in shown and "/3" in shown and "loss=" in shown and "accuracy=" in shown
    quietly(classifier(), characters, 3)
    assert capsys.readouterr() == ("", "")


# Checkpoints: stop and resume.


@pytest.mark.parametrize("source", ["family", "loader"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_stopped_twice_and_resumed_equals_one_that_was_not(recipe, source, noise, tmp_path):
    """To the last bit: model, learned learning rates and norms, Adam, schedule, random state, history and position."""
    family = CharacterTasks(noise, 3, 1, 2, 2, rotations=True)
    unseen = CharacterTasks(noise, 3, 1, 2, 2, seed=5)
    settings = dict(epochs=20, validation=unseen, validation_tasks=2, validate_every=2, save_every=100)
    inner_steps = 1 if recipe == "meta-sgd" else 2

    def tasks(stop_in=None):
        """The tasks; in iteration `stop_in`, counted from 1, Ctrl-C is pressed."""
        press = press_ctrl_c(None if stop_in is None else stop_in - 1)
        if source == "family":
            return Wrapped(family, press)
        skipped = []  # a loader of 3 batches is read through from its beginning, so count what it was asked for

        def before_task(number):
            if number % 2 == 0:
                skipped.append(number)
                press(len(skipped) - 1)

        return loader(family, 3, before_task)

    def fresh(seed, checkpoint, stop_in=None):
        maml = classifier(recipe, seed=seed, inner_steps=inner_steps)
        torch.manual_seed(100 + seed)
        history = quietly(maml, tasks(stop_in), 7, checkpoint=tmp_path / checkpoint, resume=True, **settings)
        assert history.finished == (stop_in is None) and len(history.losses) == (stop_in or 7)
        return maml

    whole = fresh(0, "whole")
    fresh(0, "parts", stop_in=2)
    fresh(1, "parts", stop_in=3)  # seeds 1 and 2: what is not restored would differ
    fresh(2, "parts", stop_in=6)
    resumed = fresh(3, "parts")
    assert same(kept(tmp_path / "whole"), kept(tmp_path / "parts"))
    assert same(whole.state_dict(), resumed.state_dict())
    assert len(kept(tmp_path / "parts")["history"]["validation"]) == 4
    assert sorted(os.listdir(tmp_path)) == ["parts", "whole"]  # one file each


RELATIVE = dict(recipe="maml++", inner_steps=2, learned_lr_outer_lr=0.25)  # Adam in two groups


def test_two_groups_of_adam_resume_and_other_checkpoints_are_refused(characters, tmp_path):
    path = tmp_path / "run.pt"
    whole, half = classifier(**RELATIVE), classifier(**RELATIVE)
    torch.manual_seed(7)
    quietly(whole, characters, 6)
    torch.manual_seed(7)
    quietly(half, characters, 6, checkpoint=path, each_iteration=lambda history: len(history.losses) == 3)
    state = torch.load(path, weights_only=True)
    assert [group.get("lr_factor") for group in state["optimizer"]["param_groups"]] == [None, pytest.approx(5.0)]
    resumed = classifier(**RELATIVE, seed=1)
    message = refusal(
        quietly, classifier(**RELATIVE | dict(learned_lr_outer_lr=None)), characters, 6, checkpoint=path, resume=True
    )
    assert "was trained with learned_lr_outer_lr=0.25, but now learned_lr_outer_lr is None" in message
    quietly(resumed, characters, 6, checkpoint=path, resume=True)
    assert same(resumed.state_dict(), whole.state_dict())
    state["optimizer"]["param_groups"].pop()
    torch.save(state, path)
    message = refusal(quietly, classifier(**RELATIVE), characters, 6, checkpoint=path, resume=True)
    assert "is not a whole checkpoint (ValueError: loaded state dict has a different number of parameter" in message


def test_a_checkpoint_is_plain_data_that_pytorch_loads_by_itself(characters, tmp_path):
    maml = classifier("maml++", inner_steps=2)
    config = {"data": "noise", "ways": 3, "rates": [0.1, None], "nested": {"yes": True}}
    quietly(maml, characters, 4, checkpoint=tmp_path / "new" / "folder" / "run.pt", config=config)
    assert os.listdir(tmp_path / "new" / "folder") == ["run.pt"]
    state = torch.load(tmp_path / "new" / "folder" / "run.pt", weights_only=True)
    assert state["config"] == config
    assert same(state["maml"], dict(maml.state_dict()))
    assert (state["done"], state["iterations"], len(state["history"]["losses"])) == (4, 4, 4)
    assert state["settings"] == maml.settings.to_record()
    assert state["history"]["finished"] is True


def test_numpy_numbers_are_kept_as_plain_ones(tmp_path):
    """A checkpoint with numpy's own numbers could not be loaded without running code."""
    maml = regressor(inner_lr=np.float64(0.01), inner_steps=np.int64(1), outer_lr=np.float32(0.01))
    quietly(maml, waves(), np.int64(3), epochs=np.int64(2), save_every=np.int64(2), checkpoint=tmp_path / "run.pt")
    assert load_checkpoint(tmp_path / "run.pt")["done"] == 3


def test_checkpoints_are_saved_when_they_should_be(tmp_path):
    seen = []

    def look(index):
        seen.append(load_checkpoint(tmp_path / "run.pt")["done"] if (tmp_path / "run.pt").exists() else 0)

    quietly(regressor(), Wrapped(waves(), look), 8, checkpoint=tmp_path / "run.pt", save_every=3)
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6]
    assert load_checkpoint(tmp_path / "run.pt")["done"] == 8


def test_without_resume_training_begins_anew(tmp_path):
    quietly(regressor(), waves(), 4, checkpoint=tmp_path / "run.pt")
    quietly(regressor(), waves(), 2, checkpoint=tmp_path / "run.pt")
    assert load_checkpoint(tmp_path / "run.pt")["done"] == 2


def test_resume_without_a_file_yet_begins(tmp_path):
    assert len(quietly(regressor(), waves(), 3, checkpoint=tmp_path / "run.pt", resume=True).losses) == 3


def test_a_finished_run_can_be_made_longer(tmp_path, capsys):
    path = tmp_path / "run.pt"
    first = quietly(regressor(), waves(), 4, checkpoint=path)
    again = quietly(regressor(), waves(), 4, checkpoint=path, resume=True)
    assert again.losses == first.losses and again.finished
    assert capsys.readouterr().out == ""
    unfinished = []

    def look(index):
        unfinished.append(load_checkpoint(path)["history"]["finished"])

    longer = quietly(regressor(), Wrapped(waves(), look), 7, checkpoint=path, resume=True, save_every=1)
    assert "was a run of 4 iterations, now of 7: schedules follow the new length" in capsys.readouterr().out
    assert unfinished == [True, False, False] and longer.finished
    assert longer.losses == quietly(regressor(), waves(), 7).losses


# Ctrl-C.


def test_ctrl_c_keeps_what_was_learned_and_says_how_to_go_on(tmp_path, capsys):
    maml, path = regressor(), tmp_path / "run.pt"
    start = copy.deepcopy(maml.state_dict())
    history = quietly(maml, Wrapped(waves(), press_ctrl_c(at=3)), 9, checkpoint=path)
    assert not history.finished and len(history.losses) == 4  # the iteration under way was finished
    assert not same(maml.state_dict(), start)
    assert same(load_checkpoint(path)["maml"], dict(maml.state_dict()))
    assert load_checkpoint(path)["done"] == 4 and load_checkpoint(path)["history"]["finished"] is False
    assert capsys.readouterr().out == (
        f"Stopped after 4 of 9 iterations; what was learned is kept; resume from {path}.\n"
    )
    shorter = regressor()
    quietly(shorter, waves(), 4)
    assert same(maml.state_dict(), shorter.state_dict())


def test_ctrl_c_without_a_checkpoint(capsys):
    history = quietly(regressor(), Wrapped(waves(), press_ctrl_c(at=0)), 9)
    assert len(history.losses) == 1 and not history.finished
    assert "Stopped after 1 of 9 iterations; what was learned is kept; name a checkpoint" in capsys.readouterr().out


def test_ctrl_c_in_the_last_iteration_changes_nothing(capsys):
    history = quietly(regressor(), Wrapped(waves(), press_ctrl_c(at=4)), 5)
    assert len(history.losses) == 5 and history.finished
    assert capsys.readouterr().out == ""


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    maml, path = regressor(), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        quietly(maml, Wrapped(waves(), press_ctrl_c(at=3, times=2)), 9, checkpoint=path, save_every=2)
    assert load_checkpoint(path)["done"] == 2
    resumed = regressor(seed=1)
    quietly(resumed, waves(), 9, checkpoint=path, resume=True)
    whole = regressor()
    quietly(whole, waves(), 9)
    assert same(resumed.state_dict(), whole.state_dict())


def test_the_callers_own_handler_gets_the_second_ctrl_c_and_comes_back():
    heard, before = [], signal.getsignal(signal.SIGINT)

    def listen(number, frame):
        heard.append(number)

    signal.signal(signal.SIGINT, listen)
    try:
        assert len(quietly(regressor(), Wrapped(waves(), press_ctrl_c(at=2, times=2)), 9).losses) == 3
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is listen
        quietly(regressor(), waves(), 2)
        assert signal.getsignal(signal.SIGINT) is listen
        with pytest.raises(InputError):
            quietly(regressor(), [], 2)
        assert signal.getsignal(signal.SIGINT) is listen
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_works_in_a_thread():
    """Only the main thread can listen for Ctrl-C; others train without."""
    losses = []
    thread = threading.Thread(target=lambda: losses.extend(quietly(regressor(), waves(), 3).losses))
    thread.start()
    thread.join()
    assert losses == quietly(regressor(), waves(), 3).losses


# Other processes: a real Ctrl-C, and sudden death.


def in_another_process(function, *arguments):
    """Start `function(sender, *arguments)` in a process of its own; its end of the pipe comes first."""
    receiver, sender = FORKING.Pipe(duplex=False)
    process = FORKING.Process(target=function, args=(sender, *arguments))
    process.start()
    sender.close()
    return process, receiver


def hear(receiver):
    assert receiver.poll(60), "the process says nothing"
    return receiver.recv()


def train_and_tell(sender, path):
    """Train for ever, saving at every iteration; tell when the first one is saved, and at the end what was printed."""
    printed = io.StringIO()
    calls = iter(range(10**9))

    def before_batch(index):
        if next(calls) == 1:
            sender.send("saved")

    with contextlib.redirect_stdout(printed):
        tasks = Wrapped(waves(), before_batch)
        history = quietly(regressor(hidden=150), tasks, 10**6, checkpoint=path, save_every=1, resume=True)
    sender.send((printed.getvalue(), len(history.losses)))


@needs_posix
def test_ctrl_c_from_outside(tmp_path):
    path = tmp_path / "run.pt"
    process, receiver = in_another_process(train_and_tell, path)
    assert hear(receiver) == "saved"
    os.kill(process.pid, signal.SIGINT)
    printed, done = hear(receiver)
    process.join(60)
    assert process.exitcode == 0
    assert load_checkpoint(path)["done"] == done >= 1
    assert f"Stopped after {done} of 1000000 iterations" in printed and f"resume from {path}" in printed


def assert_resumes_as_if_never_stopped(path):
    done = load_checkpoint(path)["done"]
    resumed, whole = regressor(seed=1, hidden=150), regressor(hidden=150)
    quietly(resumed, waves(), done + 2, checkpoint=path, resume=True)
    quietly(whole, waves(), done + 2)
    assert same(resumed.state_dict(), whole.state_dict())


@needs_posix
def test_sudden_death_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL, twenty times over, to one run that saves at every iteration."""
    path, done, chance = tmp_path / "run.pt", 0, random.Random(0)
    for _ in range(20):
        process, receiver = in_another_process(train_and_tell, path)
        assert hear(receiver) == "saved"
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        state = load_checkpoint(path)
        assert state["done"] > done  # it was resumed, and went on
        assert all(value.isfinite().all() for value in state["maml"].values())
        done = state["done"]
    assert_resumes_as_if_never_stopped(path)


def train_and_die(sender, path, moment):
    """Die while the third checkpoint is being saved, at a known moment."""

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    def before_batch(index):
        if index == 2 and moment == "half written":  # the system kills whoever writes files longer than this
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2,) * 2)
        elif index == 2:
            setattr(os, moment, die)

    tasks = Wrapped(waves(), before_batch)
    quietly(regressor(hidden=150), tasks, 9, checkpoint=path, save_every=1)


@needs_posix
@pytest.mark.parametrize("moment", ["half written", "fsync", "replace"])
def test_sudden_death_at_the_worst_moments(moment, tmp_path):
    path = tmp_path / "run.pt"
    process, _ = in_another_process(train_and_die, path, moment)
    process.join(60)
    assert process.exitcode == -(signal.SIGXFSZ if moment == "half written" else signal.SIGKILL)
    assert load_checkpoint(path)["done"] == 2
    assert_resumes_as_if_never_stopped(path)
    assert os.listdir(tmp_path) == ["run.pt"]  # the half-written one is gone with the next save


def train_on_a_full_disk(sender, path):
    """The system refuses to write files longer than half a checkpoint, as a full disk would."""

    def before_batch(index):
        if index == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2,) * 2)

    try:
        quietly(regressor(hidden=150), Wrapped(waves(), before_batch), 9, checkpoint=path, save_every=1)
    except InputError as error:
        sender.send(str(error))


@needs_posix
def test_a_full_disk_gets_one_clear_sentence_and_the_last_checkpoint_stays(tmp_path):
    path = tmp_path / "run.pt"
    process, receiver = in_another_process(train_on_a_full_disk, path)
    assert hear(receiver) == f"The checkpoint {path} cannot be written: {os.strerror(errno.EFBIG)}."
    process.join(60)
    assert load_checkpoint(path)["done"] == 2


# Divergence.


def assert_good(path, done):
    state = load_checkpoint(path)
    assert state["done"] == done and all(value.isfinite().all() for value in state["maml"].values())
    assert all(map(math.isfinite, state["history"]["losses"])) and len(state["history"]["losses"]) == done
    quietly(regressor(), waves(), done + 1, checkpoint=path, resume=True)


def with_a_hole(at):
    """Sinusoids of which one batch has targets that are not numbers."""

    def before_batch(index):
        batch = waves().batch(index)
        return batch._replace(query_y=batch.query_y * math.nan) if index == at else batch

    return Wrapped(waves(), before_batch)


def test_data_that_is_not_finite_is_named_with_its_iteration(tmp_path):
    path, maml = tmp_path / "run.pt", regressor()
    message = refusal(quietly, maml, with_a_hole(at=5), 20, checkpoint=path, save_every=2)
    assert message == (
        "The data: expected finite numbers, got nan or inf in query_y of the batch of iteration 6. "
        f"The last good checkpoint is {path}."
    )
    assert all(value.isfinite().all() for value in maml.state_dict().values())
    assert_good(path, done=4)


@pytest.mark.parametrize("save_every", [1, 3, 100])
def test_a_loss_function_that_fails_once(save_every, tmp_path):
    failing = []

    def loss(outputs, targets):
        return F.mse_loss(outputs, targets) + (math.inf if failing else 0)

    def before_batch(index):
        failing[:] = [True] if index == 6 else []

    path = tmp_path / "run.pt"
    message = refusal(
        quietly, regressor(loss=loss), Wrapped(waves(), before_batch), 20, checkpoint=path, save_every=save_every
    )
    assert "the loss is inf at iteration 7" in message
    assert ("The last good checkpoint is" in message) == path.exists() == (save_every < 7)
    if path.exists():
        assert_good(path, done=6)


def test_a_huge_inner_rate_diverges():
    assert "the loss is nan at iteration 1. Try a smaller inner_lr (now 1e+30)" in refusal(
        quietly, regressor(inner_lr=1e30, inner_steps=5), waves(), 5
    )


@pytest.mark.parametrize("saved", [True, False])
def test_parameters_that_are_not_finite_never_replace_a_good_checkpoint(saved, tmp_path):
    """The loss of the last iteration is fine, and only its gradient is not."""
    failing = []

    def loss(outputs, targets):
        # The square root has an infinite slope at zero.
        return F.mse_loss(outputs, targets) + (torch.sqrt(0 * outputs.sum().square()) if failing else 0)

    def before_batch(index):
        failing[:] = [True] if index == 5 else []

    path, tasks = tmp_path / "run.pt", Wrapped(waves(), before_batch)
    maml = regressor(loss=loss, inner_steps=0)
    where = dict(checkpoint=path, save_every=2) if saved else {}
    message = refusal(quietly, maml, tasks, 6, **where)
    assert "Training diverged: the meta-parameter features.0.weight is not finite at iteration 6." in message
    assert ("The last good checkpoint is" in message) == saved
    if saved:
        assert load_checkpoint(path)["done"] == 4
        assert all(value.isfinite().all() for value in load_checkpoint(path)["maml"].values())


def test_the_file_of_an_earlier_run_is_not_called_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    quietly(regressor(), waves(), 2, checkpoint=path)
    assert "last good" not in refusal(quietly, regressor(), with_a_hole(at=0), 3, checkpoint=path)
    assert "last good" in refusal(quietly, regressor(), with_a_hole(at=2), 3, checkpoint=path, resume=True)


# Bad input.


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, None, "ten", True], ids=repr)
@pytest.mark.parametrize("name", ["iterations", "epochs", "save_every", "validate_every", "validation_tasks"])
def test_bad_numbers_get_one_clear_sentence(name, value):
    if (name, value) == ("validate_every", None):
        return
    settings = {"iterations": 3, name: value}
    assert refusal(quietly, regressor(), waves(), **settings) == (
        f"{name}: expected an integer at least 1, got {value!r}."
    )


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of 4 iterations."""
    quietly(regressor(), waves(), 4, checkpoint=tmp_path / "run.pt")
    return tmp_path / "run.pt"


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(inner_lr=0.02), "was trained with inner_lr=0.01, but now inner_lr is 0.02"),
        (dict(order=1), "was trained with order=2, but now order is 1"),
        (dict(adapt=("head.*",)), "was trained with adapt=['*'], but now adapt is ['head.*']"),
        (dict(hidden=9), "model.features.0.weight it holds torch.float32 (8, 1), but this one has torch.float32 (9,"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_nothing_changed(changes, message, saved):
    maml = regressor(seed=1, **changes)
    before, content = copy.deepcopy(maml.state_dict()), saved.read_bytes()
    found = refusal(quietly, maml, waves(), 9, checkpoint=saved, resume=True)
    assert message in found and str(saved) in found
    assert same(maml.state_dict(), before)
    assert saved.read_bytes() == content


def test_a_checkpoint_of_a_model_with_other_parts_is_refused(saved):
    torch.manual_seed(0)
    settings = dict(inner_lr=0.01, inner_steps=1, outer_lr=0.01, loss=F.mse_loss)
    for other in (nn.Sequential(nn.Linear(1, 1)), nn.Sequential(MLP(hidden=8), nn.Linear(1, 1))):
        message = refusal(quietly, MAML(other, **settings), waves(), 9, checkpoint=saved, resume=True)
        assert "belongs to another model" in message and len(message) < len(str(saved)) + 200
    double = MAML(MLP(hidden=8).double(), **settings)
    assert "it holds torch.float32" in refusal(quietly, double, waves(), 9, checkpoint=saved, resume=True)


def test_fewer_iterations_than_were_done_are_refused(saved):
    assert refusal(quietly, regressor(), waves(), 3, checkpoint=saved, resume=True) == (
        f"iterations: expected at least 4, which {saved} has done, got 3."
    )


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(share, saved):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    expected = f"{saved} is not a readable checkpoint"
    assert expected in refusal(load_checkpoint, saved)
    assert expected in refusal(quietly, regressor(), waves(), 9, checkpoint=saved, resume=True)


class Bomb:
    """Whoever unpickles this runs code."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_foreign_files_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("loss 0.3\n")
    Path("pickle").write_bytes(pickle.dumps(Bomb()))
    torch.save({"format": 1, "bomb": Bomb()}, "bomb")
    torch.save({"weight": torch.zeros(3)}, "weights")
    torch.save([1, 2], "list")
    torch.save({"format": 99}, "newer")
    for name in ("text", "pickle", "bomb"):
        assert f"{name} is not a readable checkpoint (" in refusal(load_checkpoint, name)
    for name in ("weights", "list", "newer"):
        assert refusal(load_checkpoint, name) == f"{name} is not a checkpoint of this version of mamlcourse."
    assert not Path("exploded").exists()


def test_a_missing_checkpoint_is_refused(tmp_path):
    for path in (tmp_path / "none.pt", str(tmp_path / "none.pt"), tmp_path):
        assert refusal(load_checkpoint, path) == f"There is no checkpoint file {path}."


def test_resume_needs_a_file():
    assert refusal(quietly, regressor(), waves(), 3, resume=True) == (
        "resume is True, but no checkpoint file was given to resume from."
    )


@pytest.mark.parametrize("place", ["below a file", "a folder"])
def test_a_place_that_cannot_be_written_is_refused_before_training(place, tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "run.pt" if place == "below a file" else tmp_path

    def never(index):
        raise AssertionError("training began")

    message = refusal(quietly, regressor(), Wrapped(waves(), never), 3, checkpoint=path)
    assert message.startswith(f"The checkpoint {path} cannot be written: ")


def test_a_config_that_could_not_be_loaded_is_refused_before_training(tmp_path):
    message = refusal(quietly, regressor(), waves(), 3, checkpoint=tmp_path / "run.pt", config={"folder": Path("data")})
    assert "config: expected plain values (numbers, strings, lists), got {'folder': PosixPath('data')}" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "tasks, message",
    [
        ([], "tasks: expected at least one batch each time the loader is begun, got none (any more)."),
        ([waves().batch(0)[:3]], "expected four tensors"),
        ([[part.numpy() for part in waves().batch(0)]], "expected four tensors"),
        ([waves().batch(0)._replace(query_y=torch.zeros(2, 4, 1))], "query_y: expected a shape that begins with"),
    ],
)
def test_bad_batches_get_one_clear_sentence(tasks, message):
    assert message in refusal(quietly, regressor(), tasks, 3)


def test_batches_that_run_out_are_named(tmp_path):
    batches = (waves().batch(index) for index in range(3))
    assert "got none (any more)" in refusal(quietly, regressor(), batches, 5, checkpoint=tmp_path / "run.pt")
