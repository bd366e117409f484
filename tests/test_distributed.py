"""Several processes train as one does, and end together: ranks as threads for the arithmetic, torchrun for the rest."""

import contextlib
import copy
import functools
import multiprocessing.connection
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import FORKING, as_float64, refusal
from torch.nn import functional as F

from mamlcourse import MAML, MLP, CharacterTasks, Conv4, SinusoidTasks, learner, load_checkpoint, train
from mamlcourse.cli import main
from mamlcourse.training.distributed import Ranks, joined

needs_torchrun = pytest.mark.skipif(
    os.name != "posix" or not dist.is_available() or not dist.is_gloo_available(),
    reason="this system has no signals as POSIX has them, or this PyTorch has no torch.distributed with gloo",
)


# Ranks as threads, whose collectives are a meeting in memory.


@pytest.fixture
def as_threads(monkeypatch):
    """`as_threads(size, function)`: the results of `function(Ranks(rank, size))` of every rank."""

    def run(size, function):
        meeting, brought, sent, results = threading.Barrier(size), {}, [], {}

        def meet(value, combine):
            brought[threading.current_thread().name] = value
            meeting.wait(60)
            met = combine([brought[str(rank)] for rank in range(size)])
            meeting.wait(60)
            return met

        def all_reduce(buffer):
            sent.append(buffer.clone())
            buffer.copy_(meet(buffer.clone(), lambda values: functools.reduce(torch.add, values)))

        def broadcast(tensor, src):
            tensor.copy_(meet(tensor.clone(), lambda values: values[src]))

        def broadcast_object_list(box, src, device):
            box[0] = copy.deepcopy(meet(box[0], lambda values: values[src]))  # each its own, as from another process

        for fake in (all_reduce, broadcast, broadcast_object_list):
            monkeypatch.setattr(dist, fake.__name__, fake)

        def one(rank):
            try:
                results[rank] = function(Ranks(rank, size))
            except BaseException:
                meeting.abort()
                raise

        threads = [threading.Thread(target=one, args=(rank,), name=str(rank)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == size, "a rank failed"
        return [results[rank] for rank in range(size)], sent

    return run


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_slices_are_the_whole_batch_in_order_and_nearly_equal(size):
    batch = SinusoidTasks(tasks_per_batch=7).batch(0)
    slices = [Ranks(rank, size).slice(batch) for rank in range(size)]
    for whole, parts in zip(batch, zip(*slices)):
        assert torch.equal(torch.cat(parts), whole)
    sizes = {len(part[0]) for part in slices}
    assert max(sizes) - min(sizes) <= 1


def test_fewer_tasks_than_ranks_are_refused():
    assert refusal(Ranks(1, 3).slice, SinusoidTasks(tasks_per_batch=2).batch(0)) == (
        "tasks_per_batch: expected at least 3, so that each of the 3 processes has a task, got 2."
    )


@pytest.mark.parametrize("recipe", ["maml", "maml++"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_shared_meta_gradients_are_those_of_one_process(recipe, dtype, tolerance, noise, as_threads):
    """Loss, accuracy and gradients, with slices of 1, 1, 2 tasks; one buffer of the parameters' type is sent."""
    batch = CharacterTasks(noise, ways=3, shots=1, queries=2, tasks_per_batch=4).batch(0)
    batch = as_float64(batch) if dtype == torch.float64 else batch

    def fresh():
        torch.manual_seed(0)
        return learner(Conv4(3, 4).to(dtype), recipe, inner_steps=2, backend="loop")

    mamls = [fresh() for _ in range(4)]
    loss, accuracy, gradients = mamls[3].meta_gradients(batch)
    computed = []

    def one(ranks):
        share = ranks.slice(batch)
        computed.append(len(share[0]))
        mine, weight = mamls[ranks.rank].meta_gradients(share), len(share[0]) / len(batch[0])
        found = ranks.average(mine, weight, "batched" if ranks.rank == 0 else "loop")
        assert ranks.backend == "batched"  # all hear by what rank 0 computes
        return found

    found, sent = as_threads(3, one)
    assert sorted(computed) == [1, 1, 2]
    for own_loss, own_accuracy, own_gradients in found:
        assert own_loss.item() == pytest.approx(loss.item(), rel=tolerance)
        assert own_accuracy.item() == pytest.approx(accuracy.item(), rel=1e-6)
        assert [part.keys() for part in own_gradients] == [part.keys() for part in gradients]
        largest = max(g.abs().max() for g in gradients.tensors())
        for own, gradient in zip(own_gradients.tensors(), gradients.tensors()):
            assert own.dtype == dtype and own.shape == gradient.shape
            assert (own - gradient).abs().max() <= tolerance * largest
    assert len(sent) == 3  # one each
    elements = sum(p.numel() for p in mamls[3].meta_params().tensors())
    assert all(buffer.dtype == dtype and buffer.shape == (elements + 4,) for buffer in sent)


def regressor(seed=0):
    torch.manual_seed(seed)
    return MAML(MLP(hidden=8).double(), inner_lr=0.01, inner_steps=1, outer_lr=0.01, loss=F.mse_loss, backend="loop")


class Waves:
    """Sinusoids in float64, five tasks to a batch; what is asked for is noted."""

    def __init__(self):
        self.tasks, self.asked = SinusoidTasks(shots=5, queries=5, tasks_per_batch=5), []

    def batch(self, index):
        self.asked.append(index)
        return as_float64(self.tasks.batch(index))


def close(one, other):
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=1e-9, atol=1e-12) for name in one
    )


def trained(as_threads, size, iterations, **settings):
    """The meta-learners and histories of ranks that begin with different parameters, and one process's."""
    mamls = [regressor(seed) for seed in range(size)]
    results, _ = as_threads(
        size, lambda ranks: train(mamls[ranks.rank], Waves(), iterations, progress=False, ranks=ranks, **settings)
    )
    whole = regressor()
    return mamls, results, whole, train(whole, Waves(), iterations, progress=False)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_train_as_one_process_and_regression_has_no_accuracy(size, as_threads):
    mamls, results, whole, history = trained(as_threads, size, 6)
    for maml, own in zip(mamls, results):
        assert close(maml.state_dict(), whole.state_dict())
        assert own.losses == pytest.approx(history.losses, rel=1e-12) and own.accuracies == [] and own.finished
    if size == 1:
        assert all(torch.equal(a, b) for a, b in zip(mamls[0].parameters(), whole.parameters()))
        assert results[0].losses == history.losses


def test_only_rank_0_validates_is_called_and_writes(as_threads, tmp_path, capsys):
    calls = []
    settings = dict(validation=[Waves().batch(0)], validation_tasks=1, validate_every=2, each_iteration=calls.append)
    settings |= dict(checkpoint=tmp_path / "run.pt", save_every=1)
    _, results, _, _ = trained(as_threads, 2, 4, **settings)
    assert [len(history.validation) for history in results] == [2, 0] and len(calls) == 4
    assert os.listdir(tmp_path) == ["run.pt"] and capsys.readouterr().out == ""


@pytest.mark.parametrize("before, after", [(2, 3), (3, 1), (1, 2)])
def test_resuming_on_another_number_of_ranks(before, after, as_threads, tmp_path):
    file = dict(checkpoint=tmp_path / "run.pt", resume=True)
    trained(as_threads, before, 3, **file)
    mamls, results, whole, history = trained(as_threads, after, 7, **file)
    for maml, own in zip(mamls, results):
        assert close(maml.state_dict(), whole.state_dict())
        assert own.losses == pytest.approx(history.losses, rel=1e-12)


def test_all_ranks_stop_at_the_same_iteration(as_threads, tmp_path, capsys):
    """The wish of `each_iteration`, heard by rank 0 alone, arrives with the next iteration's gradients."""
    file = dict(checkpoint=tmp_path / "run.pt")
    _, results, _, _ = trained(as_threads, 3, 9, each_iteration=lambda history: len(history.losses) == 4, **file)
    assert [len(history.losses) for history in results] == [5, 5, 5]
    assert not any(history.finished for history in results) and load_checkpoint(tmp_path / "run.pt")["done"] == 5
    assert capsys.readouterr().out.count("Stopped after 5 of 9 iterations") == 1


def test_sigterm_at_any_rank_stops_all(as_threads):
    def one(ranks):
        if ranks.rank == 1:
            ranks.note_termination(signal.SIGTERM, None)
        return train(regressor(), Waves(), 9, progress=False, ranks=ranks)

    assert [len(history.losses) for history in as_threads(2, one)[0]] == [1, 1]


def test_loaders_are_refused_where_there_are_several_ranks():
    assert refusal(train, regressor(), [Waves().batch(0)], 3, progress=False, ranks=Ranks(0, 2)) == (
        "The tasks are of type list, but several processes need a task family, with a method batch(index): "
        "a loader that shuffles would give each process other tasks."
    )


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Ranks(5, 8).device(torch.device("cuda")) == torch.device("cuda", 1) and chosen == [1]
    assert Ranks(5, 8).device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "set --nproc-per-node to at most 2, or use --device cpu" in refusal(Ranks(6, 8).device, torch.device("cuda"))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "4"},  # some schedulers set it for their own ends
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    ],
)
def test_a_process_alone_joins_nothing(environment, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with joined() as ranks:
        assert (ranks.rank, ranks.size) == (0, 1) and not dist.is_initialized()
        assert ranks.average("as it is", weight=1) == "as it is" and ranks.from_first(lambda: 3) == 3
        assert ranks.stop(True) and not ranks.stop(False)


# Processes that torchrun starts.

TINY = ["--filters", 4, "--queries", 1, "--ways", 2, "--inner-steps", 2, "--tasks-per-batch", 3]
TRAIN = ["-m", "mamlcourse", "train", *map(str, TINY)]
FOREVER = ["--iterations", 100_000, "--save-every", 1]
WAIT = 1200  # seconds; a busy machine may need minutes to import PyTorch


@contextlib.contextmanager
def torchrun(folder, *arguments, program=TRAIN):
    """A Python program in two processes, ended with the block."""
    command = [*program, *map(str, arguments)]
    started = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield started
    finally:
        if started.poll() is None:
            for process in [*psutil.Process(started.pid).children(recursive=True), started]:
                process.kill()
            started.communicate()


def ended(folder, *arguments, **keywords):
    """(exit code, standard output, standard error) of a run that ends by itself."""
    with torchrun(folder, *arguments, **keywords) as process:
        out, err = process.communicate(timeout=WAIT)
        return process.returncode, out, err


def as_a_rank(rank, folder, streams, environment, arguments):
    """The command in a process that was forked, whose standard output and error go into two files."""
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    os.chdir(folder)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = ["mamlcourse", "train", *map(str, [*TINY, *arguments])]
    main()


def forked(folders, *arguments):
    """What `ended` returns, of ranks that work in the given folders, for what does not depend on who starts a rank.

    torchrun and its processes spend seconds importing PyTorch; these are forked from a server that has done so. They
    find what torchrun gives its own: variables, a store that outlives them, and SIGTERM when another rank failed.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = {
        "WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as beside:
        streams = [Path(beside) / name for name in ("out", "err")]
        for stream in streams:
            stream.touch()
        ranks = [
            FORKING.Process(target=as_a_rank, args=(rank, folder, streams, environment, arguments))
            for rank, folder in enumerate(folders)
        ]
        for rank in ranks:
            rank.start()
        try:
            patience = time.monotonic() + WAIT
            while running := [rank for rank in ranks if rank.exitcode is None]:
                ready = multiprocessing.connection.wait([r.sentinel for r in running], patience - time.monotonic())
                assert ready, "the ranks do not end"
                if any(rank.exitcode for rank in ranks):
                    for rank in running:
                        rank.terminate()
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        return max(abs(rank.exitcode) for rank in ranks), *(stream.read_text() for stream in streams)


def alone(monkeypatch, folder, *arguments):
    """The same command in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["mamlcourse", "train", *map(str, [*TINY, *arguments])])
    with pytest.raises(SystemExit) as finished:
        main()
    assert finished.value.code == 0


