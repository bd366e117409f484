"""Evaluation: every measurement worked out a second time, and nothing left changed."""

import copy
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mamlcourse import MAML, MLP, CharacterTasks, Conv4, Evaluation, InputError, SinusoidTasks, evaluate, learner
from mamlcourse.evaluation import share_of_tasks
from mamlcourse.stats import ci95


def tiny(recipe="maml"):
    """A small network with a head that is not zero, so that it errs in its own way before adaptation too."""
    torch.manual_seed(0)
    model = Conv4(3, 4)
    nn.init.normal_(model.head.weight)
    return learner(model, recipe, inner_lr=0.4, inner_steps=2)


@pytest.fixture
def tasks(noise):
    return CharacterTasks(noise, ways=3, shots=2, queries=4, tasks_per_batch=4, seed=9)


# The measurements.


@pytest.mark.parametrize(
    "count, quantile",
    [(2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776), (10, 2.262), (15, 2.145), (31, 2.042), (32, 1.96), (600, 1.96)],
)
def test_ci95_has_students_quantiles(count, quantile):
    values = [math.sin(number) for number in range(count)]
    assert ci95(values) == pytest.approx(quantile * statistics.stdev(values) / math.sqrt(count), rel=1e-12)


def test_ci95_of_known_values():
    assert ci95([1, 2, 3]) == pytest.approx(4.303 * 1 / math.sqrt(3))
    assert ci95([0.0, 1.0] * 300) == pytest.approx(1.96 * math.sqrt(0.25 * 600 / 599 / 600))
    assert ci95([0.5] * 10) == 0
    assert ci95(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(4.303 / math.sqrt(3))
    assert math.isnan(ci95([])) and math.isnan(ci95([0.7]))


LOSSES = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0, 0.0]])
ACCURACIES = torch.tensor([[0.2, 0.3, 0.75], [0.2, 0.8, 0.5], [0.4, 0.4, 0.25], [0.0, 0.1, 1.0]])


def test_measurements_of_known_accuracies():
    found = Evaluation(LOSSES, ACCURACIES, LOSSES)
    assert found.per_task == [0.75, 0.5, 0.25, 1.0]
    assert found.accuracy == found.score == 0.625
    assert found.loss == 1.0
    deviation = math.sqrt((0.125**2 + 0.125**2 + 0.375**2 + 0.375**2) / 3)
    assert found.std == pytest.approx(deviation)
    assert found.interval == pytest.approx(3.182 * deviation / 2)
    assert found.worst_decile == 0.25
    assert found.by_step == pytest.approx([0.2, 0.4, 0.625])
    assert found.loss_by_step == pytest.approx([2.0, 1.5, 1.0])
    assert found.overshoot == 0.5  # the second and the fourth task; staying level is no overshoot


def test_rises_are_told_apart_by_size_and_by_the_support_loss():
    query = torch.tensor([[1.0, 1.04, 1.08], [1.0, 1.06, 1.0], [1.0, 0.9, 1.0], [1.0, 1.5, 0.5], [1.0, 1.5, 0.5]])
    support = torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.9, 0.8], [1.0, 1.2, 0.8], [1.0, 1.06, 0.8], [1.0, 1.01, 0.8]])
    found = Evaluation(query, None, support)
    assert found.rises.any(1).tolist() == [True] * 5
    assert found.overshoots().any(1).tolist() == [False, True, True, True, True]  # 0.04 twice is not 0.05 once
    assert found.overshoot == share_of_tasks(found.overshoots()) == pytest.approx(0.8)
    assert found.too_long().tolist() == [[False] * 2, [False] * 2, [True, False], [True, False], [False] * 2]
    overfits = [[False] * 2, [True, False], [False, True], [False] * 2, [False] * 2]
    assert found.overfits().tolist() == overfits  # a small rise of the support loss is neither
    assert found.overshoots(0.03)[0].all() and found.overfits(0.03)[0].all() and not found.overshoots(0.6).any()
    assert not found.too_long(0.1)[3].any() and found.too_long(0.1)[2, 0]


