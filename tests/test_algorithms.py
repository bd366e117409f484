"""Exactness of the algorithms: finite differences, closed forms, and identities between them. All in float64."""

import copy
import gc
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mamlcourse import MAML, MLP, RECIPES, CharacterTasks, Conv4, InputError, Reptile, SinusoidTasks, TaskBatch, learner
from mamlcourse.algorithms import accuracy
from mamlcourse.engine.autodiff import EAGER, FUNCTIONAL, Autodiff
from mamlcourse.engine.stateless import Stateless
from mamlcourse.engine.trees import tree_map
from mamlcourse.meta_params import MetaParams

SETTINGS = [
    dict(order=order, multi_step_loss=multi_step, learned_lr=learned_lr)
    for order, multi_step, learned_lr in itertools.product(
        (1, 2), ("final", "uniform", "annealed"), ("none", "parameter", "parameter_step", "element")
    )
]
MORE_SETTINGS = [
    dict(per_step_norm=True),
    dict(per_step_norm=True, order=1),
    dict(RECIPES["maml++"].__dict__, name="maml++", inner_steps=3),
    dict(RECIPES["fomaml++"].__dict__, name="fomaml++", inner_steps=3),
    dict(adapt=("head.*",)),
    dict(adapt=("*", "!head.*")),
    dict(adapt_norms=False),
    dict(adapt_norms=False, order=1, multi_step_loss="uniform", learned_lr="parameter_step"),
    dict(adapt_norms=False, head_init="prototypes"),
    dict(adapt=("head.*",), order=1),
    dict(first_order_epochs=3, multi_step_loss="annealed"),
    dict(head_init="prototypes"),
    dict(head_init="prototypes", order=1),
    dict(head_init="prototypes", inner_steps=0),
    dict(head_init="prototypes", multi_step_loss="uniform", learned_lr="element"),
    dict(head_init="prototypes", per_step_norm=True, adapt=("head.*",)),
]

BACKENDS = ("loop", "threads", "vmap", "batched", "products")


def named(settings):
    defaults = vars(RECIPES["maml"])
    return ",".join(f"{k}={v}" for k, v in settings.items() if defaults.get(k) != v and k != "name") or "maml"


def small_network():
    """Convolution, max-pool and affine batch norm, all adapted. The Sigmoid instead of ReLU keeps it smooth."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.Sigmoid(),
        nn.MaxPool2d(4),
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.Sigmoid(), nn.Flatten(),
    )  # fmt: skip
    return Network(features, nn.Linear(36, 3)).double()


class Network(nn.Module):
    def __init__(self, features, head):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x):
        return self.head(self.features(x))


def flat(gradients):
    tensors = gradients.tensors() if isinstance(gradients, MetaParams) else gradients
    return torch.cat([tensor.flatten() for tensor in tensors])


def relative_error(a, b):
    return ((flat(a) - flat(b)).norm() / flat(b).norm()).item()


def meta_loss_held(maml, batch, epoch=0):
    """The meta-loss as a function of the meta-parameters for finite differences.

    With order 1 the inner gradients are constants, so they are recorded at the starting point and replayed.
    """
    order, weights = maml.settings.order_at(epoch), maml.settings.loss_weights(epoch)
    recorded = {}

    class Held(Autodiff):
        """Gradients of the inner loop from ordinary backpropagation; with order 1 those of the first time."""

        def __init__(self, number, record):
            self.keys, self.record = ((number, call) for call in itertools.count()), record

        def grad(self, loss_fn, params, *, create_graph):
            key = next(self.keys)
            if create_graph or self.record:
                leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
                recorded[key] = dict(zip(leaves, torch.autograd.grad(loss_fn(leaves), list(leaves.values()))))
            return recorded[key]

        sgd_step = staticmethod(EAGER.sgd_step)

    def function(meta, record=False):
        total = 0.0
        for number in range(len(batch.support_x)):
            task = TaskBatch(*(part[number] for part in batch))
            inner = maml.inner_loop(Stateless(maml.model), Held(number, record))
            total = total + inner.meta_loss(meta, task, order, weights)[0].item()
        return total / len(batch.support_x)

    return function


@pytest.mark.parametrize("settings", SETTINGS + MORE_SETTINGS, ids=named)
def test_meta_gradient_agrees_with_finite_differences(settings, episodes):
    maml = MAML(small_network(), **{"inner_steps": 3, "inner_lr": 0.5, **settings}, backend="loop")
    for epoch in (0, 5, 20):
        loss, _, gradients = maml.meta_gradients(episodes, epoch)
        meta = tree_map(torch.detach, maml.meta_params())
        assert [part.keys() for part in gradients] == [part.keys() for part in meta]
        function = meta_loss_held(maml, episodes, epoch)
        assert function(meta, record=True) == pytest.approx(loss.item(), rel=1e-12)
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            direction = tree_map(lambda p: torch.randn(p.shape, generator=generator, dtype=p.dtype), meta)  # noqa: B023
            step = 1e-7  # short enough to stay between the kinks of the max-pool
            ahead = function(tree_map(lambda p, d: p + step * d, meta, direction))  # noqa: B023
            behind = function(tree_map(lambda p, d: p - step * d, meta, direction))  # noqa: B023
            along = (flat(gradients) * flat(direction)).sum().item()
            assert (ahead - behind) / (2 * step) == pytest.approx(along, rel=1e-6, abs=2e-8)


@pytest.mark.parametrize("settings", SETTINGS + MORE_SETTINGS, ids=named)
def test_backends_and_checkpointing_agree(settings, episodes):
    """All backends and recomputed steps give the loop's gradients to 1e-12."""
    settings = {"inner_steps": 3, "inner_lr": 0.5, **settings}
    reference = MAML(small_network(), **settings, backend="loop").meta_gradients(episodes)
    for backend, checkpoint in itertools.product(BACKENDS, (False, True)):
        maml = MAML(small_network(), **{**settings, "checkpoint_steps": checkpoint}, backend=backend)
        loss, _, gradients = maml.meta_gradients(episodes)
        assert loss.item() == pytest.approx(reference.loss.item(), rel=1e-12)
        assert relative_error(gradients, reference.gradients) < 1e-12, (backend, checkpoint)


