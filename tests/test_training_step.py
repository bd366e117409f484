"""The benchmark of whole training steps, on a CPU: what it writes, with what only a GPU could fill in left empty."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import training_step  # noqa: E402


def test_the_record(tmp_path, capsys, monkeypatch):
    path = tmp_path / "step.json"
    monkeypatch.setattr(training_step, "PROTOCOLS", ("finn",))
    monkeypatch.setattr(training_step, "ALGORITHMS", ("maml", "fomaml"))
    training_step.main("cpu", rounds=2, steps=1, filters=2, json=path)
    record = json.loads(path.read_text())
    assert [row["algorithm"] for row in record["rows"]] == ["maml", "fomaml"]
    maml, fomaml = record["rows"]
    assert all(len(row["seconds"]["eager"]) == 2 and row["busy_share"] is None for row in record["rows"])
    assert maml["errors"]["highest"] < 1e-3
    assert maml["time_to_maml"] == 1
    assert fomaml["time_to_maml"] == pytest.approx(sum(fomaml["seconds"]["eager"]) / sum(maml["seconds"]["eager"]))
    assert "Record:" in capsys.readouterr().out
    assert torch.get_float32_matmul_precision() == "highest"
