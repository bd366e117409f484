"""What goes wrong around a run: it is killed, two run at once, files are damaged, terminals narrow, numbers huge."""

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal

from mamlcourse import MLP, InputError, SinusoidTasks, cli, comparison, evaluate, learner, records
from mamlcourse.checks import progress
from mamlcourse.data import omniglot
from mamlcourse.papers import reproduction
from mamlcourse.papers import tables as papers
from mamlcourse.pretrained import load_weights, save_weights
from mamlcourse.problems import Problem, choose_device
from mamlcourse.training import load_checkpoint, train
from mamlcourse.training.checkpoints import save_atomically

needs_posix = pytest.mark.skipif(os.name != "posix", reason="this system has no signals and pipes as POSIX has them")
TINY = ["--filters", "2", "--queries", "2"]
COMPARE = ["compare", *TINY, "--train-tasks", "4", "--eval-tasks", "2", "--algorithm", "maml", "--algorithm", "fomaml"]


def sentence(result):
    """The one sentence in which a command must have ended."""
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("mamlcourse: ")]
    assert code == 2 and len(lines) == 1 and lines[0].endswith(".") and "Traceback" not in err, result
    return lines[0]


def regressor(**changes):
    torch.manual_seed(0)
    settings = dict(inner_lr=0.01, inner_steps=1) | changes
    return learner(MLP(hidden=4), "maml", loss=torch.nn.functional.mse_loss, **settings)


def waves():
    return SinusoidTasks(shots=3, queries=3, tasks_per_batch=2)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def no_space(*arguments):
    raise OSError(28, "No space left on device")


# A run that is stopped or killed.