@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_agrees_across_backends_on_conv4(name, downsampling, episodes):
    results = []
    for backend in BACKENDS:
        torch.manual_seed(0)
        results.append(
            learner(Conv4(3, 6, downsampling).double(), name, backend=backend).meta_gradients(episodes).gradients
        )
    # ProtoMAML multiplies rounding, with max-pooling by ten more than others: seen up to 4e-12.
    for found in results[1:]:
        assert relative_error(found, results[0]) < (1e-11 if name.startswith("proto") else 1e-12)


def test_differentiating_through_vmap_would_be_wrong(episodes):
    """The trap that `engine.backends` avoids; when this fails, PyTorch has mended its batch-norm rule."""
    maml = MAML(small_network(), inner_steps=2, inner_lr=0.5, backend="loop")
    exact = maml.meta_gradients(episodes).gradients
    meta = tree_map(lambda p: p.detach().requires_grad_(), maml.meta_params())
    inner = maml.inner_loop(Stateless(maml.model), FUNCTIONAL)

    def one(*task):
        return inner.meta_loss(meta, TaskBatch(*task), 2, (0, 0, 1.0))[0]

    loss = torch.func.vmap(one)(*episodes).mean()
    through = torch.autograd.grad(loss, meta.tensors())
    assert relative_error(through, exact) > 1e-6


