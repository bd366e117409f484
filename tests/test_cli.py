"""The command line as a user types it: what it prints, writes and refuses."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mamlcourse.records import read_json
from mamlcourse.settings import RECIPES

TINY = ["--filters", "4", "--queries", "2"]


def test_compare_prints_a_table_and_a_recommendation_and_writes_both_files(run, tmp_path):
    options = ["--train-tasks", "8", "--eval-tasks", "6", "--seeds", "2"]
    code, out, err = run("compare", *TINY, *options)
    assert code == 0, err
    words = " ".join(out.split())
    assert "MAML++" in out and "test accuracy (%)" in out and "test loss" in out and "overfits" in out
    assert "may be 2 percentage points less accurate" in words and ("more seeds" in words or " here." in words)
    record = read_json(tmp_path / "runs" / "compare.json")
    assert record["command"] == "mamlcourse compare --filters 4 --queries 2 --train-tasks 8 --eval-tasks 6 --seeds 2"
    assert (tmp_path / "runs" / "compare.png").stat().st_size > 10_000
    code, out, err = run("compare", *TINY, *options, "--margin", "90.5")  # read from the same record
    assert code == 0 and "may be 90.5 percentage points less accurate" in out and " here." in out, err


def test_compare_takes_any_recipes_and_rates(run, tmp_path):
    options = [
        "--train-tasks",
        "4",
        "--eval-tasks",
        "4",
        "--inner-lr",
        "0.01",
        "--outer-lr",
        "0.001",
        "--schedule",
        "cosine",
    ]
    algorithms = ["--algorithm", "fomaml++", "--algorithm", "reptile", "--algorithm", "anil", "--algorithm", "meta-sgd"]
    code, out, err = run("compare", *TINY, *options, *algorithms, "--json", "a.json", "--figure", "b/c.svg")
    assert code == 0, err
    record = read_json(tmp_path / "a.json")
    assert list(record["algorithms"]) == ["fomaml++", "reptile", "anil", "meta-sgd"]
    assert all(entry["settings"]["outer_lr"] == 0.001 for entry in record["algorithms"].values())
    assert all(entry["settings"]["cosine"] for entry in record["algorithms"].values())
    assert (tmp_path / "b" / "c.svg").exists()


@pytest.mark.parametrize("schedule, expected", [("constant", (False, False)), ("own", (False, True))])
def test_compare_gives_all_the_same_schedule_unless_told_otherwise(run, tmp_path, schedule, expected):
    options = ["--train-tasks", "4", "--eval-tasks", "4", "--algorithm", "maml", "--algorithm", "maml++"]
    options += [] if schedule == "constant" else ["--schedule", schedule]
    code, out, err = run("compare", *TINY, *options, "--json", "a.json")
    assert code == 0, err
    record = read_json(tmp_path / "a.json")
    assert tuple(entry["settings"]["cosine"] for entry in record["algorithms"].values()) == expected
    words = "constant" if schedule == "constant" else "along a cosine for MAML++, constant for the others"
    assert f"outer learning rate {words}," in " ".join(out.split())


def test_compare_names_the_schedules(run):
    code, _, err = run("compare", *TINY, "--schedule", "cosin")
    assert code == 2 and "--schedule 'cosin' is unknown. Did you mean 'cosine'? Allowed: constant, cosine, own." in err


def test_train_resume_and_evaluate(run, tmp_path):
    code, out, err = run("train", *TINY, "--out", "m.pt", "--algorithm", "maml++", "--iterations", 4)
    assert code == 0 and "mamlcourse evaluate m.pt" in out, err
    code, out, err = run("train", *TINY, "--out", "m.pt", "--algorithm", "maml++", "--iterations", 4)
    assert code == 2 and "m.pt exists: go on with --resume" in err
    code, out, err = run("train", *TINY, "--out", "m.pt", "--algorithm", "maml++", "--iterations", 6, "--resume")
    assert code == 0, err
    assert torch.load("m.pt", weights_only=True)["done"] == 6
    code, out, err = run("evaluate", "m.pt", "--tasks", 7, "--json", "e.json")
    assert code == 0 and "95% CI over tasks" in out, err
    record = read_json(tmp_path / "e.json")
    assert len(record["task_accuracies"]) == 7 and len(record["task_accuracies"][0]) == 6
    last = [accuracies[-1] for accuracies in record["task_accuracies"]]
    assert record["accuracy"] == pytest.approx(sum(last) / 7) and record["iterations"] == 6
    code, out, err = run("train", *TINY, "--out", "m.pt", "--algorithm", "maml", "--iterations", 6, "--resume")
    assert code == 2 and "with the same settings" in err
    code, out, err = run("train", "--queries", 2, "--filters", 5, "--out", "m.pt", "--algorithm", "maml++", "--resume")
    assert code == 2 and "was trained with filters 4, but now filters is 5" in err


def test_a_checkpoint_of_before_there_was_a_choice_goes_on(run, monkeypatch):
    """It has the official way to learn learning rates, whatever the recipe has now."""
    train = ("train", *TINY, "--out", "m.pt", "--algorithm", "maml++", "--iterations")
    with monkeypatch.context() as before:
        before.setitem(RECIPES, "maml++", replace(RECIPES["maml++"], learned_lr_outer_lr=None))
        code, out, err = run(*train, 2)
    assert code == 0, err
    state = torch.load("m.pt", weights_only=True)
    del state["settings"]["learned_lr_outer_lr"], state["settings"]["adapt_norms"]
    torch.save(state, "m.pt")
    monkeypatch.setitem(RECIPES, "maml++", replace(RECIPES["maml++"], learned_lr_outer_lr=0.05))
    code, out, err = run(*train, 4, "--resume")
    assert code == 0, err
    state = torch.load("m.pt", weights_only=True)
    assert state["done"] == 4 and state["settings"]["learned_lr_outer_lr"] is None
    assert len(state["optimizer"]["param_groups"]) == 1


def test_data_describes_and_draws(run, tmp_path):
    code, out, err = run("data", "--sheet", "sheet.png")
    assert code == 0 and "glyphs: " in out and "validation: " in out and (tmp_path / "sheet.png").exists(), err


def test_doctor_says_what_would_run(run):
    code, out, err = run("doctor")
    assert code == 0 and "a run would use" in out and "omniglot" in out and torch.__version__.split("+")[0] in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compare", "--algorithm", "mamlpp"], "'mamlpp' is unknown. Did you mean 'maml'"),
        (["compare", "--dataset", "glyph"], "Did you mean 'glyphs'"),
        (["compare", "--ways", "2000"], "got 2000"),
        (["compare", "--shots", "10", "--queries", "11"], "got 10 + 11 = 21"),
        (["compare", "--seeds", "0"], "seeds: expected"),
        (["compare", "--margin", "-1"], "margin: expected a finite number at least 0 and at most 100, got -1"),
        (["compare", "--train-tasks", "-4"], "train_tasks: expected"),
        (["compare", "--inner-steps", "-1"], "inner_steps: expected"),
        (["compare", "--outer-lr", "nan"], "outer_lr: expected"),
        (["compare", "--device", "gpu"], "The device 'gpu' cannot be used here"),
        (["compare", "--backend", "fast"], "The backend 'fast' is unknown"),
        (["compare", "--downsampling", "maxpool"], "Did you mean 'max-pool'"),
        (["compare", "--reduction", "maxpool"], "Did you mean 'max-pool'"),  # its name in published commands
        (["compare", "--json", "record.txt"], "expected an ending .json, got '.txt'"),
        (["compare", "--figure", "picture.jpg"], "expected an ending .png or .svg, got '.jpg'"),
        (["compare", "--json", "a file/record.json"], "cannot be written"),
        (["data", "omniglot", "--root", "a file"], "a file"),
        (["train", "--out", "a file/m.pt"], "cannot be written"),
        (["train", "--out", "m.pt", "--iterations", "0"], "iterations: expected"),
        (["train", "--out", "m.pt", "--seed", "-1"], "seed: expected"),
        (["train", "--out", "m.pt", "--inner-lr", "1e9", "--iterations", "3", *TINY], "Training diverged"),
        (["evaluate", "absent.pt"], "There is no checkpoint file absent.pt"),
        (["evaluate", "a file"], "is not a readable checkpoint"),
        (["data", "mnist"], "'mnist' is unknown"),
        (["data", "--sheet", "sheet"], "expected an ending .png or .svg, got ''"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(arguments, message, run, tmp_path):
    (tmp_path / "a file").write_text("x")
    code, out, err = run(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("mamlcourse: ")]
    assert code == 2 and len(lines) == 1 and message in lines[0], (out, err)
    assert "Traceback" not in err


def test_unknown_commands_and_options_end_in_code_2_without_traceback():
    for arguments in (["compair"], ["compare", "--seed", "3", "--nonsense"], ["train"]):
        result = subprocess.run([sys.executable, "-m", "mamlcourse", *arguments], capture_output=True, text=True)
        assert result.returncode == 2 and "Traceback" not in result.stderr and result.stderr


def test_python_m_runs_the_command():
    result = subprocess.run([sys.executable, "-m", "mamlcourse", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "compare" in result.stdout
