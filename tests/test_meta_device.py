"""Nothing is left on the CPU and nothing waits for a value, shown without a GPU.

On PyTorch's `meta` device tensors have shapes and no values: a tensor of another device, or an `.item()`, is an
error.
"""

import importlib

import pytest
import torch
from torch.nn import functional as F

from mamlcourse import MAML, MLP, RECIPES, CharacterTasks, Conv4, FunctionTasks, SinusoidTasks
from mamlcourse.training.cuda_graphs import kind_of_epoch
from mamlcourse.training.steppers import parameter_groups


@pytest.fixture(autouse=True)
def after_the_first_batch(monkeypatch):
    """The trial of a run's first batch reads values, once; what follows it must not."""
    module = importlib.import_module("mamlcourse.learner")  # the package has a function of that name
    monkeypatch.setattr(module, "try_out", lambda model, loss, batch: 2)
    monkeypatch.setattr(module, "check_labels", lambda batch, outputs_count: None)


def all_meta(*tensors):
    return tensors and all(tensor.device.type == "meta" for tensor in tensors)


@pytest.mark.parametrize("checkpoint", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("backend", ["loop", "vmap", "batched", "products"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_algorithm_stays_on_its_device(name, backend, checkpoint, noise):
    if checkpoint and name == "reptile":
        pytest.skip("Reptile keeps no graph, so there is nothing to recompute")
    # So few examples that no layer takes torch.batch_norm_update_stats, which PyTorch has not for this device.
    tasks = CharacterTasks(noise, ways=2, queries=2, tasks_per_batch=2, rotations=True, device="meta")
    # A first step and one behind another are all the kinds there are, and on this device every operation is slow.
    steps = min(RECIPES[name].inner_steps, 2)
    model = Conv4(2, 4, "stride").to("meta")
    maml = MAML(model, name, inner_steps=steps, backend=backend, checkpoint_steps=checkpoint)
    batch = tasks.batch(torch.tensor(5, device="meta"))  # as a recorded step makes it
    loss, accuracy, gradients = maml.meta_gradients(batch, epoch=3)
    assert all_meta(*batch, loss, accuracy, *gradients.tensors())
    assert [g.shape for g in gradients.tensors()] == [p.shape for p in maml.meta_params().tensors()]
    for transductive in (True, False):
        trajectory = maml.trajectory(batch, parameters=True, transductive=transductive)
        assert all_meta(*trajectory[:4], *trajectory.parameters.values())
    assert kind_of_epoch(maml, 3)


def test_adam_has_its_learning_rates_on_the_device():
    maml = MAML(Conv4(2, 4).to("meta"), "maml++", learned_lr_outer_lr=0.05)
    groups = parameter_groups(maml, as_tensors=True)
    assert len(groups) == 2 and all_meta(*(group["lr"] for group in groups))
    assert groups[0]["lr"] is not groups[1]["lr"]  # each is set in place
    assert sum(len(group["params"]) for group in groups) == len(maml.meta_params().tensors())


@pytest.mark.parametrize("backend", ["loop", "vmap", "batched", "products"])
@pytest.mark.parametrize(
    "make", [SinusoidTasks, lambda device: FunctionTasks(lambda x, a: a * x, a=(0, 1), device=device)]
)
def test_every_family_of_functions_stays_on_its_device(make, backend):
    maml = MAML(MLP().to("meta"), loss=F.mse_loss, backend=backend)
    batch = make(device="meta").batch(0)
    loss, accuracy, gradients = maml.meta_gradients(batch)
    assert accuracy is None and all_meta(*batch, loss, *gradients.tensors())


def test_the_meta_device_can_tell(noise):
    """What this file relies on: a value asked for, and a tensor of the CPU, are errors there."""
    batch = CharacterTasks(noise, ways=3, queries=2, tasks_per_batch=2, device="meta").batch(0)

    def asks(outputs, targets):
        return F.cross_entropy(outputs, targets) * (1 if outputs.sum().item() > 0 else 2)

    def stays(outputs, targets):
        return F.cross_entropy(outputs + torch.ones(3, device="cpu")[targets.to("cpu")].sum(), targets)

    for loss in (asks, stays):
        with pytest.raises((RuntimeError, NotImplementedError)):
            MAML(Conv4(3, 4, "stride").to("meta"), loss=loss, backend="loop").meta_gradients(batch)
