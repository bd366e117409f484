"""Small worlds that the tests share."""

import multiprocessing
import os

# One torch thread per test worker: several processes of several threads each crawl on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from mamlcourse import Characters, CharacterTasks, InputError, TaskBatch

# Processes to kill are forked from a server that has imported everything once; torch.optim imports torch._dynamo late.
FORKING = multiprocessing.get_context("forkserver") if os.name == "posix" else None
if FORKING:
    FORKING.set_forkserver_preload(["pytest", "mamlcourse.api", "matplotlib.figure", "torch._dynamo"])


@pytest.fixture
def noise():
    """Characters of pure noise: 40 classes in 8 alphabets, 20 drawings each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 20, 28, 28), generator=generator, dtype=torch.uint8)
    alphabets = tuple(f"alphabet {c // 5}" for c in range(40))
    names = tuple(f"letter {c % 5}" for c in range(40))
    return Characters("noise", images, alphabets, names, frozenset({"alphabet 7"}))


@pytest.fixture
def episodes(noise):
    """A float64 meta-batch of 3 tasks, 3-way 2-shot with 2 queries per class."""
    return as_float64(CharacterTasks(noise, ways=3, shots=2, queries=2, tasks_per_batch=3, rotations=True).batch(0))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command inside an empty folder; returns (exit code, standard output, standard error)."""
    from mamlcourse import cli

    monkeypatch.chdir(tmp_path)
    # Measuring memory starts processes, which takes seconds; test_comparison.py tests it.
    monkeypatch.setattr("mamlcourse.comparison.peak_of_training", lambda *arguments: 1_000_000)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["mamlcourse", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def as_float64(batch):
    return TaskBatch(*(x.double() if x.is_floating_point() else x for x in batch))


def refusal(function, *arguments, **keywords):
    """The message of the `InputError` that the call must raise: one line that ends as a sentence does."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def drag(page, frame, strokes):
    """Draw strokes, lists of places from 0 to 1, with the mouse into a box on a page (Playwright's bounding box)."""
    for stroke in strokes:
        places = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=5)
        page.mouse.up()
