"""The benchmark of growth: its fits on made-up points, and the form of its record from a tiny run."""

import runpy
from pathlib import Path

import pytest
import torch

from mamlcourse.records import origin, read_json

SCALING = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "scaling.py"))
AXES = ("inner_steps", "tasks", "filters", "ways", "side", "shots", "parameters")


def point(algorithm="maml", value=1, seconds=(1.0,), memory=None, **changes):
    place = {"axis": "inner_steps", "value": value, "algorithm": algorithm, "checkpoint_steps": False}
    return place | {"seconds": list(seconds), "peak_memory_bytes": memory} | changes


def test_fits_find_the_growth_that_points_were_made_with():
    values = (1, 2, 5, 10)
    power = SCALING["fitted"](values, [[3 * value**1.5 for value in values]])
    line = SCALING["fitted"](values, [[7 + 2 * value for value in values]])
    assert power["exponent"] == pytest.approx(1.5)
    assert (line["per_unit"], line["at_zero"]) == (pytest.approx(2), pytest.approx(7))
    assert SCALING["fitted"]([3], [[1.0]]) is None and SCALING["fitted"]([1, 2], [[0, 5]]) is None


def test_growth_is_the_median_over_rounds_for_each_algorithm_with_and_without_checkpoints():
    # Three rounds in proportion, the second on a busier machine, the third with one point disturbed.
    points = [point(value=v, seconds=(v, 7 * v, v + 90 * (v == 4)), memory=10 + 5 * v) for v in (1, 2, 4)]
    points += [point(value=v, seconds=(v**2,), checkpoint_steps=True) for v in (1, 2, 4)]
    points += [point(axis="parameters", value=5)]
    found = SCALING["growth"](points)
    assert found.keys() == {"inner_steps"} and found["inner_steps"].keys() == {"maml", "maml, checkpointed"}
    plain, checkpointed = found["inner_steps"].values()
    assert plain["seconds"]["exponent"] == pytest.approx(1) and len(plain["seconds"]["exponent_by_round"]) == 3
    assert plain["peak_memory_bytes"]["per_unit"] == pytest.approx(5)
    assert checkpointed["seconds"]["exponent"] == pytest.approx(2) and checkpointed["peak_memory_bytes"] is None


def test_ratios_are_medians_of_paired_ratios():
    points = [point(seconds=(1, 10, 2)), point("fomaml", seconds=(0.5, 5, 2)), point("fomaml", value=2)]
    SCALING["add_ratios"](points)
    assert [p["ratio_to_maml"] for p in points] == [1, 0.5, None]


def test_vision_transformer_of_the_benchmark_sees_all_patches():
    model = SCALING["ViT"](5)
    x = torch.rand(2, 1, 28, 28, requires_grad=True)
    outputs = model(x)
    outputs.sum().backward()
    assert outputs.shape == (2, 5) and (x.grad != 0).all()


def test_a_tiny_run_writes_a_record_of_the_promised_form(tmp_path):
    threads = torch.get_num_threads()
    json, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    try:
        SCALING["main"](device="cpu", threads=1, repeats=1, quick=True, json=json, figure=figure)
    finally:
        torch.set_num_threads(threads)
    record = read_json(json)
    assert record["kind"] == "scaling" and origin(record) and figure.stat().st_size > 10_000
    assert {p["axis"] for p in record["points"]} == set(AXES)
    for axis in AXES:
        assert {p["algorithm"] for p in record["points"] if p["axis"] == axis} == {"maml", "fomaml", "maml++"}
    assert {p["checkpoint_steps"] for p in record["points"]} == {True, False}
    for found in record["points"]:
        assert len(found["seconds"]) == 1 and found["seconds"][0] > 0 and found["ratio_to_maml"] > 0
    assert [p["peak_memory_bytes"] > 0 for p in record["points"] if p["peak_memory_bytes"] is not None] == [True]
    assert record["growth"].keys() == set(AXES[:-1])
    assert record["ceilings"]["matrix_gflop_per_s"] > 0 and record["ceilings"]["copy_gb_per_s"] > 0
    assert all(own["gflop"] > 0 and own["gigabytes"] > 0 for own in record["distance"].values())