class Quadratic(nn.Module):
    """L(θ; target) = ½ (θ - target)ᵀ H (θ - target), as a "network" that maps each input, a target, to its loss."""

    def __init__(self, curvature):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.curvature = curvature

    def forward(self, targets):
        away = self.theta - targets
        return 0.5 * torch.einsum("ei,ij,ej->e", away, self.curvature, away)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_quadratic_closed_form(steps, backend, checkpoint):
    """MAML: (I - αH)^K ∇L(θ'_K); FOMAML: ∇L(θ'_K)."""
    root = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    hessian = root @ root.T
    support, query = torch.randn(2, 2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    dummy = torch.zeros(2, 1, dtype=torch.float64)
    alpha, identity = 0.05, torch.eye(3, dtype=torch.float64)
    expected = {1: 0.0, 2: 0.0}
    theta = Quadratic(hessian).theta.detach()
    for task in range(2):
        shrink = torch.linalg.matrix_power(identity - alpha * hessian, steps)
        end = support[task, 0] + shrink @ (theta - support[task, 0])
        gradient = hessian @ (end - query[task, 0])
        expected[1] = expected[1] + gradient / 2
        expected[2] = expected[2] + shrink @ gradient / 2
    for order in (1, 2):
        maml = MAML(
            Quadratic(hessian), order=order, inner_lr=alpha, inner_steps=steps, backend=backend,
            checkpoint_steps=checkpoint, loss=lambda outputs, targets: outputs.mean(),
        )  # fmt: skip
        gradient = maml.meta_gradients(TaskBatch(support, dummy, query, dummy)).gradients.params["theta"]
        torch.testing.assert_close(gradient, expected[order], rtol=1e-12, atol=1e-14)


def test_zero_steps_is_supervised_learning(episodes):
    model = small_network()
    gradients = MAML(model, inner_steps=0, backend="loop").meta_gradients(episodes).gradients
    losses = [F.cross_entropy(model(x), y) for x, y in zip(episodes.query_x, episodes.query_y)]
    plain = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    assert relative_error(gradients, plain) < 1e-12


def test_zero_rate_makes_first_and_second_order_equal(episodes):
    second, first = (
        MAML(small_network(), inner_lr=0.0, order=order, backend="loop").meta_gradients(episodes).gradients
        for order in (2, 1)
    )
    assert relative_error(first, second) < 1e-12
    second, first = (
        MAML(small_network(), inner_lr=0.5, order=order, backend="loop").meta_gradients(episodes).gradients
        for order in (2, 1)
    )
    assert relative_error(first, second) > 1e-3


def test_weights_on_the_last_step_equal_maml(episodes):
    maml = MAML(small_network(), backend="loop")
    annealed = MAML(small_network(), multi_step_loss="annealed", backend="loop")
    assert (
        relative_error(annealed.meta_gradients(episodes, 10).gradients, maml.meta_gradients(episodes).gradients) < 1e-14
    )
    assert (
        relative_error(annealed.meta_gradients(episodes, 9).gradients, maml.meta_gradients(episodes).gradients) > 1e-3
    )


def published_weights(steps, epoch, epochs):
    """The schedule as Antoniou et al. published it, written out a second time."""
    if epoch >= epochs:
        return [0.0] * steps + [1.0]
    early = [max(1 / steps - epoch / (steps * epochs), 0.03 / steps)] * (steps - 1)
    last = min(1 / steps + epoch * (steps - 1) / (steps * epochs), 1 - (steps - 1) * 0.03 / steps)
    return [0.0, *early, last]


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
@pytest.mark.parametrize("epoch", [0, 5, 9, 10])
def test_annealed_weights_equal_the_published_formula(steps, epoch):
    weights = MAML(MLP(), inner_steps=steps, multi_step_loss="annealed").settings.loss_weights(epoch)
    assert list(weights) == pytest.approx(published_weights(steps, epoch, 10), abs=1e-15)
    assert sum(weights) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    "epoch, expected",
    [(0, [0.2] * 5), (5, [0.1] * 4 + [0.6]), (9, [0.02] * 4 + [0.92]), (10, [0, 0, 0, 0, 1])],
)
def test_annealed_weights_at_known_epochs(epoch, expected):
    weights = MAML(MLP(), multi_step_loss="annealed").settings.loss_weights(epoch)
    assert list(weights[1:]) == pytest.approx(expected, abs=1e-15) and weights[0] == 0


def test_order_annealing_switches_at_its_epoch(episodes):
    annealed = MAML(small_network(), first_order_epochs=4, backend="loop")
    first = MAML(small_network(), order=1, backend="loop").meta_gradients(episodes).gradients
    second = MAML(small_network(), order=2, backend="loop").meta_gradients(episodes).gradients
    assert relative_error(annealed.meta_gradients(episodes, 3).gradients, first) < 1e-14
    assert relative_error(annealed.meta_gradients(episodes, 4).gradients, second) < 1e-14