def test_measurements_of_known_regression_losses():
    found = Evaluation(LOSSES, None, LOSSES)
    assert found.per_task == [1.0, 2.0, 1.0, 0.0]
    assert math.isnan(found.accuracy)
    assert (found.loss, found.score) == (1.0, -1.0)
    assert found.std == pytest.approx(math.sqrt(2 / 3))
    assert found.interval == pytest.approx(3.182 * math.sqrt(2 / 3) / 2)
    assert found.worst_decile == 2.0  # the worst loss is the highest
    assert found.by_step == found.loss_by_step == [2.0, 1.5, 1.0]
    assert found.overshoot == 0.5


@pytest.mark.parametrize("tasks, worst", [(9, 1), (10, 1), (19, 1), (20, 2), (600, 60)])
def test_worst_decile_is_the_mean_of_a_tenth(tasks, worst):
    values = torch.linspace(0, 1, tasks)[torch.randperm(tasks, generator=torch.Generator().manual_seed(0))][:, None]
    found = Evaluation(values, values, values)
    assert found.worst_decile == pytest.approx(sorted(values[:, 0].tolist())[worst - 1] / 2, abs=1e-6)
    regression = Evaluation(values, None, values)
    assert regression.worst_decile == pytest.approx(1 - found.worst_decile, abs=1e-6)


def test_one_task_or_no_step():
    found = Evaluation(torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.tensor([[2.0]]))
    assert (found.accuracy, found.worst_decile, found.overshoot, found.by_step) == (0.5, 0.5, 0.0, [0.5])
    assert math.isnan(found.std) and math.isnan(found.interval)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 30), st.integers(1, 4))
