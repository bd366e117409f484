"""Any model, any loss, any batch: the right meta-gradient, or one clear sentence; never a wrong number without a word.

What is right is computed by `plain`, which shares no code with the package: an ordinary loop over copies of the model.
"""

import copy
import itertools
import threading
import warnings

import pytest
import torch
from conftest import refusal
from torch import nn
from torch.nn import functional as F

from mamlcourse import (
    MAML,
    MLP,
    CharacterTasks,
    Conv4,
    InputError,
    SinusoidTasks,
    TaskBatch,
    evaluate,
    train,
    train_maml,
)  # fmt: skip
from mamlcourse.explorer import TrajectoryExplorer
from mamlcourse.styles import colour_of, mark_of, title_of

STEPS, LR = 2, 0.05


def waves(tasks=2):
    return TaskBatch(*(x.double() for x in SinusoidTasks(shots=4, queries=3, tasks_per_batch=tasks).batch(0)))


def called(model, params, x):
    """The model's outputs with these parameters, on a copy of it."""
    names = {id(p): name for name, p in model.named_parameters()}
    other = copy.deepcopy(model)
    for module, twin in zip(model.modules(), other.modules()):
        for attribute, p in module._parameters.items():
            if p is not None:
                twin._parameters[attribute] = params[names[id(p)]]
    return other(x)


def plain(model, batch, order, loss_fn=F.mse_loss):
    """(loss, {name: gradient}) of MAML, or FOMAML, by autograd through an ordinary loop."""
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch):
        params = dict(theta)
        for _ in range(STEPS):
            loss = loss_fn(called(model, params, support_x), support_y)
            found = torch.autograd.grad(loss, list(params.values()), create_graph=order == 2, allow_unused=True)
            found = [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), found)]
            found = [g.detach() for g in found] if order == 1 else found
            params = {name: p - LR * g for (name, p), g in zip(params.items(), found)}
        total = total + loss_fn(called(model, params, query_x), query_y) / len(batch.support_x)
    found = torch.autograd.grad(total, list(theta.values()), allow_unused=True)
    return total.item(), [torch.zeros_like(p) if g is None else g for p, g in zip(theta.values(), found)]


# Models.


def layer_used_twice():
    layer = nn.Linear(8, 8)
    return nn.Sequential(nn.Linear(1, 8), layer, nn.Tanh(), layer, nn.Linear(8, 1))


def activation_used_twice():
    activation = nn.PReLU()
    return nn.Sequential(nn.Linear(1, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 1))


def weight_of_two_layers():
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    model[3].weight = model[1].weight
    return model


class KeepsFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = nn.Linear(1, 8), nn.Linear(8, 1)

    def forward(self, x):
        self.features = self.net(x).tanh()
        return self.head(self.features)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.rnn(x[:, :, None])[0][:, -1])


class LooksAtValues(MLP):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class CallsItem(MLP):
    def forward(self, x):
        return super().forward(x) * (1 + abs(x.mean().item()))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class OwnFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 6), nn.Linear(6, 1)

    def forward(self, x):
        return self.last(Cube.apply(self.first(x) / 4))


class Recomputes(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 1)

    def forward(self, x):
        return self.head(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))


