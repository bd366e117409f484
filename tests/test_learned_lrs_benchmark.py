"""The benchmark of how fast learned learning rates are learned: the form of its record, and learning logarithms."""

import math

import learned_lrs
import pytest
import torch
from torch.nn.functional import mse_loss

from mamlcourse import MLP, SinusoidTasks, learner
from mamlcourse.records import read_json


def test_a_tiny_run_fills_the_record_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(learned_lrs, "RELATIVE", (0.1, 0.03))
    path = tmp_path / "learned.json"
    budget = dict(sinusoid_iterations=2, glyph_iterations=1, sinusoid_tasks=3, glyph_tasks=3, filters=2)
    learned_lrs.main(path, sinusoid_seeds=1, glyph_seeds=1, **budget)
    first = read_json(path)
    assert first["command"] and first["versions"]["torch"]
    assert len(first["sinusoids"]["rows"]) == 7 and len(first["glyphs"]["rows"]) == 8
    learned_lrs.main(path, sinusoid_seeds=2, glyph_seeds=1, **budget)
    record = read_json(path)
    rows = record["sinusoids"]["rows"]
    assert rows[:7] == first["sinusoids"]["rows"] and [row["seed"] for row in rows[7:]] == [1] * 7
    assert record["glyphs"] == first["glyphs"]
    for name, found in record["sinusoids"]["summary"].items():
        values = [row["test_mse"] for row in rows if row["variant"] == name]
        assert found["test_mse"]["mean"] == pytest.approx(sum(values) / 2)
        assert found["test_mse"]["std_over_seeds"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
        assert ("negative" in found) == name.startswith("maml++")


def test_logarithms_move_by_adams_learning_rate():
    torch.manual_seed(0)
    maml = learner(
        MLP(hidden=8), "maml++", loss=mse_loss, per_step_norm=False, inner_lr=0.01, cosine=False, backend="loop"
    )
    start = [p.detach().clone() for p in maml.model.parameters()]
    learned_lrs.train_logarithms(maml, SinusoidTasks(tasks_per_batch=3), 1, 0.2)
    moved = torch.cat([lr.detach().flatten() for lr in maml.learning_rates.parameters()]).div(0.01).log().abs()
    assert moved.median() == pytest.approx(0.2, rel=1e-3) and moved.max() < 0.2001
    assert max((p - q).abs().max().item() for p, q in zip(maml.model.parameters(), start)) == pytest.approx(
        maml.settings.outer_lr, rel=1e-3
    )