def test_a_comparison_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    file, trained, real = tmp_path / "runs" / "compare.json", [], comparison.train

    def stopped(maml, *arguments, **options):
        trained.append(maml.settings.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(maml, *arguments, **options)

    monkeypatch.setattr(comparison, "train", stopped)
    code, out, err = run(*COMPARE)
    assert code == 130 and "the same command goes on" in err
    assert len(records.read_json(file)["algorithms"]["maml"]["runs"]) == 1
    first = records.read_json(file)["algorithms"]["maml"]
    code, out, err = run(*COMPARE)
    assert code == 0 and trained == ["maml", "fomaml", "fomaml"], err
    assert records.read_json(file)["algorithms"]["maml"] == first
    code, out, err = run(*COMPARE, "--seeds", "2")  # more seeds are more of the same
    assert code == 0 and trained[3:] == ["maml", "fomaml"] and records.read_json(file)["seeds"] == [0, 1], err


def test_a_comparison_of_an_earlier_version_is_not_gone_on_with(run, tmp_path):
    """Its runs lack what new ones have, and one table cannot say both."""
    assert run(*COMPARE)[0] == 0
    file = tmp_path / "runs" / "compare.json"
    record = records.read_json(file)
    for run_ in (run_ for entry in record["algorithms"].values() for run_ in entry["runs"]):
        run_["overshoot"] = run_.pop("any_rise")
        for name in ("task_losses", "support_loss_by_step", "query_losses", "support_losses"):
            del run_[name]
    records.write_json(record, file)
    before = file.read_bytes()
    code, out, err = run(*COMPARE)  # it is finished, and shown again
    assert code == 0 and "tasks in which any step raises the loss (%)" in out and "overfits" not in out, err
    records.write_json(record, file)
    assert "is of an earlier version, which kept no loss of each test task" in sentence(run(*COMPARE, "--seeds", "2"))
    assert file.read_bytes() == before


def test_another_comparison_does_not_write_over_the_first(run, tmp_path):
    assert run(*COMPARE)[0] == 0
    files = [tmp_path / "runs" / name for name in ("compare.json", "compare.png")]
    before = [file.read_bytes() for file in files]
    assert "holds another comparison (other problem)" in sentence(run(*COMPARE, "--ways", "3"))
    assert "compare.png exists" in sentence(run(*COMPARE, "--json", "other.json"))
    assert [file.read_bytes() for file in files] == before
    assert run(*COMPARE, "--ways", "3", "--overwrite")[0] == 0
    assert records.read_json(files[0])["problem"]["ways"] == 3


def test_the_numbers_are_printed_although_the_disk_is_full(run, monkeypatch):
    monkeypatch.setattr(records, "write_whole", no_space)
    result = run(*COMPARE)
    assert "compare.json cannot be written: No space left on device. The figure" in sentence(result)
    assert "test accuracy (%)" in result[1] and "Margin:" in result[1]


def test_a_machine_has_one_name_in_all_its_processes():
    """Half-written files of the dead are found by it; `uuid.getnode` is another one each time without a card."""
    assert records.machine_name("Ada's laptop.local", 0x0242AC110002) == "adaslaptoplocal242ac110002"
    assert records.machine_name("3f1c", 0xF39FCA774E61) == records.machine_name("3f1c", 0xB5A1CA774E61) == "3f1c"
    told = "from mamlcourse import records; print(records.MACHINE)"
    other = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == records.MACHINE


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setattr("os.fsync", no_space)
    message = refusal(records.write_figure, Figure(), tmp_path / "a.png")
    assert message == f"The figure {tmp_path / 'a.png'} cannot be written: No space left on device."
    assert os.listdir(tmp_path) == []


def command(*arguments, **options):
    environment = os.environ | options.pop("environment", {})
    return subprocess.Popen(
        [sys.executable, "-m", "mamlcourse", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, **options,
    )  # fmt: skip


COMPARE_WITHOUT_MEMORY = (
    "import mamlcourse.comparison as comparison; from mamlcourse.__main__ import main\n"
    "comparison.peak_of_training = lambda *arguments: 1_000_000; main()"
)


@needs_posix
def test_a_terminal_without_our_letters_and_a_pipe_that_is_closed(tmp_path):
    whole = [sys.executable, "-c", COMPARE_WITHOUT_MEMORY, *COMPARE]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = subprocess.run(whole, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert result.returncode == 0 and b"+/-" in result.stdout and b"Traceback" not in result.stderr, result.stderr
    (tmp_path / "runs" / "compare.json").unlink()
    process = subprocess.Popen([*whole, "--overwrite"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.wait(300)
    assert b"Traceback" not in err and b"Exception ignored" not in err, err
    assert records.read_json(tmp_path / "runs" / "compare.json")["seeds"] == [0]  # it was not cut short


@needs_posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_keeps_what_was_learned(name, tmp_path):
    number, path = getattr(signal, name), tmp_path / "run.pt"
    if signal.getsignal(number) is not signal.SIG_DFL:
        pytest.skip(f"{name} is ignored here")

    def once(history):
        if len(history.losses) == 2:
            os.kill(os.getpid(), number)

    history = train(regressor(), waves(), 9, checkpoint=path, each_iteration=once, progress=False)
    assert not history.finished and load_checkpoint(path)["done"] == len(history.losses) <= 3
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("what", ["loader", "callback"])
def test_what_was_learned_is_kept_when_a_loader_or_a_callback_raises(what, tmp_path):
    path, seen, states = tmp_path / "run.pt", [], []

    def loader():
        for index in range(9):
            if what == "loader" and index == 3:
                torch.rand(5)  # what failed has drawn numbers
                raise ZeroDivisionError
            yield waves().batch(index)

    def callback(history):
        seen.append(len(history.losses))
        states.append(torch.get_rng_state())
        if what == "callback" and len(seen) == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(regressor(), loader(), 9, checkpoint=path, each_iteration=callback, progress=False)
    assert load_checkpoint(path)["done"] == 3
    assert torch.equal(load_checkpoint(path)["random_state"], states[2])
    resumed, whole = regressor(), regressor()
    train(resumed, waves(), 5, checkpoint=path, resume=True, progress=False)
    train(whole, waves(), 5, progress=False)
    assert same(resumed.state_dict(), whole.state_dict())


def tiny_plan(seed=0):
    budget = dict(iterations=4, test_tasks=4, validation_tasks=2, dataset="glyphs", filters=2)
    return replace(reproduction.plan("5w1s", "maml", seed, **budget), tasks_per_batch=2)


def go(folder, run=None):
    return reproduction.reproduce(run or tiny_plan(), folder / "results", folder / "runs", progress=False)


@pytest.mark.parametrize("dies", ["save_weights", "write_json"])
def test_a_reproduction_that_was_killed_at_its_end_is_finished_by_the_same_command(dies, tmp_path, monkeypatch):
    def die(*arguments):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(reproduction, dies, die)
        with pytest.raises(SystemExit):
            go(tmp_path)
    assert not (tmp_path / "results" / "5w1s-maml-0.json").exists()  # it would say that all is done
    record = go(tmp_path)
    assert sorted(os.listdir(tmp_path / "results")) == ["5w1s-maml-0.json", "5w1s-maml.npz"]
    (tmp_path / "results" / "5w1s-maml.npz").unlink()  # as an earlier version may have left it
    assert go(tmp_path) == record
    assert load_weights(tmp_path / "results" / "5w1s-maml.npz")[1]["result"] == "5w1s-maml-0.json"


def test_a_results_folder_that_cannot_be_used_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "train", lambda *a, **k: pytest.fail("it trained"))
    (tmp_path / "results").write_text("in the way")
    assert "5w1s-maml-0.json cannot be written" in refusal(go, tmp_path)


def test_a_measurement_does_not_write_over_another_file_or_its_checkpoint(run, tmp_path):
    assert run("train", *TINY, "--out", "m.json", "--iterations", 1)[0] == 0
    before = (tmp_path / "m.json").read_bytes()
    assert "is the checkpoint itself" in sentence(run("evaluate", "m.json", "--json", "m.json", "--overwrite"))
    assert (tmp_path / "m.json").read_bytes() == before
    assert run("evaluate", "m.json", "--tasks", 2, "--json", "e.json")[0] == 0
    assert "e.json exists" in sentence(run("evaluate", "m.json", "--tasks", 3, "--json", "e.json"))
    assert run("evaluate", "m.json", "--tasks", 3, "--json", "e.json", "--overwrite")[0] == 0


# Two at once.


def test_two_trainings_do_not_write_into_one_checkpoint(tmp_path):
    path, messages = tmp_path / "run.pt", []

    def second(history):
        messages.append(refusal(train, regressor(), waves(), 2, checkpoint=path, progress=False))

    train(regressor(), waves(), 2, checkpoint=path, each_iteration=second, progress=False)
    assert messages == [f"{path} is in use by process {os.getpid()}: wait until it ends, or name another file."] * 2
    assert os.listdir(tmp_path) == ["run.pt"]


def test_two_reproductions_of_one_run(tmp_path):
    with records.only_writer(tmp_path / "results" / "5w1s-maml-0.json"):
        assert "5w1s-maml-0.json is in use by process" in refusal(go, tmp_path)


def test_two_notebooks_that_note_progress_lose_nothing(tmp_path, monkeypatch):
    path, real = tmp_path / "progress.json", progress._write
    monkeypatch.setenv("MAMLCOURSE_PROGRESS", str(path))
    both = threading.Barrier(2)

    def slow(path, passed):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # if both get here at once, each has read the file before the other wrote it
        real(path, passed)

    monkeypatch.setattr(progress, "_write", slow)
    threads = [threading.Thread(target=progress.record, args=(check,)) for check in ("split", "episode")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(progress.load()) == {"split", "episode"}
    assert os.listdir(tmp_path) == ["progress.json"]


# Files that are damaged or of another version.


@pytest.fixture
def checkpoint(tmp_path):
    train(regressor(), waves(), 2, checkpoint=tmp_path / "run.pt", progress=False)
    return tmp_path / "run.pt"


def test_an_altered_byte_anywhere_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    for place in [*range(4, len(content), 101), *range(len(content) - 72, len(content))]:
        checkpoint.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "is not a readable checkpoint" in refusal(load_checkpoint, checkpoint), place


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_loads(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state, checkpoint)
    assert load_checkpoint(checkpoint)["done"] == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("optimizer"), "expected a value for optimizer, got none"),
        (lambda s: s.update(done="two"), "expected int for done, got 'two'"),
        (lambda s: s["history"].pop("losses"), "expected a value for history.losses"),
        (lambda s: s["settings"].update(newer=3), "is of another version of mamlcourse: The setting 'newer'"),
        (lambda s: s["maml"].pop("model.head.bias"), "for model.head.bias it holds nothing"),
        (lambda s: s["maml"].update({"model.head.bias": torch.zeros(7)}), "it holds torch.float32 (7,)"),
        (lambda s: s["maml"].update({"model.head.bias": "zero"}), "it holds a str"),
        (lambda s: s["maml"]["model.head.bias"].fill_(float("nan")), "has elements that are not finite"),
        (lambda s: s.update(random_state=torch.zeros(3)), "is not a whole checkpoint"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(5)), "is not a whole checkpoint"),
    ],
)
def test_a_checkpoint_with_parts_missing_or_wrong_is_refused(change, message, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    change(state)
    save_atomically(state, checkpoint)
    found = refusal(train, regressor(), waves(), 4, checkpoint=checkpoint, resume=True, progress=False)
    assert message in found and str(checkpoint) in found


def test_weights_with_parts_missing_or_wrong_are_refused(tmp_path):
    problem, path = Problem(filters=2), tmp_path / "w.npz"
    maml = learner(problem.network(0), "maml")

    def altered(description=None, **arrays):
        save_weights(maml, path, {"problem": problem.describe()})
        with np.load(path) as stored:
            found = {**stored, **arrays}
        if description is not None:
            found["description"] = np.array(json.dumps(description(json.loads(str(found["description"])))))
        np.savez(path, **{name: value for name, value in found.items() if value is not None})
        return refusal(load_weights, path)

    assert "for model.head.bias it holds nothing" in altered(**{"model.head.bias": None})
    assert "for model.head.bias it holds torch.float32 (7,)" in altered(**{"model.head.bias": np.zeros(7, np.float32)})
    nan = np.full(5, np.nan, np.float32)
    assert "has elements that are not finite" in altered(**{"model.head.bias": nan})
    assert "expected a value for problem" in altered(lambda d: {"settings": d["settings"]})
    assert "is of another version" in altered(lambda d: d | {"problem": d["problem"] | {"new": 1}})
    assert "is of another version" in altered(lambda d: d | {"settings": d["settings"] | {"new": 1}})
    assert "expected a value for problem" in altered(lambda d: [d])


def test_parameters_that_are_not_finite_are_not_measured():
    maml = regressor()
    with torch.no_grad():
        maml.model.head.bias.fill_(float("nan"))
    assert "got nan or inf in head.bias" in refusal(evaluate, maml, waves(), 4)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduced")
    go(folder)
    return folder / "results" / "5w1s-maml-0.json"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: [r], "expected a JSON object, got a list"),
        (lambda r: {**r, "plan": 3}, "expected a value for plan.setting, got none"),
        (lambda r: {k: v for k, v in r.items() if k != "longer"}, "expected a value for longer, got none"),
        (lambda r: {**r, "test_accuracy": float("nan")}, "expected test_accuracy from 0 to 1, got nan"),
        (lambda r: {**r, "test_accuracy": 1.5}, "expected test_accuracy from 0 to 1, got 1.5"),
        (lambda r: {**r, "task_accuracies": [float("nan")] * 4}, "from 0 to 1 in task_accuracies, got nan"),
        (lambda r: {**r, "ensemble_accuracies": ["high"]}, "from 0 to 1 in ensemble_accuracies, got high"),
        (lambda r: {**r, "curve": [3]}, "expected a value for a point of the curve: iteration"),
    ],
)
def test_results_that_are_not_whole_are_refused(change, message, reproduced, tmp_path):
    (tmp_path / reproduced.name).write_text(json.dumps(change(json.loads(reproduced.read_text()))))
    assert message in refusal(papers.load_results, tmp_path)


