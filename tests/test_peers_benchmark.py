"""The benchmark beside other libraries: its conclusions from made-up records, and the form of its record."""

import importlib.metadata

import peers
import pytest
import torch
from conftest import FORKING
from peer_drivers import PEERS

from mamlcourse.records import origin, read_json


def entry(ratio=None, error=1e-15, **changes):
    measured = {"seconds": [ratio], "ratio": {"median": ratio, "quartiles": [ratio, ratio]}} if ratio else {}
    return {"reason": None, "error_float64": error} | measured | changes


def result(**implementations):
    found = {peers.OURS: entry(1.0), peers.PROCESSES: entry(0.5)} | implementations
    setting = {"order": 2, "downsampling": "stride", "ways": 5, "steps": 1, "tasks": 4, "queries": 15}
    return setting | {"share_of_matrix_rate": None, "implementations": found}


def test_fastest_exact_peer_is_neither_inexact_nor_unmeasured_nor_ours():
    found = result(
        slow=entry(2.5),
        quick=entry(1.4),
        inexact=entry(0.5, error=1e-3),
        unknown=entry(0.6, error=None),
        missing={"reason": "not installed"},
        failed=entry(reason="crashes"),
    )
    assert peers.fastest_exact(found) == ("quick", 1.4)
    assert peers.fastest_exact(result(inexact=entry(0.5, error=2e-9), missing={"reason": "not installed"})) is None


def test_conclusions_count_the_settings_that_reach_the_target():
    shared = {"ratio_to_processes": {"median": 1.5, "quartiles": [1.4, 1.6]}}
    record = {
        "results": [
            result(a=entry(1.31), b=entry(3)) | {"share_of_matrix_rate": 0.25},
            result(a=entry(1.29, **shared)), result(a=entry(1.1, error=1e-2))
        ]
    }  # fmt: skip
    reached, missed, none, total = peers.conclusions(record)
    assert "MAML, stride, 5-way, 1 step" in reached and "a, takes 1.31" in reached and "(reaches 1.3)" in reached
    assert reached.endswith("ours runs at 0.25 of the rate of a matrix product")
    assert "one process (misses 1.3), 1.50 (1.40 to 1.60) of ours in processes (reaches 1.5)" in missed
    assert "no exact peer" in none and total == (
        "in one process 1 of 3 settings reach their target (ratios: lowest 1.29, median 1.30, highest 1.31); "
        "in processes 1 of 3 settings reach their target (ratios: lowest 1.50, median 1.50, highest 1.50)"
    )
    assert "| 1.29 (1.29 to 1.29) | 1.50 (1.40 to 1.60) | not measured |" in peers.markdown(record)
    assert "| 1.31 (1.31 to 1.31) | not measured | 0.25 |" in peers.markdown(record)


def test_conclusions_say_what_everything_but_convolutions_may_take():
    shares = {"shares_of_our_time": {"convolution": 0.4, "products": 0.1, "rest": 0.5}}
    record = {"results": [result(a=entry(ratio)) | shares for ratio in (1.04, 0.91, 1.3, 0.5)]}
    record["results"][1] |= {"ways": 20}
    record["results"][3] |= {"steps": 2}
    line = peers.conclusions(record)[-2]
    assert "convolution 40% to 40%, products 10% to 10%, rest 50% to 50%; with convolutions as they are" in line
    # 1.04 / 1.3 = 0.8 of the time, 0.3 beside the 0.5 of the convolutions; 0.5 / 1.3 is less than they take alone
    assert "took 60% (MAML, stride, 5-way, 1 step) down to 0% (MAML, stride, 5-way, 2 steps) of its time" in line
    record["results"] = [result(a=entry(1.4)) | shares]
    assert "as they are" not in peers.conclusions(record)[-2]


def test_our_own_inexact_gradient_reaches_no_target():
    record = {"results": [result(a=entry(2.0)) | {}]}
    record["results"][0]["implementations"][peers.OURS]["error_float64"] = 1e-3
    line, total = peers.conclusions(record)
    assert "ours is not exact (error 1.0e-03)" in line and total == "no setting could be judged"


def test_ratios_are_medians_over_rounds_of_paired_times():
    found = {peers.OURS: entry() | {"seconds": [1, 10, 2]}, peers.PROCESSES: entry(seconds=[1, 5, 1])}
    found |= {"a": entry() | {"seconds": [2, 15, 2]}, "b": entry()}
    found["c"] = {"reason": "crashes", "seconds": [1]}
    peers.add_ratios(found)
    assert found["a"]["ratio"] == {"median": 1.5, "quartiles": [1.25, 1.75]}
    assert found["a"]["ratio_to_processes"]["median"] == 2
    assert found[peers.OURS]["ratio"]["median"] == 1 and "ratio" not in found["b"] and "ratio" not in found["c"]


def test_who_could_not_run_is_named_with_the_reason():
    record = {"results": [result(a={"reason": "not installed"}), result(a={"reason": "not installed"})]}
    assert peers.reasons(record) == ["a: not installed (all settings)"]
    record = {"results": [result(a=entry(2.0, reason_float64="TypeError: no")), result(a=entry(2.0))]}
    assert peers.reasons(record) == ["a in float64: TypeError: no (MAML, stride, 5-way, 1 step)"]


