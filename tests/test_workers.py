"""A meta-batch shared among processes: the numbers of one process, a clean end."""

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from conftest import refusal
from torch import nn

from mamlcourse import MAML, CharacterTasks, Conv4, InputError, SinusoidTasks, train
from mamlcourse.training.workers import Workers, running


def network(dropout=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
    return model.double()


class Waves:
    """Sinusoids in float64, so that rounding hides nothing."""

    def __init__(self, tasks_per_batch=5):
        self.family = SinusoidTasks(tasks_per_batch=tasks_per_batch)

    def batch(self, index):
        return self.family.batch(index)._replace(
            **{name: value.double() for name, value in self.family.batch(index)._asdict().items()}
        )

    def __iter__(self):
        index = 0
        while True:
            yield self.batch(index)
            index += 1


@pytest.fixture(scope="module")
def waves():
    """What takes seconds to start, once: two processes that share the tasks of a MAML++ learner."""
    maml = MAML(network(), "maml++", loss=nn.functional.mse_loss, per_step_norm=False, inner_lr=0.01)
    with running(maml, 2) as workers:
        yield maml, workers


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_gradients_are_those_of_one_process(waves, tasks):
    maml, workers = waves
    batch = Waves(tasks).batch(tasks)
    expected, found = maml.meta_gradients(batch, epoch=3), maml.meta_gradients(batch, epoch=3, workers=workers)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-12, atol=0)
    assert found.accuracy is None
    for mine, theirs in zip(found.gradients.tensors(), expected.gradients.tensors()):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_they_see_what_changed_since_they_began(waves):
    maml, workers = waves
    batch = Waves().batch(0)
    with torch.no_grad():
        for p in maml.parameters():
            p.mul_(1.5)
    maml.model[0].bias.requires_grad_(False)
    try:
        expected, found = maml.meta_gradients(batch), maml.meta_gradients(batch, workers=workers)
    finally:
        maml.model[0].bias.requires_grad_(True)
    assert "0.bias" not in found.gradients.params
    for mine, theirs in zip(found.gradients.tensors(), expected.gradients.tensors()):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_training_with_dropout_draws_the_same_numbers():
    """A class of this file, two processes, five tasks; the same dropout masks and generator as one process."""

    def trained(processes):
        torch.manual_seed(3)
        maml = MAML(network(dropout=0.5), loss=nn.functional.mse_loss, inner_lr=0.01)
        history = train(maml, Waves(), 3, processes=processes, progress=False)
        return history.losses, torch.rand(1)

    (alone, after), (shared, after_too) = trained(1), trained(2)
    assert shared == pytest.approx(alone, rel=1e-12) and after == after_too


def test_labels_and_accuracy(noise):
    tasks = CharacterTasks(noise, ways=3, queries=2, tasks_per_batch=3)
    maml = MAML(Conv4(3, 2, "stride"), inner_steps=1, backend="batched")
    with running(maml, 2) as workers:
        expected, found = maml.meta_gradients(tasks.batch(0)), maml.meta_gradients(tasks.batch(0), workers=workers)
    assert found.accuracy.item() == pytest.approx(expected.accuracy.item())


class Hoarder(nn.Module):
    """A model that, when it does not train, keeps 400 MB, as a process does that is told to keep freed memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1).double()

    def forward(self, x):
        if not self.training and not _hoard:
            _hoard.append(bytearray(b"1" * 400_000_000))
        return self.layer(x)


_hoard = []


def test_a_process_that_keeps_memory_is_not_started_anew():
    """loky takes it for a leak."""
    maml = MAML(Hoarder(), loss=nn.functional.mse_loss, backend="loop")
    with running(maml, 2) as workers, warnings.catch_warnings():
        warnings.simplefilter("error")
        maml.meta_gradients(Waves().batch(0), workers=workers)
        before = set(workers.executor._processes)
        maml.model.eval()
        for _ in range(4):
            maml.meta_gradients(Waves().batch(0), workers=workers)
            time.sleep(0.6)  # it looks once a second
        assert set(workers.executor._processes) == before
    _hoard.clear()


class Suicidal(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.parent = nn.Linear(1, 1).double(), os.getpid()

    def forward(self, x):
        if os.getpid() != self.parent:
            os._exit(1)
        return self.layer(x)


def test_a_process_that_dies_is_said_and_nothing_is_lost(tmp_path):
    maml = MAML(Suicidal(), loss=nn.functional.mse_loss)
    with pytest.raises(InputError, match="One of the 2 processes that share the tasks ended; memory may have run out"):
        train(maml, Waves(), 2, processes=2, checkpoint=tmp_path / "run.pt", progress=False)
    before = [p.detach().clone() for p in maml.model.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(maml.model.parameters(), before))


def test_the_processes_end_with_the_run(waves):
    maml, _ = waves
    workers = Workers(maml, 2)
    maml.meta_gradients(Waves().batch(0), workers=workers)
    processes = list(workers.executor._processes.values())
    assert len(processes) == 2 and all(process.is_alive() for process in processes)
    workers.end()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_signal_ends_all_and_keeps_what_was_learned(name, tmp_path):
    """Also one that ends the first process without a word."""
    command = [sys.executable, "-m", "mamlcourse", "train", "--out", tmp_path / "run.pt", "--iterations", 10**6]
    command += ["--filters", 2, "--tasks-per-batch", 2, "--processes", 2, "--device", "cpu", "--save-every", 1]
    both = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = subprocess.Popen([*map(str, command)], **both, start_new_session=True)
    while not (tmp_path / "run.pt").exists():
        assert run.poll() is None
        time.sleep(0.1)
    if name == "SIGKILL":
        run.kill()
        run.wait()
    else:
        os.killpg(run.pid, getattr(signal, name))  # as a terminal does: to all processes of the group
        said = run.communicate(timeout=60)[0]
        assert "Stopped after" in said and "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        for _ in range(100):
            os.killpg(run.pid, 0)
            time.sleep(0.1)


def test_what_is_not_allowed():
    maml = MAML(network(), loss=nn.functional.mse_loss)
    for processes, said in ((0, "at least 1"), (1.5, "integer"), (10**6, "at most 1024")):
        assert said in refusal(train, maml, Waves(), 1, processes=processes)
    on_meta = MAML(network().to("meta"), loss=nn.functional.mse_loss)
    assert "they share a CPU" in refusal(train, on_meta, Waves(), 1, processes=2)
    maml.model.lock = __import__("threading").Lock()
    assert "cannot be sent to other processes (" in refusal(train, maml, Waves(), 1, processes=2)