def rank_process(started, rank):
    """The process of a rank."""
    for child in psutil.Process(started.pid).children():
        if child.environ().get("RANK") == str(rank):
            return child
    raise AssertionError(f"there is no rank {rank}")


def wait_for(path, started):
    patience = time.monotonic() + WAIT
    while not path.exists():
        assert started.poll() is None and time.monotonic() < patience, started.communicate()
        time.sleep(0.05)


def sentences(err):
    return [line for line in err.splitlines() if line.startswith("mamlcourse: ")]


def assert_close(one, other):
    """Whether two checkpoints are equal within rounding.

    A convolution's bias is subtracted again by the normalisation behind it. Its gradient, and that of its rate, is
    rounding alone, which Adam makes as large as any other: nothing depends on these numbers.
    """
    one, other = load_checkpoint(one), load_checkpoint(other)
    assert one["done"] == other["done"] and one["maml"].keys() == other["maml"].keys()
    assert one["history"]["losses"] == pytest.approx(other["history"]["losses"], rel=1e-4)
    idle = re.compile(r"features\W(0|4|8|12)\Wbias$")
    for name, value in one["maml"].items():
        if not idle.search(name):
            assert torch.allclose(value, other["maml"][name], rtol=0, atol=1e-5), name


@needs_torchrun
def test_two_processes_learn_what_one_does_and_one_of_them_speaks(tmp_path, monkeypatch):
    code, out, err = ended(tmp_path, "--out", "two.pt", "--iterations", 4)
    assert code == 0, err
    trained, checkpoint = out.splitlines()
    assert trained.startswith("Trained 4 iterations in ") and checkpoint.startswith("Checkpoint: two.pt. ")
    assert err.count("maml:   0%") == 1 and os.listdir(tmp_path) == ["two.pt"]
    alone(monkeypatch, tmp_path, "--out", "one.pt", "--iterations", 4)
    assert_close("one.pt", "two.pt")
    validations = [load_checkpoint(name)["history"]["validation"] for name in ("one.pt", "two.pt")]
    assert validations[0] == [(4, pytest.approx(validations[1][0][1], abs=0.03))]