def test_a_peer_that_fails_says_why_in_one_line_without_folders():
    def fails():
        raise OSError("cannot open /some/where/library.so\nand more")

    assert peers.attempt(fails) == (None, "OSError: cannot open library.so")


def test_a_peer_that_is_not_there_is_listed(monkeypatch):
    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = peers.find_peers()
    assert found.keys() == PEERS.keys()
    assert {name for name, of in found.items() if of["reason"] == "not installed"} == set(list(PEERS)[2:])
    assert peers.taking_part(found) == [peers.OURS, "plain loop", "vmapped example"]


def test_an_implementation_whose_process_dies_says_so():
    runner = peers.Runner("plain loop", torch.device("cpu"), 1)
    runner.process.kill()
    assert runner.ask(None) == (None, "its process ended")
    runner.end()


def test_a_tiny_run_writes_a_record_of_the_promised_form(tmp_path, capsys, monkeypatch):
    if FORKING:  # seven processes that import everything by themselves take half a minute
        monkeypatch.setattr(peers.multiprocessing, "get_context", lambda method: FORKING)
    monkeypatch.setattr(peers, "REST", 0)
    whole = peers.grid(True, 2, 4, 1, torch.device("cpu"))
    assert {(of.order, of.downsampling) for of in whole} == {(o, r) for o in (1, 2) for r in ("stride", "max-pool")}
    half = [of for of in whole if (of.order, of.downsampling) in {(1, "stride"), (2, "max-pool")}]  # each of them once
    monkeypatch.setattr(peers, "grid", lambda *arguments: half if arguments[:4] == (True, 2, 4, 1) else None)
    threads = torch.get_num_threads()
    try:
        peers.main(
            device="cpu", threads=2, tasks=2, filters=4, queries=1, rounds=2, seconds=0, quick=True, folder=tmp_path
        )
    finally:
        torch.set_num_threads(threads)
    record = read_json(tmp_path / "peers.json")
    assert record["kind"] == "peers" and origin(record) and (tmp_path / "peers.png").stat().st_size > 10_000
    assert [(r["order"], r["downsampling"]) for r in record["results"]] == [(of.order, of.downsampling) for of in half]
    for found in record["results"]:
        assert found["tasks"] == 2 and found["rounds"] == 2 and 0 < found["share_of_matrix_rate"] < 1
        implementations = found["implementations"]
        assert implementations.keys() == {peers.OURS, peers.PROCESSES, *PEERS, peers.MATRIX}
        assert len(implementations.pop(peers.MATRIX)["seconds"]) == 2
        assert "auto" not in (implementations[name]["backend"] for name in (peers.OURS, peers.PROCESSES))
        for name, of in implementations.items():
            if of["reason"]:
                assert "\n" not in of["reason"] and "ratio" not in of
                continue
            assert len(of["seconds"]) == 2 and min(of["seconds"]) > 0 and of["ratio"]["median"] > 0
            if name == peers.PROCESSES:
                continue
            assert of["error_float32"] < 1e-4 or not of["exact"]
            # The vmapped example goes backward through vmap twice, which PyTorch gets slightly wrong.
            assert of["exact"] == ((name, found["order"]) != ("vmapped example", 2)), name
        assert found["implementations"][peers.OURS]["ratio"]["median"] == 1
    printed = capsys.readouterr().out
    assert all(line in printed.replace("\n", "") for line in peers.conclusions(record))


@pytest.mark.parametrize("device, name", [("CPU", "peers"), ("NVIDIA H200", "peers-nvidia-h200")])
def test_records_of_other_devices_have_names_of_their_own(device, name):
    assert peers.file_name({"hardware": {"device": device}}) == name


def test_each_setting_has_its_own_target():
    finn = dict(peers.FINN, order=1)
    assert peers.target(finn, "ratio") == 2 and peers.target(finn | {"tasks": 4}, "ratio") == 1.3
    assert peers.target(finn | {"steps": 5}, "ratio") == 1.5 and peers.target(finn, "ratio_to_processes") == 1.5
    assert "1 query, 32 tasks" in peers.in_words(finn)


def test_the_arithmetic_of_a_meta_gradient():
    """FOMAML's one step: counted by hand."""
    setting = peers.Setting(1, "stride", 2, 1, 3, 2, 1)
    one, two = (peers.gflop(setting), peers.gflop(peers.Setting(1, "stride", 2, 1, 6, 2, 1)))
    assert 0 < one == two / 2
    # Per task and image: 14², 7², 4², 2² places, 9 x (1, 2, 2, 2) numbers, 2 filters, a multiplication and an addition.
    forward = 2 * 2 * (14**2 * 9 + (7**2 + 4**2 + 2**2) * 18) * 2
    head = 2 * 2 * 2 * 2
    # Support and query: forward, weights' gradient, and but for the first layer the inputs'.
    inputs = forward - 2 * 2 * 14**2 * 9 * 2
    assert one * 1e9 == pytest.approx(3 * (2 * (2 * forward + inputs) + 2 * 3 * head), rel=0.02)
