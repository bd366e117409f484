"""The benchmark of the ladder: its record's form, and that a stopped run goes on."""

from pathlib import Path

import ladder
import pytest
import torch

from mamlcourse.records import read_json
from mamlcourse.tasks import TaskBatch


def test_a_tiny_run_fills_the_record_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "VALIDATION_TASKS", 2)
    path = tmp_path / "ladder.json"
    small = dict(eval_tasks=3, batches=1, filters=2)
    ladder.main(path, seeds=1, **small)
    first = read_json(path)
    assert first["command"] and first["images"] == 4 * 5 * 16
    assert [row["method"] for row in first["rows"]] == [
        "pixels", "classifier", *ladder.RECIPES, "untrained", "from scratch",
    ]  # fmt: skip
    assert all(len(row["task_accuracies"]) == 3 for row in first["rows"])
    assert {row["images"] for row in first["rows"]} == {0, 320}
    ladder.main(path, seeds=2, **small)
    rows = read_json(path)["rows"]
    assert rows[: len(first["rows"])] == first["rows"] and {row["seed"] for row in rows[len(first["rows"]) :]} == {1}


def test_pixels_take_the_label_of_the_support_image_at_the_smallest_angle():
    support = torch.eye(3)[None, :2]  # two classes, three pixels
    query = torch.tensor([[[9.0, 1.0, 0.0], [0.1, 0.2, 0.9]]])
    labels = torch.tensor([[1, 0]])
    batch = TaskBatch(support, labels, query, torch.tensor([[1, 1]]))
    assert ladder.pixels([batch, batch], 2) == pytest.approx([0.5, 0.5])


def test_an_untrained_classifier_hands_on_its_features_under_a_head_of_zeros():
    network = ladder.classifier(seed=0, images=64, filters=2)
    assert not network.head.weight.any() and network.head.out_features == 5


def test_the_committed_ladder_has_every_rung_for_every_seed_on_the_same_tasks():
    record = read_json(Path(ladder.__file__).parent.parent / "results" / "ladder.json")
    found = [(row["method"], row["seed"]) for row in record["rows"] if row["method"] != "pixels"]
    rungs = ("classifier", *ladder.RECIPES, "untrained", "from scratch")
    assert sorted(found) == sorted((rung, seed) for rung in rungs for seed in record["seeds"])
    assert {len(row["task_accuracies"]) for row in record["rows"]} == {record["eval_tasks"]}