def test_measurements_of_any_numbers(data, tasks, columns):
    number = st.floats(0, 1, width=32)
    losses, accuracies = (
        torch.tensor(data.draw(st.lists(number, min_size=tasks * columns, max_size=tasks * columns)))
        .reshape(tasks, columns)
        for _ in range(2)
    )  # fmt: skip
    found = Evaluation(losses, accuracies, losses)
    last = [float(row[-1]) for row in accuracies]
    assert found.accuracy == pytest.approx(sum(last) / tasks)
    assert found.std == pytest.approx(float(np.std(last, ddof=1)), abs=1e-12)
    assert found.worst_decile == pytest.approx(float(np.mean(np.sort(last)[: max(tasks // 10, 1)])))
    assert share_of_tasks(found.rises) == pytest.approx(
        sum(any(row[j] > row[i] for j in range(columns) for i in range(j)) for row in losses.tolist()) / tasks
    )
    assert found.overshoot <= share_of_tasks(found.rises) and not (found.overfits() & found.too_long()).any()
    assert found.worst_decile <= found.accuracy + 1e-9


# What `evaluate` measures.


@pytest.mark.parametrize("recipe", ["maml", "fomaml++", "anil", "meta-sgd"])
def test_evaluation_agrees_with_adapting_by_hand(recipe, tasks):
    maml = tiny(recipe)
    found = evaluate(maml, tasks, 8)
    steps = maml.settings.inner_steps
    assert found.losses.shape == found.accuracies.shape == found.support_losses.shape == (8, steps + 1)
    for number in (0, 3, 5):
        support_x, support_y, query_x, query_y = (part[number % 4] for part in tasks.batch(number // 4))
        for step in (0, 1, steps):
            adapted = maml.adapt(support_x, support_y, steps=step)
            outputs = adapted(query_x)
            right = sum(int(row.argmax()) == int(label) for row, label in zip(outputs, query_y)) / len(query_y)
            assert found.accuracies[number, step].item() == pytest.approx(right)
            query_loss = F.cross_entropy(outputs, query_y).item()
            assert found.losses[number, step].item() == pytest.approx(query_loss, rel=1e-4)
            support_loss = F.cross_entropy(adapted(support_x), support_y).item()
            assert found.support_losses[number, step].item() == pytest.approx(support_loss, rel=1e-4)


def test_more_or_fewer_steps_than_trained(tasks):
    maml = tiny()
    usual, longer, none = (evaluate(maml, tasks, 4, steps=steps) for steps in (None, 5, 0))
    assert usual.losses.shape == (4, 3) and longer.losses.shape == (4, 6) and none.losses.shape == (4, 1)
    torch.testing.assert_close(longer.losses[:, :3], usual.losses)
    torch.testing.assert_close(none.losses[:, 0], usual.losses[:, 0])
    assert none.overshoot == 0


def test_regression_is_measured_by_its_loss():
    maml = MAML(MLP(), loss=F.mse_loss, inner_lr=0.01, inner_steps=2)
    tasks = SinusoidTasks(tasks_per_batch=5)
    found = evaluate(maml, tasks, 7)
    assert found.accuracies is None and math.isnan(found.accuracy) and found.losses.shape == (7, 3)
    batch = tasks.batch(1)
    adapted = maml.adapt(batch.support_x[1], batch.support_y[1])
    by_hand = F.mse_loss(adapted(batch.query_x[1]), batch.query_y[1]).item()
    assert found.per_task[6] == pytest.approx(by_hand, rel=1e-4)
    assert found.score == -found.loss == pytest.approx(-sum(found.per_task) / 7)


class Counting:
    """Tasks that count how many of their batches were asked for."""

    def __init__(self, tasks):
        self.tasks, self.batches = tasks, 0

    def __iter__(self):
        for batch in self.tasks:
            self.batches += 1
            yield batch


@pytest.mark.parametrize("number, batches", [(1, 1), (4, 1), (5, 2), (8, 2), (10, 3)])
def test_exactly_the_first_tasks_are_used(number, batches, tasks):
    maml, counting = tiny(), Counting(tasks)
    found = evaluate(maml, counting, number)
    assert found.losses.shape == found.accuracies.shape == found.support_losses.shape == (number, 3)
    assert counting.batches == batches
    every = torch.cat([maml.trajectory(tasks.batch(index)).query_loss for index in range(3)])
    torch.testing.assert_close(found.losses, every[:number])  # within rounding, by whatever backend


def test_evaluation_is_deterministic(tasks):
    first, second = evaluate(tiny(), tasks, 10), evaluate(tiny(), tasks, 10)
    assert torch.equal(first.losses, second.losses) and torch.equal(first.accuracies, second.accuracies)
    others = CharacterTasks(tasks.characters, 3, 2, 4, seed=10)
    assert not torch.equal(first.losses, evaluate(tiny(), others, 10).losses)


def test_batches_that_end_early_are_measured_as_far_as_they_go(tasks):
    maml = tiny()
    batches = [tasks.batch(0), list(tasks.batch(1))]
    expected = evaluate(maml, tasks, 8).losses
    torch.testing.assert_close(evaluate(maml, batches, 100).losses, expected)
    torch.testing.assert_close(evaluate(maml, iter(batches), 100).losses, expected)
    single_tasks = [tuple(part[task] for part in batch) for batch in batches for task in range(4)]
    loader = DataLoader(single_tasks, batch_size=3)  # 3 + 3 + 2 tasks
    torch.testing.assert_close(evaluate(maml, loader, 100).losses, expected)


# What it leaves alone.


class Moody(nn.Module):
    """Dropout, a buffer, and parts in different modes."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.head(self.features(x)) * self.scale


@pytest.mark.parametrize("backend", ["loop", "threads", "vmap", "batched", "products"])
def test_parameters_buffers_modes_and_random_state_stay(backend, tasks):
    torch.manual_seed(0)
    maml = MAML(Moody(), inner_steps=2, backend=backend)
    maml.model.features[1].eval()  # half in training mode, half not
    modes = [module.training for module in maml.modules()]
    assert True in modes and False in modes
    values, random_state = copy.deepcopy(maml.state_dict()), torch.get_rng_state()
    first = evaluate(maml, tasks, 6)
    assert [module.training for module in maml.modules()] == modes
    assert all(torch.equal(value, values[name]) for name, value in maml.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in maml.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    # Dropout is off: another random state changes nothing.
    torch.manual_seed(1)
    assert torch.equal(evaluate(maml, tasks, 6).losses, first.losses)


def test_everything_is_put_back_after_an_error_too(tasks):
    maml = MAML(Moody(), inner_steps=2)
    random_state = torch.get_rng_state()

    def broken():
        yield tasks.batch(0)
        torch.rand(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        evaluate(maml, broken(), 100)
    assert all(module.training for module in maml.model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


# Bad input.


@pytest.mark.parametrize("value", [0, -5, 2.5, None, "600", True], ids=repr)
def test_bad_number_of_tasks_gets_one_clear_sentence(value, tasks):
    with pytest.raises(InputError) as caught:
        evaluate(tiny(), tasks, value)
    assert str(caught.value) == f"number_of_tasks: expected an integer at least 1, got {value!r}."


@pytest.mark.parametrize("value", [-1, 1.5, "2"], ids=repr)
def test_bad_steps_get_one_clear_sentence(value, tasks):
    with pytest.raises(InputError) as caught:
        evaluate(tiny(), tasks, 4, steps=value)
    assert str(caught.value) == f"steps: expected an integer at least 0, got {value!r}."


def test_numpy_numbers_are_numbers(tasks):
    assert evaluate(tiny(), tasks, np.int64(5), steps=np.int64(1)).losses.shape == (5, 2)


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "tasks: expected at least one batch to evaluate on, got none (any more)."),
        ([torch.zeros(3)], "expected four tensors"),
        ([[np.zeros(3)] * 4], "expected four tensors"),
    ],
)
def test_bad_batches_get_one_clear_sentence(batches, message):
    with pytest.raises(InputError) as caught:
        evaluate(tiny(), batches, 4)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_tasks_with_more_classes_than_outputs_are_refused(noise):
    with pytest.raises(InputError, match="as the model has 3 outputs, got 0 to 4"):
        evaluate(tiny(), CharacterTasks(noise, ways=5), 4)


# Which steps are recorded, and what a query sees.


@pytest.mark.parametrize("backend", ["loop", "vmap", "batched", "products"])
@pytest.mark.parametrize("name", ["maml", "maml++"])
def test_only_the_last_step_is_the_last_of_all_steps(tasks, name, backend):
    maml = tiny(name)
    maml.backend = backend
    whole, last = evaluate(maml, tasks, 6), evaluate(maml, tasks, 6, only_last=True)
    assert last.losses.shape == (6, 1) and whole.losses.shape == (6, 3)
    assert torch.equal(whole.accuracies[:, -1:], last.accuracies)
    torch.testing.assert_close(whole.losses[:, -1:], last.losses)


@pytest.mark.parametrize("backend", ["loop", "vmap", "batched", "products"])
def test_query_by_query_each_sees_the_support_set_alone(tasks, backend):
    maml = tiny("maml++")
    maml.backend = backend
    batch = tasks.batch(0)
    found = maml.trajectory(batch, transductive=False).query_outputs  # (tasks, steps, queries, ways)
    adapted = maml.adapt(batch.support_x[1], batch.support_y[1])
    for query in (0, 5):
        alone = adapted(torch.cat([batch.support_x[1], batch.query_x[1, query : query + 1]]))[-1]
        torch.testing.assert_close(found[1, -1, query], alone, rtol=1e-4, atol=1e-5)
    together = maml.trajectory(batch).query_outputs
    assert not torch.allclose(found, together, rtol=1e-3), "the other queries made no difference"
    expected = F.cross_entropy(found[1, -1], batch.query_y[1])
    torch.testing.assert_close(maml.trajectory(batch, transductive=False).query_loss[1, -1], expected)