@pytest.mark.parametrize("learned_lr", ["parameter", "parameter_step", "element"])
@pytest.mark.parametrize("order", [1, 2])
def test_learned_learning_rates_at_their_start_equal_fixed_ones(learned_lr, order, episodes):
    fixed = MAML(small_network(), inner_lr=0.3, order=order, backend="loop").meta_gradients(episodes).gradients
    learned = MAML(small_network(), inner_lr=0.3, order=order, learned_lr=learned_lr, backend="loop")
    gradients = learned.meta_gradients(episodes).gradients
    assert relative_error(gradients.params.values(), fixed.params.values()) < 1e-12
    assert gradients.learning_rates.keys() == fixed.params.keys()
    assert all(g.abs().sum() > 0 for g in list(gradients.learning_rates.values())[-2:])


def test_every_task_of_a_batch_contributes(episodes):
    for backend in BACKENDS:
        maml = MAML(small_network(), backend=backend)
        single = [TaskBatch(*(part[t : t + 1] for part in episodes)) for t in range(3)]
        alone = [maml.meta_gradients(task).gradients for task in single]
        together = maml.meta_gradients(episodes).gradients
        mean = [sum(of_task) / 3 for of_task in zip(*(gradients.tensors() for gradients in alone))]
        assert relative_error(together, mean) < 1e-12
        assert relative_error(alone[-1], mean) > 1e-2


def test_anil_adapts_only_the_head_and_still_learns_the_body(episodes):
    maml = learner(small_network(), "anil", backend="loop")
    adapted = maml.adapt(episodes.support_x[0], episodes.support_y[0])
    for (name, before), (_, after) in zip(maml.model.named_parameters(), adapted.named_parameters()):
        assert torch.equal(before, after) != name.startswith("head.")
    assert maml.meta_gradients(episodes).gradients.params["features.0.weight"].abs().sum() > 0


