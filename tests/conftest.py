"""Small worlds that the tests share."""

import os

# One torch thread per test worker: several processes of several threads each crawl on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from mamlcourse import Characters, CharacterTasks, InputError, TaskBatch


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


def as_float64(batch):
    return TaskBatch(*(x.double() if x.is_floating_point() else x for x in batch))


def refusal(function, *arguments, **keywords):
    """The message of the `InputError` that the call must raise: one line that ends as a sentence does."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message