@needs_torchrun
def test_two_processes_resume_what_one_began_without_sharing_files(tmp_path, monkeypatch):
    for folder in ("0", "1", "whole"):
        (tmp_path / folder).mkdir()
    options = ["--out", "run.pt", "--algorithm", "maml++"]
    alone(monkeypatch, tmp_path / "0", *options, "--iterations", 2)
    code, out, err = forked([tmp_path / "0", tmp_path / "1"], *options, "--iterations", 4, "--resume")
    assert code == 0, err
    assert out.count("was a run of 2 iterations, now of 4") == 1 and len(out.splitlines()) == 3
    assert os.listdir(tmp_path / "0") == ["run.pt"] and os.listdir(tmp_path / "1") == []
    alone(monkeypatch, tmp_path / "whole", *options, "--iterations", 2)
    alone(monkeypatch, tmp_path / "whole", *options, "--iterations", 4, "--resume")
    assert_close(tmp_path / "0" / "run.pt", tmp_path / "whole" / "run.pt")


@needs_torchrun
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_ends_all_and_the_run_resumes_in_one_process(victim, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    with torchrun(tmp_path, "--out", "run.pt", *FOREVER) as started:
        wait_for(path, started)
        rank_process(started, victim).kill()
        out, err = started.communicate(timeout=WAIT)
        assert started.returncode != 0
    (sentence,) = sentences(err)
    assert sentence.startswith(f"mamlcourse: Rank {1 - victim} of 2 noticed that another rank is gone or silent (")
    assert sentence.endswith("what was saved is in the checkpoint, so go on with the same command and --resume.")
    assert out == ""
    done = load_checkpoint(path)["done"]
    assert done >= 1
    alone(monkeypatch, tmp_path, "--out", "run.pt", "--iterations", done + 2, "--resume")
    alone(monkeypatch, tmp_path, "--out", "whole.pt", "--iterations", done + 2)
    assert_close("run.pt", "whole.pt")


@needs_torchrun
def test_sigterm_to_one_process_stops_all_as_ctrl_c_does(tmp_path):
    with torchrun(tmp_path, "--out", "run.pt", *FOREVER) as started:
        wait_for(tmp_path / "run.pt", started)
        rank_process(started, 1).terminate()
        out, err = started.communicate(timeout=WAIT)
        assert started.returncode != 0 and sentences(err) == []
    done = load_checkpoint(tmp_path / "run.pt")["done"]
    stopped, go_on = out.splitlines()
    assert stopped.startswith(f"Stopped after {done} of 100000 iterations")
    assert go_on == "Go on with the same command and --resume; run.pt has everything."


@needs_torchrun
@pytest.mark.parametrize("speaker", [0, 1])
def test_the_sentence_has_a_line_of_its_own_whatever_is_on_the_screen(speaker, tmp_path):
    """Rank 0's progress bar stands on the line until its training ends, and another rank may speak before."""
    script = f"""
        import sys
        from mamlcourse import InputError
        from mamlcourse.training.distributed import joined

        with joined() as ranks:
            if ranks.rank == 0:
                sys.stderr.write("maml:   0%|          |")
                sys.stderr.flush()
            ranks.from_first(lambda: None)
            if ranks.rank == {speaker}:
                if ranks.rank == 0:
                    sys.stderr.write("\\r                      \\r")  # a bar ends before its rank goes on
                raise InputError("All is lost.")
            ranks.from_first(lambda: None)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    code, out, err = ended(tmp_path, program=["script.py"])
    assert code != 0 and sentences(err) == ["mamlcourse: All is lost."], err


@needs_torchrun
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "there.pt"], "there.pt exists: go on with --resume, or name another file with --out."),
        (["--out", "there.pt", "--resume"], "there.pt is not a readable checkpoint ("),
        (["--out", "m.pt", "--tasks-per-batch", 1], "tasks_per_batch: expected at least 2, so that each of"),
        (["--out", "m.pt", "--inner-lr", 1e30, "--iterations", 3], "Training diverged: the loss is nan at iteration 1"),
    ],
    ids=["exists", "unreadable", "few tasks", "diverged"],
)
def test_bad_input_gets_one_sentence_from_all(arguments, message, tmp_path):
    Path(tmp_path / "there.pt").write_text("in the way")
    code, out, err = forked([tmp_path, tmp_path], *arguments)
    (sentence,) = sentences(err)
    assert code != 0 and sentence.startswith(f"mamlcourse: {message}") and out == ""
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["there.pt"]