def test_reptile_is_the_way_to_where_plain_training_ends(episodes):
    reptile = Reptile(small_network(), inner_lr=0.2, inner_steps=3, backend="loop")
    gradients = reptile.meta_gradients(episodes).gradients
    expected = 0
    for task in range(3):
        model = small_network()
        start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        x = torch.cat([episodes.support_x[task], episodes.query_x[task]])
        y = torch.cat([episodes.support_y[task], episodes.query_y[task]])
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        expected = expected + (start - nn.utils.parameters_to_vector(model.parameters()).detach()) / 0.2 / 3
    found = torch.cat([gradients.params[name].flatten() for name, _ in reptile.model.named_parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_protonet_is_softmax_over_distances_to_prototypes(episodes):
    """Snell et al. 2017, equations 1 and 2, and the gradient of its loss by plain backpropagation."""
    model = small_network()
    loss = 0.0
    for support_x, support_y, query_x, query_y in zip(*episodes):
        prototypes = torch.stack([model.features(support_x)[support_y == c].mean(0) for c in range(3)])
        distances = torch.cdist(model.features(query_x), prototypes).square()
        loss = loss + F.cross_entropy(-distances, query_y) / 3
    plain = torch.autograd.grad(loss, list(model.features.parameters()))
    found = MAML(model, "protonet", backend="loop").meta_gradients(episodes)
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    by_name = found.gradients.params
    assert relative_error([g for name, g in by_name.items() if name.startswith("features.")], plain) < 1e-12
    assert not by_name["head.weight"].any() and not by_name["head.bias"].any()  # replaced in every task


def test_protomaml_can_start_from_any_head(episodes):
    """The learned head plays no part: prototypes take its place before the first step."""
    other = small_network()
    with torch.no_grad():
        other.head.weight.add_(1)
    first, second = (MAML(m, "protomaml", backend="loop").meta_gradients(episodes) for m in (small_network(), other))
    assert first.loss == second.loss and relative_error(first.gradients, second.gradients) == 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_adapt_and_trajectory_agree_with_plain_gradient_descent(name, backend, episodes):
    maml = learner(small_network(), name, inner_lr=0.2, backend=backend)
    before = copy.deepcopy(maml.state_dict())
    trajectory = maml.trajectory(episodes, parameters=True)
    steps = maml.settings.inner_steps
    assert trajectory.query_loss.shape == trajectory.support_loss.shape == (3, steps + 1)
    assert trajectory.query_outputs.shape == (3, steps + 1, 6, 3)
    adapted = maml.adapt(episodes.support_x[1], episodes.support_y[1])
    model = small_network()
    if maml.settings.head_init == "prototypes":
        with torch.no_grad():
            features = model.features(episodes.support_x[1])
            for c, weight in enumerate(model.head.weight):
                weight.copy_(2 * features[episodes.support_y[1] == c].mean(0))
                model.head.bias[c] = -(features[episodes.support_y[1] == c].mean(0).norm() ** 2)
    moving = [p for n, p in model.named_parameters() if n in maml.adapted_names]
    optimizer = torch.optim.SGD(moving, lr=0.2)
    for step in range(steps + 1):
        query_loss = F.cross_entropy(model(episodes.query_x[1]), episodes.query_y[1])
        support_loss = F.cross_entropy(model(episodes.support_x[1]), episodes.support_y[1])
        assert trajectory.query_loss[1, step].item() == pytest.approx(query_loss.item(), rel=1e-9)
        assert trajectory.support_loss[1, step].item() == pytest.approx(support_loss.item(), rel=1e-9)
        if step < steps:
            optimizer.zero_grad()
            support_loss.backward()
            optimizer.step()
    for (parameter, expected), found in zip(model.named_parameters(), adapted.parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        if parameter in maml.adapted_names:
            end = trajectory.parameters[parameter][1, -1]
            torch.testing.assert_close(end, expected.detach(), rtol=1e-9, atol=1e-12)
    expected = (model(episodes.query_x[1]).argmax(1) == episodes.query_y[1]).double().mean().item()
    assert trajectory.query_accuracy[1, -1].item() == pytest.approx(expected)
    assert all(torch.equal(value, before[key]) for key, value in maml.state_dict().items())


def test_more_steps_than_trained_use_the_last_learning_rates_and_norms(episodes):
    maml = learner(small_network(), "maml++", inner_steps=2, backend="loop")
    longer = maml.trajectory(episodes, steps=4)
    assert longer.query_loss.shape == (3, 5)
    torch.testing.assert_close(longer.query_loss[:, :3], maml.trajectory(episodes).query_loss)


def test_regression_has_no_accuracy():
    maml = MAML(MLP(), loss=F.mse_loss, inner_lr=0.01)
    batch = SinusoidTasks().batch(0)
    assert maml.trajectory(batch).query_accuracy is None
    loss, score, _ = maml.meta_gradients(batch)
    assert score is None and math.isfinite(loss)
    assert accuracy(torch.zeros(3, 1), torch.zeros(3, 1)).isnan()


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_stays_flat_over_iterations(backend, noise):
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    tasks = CharacterTasks(noise, ways=3, queries=2)
    maml = learner(Conv4(3, 8), "maml++", inner_steps=2, backend=backend)

    def run(iterations):
        for index in range(iterations):
            maml.meta_gradients(tasks.batch(index))
        gc.collect()
        live = sum(1 for thing in gc.get_objects() if isinstance(thing, torch.Tensor))
        return live, psutil.Process().memory_info().rss

    run(8)
    tensors, memory = run(2)
    tensors_later, memory_later = run(20)
    assert tensors_later == tensors
    assert memory_later - memory < 50e6  # keeping the graphs of 20 such iterations adds 208 MB (measured)


def test_any_plain_module_works(episodes):
    """A transformer block with layer norm, attention and a token parameter of its own, unmodified."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(1, 8, 14, stride=14)
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
            return self.head(self.block(tokens)[:, 0])

    results = []
    for backend in BACKENDS:
        torch.manual_seed(0)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            results.append(MAML(Tiny().double(), inner_steps=2, backend=backend).meta_gradients(episodes).gradients)
    assert relative_error(results[1], results[0]) < 1e-12


# What MAML++ is compared with.


NORMS = ("features.1.weight", "features.1.bias", "features.5.weight", "features.5.bias")


@pytest.mark.parametrize("order", [1, 2])
def test_norms_that_do_not_adapt_are_the_per_step_ones_tied_together(order, episodes):
    """Shared by all steps, they get the sum of what each step's own would get."""
    settings = dict(inner_steps=3, inner_lr=0.5, order=order, multi_step_loss="uniform", backend="loop")
    tied = MAML(small_network(), adapt_norms=False, **settings)
    by_step = MAML(small_network(), per_step_norm=True, **settings).meta_gradients(episodes)
    found = tied.meta_gradients(episodes)
    assert found.loss == by_step.loss
    for name in NORMS:
        torch.testing.assert_close(found.gradients.params[name], by_step.gradients.norms[name].sum(0))
        assert found.gradients.params[name].abs().max() > 1e-6
    path = tied.trajectory(episodes, parameters=True).parameters
    assert path.keys() == dict(tied.model.named_parameters()).keys() - set(NORMS)


def test_norms_by_name_by_setting_and_by_step(episodes):
    by_name = MAML(small_network(), adapt=("*", *(f"!{name}" for name in NORMS)), backend="loop")
    by_setting = MAML(small_network(), adapt_norms=False, backend="loop")
    assert by_name.adapted_names == by_setting.adapted_names
    assert flat(by_name.meta_gradients(episodes).gradients).equal(flat(by_setting.meta_gradients(episodes).gradients))
    by_step = [MAML(small_network(), per_step_norm=True, adapt_norms=adapt, backend="loop") for adapt in (True, False)]
    assert by_step[0].adapted_names == by_step[1].adapted_names == by_setting.adapted_names
    one, other = (flat(maml.meta_gradients(episodes).gradients) for maml in by_step)
    assert one.equal(other)
    without = MAML(MLP(), adapt_norms=False)  # a model without such layers is as it was
    assert without.adapted_names == MAML(MLP()).adapted_names


def test_the_maml_of_antoniou_is_maml_plus_plus_without_its_three_switches():
    switched_off = dict(multi_step_loss="final", learned_lr="none", learned_lr_outer_lr=None, per_step_norm=False)
    theirs = replace(RECIPES["maml++"], name="maml-antoniou", adapt_norms=False, **switched_off)
    assert theirs == RECIPES["maml-antoniou"] and theirs.cosine


# Bad input.


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(inner_steps=-1), "inner_steps: expected an integer at least 0, got -1"),
        (dict(inner_steps=2.5), "got 2.5"),
        (dict(inner_lr=-0.1), "inner_lr: expected a finite number at least 0, got -0.1"),
        (dict(inner_lr=math.nan), "inner_lr: expected a finite number at least 0, got nan"),
        (dict(outer_lr=0), "outer_lr: expected a finite number above 0, got 0"),
        (dict(order=3), "order: expected an integer at least 1 and at most 2, got 3"),
        (dict(order=True), "got True"),
        (dict(cosine="no"), "cosine: expected True or False, got 'no'"),
        (dict(adapt=3), "adapt: expected a name pattern or several, got 3"),
        (dict(multi_step_loss="anealed"), "Did you mean 'annealed'"),
        (dict(learned_lr="per_layer"), "learned_lr 'per_layer' is unknown"),
        (dict(learned_lr_outer_lr=0), "learned_lr_outer_lr: expected a finite number above 0, got 0"),
        (dict(learned_lr_outer_lr=math.nan), "learned_lr_outer_lr: expected a finite number above 0, got nan"),
        (dict(learned_lr_outer_lr="0.1"), "learned_lr_outer_lr: expected a finite number above 0, got '0.1'"),
        (
            dict(learned_lr_outer_lr=0.1, learned_lr="element", inner_lr=0),
            "learned_lr_outer_lr: expected None where inner_lr is 0, got 0.1: it is in units of inner_lr.",
        ),
        (dict(adapt_norms=None), "adapt_norms: expected True or False, got None"),
        (dict(adapt_norms=False, adapt="features.1.*"), "names only the weight and bias of normalisation layers"),
        (dict(per_step_norm=True, adapt="features.1.*"), "names only the weight and bias of normalisation layers"),
        (dict(meta_gradient="displacement", adapt_norms=False), "adapt_norms True"),
        (dict(first_order_epochs=-1), "first_order_epochs: expected an integer at least 0, got -1"),
        (dict(multi_step_epochs=0), "multi_step_epochs: expected an integer at least 1, got 0"),
        (dict(inner_step=3), "The setting 'inner_step' is unknown. Did you mean 'inner_steps'"),
        (dict(adapt="body.*"), "matches no parameter of the model"),
        (dict(backend="cuda"), "The backend 'cuda' is unknown"),
        (dict(head_init="prototype"), "Did you mean 'prototypes'"),
        (dict(head_init="prototypes", adapt="features.*"), "adapt must include head.weight and head.bias"),
        (dict(meta_gradient="reptile"), "meta_gradient 'reptile' is unknown"),
        (dict(meta_gradient="displacement", checkpoint_steps=True), "checkpoint_steps must be False"),
    ],
)
def test_bad_settings_get_one_clear_sentence(changes, message):
    with pytest.raises(InputError) as caught:
        MAML(Conv4(), **changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match="'mamlpp' is unknown. Did you mean 'maml'"):
        MAML(Conv4(), "mamlpp")


