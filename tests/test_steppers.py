"""Training with recorded steps, as far as a machine without a GPU can show: a stand-in records nothing and just acts.

The real recordings are tested in test_gpu.py.
"""

from dataclasses import replace

import pytest
import torch

from mamlcourse import RECIPES, CharacterTasks, Conv4, InputError, learner, load_characters, train
from mamlcourse.meta_params import outer_step
from mamlcourse.training import cuda_graphs, steppers


@pytest.fixture(scope="module")
def characters():
    return load_characters().split().train


class StandIn:
    """Does what a recording does, one operation after the other."""

    made = []

    def __init__(self, maml, optimizer, tasks, epoch, index):
        self.maml, self.optimizer, self.tasks, self.epoch, self.index = maml, optimizer, tasks, epoch, index
        self.kind, self.number_of_tasks = cuda_graphs.kind_of_epoch(maml, epoch), tasks.tasks_per_batch
        self.made.append(self.kind)

    def replay(self):
        loss, accuracy, gradients = self.maml.meta_gradients(self.tasks.batch(self.index), self.epoch)
        outer_step(self.optimizer, self.maml.meta_params(), gradients)
        self.index += 1
        return loss, accuracy


def as_recorded(maml):
    """Adam with learning rates that are tensors, as a recording has them; one that can be recorded needs a GPU."""
    groups = steppers.parameter_groups(maml, as_tensors=True)
    for group in groups:
        group["lr"] = group["lr"].double()
    return torch.optim.Adam(groups, lr=groups[0]["lr"], foreach=False)


@pytest.fixture
def recordings(monkeypatch):
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setattr(cuda_graphs, "why_not", lambda *_: None)
    real = steppers.adam
    monkeypatch.setattr(steppers, "adam", lambda maml, capturable: as_recorded(maml) if capturable else real(maml))
    monkeypatch.setattr(cuda_graphs, "CapturedStep", StandIn)
    return StandIn.made


RELATIVE = replace(RECIPES["maml++"], learned_lr_outer_lr=0.05)  # a group of its own for learned learning rates


def trained(characters, name=RELATIVE, iterations=12, **options):
    torch.manual_seed(0)
    maml = learner(Conv4(3, 2, "stride"), name, inner_steps=2, backend="loop")
    tasks = CharacterTasks(characters, ways=3, queries=2, tasks_per_batch=2)
    history = train(maml, tasks, iterations, epochs=4, progress=False, **options)
    return torch.cat([p.detach().flatten() for p in maml.meta_params().tensors()]), history


@pytest.mark.parametrize(
    "name", ["maml", replace(RELATIVE, learned_lr_outer_lr=None), RELATIVE], ids=["maml", "one group", "two groups"]
)
def test_recorded_steps_are_the_same_training(name, characters, recordings):
    expected, eager = trained(characters, name, capture=False)
    assert not recordings
    found, history = trained(characters, name)
    assert len(recordings) == len(set(recordings)) == (1 if name == "maml" else 4)  # a kind for each epoch
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert history.losses == pytest.approx(eager.losses, rel=1e-6) and history.finished


def test_they_resume_where_they_stopped(characters, recordings, tmp_path):
    expected, _ = trained(characters)
    path = tmp_path / "run.pt"
    trained(characters, checkpoint=path, each_iteration=lambda history: len(history.losses) == 5)
    for wanted in (None, False):  # a run can go on without recording
        copy = tmp_path / f"{wanted}.pt"
        copy.write_bytes(path.read_bytes())
        found, history = trained(characters, checkpoint=copy, resume=True, capture=wanted)
        assert len(history.losses) == 12
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_what_cannot_be_recorded_goes_on_without_and_says_so(characters, recordings, monkeypatch, capsys):
    expected, _ = trained(characters, capture=False)

    class FailsLater(StandIn):
        def __init__(self, maml, optimizer, tasks, epoch, index):
            if index > 5:
                raise RuntimeError("operation not permitted when stream is capturing\nand a long story")
            super().__init__(maml, optimizer, tasks, epoch, index)

    monkeypatch.setattr(cuda_graphs, "CapturedStep", FailsLater)
    found, history = trained(characters)
    assert history.finished
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    said = "".join(capsys.readouterr())
    assert said.count("without a CUDA graph: the step cannot be recorded (operation not permitted") == 1
    assert "long story" not in said


def test_beginning_gives_every_parameter_its_state_and_moves_none():
    maml = learner(Conv4(3, 2, "stride"), RELATIVE)
    meta, optimizer = maml.meta_params().tensors(), as_recorded(maml)
    before = [p.detach().clone() for p in meta]
    cuda_graphs._begin(optimizer)
    assert len(optimizer.param_groups) == 2
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.003, 0.05 * 0.1])
    assert all(torch.equal(*pair) for pair in zip(meta, before))
    assert all(optimizer.state[p]["step"] == 0 and not optimizer.state[p]["exp_avg"].any() for p in meta)


def test_why_not(characters):
    maml = learner(Conv4(3, 2), "maml", backend="vmap")
    tasks = CharacterTasks(characters, ways=3)
    assert "not on a CUDA GPU" in cuda_graphs.why_not(maml, tasks, torch.device("cpu"))
    assert cuda_graphs.why_not(maml, tasks, torch.device("cuda")) is None
    assert "from a loader" in cuda_graphs.why_not(maml, [], torch.device("cuda"))
    assert "loop" in cuda_graphs.why_not(learner(Conv4(3, 2), "maml", backend="loop"), tasks, torch.device("cuda"))


def test_insisting_where_it_cannot_be(characters):
    with pytest.raises(InputError, match="capture is True, but the model is on the cpu"):
        trained(characters, capture=True)