def test_one_task_has_no_interval_and_the_record_says_null(run, tmp_path):
    assert run("train", *TINY, "--out", "m.pt", "--iterations", 1)[0] == 0
    code, out, err = run("evaluate", "m.pt", "--tasks", 1, "--json", "e.json")
    assert code == 0 and "nan" not in out and "NaN" not in (tmp_path / "e.json").read_text(), (out, err)
    assert records.read_json(tmp_path / "e.json")["interval"] is None


def with_a_huge_claim(path):
    """Let the first member of a zip claim to be four thousand million bytes."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)


def test_a_member_that_claims_to_be_huge_is_not_unpacked(tmp_path, checkpoint):
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)  # as before there were digests
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images_background/a.png", b"x")
    for file in (checkpoint, tmp_path / "w.npz", tmp_path / "images.zip"):
        with_a_huge_claim(file)
    assert "expected members of at most" in refusal(load_checkpoint, checkpoint)
    assert "expected members of at most" in refusal(load_weights, tmp_path / "w.npz")
    with pytest.raises(InputError, match="expected members of at most"), omniglot._opened(tmp_path / "images.zip"):
        pass


@needs_posix
def test_a_pipe_in_the_tree_of_images_is_refused(tmp_path):
    folder = tmp_path / "images_background"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    with omniglot._opened(folder) as (names, read):
        assert names == ["images_background/a.png"]
        assert "expected an ordinary file, got a pipe" in refusal(read, names[0])


# Terminals and paths.


@pytest.fixture
def finished(run, tmp_path):
    """A comparison of six algorithms, made of one that was measured."""
    assert run(*COMPARE)[0] == 0
    record = records.read_json(tmp_path / "runs" / "compare.json")
    entry = record["algorithms"]["maml"]
    record["algorithms"] = dict.fromkeys(("maml", "fomaml", "maml++", "fomaml++", "protomaml", "meta-sgd"), entry)
    return record


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_cuts_nothing(width, finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = comparison.rows(finished)
    cli._print_rows(comparison.caption(finished), rows, listed_by="columns")
    printed = capsys.readouterr().out
    lines = [line.strip() for line in printed.splitlines()]
    for name, *values in rows[1:]:
        for value in filter(None, values):
            assert f"{name}: {value}" in lines
    assert "…" not in printed and [line for line in lines if line in {f"{title}:" for title in rows[0]}]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
@pytest.mark.parametrize("arguments", [["doctor"], ["progress"], ["reproduce", "--list"]], ids=" ".join)
def test_no_command_cuts_what_it_says(arguments, width, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = run(*arguments)
    assert code == 0 and "…" not in out, (out, err)


@pytest.mark.parametrize("name", ["a[/b]c", "~nobody-of-that-name"])
def test_doctor_shows_any_path(name, run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("MAMLCOURSE_DATA", name)
    code, out, err = run("doctor")
    assert code == 0 and f"not in {name} ($MAMLCOURSE_DATA)" in out, (out, err)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a file, not a folder")
    code, out, err = run("doctor")
    assert code == 0 and f"The path {name} (from $MAMLCOURSE_DATA) is a file" in out, (out, err)


def test_a_record_names_no_folder(monkeypatch):
    arguments = ["compare", "--json=/secret/a.json", "--root", "/secret/b", "--x=1/2"]
    monkeypatch.setattr("sys.argv", ["mamlcourse", *arguments])
    assert records.provenance()["command"] == "mamlcourse compare --json=a.json --root b --x=1/2"


def test_help_needs_no_torch_and_all_names_are_still_there():
    code = (
        "import sys, mamlcourse.cli; sys.argv[1:] = ['compare', '--help']\n"
        "try: mamlcourse.cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])\n"
        "import mamlcourse.learner\n"
        "from mamlcourse import MAML, learner, training\n"
        "print(learner.__name__, MAML.__name__, 'train' in dir(mamlcourse), mamlcourse.learner is learner)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-2:] == ["[]", "learner MAML True True"]


def test_the_oldest_typer_that_is_allowed_starts():
    """Those before 0.16 cannot print a help text with click 8.2 or later, which they allow."""
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    major, minor = re.search(r'"typer>=(\d+)\.(\d+)"', project).groups()
    assert (int(major), int(minor)) >= (0, 16)


def test_the_help_names_the_backends_that_there_are():
    from mamlcourse.engine import backends

    assert set(cli.BACKENDS) == set(backends.BACKENDS)


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_ctrl_c_while_something_is_imported_is_one_line(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    process = command("doctor", environment={"PYTHONPATH": str(tmp_path)})
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130 and err.decode().splitlines() == ["mamlcourse: stopped."]


@needs_posix
def test_a_second_ctrl_c_is_one_line(tmp_path):
    code = (
        "import os, signal, sys; import mamlcourse.training.loop as loop; from mamlcourse.__main__ import main\n"
        "note, press = loop._Run.note, lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "loop._Run.note = lambda *arguments: (note(*arguments), press(), press())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "main()"
    )
    arguments = ["train", *TINY, "--out", "m.pt", "--iterations", "5"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    said = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.strip() and "batch/s" not in line]
    assert result.returncode == 130 and said[-1].strip() == "mamlcourse: stopped." and "Traceback" not in result.stderr


# Numbers beyond reason.


@pytest.mark.parametrize("number", [10**12, 10**23])
@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--seeds"], ["compare", "--eval-tasks"], ["compare", "--inner-steps"], ["compare", "--filters"],
        ["compare", "--ways"], ["compare", "--shots"], ["compare", "--queries"], ["compare", "--tasks-per-batch"],
        ["compare", "--train-tasks"], ["train", "--out", "m.pt", "--iterations"], ["train", "--out", "m.pt", "--ways"],
        ["train", "--out", "m.pt", "--filters"], ["train", "--out", "m.pt", "--inner-steps"],
        ["train", "--out", "m.pt", "--tasks-per-batch"], ["reproduce", "5w1s", "--seeds"],
        ["reproduce", "5w1s", "--filters"], ["reproduce", "5w1s", "--test-tasks"],
        ["reproduce", "5w1s", "--iterations"],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)  # fmt: skip
def test_huge_numbers_are_refused_at_once(arguments, number, run):
    assert str(number) in sentence(run(*arguments, number))


def test_a_huge_seed_and_a_huge_evaluation_are_refused(run):
    assert "seed: expected" in sentence(run("train", "--out", "m.pt", "--seed", 10**23))
    assert run("train", *TINY, "--out", "m.pt", "--iterations", 1)[0] == 0
    for option in ("--tasks", "--steps"):
        assert "at most" in sentence(run("evaluate", "m.pt", option, 10**12))


def test_an_allocation_that_fails_is_said_in_a_sentence(run, monkeypatch):
    monkeypatch.setattr("mamlcourse.problems.Problem.network", lambda *a: torch.empty(10**16))
    assert "These numbers are too large for this machine" in sentence(run("train", "--out", "m.pt"))


def test_names_that_are_too_long_get_a_sentence(run):
    name = "x" * 300
    for arguments in (
        ["train", "--out", name], ["evaluate", name], ["compare", "--json", f"{name}.json"],
        ["compare", "--figure", f"{name}.png"], ["results", name], ["data", "omniglot", "--root", name],
    ):  # fmt: skip
        assert name in sentence(run(*arguments))


def test_a_device_that_holds_no_values_is_refused():
    assert "The device 'meta' cannot be used here" in refusal(choose_device, "meta")


def test_data_that_is_not_finite_is_not_blamed_on_the_learning_rate():
    batch = waves().batch(0)
    bad = batch._replace(support_x=batch.support_x * float("inf"))
    message = refusal(train, regressor(), [batch, bad], 2, progress=False)
    assert message == "The data: expected finite numbers, got nan or inf in support_x of the batch of iteration 2."


# The process that trains.


def test_two_unbroken_runs_leave_the_same_random_state(run, tmp_path):
    for number in range(2):
        torch.manual_seed(number)
        assert run("train", *TINY, "--out", f"{number}.pt", "--iterations", 1)[0] == 0
    assert torch.equal(*(load_checkpoint(f"{number}.pt")["random_state"] for number in range(2)))


@needs_posix
def test_ctrl_c_in_the_first_moment_of_training_spoils_nothing():
    code = (
        "import builtins, os, signal\n"
        "from mamlcourse import MLP, SinusoidTasks, learner, train\n"
        "import torch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "real = builtins.__import__\n"
        "def pressing(name, *arguments, **options):\n"
        "    if name.startswith('torch._dynamo'):\n"
        "        builtins.__import__ = real\n"
        "        os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *arguments, **options)\n"
        "builtins.__import__ = pressing\n"
        "def go(iterations):\n"
        "    maml = learner(MLP(hidden=2), 'maml', loss=torch.nn.functional.mse_loss)\n"
        "    return train(maml, SinusoidTasks(), iterations, progress=False)\n"
        "print(len(go(5).losses), len(go(3).losses))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and result.stdout.split()[-2:] == ["1", "3"], result.stderr


def test_each_module_can_be_imported_first():
    """All in one process, which forgets the package in between and not PyTorch, whose import takes the time."""
    code = (
        "import sys\n"
        "for module in ('training.checkpoints', 'papers.tables', 'pretrained', 'checks.progress'):\n"
        "    for name in [name for name in sys.modules if name.partition('.')[0] == 'mamlcourse']:\n"
        "        del sys.modules[name]\n"
        "    __import__(f'mamlcourse.{module}')\n"
        "    print(module)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and len(result.stdout.split()) == 4, result.stderr
