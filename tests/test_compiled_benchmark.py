"""The benchmark of the compiled backend: what it makes of its times, and the form of its record."""

import compiled
import pytest
import torch

from mamlcourse.engine import backends
from mamlcourse.records import origin, read_json


def row(loop, vmap, fused, first=10.0):
    return {
        "case": "made up", "first_call_seconds": {"compiled": first},
        "seconds": {"loop": loop, "vmap": vmap, "compiled": fused},
    }  # fmt: skip


def test_ratios_are_medians_over_rounds_of_paired_times():
    found = row([2, 20, 3], [8, 8, 8], [1, 10, 1])
    assert compiled.ratio(found, "loop") == 2 and compiled.ratio(found, "vmap") == 8


@pytest.mark.parametrize(
    "loop, vmap, after", [(3.0, 2.0, 10), (2.0, 3.0, 10), (1.3, 9.0, 34), (9.0, 1.0, None), (0.5, 9.0, None)]
)
def test_compiling_pays_after_what_it_saves_against_the_faster_other(loop, vmap, after):
    found = row([loop], [vmap], [1.0])
    assert compiled.pays_after(found) == after
    assert compiled.table({"rows": [found]})[0][-1] == (str(after) if after else "never")


@pytest.mark.skipif(torch.__version__ < "2.11", reason="not tried below torch 2.11; 2.6 cannot do it")
def test_a_tiny_run_writes_a_record_of_the_promised_form(tmp_path, monkeypatch, capsys):
    eagerly = torch.compile(lambda function, batch: function(*batch), backend="eager")  # compiling takes a while
    monkeypatch.setattr(backends, "_fuser", lambda: eagerly)
    compiled.main(rounds=2, threads=0, quick=True, json=tmp_path / "compiled.json")
    record = read_json(tmp_path / "compiled.json")
    (found,) = record["rows"]
    assert record["kind"] == "compiled" and record["rounds"] == 2
    assert found["case"] == "MLP, sinusoids, MAML, 1 step, 2 tasks" and origin(record)
    assert {backend: len(times) for backend, times in found["seconds"].items()} == dict.fromkeys(compiled.BACKENDS, 2)
    assert found["first_call_seconds"].keys() == found["error_float32"].keys() == set(compiled.BACKENDS)
    assert max(found["error_float32"].values()) < 1e-5
    assert compiled.table(record)[0][0] in capsys.readouterr().out
