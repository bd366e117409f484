"""Which way of computing a meta-batch is chosen."""

import functools
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from mamlcourse import (
    MAML,
    MLP,
    CharacterTasks,
    Conv4,
    SinusoidTasks,
    TaskBatch,
    learner,
    load_characters,
)  # fmt: skip
from mamlcourse.engine import backends
from mamlcourse.engine.backends import WIDE, WIDE_ENOUGH_FOR_THREADS, WIDE_FOR_SEVERAL, choose, keep_freed_memory
from mamlcourse.engine.inspection import widest_output
from mamlcourse.errors import InputError


@pytest.fixture
def cores():
    """A function that sets PyTorch's number of threads for the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def batch(queries):
    return CharacterTasks(load_characters().split().train, queries=queries, tasks_per_batch=2).batch(0)


def test_the_widest_output_is_that_of_any_layer():
    assert widest_output(Conv4(5, 8), torch.zeros(3, 1, 28, 28)) == 3 * 8 * 28 * 28
    assert widest_output(Conv4(5, 8, "stride"), torch.zeros(3, 1, 28, 28)) == 3 * 8 * 14 * 14
    assert widest_output(nn.Linear(4, 2), torch.zeros(3, 4)) == 6


def test_looking_at_a_model_leaves_no_trace():
    model, x = nn.Sequential(nn.Linear(4, 2), nn.Dropout()), torch.zeros(3, 4)
    before = torch.get_rng_state()
    widest_output(model, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize(
    "threads, limit, below, above",
    [
        (1, WIDE, "vmap", "loop"), (2, WIDE_FOR_SEVERAL, "vmap", "loop"),
        (2, WIDE_ENOUGH_FOR_THREADS, "loop", "threads"), (1, WIDE_ENOUGH_FOR_THREADS, "loop", "loop"),
    ],
)  # fmt: skip
def test_small_convolutions_at_once_and_large_ones_one_by_one(threads, limit, below, above, cores):
    cores(threads)
    elements = 14 * 14 * 8 * 5  # of one query in each class
    for queries, expected in ((limit // elements, below), (limit // elements + 1, above)):
        # As many examples as that are not there: repeat one.
        given = batch(1)
        x = given.query_x.repeat(1, queries, 1, 1, 1)
        given = given._replace(query_x=x, query_y=given.query_y.repeat(1, queries))
        assert choose("auto", Conv4(5, 8, "stride"), given) == expected


def test_the_choice_is_made_with_the_first_batch_and_stays(cores):
    cores(1)
    maml = MAML(Conv4(5, 4, "stride"), inner_steps=1)
    assert maml.backend == "auto"
    maml.meta_gradients(batch(1))
    assert maml.backend == "vmap"
    maml.backend = "loop"
    maml.meta_gradients(batch(15))
    assert maml.backend == "loop"


def test_without_convolutions_nothing_has_to_be_seen():
    maml = MAML(MLP(), loss=nn.functional.mse_loss, inner_steps=1)
    assert maml.backend == "vmap"
    maml.meta_gradients(SinusoidTasks(tasks_per_batch=2).batch(0))


@pytest.mark.parametrize("backend", ["loop", "threads", "vmap"])
def test_a_named_backend_is_used(backend):
    maml = MAML(Conv4(5, 2, "stride"), backend=backend, inner_steps=1)
    maml.meta_gradients(batch(1))
    assert maml.backend == backend


def waves(backend, model=None, **settings):
    torch.manual_seed(0)
    model = (model or MLP(hidden=4)).double()
    maml = MAML(model, loss=nn.functional.mse_loss, inner_lr=0.05, backend=backend, **settings)
    return maml, TaskBatch(*(x.double() for x in SinusoidTasks(tasks_per_batch=2).batch(0)))


traceable = pytest.mark.skipif(
    torch.__version__ < "2.11",
    reason="torch.compile cannot trace a meta-gradient in torch 2.6, and in the versions up to 2.11 it was not tried",
)
COMPILER = next(filter(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl")), None)


@traceable
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler")
def test_compiled_gradients_are_those_of_the_loop():
    (compiled, batch), (loop, _) = waves("compiled"), waves("loop")
    for seed in range(3):  # nothing that changes may have been compiled in
        with torch.no_grad():
            for p, other in zip(compiled.model.parameters(), loop.model.parameters()):
                p.copy_(torch.randn_like(p))
                other.copy_(p)
        batch = TaskBatch(*(x.double() for x in SinusoidTasks(tasks_per_batch=2, seed=seed).batch(0)))
        found, expected = (maml.meta_gradients(batch).gradients for maml in (compiled, loop))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert compiled.backend == "compiled"


@pytest.fixture
def only_traced(monkeypatch):
    """torch.compile that traces and compiles nothing, for what would take minutes."""
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=keep))
    backends._fuser.cache_clear()
    yield graphs
    backends._fuser.cache_clear()


@traceable
@pytest.mark.parametrize("name", ["maml++", "anil", "reptile", "fomaml", "protomaml"])
def test_every_kind_of_meta_gradient_can_be_traced(name, only_traced):
    tasks = CharacterTasks(load_characters().split().train, ways=2, queries=1, tasks_per_batch=2).batch(0)
    tasks = TaskBatch(*(x.double() if x.is_floating_point() else x for x in tasks))
    torch.manual_seed(0)
    model = Conv4(2, 2).double()
    learners = (learner(model, name, inner_steps=2, backend=each) for each in ("compiled", "loop"))
    found, expected = (maml.meta_gradients(tasks) for maml in learners)
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-8, atol=1e-11)
    assert found.accuracy == expected.accuracy and len(only_traced) == 1


@traceable
def test_compiled_once_for_each_kind_of_epoch(only_traced):
    settings = dict(inner_steps=2, multi_step_loss="annealed", multi_step_epochs=10)
    (compiled, batch), (loop, _) = waves("compiled", **settings), waves("loop", **settings)
    for epoch in [*range(14), 0]:
        found, expected = (maml.meta_gradients(batch, epoch).gradients for maml in (compiled, loop))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        assert len(only_traced) <= min(epoch, 10) + 1 or epoch == 0
    assert len(only_traced) == 11  # more than PyTorch's own limit; once annealed, all epochs are alike
    compiled.trajectory(batch)
    assert len(only_traced) == 11


class Moody(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(hidden=4)

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)


def test_what_cannot_be_compiled_is_said():
    maml, batch = waves("compiled", Moody())
    with pytest.raises(InputError, match="backend is 'compiled', but torch.compile cannot do it here .*: take another"):
        maml.meta_gradients(batch)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only GNU's C library can be told to keep memory")
def test_freed_memory_is_kept_and_not_cleared_again():
    """The pages that a training step touches for the first time, in a process of its own: at best none."""
    lines = (
        "import resource, torch; from mamlcourse import MAML, Conv4, CharacterTasks, load_characters",
        "torch.set_num_threads(1)",
        "batch = CharacterTasks(load_characters().split().train, queries=15, tasks_per_batch=1).batch(0)",
        "maml = MAML(Conv4(), 'fomaml', inner_steps=1, backend='loop')",
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt",
        "seen = []",
        "for _ in range(8): before = faults(); maml.meta_gradients(batch); seen.append(faults() - before)",
        "print(min(seen))",
    )
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 1000  # about 10,000 otherwise


def test_where_memory_cannot_be_kept_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory.__wrapped__() is False