class ForceField(nn.Module):
    """Its output is minus the gradient of a learned energy."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class HasUnused(MLP):
    def __init__(self):
        super().__init__(hidden=6)
        self.unused = nn.Parameter(torch.ones(3))


class OwnMethodKept(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.run = self.through

    def through(self, x):
        return self.net(x)

    def forward(self, x):
        return self.run(x)


class TinyMLP(MLP):
    def __init__(self):
        super().__init__(hidden=6)


MODELS = {
    "plain": TinyMLP,
    "a layer used twice": layer_used_twice,
    "an activation used twice": activation_used_twice,
    "one weight in two layers": weight_of_two_layers,
    "keeps its features": KeepsFeatures,
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "an if on values": lambda: LooksAtValues(hidden=6),
    "item()": lambda: CallsItem(hidden=6),
    "an autograd.Function of its own": OwnFunction,
    "torch.utils.checkpoint": Recomputes,
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(1, 6)), nn.Tanh(), nn.Linear(6, 1)
    ).eval(),
    "its output is a gradient": ForceField,
    "a parameter that is not used": HasUnused,
    "a method kept as an attribute": OwnMethodKept,
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().double()


@pytest.mark.filterwarnings("ignore:The tasks are computed in a loop from now on")
@pytest.mark.parametrize("checkpoint", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("backend", ["auto", "loop", "threads"])
@pytest.mark.parametrize("name", MODELS)
def test_any_model_gets_the_meta_gradient_of_a_plain_loop(name, backend, order, checkpoint):
    model, batch = made(name), waves()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss, expected = plain(model, batch, order)
    maml = MAML(
        model,
        order=order,
        inner_steps=STEPS,
        inner_lr=LR,
        loss=F.mse_loss,
        backend=backend,
        checkpoint_steps=checkpoint,
    )
    for _ in range(2):  # the second call finds what the first one left
        found = maml.meta_gradients(batch)
        assert found.loss.item() == pytest.approx(loss, rel=1e-12)
        for mine, theirs in zip(found.gradients.tensors(), expected):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(
        isinstance(p, nn.Parameter) for module in model.modules() for p in module._parameters.values() if p is not None
    )
    copy.deepcopy(maml).adapt(batch.support_x[0], batch.support_y[0])(batch.query_x[0])


def test_a_model_that_vmap_cannot_compute_is_said_once():
    maml = MAML(made("item()"), loss=F.mse_loss, inner_lr=LR)
    maml.meta_gradients(waves())  # by the loop, the first candidate
    with pytest.warns(UserWarning, match=r"computed in a loop from now on: vmap cannot compute this model \(.*item"):
        maml.meta_gradients(waves())
    assert maml.backend == "loop"
    (choice,) = maml.choices.values()
    assert {"batched", "vmap"} <= choice.reasons.keys() and "item" in choice.reasons["batched"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maml.meta_gradients(waves())
        evaluate(maml, [waves()], 2, transductive=False)


def test_a_named_backend_is_not_replaced():
    with pytest.raises(RuntimeError, match="item"):
        MAML(made("item()"), loss=F.mse_loss, backend="vmap").meta_gradients(waves())


def test_a_loss_that_vmap_cannot_compute():
    def loss(outputs, targets):
        return F.gaussian_nll_loss(outputs[:, :1], targets, outputs[:, 1:].exp())

    torch.manual_seed(0)
    model = MLP(hidden=6, outputs=2).double()
    expected = plain(model, waves(), 2, loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = MAML(model, inner_steps=STEPS, inner_lr=LR, loss=loss).meta_gradients(waves())
    assert found.loss.item() == pytest.approx(expected[0], rel=1e-12)
    for mine, theirs in zip(found.gradients.tensors(), expected[1]):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_two_threads_may_use_one_learner():
    """A slider beside a training cell."""
    model = made("plain")
    maml = MAML(model, loss=F.mse_loss, inner_lr=LR, inner_steps=STEPS, backend="loop")
    batch, other = (
        waves(4),
        TaskBatch(*(x.double() for x in SinusoidTasks(shots=4, seed=9, tasks_per_batch=4).batch(0))),
    )
    expected, path = maml.meta_gradients(batch).gradients, maml.trajectory(other).query_loss
    wrong = []

    def look():
        for _ in range(30):
            wrong.append(not torch.equal(maml.trajectory(other).query_loss, path))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        torch.testing.assert_close(maml.meta_gradients(batch).gradients, expected, rtol=0, atol=0)
    for thread in threads:
        thread.join()
    assert len(wrong) == 60 and not any(wrong)
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in model.parameters())


# Random numbers, modes and precision.


def with_dropout():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 20), nn.Dropout(0.5), nn.Tanh(), nn.Linear(20, 1)).double()


@pytest.mark.parametrize("order", [1, 2])
def test_recomputed_steps_draw_the_same_random_numbers_again(order):
    found = []
    for checkpoint in (False, True):
        maml = MAML(
            with_dropout(), order=order, loss=F.mse_loss, inner_lr=LR, backend="loop", checkpoint_steps=checkpoint
        )
        torch.manual_seed(1)
        found.append((maml.meta_gradients(waves(1)), torch.rand(1)))
    (kept, after), (recomputed, after_too) = found
    assert recomputed.loss == kept.loss and after == after_too
    torch.testing.assert_close(recomputed.gradients, kept.gradients, rtol=1e-10, atol=1e-13)


def test_the_default_gives_the_same_losses_for_the_same_seed():
    """With threads, whichever comes first draws first: they are not chosen for a model that draws."""

    def losses():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 26 * 26, 3))
        maml = MAML(model, inner_steps=1, inner_lr=0.01)
        x, y = torch.rand(3, 30, 1, 28, 28), torch.arange(3).repeat(3, 10)
        torch.manual_seed(1)
        return maml.meta_gradients(TaskBatch(x, y, x, y)).loss.item(), maml.backend

    (first, backend), (second, _) = losses(), losses()
    assert first == second and backend == "loop"


@pytest.mark.parametrize("backend", ["auto", "loop", "threads"])
def test_evaluation_works_in_inference_mode(backend):
    maml = MAML(made("plain"), loss=F.mse_loss, inner_lr=LR, backend=backend)
    expected = evaluate(maml, [waves()], 2)
    with torch.inference_mode():
        found = evaluate(maml, [waves()], 2)
        adapted = maml.adapt(waves().support_x[0], waves().support_y[0])
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-12, atol=1e-14)
    assert (found.losses[:, -1] != found.losses[:, 0]).all()  # it adapted
    assert not any(torch.equal(p, q) for p, q in zip(adapted.parameters(), maml.model.parameters()))


def test_autocast_is_the_same_everywhere():
    x, y = torch.randn(2, 6, 8), torch.randn(2, 6, 1)
    batch, found = TaskBatch(x, y, x, y), {}
    for backend in ("loop", "threads", "auto"):
        torch.manual_seed(0)
        maml = MAML(MLP(8, 16), loss=F.mse_loss, inner_lr=LR, backend=backend, order=1)
        with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[backend] = maml.meta_gradients(batch).loss.item()
    exact = MAML(maml.model, loss=F.mse_loss, inner_lr=LR, order=1, backend="loop").meta_gradients(batch).loss.item()
    assert found["loop"] == found["threads"] == pytest.approx(found["auto"], rel=1e-2)
    assert found["loop"] != exact


# Settings that must mean what they say.


def test_the_name_reptile_is_reptile():
    assert MAML(Conv4(), "reptile").settings.meta_gradient == "displacement"


def test_an_unknown_pattern_is_refused():
    for patterns in (("2.*", "haed.*"), ("*", "!haed.*")):
        assert "'2.*' matches no parameter" in refusal(MAML, Conv4(), adapt=("2.*",))
        assert "matches no parameter of the model" in refusal(MAML, Conv4(), adapt=patterns)


def test_cross_entropy_of_one_output_is_refused():
    message = refusal(train_maml, MLP(), SinusoidTasks(), iterations=1, progress=False)
    assert "the model has 1 output" in message and "mse_loss" in message


def test_freezing_and_unfreezing_after_the_learner_was_made():
    model = made("plain")
    maml = MAML(model, loss=F.mse_loss, inner_lr=LR, inner_steps=STEPS, backend="loop")
    model.features[0].weight.requires_grad_(False)
    gradients = maml.meta_gradients(waves()).gradients
    assert "features.0.weight" not in gradients.params and "features.0.bias" in gradients.params
    adapted = maml.adapt(waves().support_x[0], waves().support_y[0])
    assert torch.equal(adapted.features[0].weight, model.features[0].weight)
    model.features[0].weight.requires_grad_(True)
    _, expected = plain(model, waves(), 2)
    torch.testing.assert_close(maml.meta_gradients(waves()).gradients.tensors(), expected, rtol=1e-9, atol=1e-12)
    learned = MAML(model, loss=F.mse_loss, learned_lr="parameter", backend="loop")
    model.head.bias.requires_grad_(False)
    assert "head.bias" not in learned.meta_gradients(waves()).gradients.learning_rates
    frozen = MAML(model, loss=F.mse_loss, learned_lr="parameter", backend="loop")
    model.head.bias.requires_grad_(True)
    assert "head.bias has no learned learning rate" in refusal(frozen.meta_gradients, waves())


def test_frozen_normalisation_is_not_trained_by_maml_plus_plus(noise):
    model = Conv4(3, 4)
    model.features[1].weight.requires_grad_(False)
    maml = MAML(model, "maml++", inner_steps=2)
    batch = CharacterTasks(noise, ways=3, queries=2, tasks_per_batch=2).batch(0)
    assert "features.1.weight" not in maml.meta_gradients(batch).gradients.norms
    assert "features.1.bias" in maml.meta_gradients(batch).gradients.norms


def test_norms_loaded_too_late_are_not_ignored(noise):
    other = Conv4(3, 4)
    with torch.no_grad():
        other.features[1].weight.add_(1)
    model = Conv4(3, 4)
    maml = MAML(model, "maml++", inner_steps=2)
    batch = CharacterTasks(noise, ways=3, queries=2, tasks_per_batch=2).batch(0)
    model.load_state_dict(other.state_dict())
    assert "features.1.weight was changed after this learner was made" in refusal(maml.meta_gradients, batch)
    again = MAML(model, "maml++", inner_steps=2)
    kept = copy.deepcopy(again)
    train(again, CharacterTasks(noise, ways=3, queries=2), 1, progress=False)
    kept.load_state_dict(again.state_dict())
    torch.testing.assert_close(kept.meta_gradients(batch).loss, again.meta_gradients(batch).loss)


def test_soft_labels_first_and_class_numbers_later():
    torch.manual_seed(0)
    maml = MAML(MLP(1, 6, 3), inner_lr=LR, backend="loop")
    x, y = torch.randn(2, 6, 1), torch.arange(3).repeat(2, 2)
    hard = TaskBatch(x, y, x, y)
    soft = TaskBatch(x, F.one_hot(y, 3).float(), x, F.one_hot(y, 3).float())
    assert maml.meta_gradients(soft).loss.item() == pytest.approx(maml.meta_gradients(hard).loss.item(), rel=1e-5)
    assert maml.meta_gradients(soft).accuracy is None and maml.meta_gradients(hard).accuracy is not None


def test_names_with_a_slash_may_have_learned_learning_rates():
    class Slashed(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a/b", nn.Linear(1, 1))

        def forward(self, x):
            return getattr(self, "a/b")(x)

    maml = MAML(Slashed().double(), loss=F.mse_loss, learned_lr="parameter", backend="loop")
    assert set(maml.meta_gradients(waves()).gradients.learning_rates) == {"a/b.weight", "a/b.bias"}


# What does not fit gets one sentence, before anything is trained.

WAVES = SinusoidTasks(shots=4, queries=3, tasks_per_batch=2).batch(0)
LABELS = torch.arange(3).repeat(2, 1)
IMAGES = TaskBatch(torch.rand(2, 3, 1, 28, 28), LABELS, torch.rand(2, 3, 1, 28, 28), LABELS)
SOFT = F.one_hot(LABELS, 3).float()


class Outputs(MLP):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(super().forward(x))


def squared(outputs, targets):
    return (outputs - targets).square().mean()


def squares(outputs, targets):
    return (outputs - targets).square()


@pytest.mark.parametrize(
    "model, loss, batch, message",
    [
        (MLP(), F.mse_loss, WAVES._replace(support_y=WAVES.support_y[..., 0]), "which target belongs to which example"),
        (MLP(), squared, WAVES._replace(query_y=WAVES.query_y[..., 0]), "(3, 1) and query_y has (3,)"),
        (MLP(), F.mse_loss, TaskBatch(*(x.double() for x in WAVES)), "inputs of shape (4, 1) and dtype float64"),
        (Conv4(3), F.cross_entropy, IMAGES._replace(support_y=LABELS.float()), "cannot take outputs of shape (3, 3)"),
        (
            MLP(), F.mse_loss, WAVES._replace(query_x=WAVES.query_x[:, :0], query_y=WAVES.query_y[:, :0]),
            "query_x: expected at least one example",
        ),
        (MLP(), squares, WAVES, "The loss: expected a scalar"),
        (Outputs(lambda y: (y, y)), F.mse_loss, WAVES, "expected one tensor of outputs, got a tuple"),
        (Outputs(lambda y: {"y": y}), F.mse_loss, WAVES, "expected one tensor of outputs, got a dict"),
        (Outputs(lambda y: y.mean()), F.mse_loss, WAVES, "expected outputs for each of 4 examples, got shape ()"),
        (
            Conv4(3), F.cross_entropy, IMAGES._replace(support_x=torch.rand(2, 3, 3, 28, 28)),
            "support_x: the model cannot take inputs of shape (3, 3, 28, 28)",
        ),
        (
            Conv4(3), F.cross_entropy, IMAGES._replace(support_y=SOFT, query_y=LABELS + 1),
            "query_y: expected labels from 0 to 2",
        ),
        (MLP(), F.cross_entropy, WAVES, "cross-entropy, but the model has 1 output"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("use", ["meta_gradients", "trajectory"])
def test_what_does_not_fit_gets_one_sentence(model, loss, batch, message, use):
    said = refusal(getattr(MAML(model, loss=loss), use), batch)
    assert message in said and "\n" not in said


def test_losses_that_pair_outputs_and_targets_themselves_are_welcome():
    flat = WAVES._replace(support_y=WAVES.support_y[..., 0], query_y=WAVES.query_y[..., 0])
    found = MAML(MLP(), loss=lambda o, t: F.mse_loss(o[:, 0], t), backend="loop").meta_gradients(flat)
    assert found.loss.isfinite()


def test_token_numbers_are_inputs_like_others():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = torch.randint(0, 10, (2, 6, 2)), torch.arange(3).repeat(2, 2)
    batch = TaskBatch(x, y, x, y)
    loss, expected = plain(model, batch, 2, F.cross_entropy)
    for backend in ("auto", "loop", "threads", "vmap", "batched", "products"):
        found = MAML(model, inner_lr=LR, inner_steps=STEPS, backend=backend).meta_gradients(batch)
        assert found.loss.item() == pytest.approx(loss, rel=1e-12)
        for mine, theirs in zip(found.gradients.tensors(), expected):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_rms_norm_is_a_normalisation_layer():
    model = nn.Sequential(nn.Linear(1, 4), nn.RMSNorm(4), nn.Linear(4, 1)).double()
    maml = MAML(model, "maml++", loss=F.mse_loss)
    assert list(maml.meta_gradients(waves()).gradients.norms) == ["1.weight"]


def test_data_parallel_is_refused():
    with pytest.raises(InputError, match="got a DataParallel around it: pass its `.module`"):
        MAML(nn.DataParallel(MLP()))


def test_a_sampler_with_an_attribute_called_batch_is_an_iterable():
    class Sampler:
        batch = 2

        def __iter__(self):
            return iter([WAVES])

    history = train(MAML(MLP(), loss=F.mse_loss), Sampler(), 2, progress=False)
    assert len(history.losses) == 2


def test_learners_of_any_name_can_be_explored(noise):
    assert (title_of("mine"), colour_of("maml")) == ("mine", "#0072B2")
    assert colour_of("mine") == colour_of("mine") and mark_of("mine")
    explorer = TrajectoryExplorer({"mine": MAML(Conv4(3, 4), inner_steps=2)}, noise, ways=3, number=2)
    assert "mine" in explorer.words


def test_the_plain_loop_can_tell_right_from_wrong():
    """The orders differ, and so do models that share a layer from those that do not."""
    model, batch = made("a layer used twice"), waves()
    (_, first), (_, second) = (plain(model, batch, order) for order in (1, 2))
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(first, second))
    apart = nn.Sequential(*(copy.deepcopy(layer) for layer in model))
    assert len(list(itertools.chain(apart.parameters()))) == len(first) + 2