def test_models_that_cannot_be_meta_learned_are_refused():
    with pytest.raises(InputError, match="'1' keeps running batch statistics"):
        MAML(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(InputError, match="nothing to adapt"):
        MAML(nn.ReLU())
    with pytest.raises(InputError, match="no normalisation layer"):
        MAML(MLP(), "maml++")
    with pytest.raises(InputError, match="Reptile has no query loss"):
        Reptile(Conv4(), learned_lr="parameter")
    with pytest.raises(InputError, match="inner_lr above 0"):
        Reptile(Conv4(), inner_lr=0)
    with pytest.raises(InputError, match="has not both a module `features` and an `nn.Linear` `head`"):
        MAML(nn.Sequential(nn.Linear(2, 2)), "protomaml")


def broken(batch, **parts):
    return batch._replace(**parts)


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda b: broken(b, support_y=b.support_y + 1),
            "support_y: expected labels from 0 to 2, as the model has 3 outputs, got 1 to 3",
        ),
        (lambda b: broken(b, query_y=b.query_y - 1), "got -1 to 1"),
        (
            lambda b: broken(b, support_x=b.support_x[0, 0]),
            "support_x: expected shape (tasks, examples, ...), got (1, 28, 28)|expected a shape that begins with",
        ),
        (
            lambda b: broken(b, query_y=b.query_y.int()),
            "query_y: expected dtype torch.int64 (labels) or floating (targets), got torch.int32",
        ),
        (lambda b: broken(b, support_x=b.support_x.long()), "support_x: the model cannot take inputs of shape"),
        (lambda b: broken(b, query_x=b.query_x.float()), "query_x: the model cannot take inputs of shape"),
        (lambda b: broken(b, query_x=b.query_x[:, :0], query_y=b.query_y[:, :0]), "query_x: expected at least one"),
        (lambda b: broken(b, query_x=b.query_x[:, :3]), "query_y: expected a shape that begins with (3, 3)"),
        (lambda b: broken(b, query_x=b.query_x[:2], query_y=b.query_y[:2]), "3 tasks and the query set 2"),
        (lambda b: broken(b, query_x=b.query_x.to("meta")), "on one device, got cpu and meta"),
        (
            lambda b: b.__class__(*(part.to("meta") for part in b)),
            "The batch: expected it on cpu, as the model is, got it on meta",
        ),
        (lambda b: b[:3], "expected four tensors"),
    ],
)
def test_bad_batches_get_one_clear_sentence(damage, message, episodes):
    maml = MAML(small_network(), backend="loop")
    for use in (maml.meta_gradients, maml.trajectory):
        with pytest.raises(InputError) as caught:
            use(damage(episodes))
        assert any(part in str(caught.value) for part in message.split("|")) and "\n" not in str(caught.value)


def test_adapt_checks_its_support_set(episodes):
    with pytest.raises(InputError, match="got 5 to 5"):
        MAML(small_network()).adapt(episodes.support_x[0], torch.full((6,), 5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_works_where_gradients_are_switched_off(episodes, backend):
    maml = MAML(Conv4(3, 4).double(), backend=backend)
    expected = maml.trajectory(episodes).query_loss, maml.meta_gradients(episodes).gradients
    with torch.no_grad():
        torch.testing.assert_close(maml.trajectory(episodes).query_loss, expected[0])
        torch.testing.assert_close(maml.meta_gradients(episodes).gradients, expected[1])
        adapted = maml.adapt(episodes.support_x[0], episodes.support_y[0])
        assert not torch.is_grad_enabled()
    assert adapted(episodes.query_x[0]).requires_grad
