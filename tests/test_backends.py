"""Which way of computing a meta-batch is chosen."""

import functools
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig

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
    train,
)  # fmt: skip
from mamlcourse.engine import backends
from mamlcourse.engine.backends import candidates, keep_freed_memory
from mamlcourse.engine.choice import Choice
from mamlcourse.engine.inspection import draws_random_numbers
from mamlcourse.errors import InputError

learner_module = importlib.import_module("mamlcourse.learner")  # the package has a function of that name


def batch(queries):
    return CharacterTasks(load_characters().split().train, queries=queries, tasks_per_batch=2).batch(0)


def test_looking_at_a_model_leaves_no_trace():
    model, x = nn.Sequential(nn.Linear(4, 2), nn.Dropout()), torch.zeros(3, 4)
    before = torch.get_rng_state()
    assert draws_random_numbers(model, x) and not draws_random_numbers(model.eval(), x)
    assert torch.equal(torch.get_rng_state(), before)


# Who is a candidate.


@pytest.mark.parametrize(
    "tasks, draws, threads, expected",
    [
        (4, False, 2, ["loop", "batched", "products", "threads"]), (4, False, 1, ["loop", "batched", "products"]),
        (1, False, 2, ["loop"]), (4, True, 2, ["loop"]),
    ],
)  # fmt: skip
def test_candidates_on_a_cpu(tasks, draws, threads, expected):
    assert candidates(Conv4(5, 2), tasks, draws, threads, order=2) == expected


def test_candidates_elsewhere():
    assert candidates(MLP(), 4, False, 1, 2) == ["loop", "batched"]  # nothing to convolve
    assert candidates(MLP(), 4, False, 2, 1) == ["loop", "batched", "vmap", "threads"]
    assert candidates(Conv4(5, 2), 4, False, 1, None) == ["loop", "batched"]  # an evaluation
    assert candidates(Conv4(5, 2).to("meta"), 4, False, 2, 2) == ["vmap"]


# How one is chosen.


def measured(names, seconds, **given):
    """A `Choice` after its candidates took turns: {name: seconds of each of its calls, the cold one first}."""
    choice, turns = Choice(list(names), **given), {name: iter(own) for name, own in seconds.items()}
    while not choice.chosen:
        name = choice.next()
        choice.note(name, next(turns[name]))
    return choice


def test_the_fastest_is_chosen_by_its_best_call_when_warm():
    slow_start, noisy = [9.0, 1.0, 1.0, 1.0], [2.0, 3.0, 2.0, 2.5]
    choice = measured(["loop", "batched"], {"loop": noisy, "batched": slow_start})
    assert choice.chosen == "loop"  # so slow a first call leaves nothing to try
    choice = measured(["loop", "batched"], {"loop": noisy, "batched": [4.9, 1.0, 1.2, 1.0]})
    assert choice.chosen == "batched" and choice.times_as_fast() == {"loop": 1, "batched": 2}


def test_the_earlier_one_stays_unless_another_is_clearly_faster():
    for batched, expected in ((0.97, "loop"), (0.9, "batched")):
        assert measured(["loop", "batched"], {"loop": [1] * 4, "batched": [batched] * 4}).chosen == expected


def test_a_candidate_far_behind_is_not_tried_again():
    times = {"loop": [1] * 4, "batched": [0.5] * 4, "threads": [1.2, 0.9, 1.1]}
    choice = measured(list(times), times)
    assert choice.chosen == "batched" and len(choice.seconds["threads"]) == 2
    assert measured(["loop", "vmap"], {"loop": [1] * 4, "vmap": [4.1]}).seconds.get("vmap") is None


def test_a_choice_says_what_it_measured_and_comes_back_from_plain_values():
    choice = Choice(["loop", "batched", "products"])
    for name in ("loop", "batched"):
        choice.note(name, 1.0)
    choice.exclude("products", "no rule")
    again = Choice(**json.loads(json.dumps(choice.to_record())))
    assert again == choice and again.next() == "loop"
    for name in ("loop", "batched") * 3:
        again.note(name, 1.0 if name == "loop" else 0.4)
    assert again.in_words() == (
        "backend batched, measured by the first batches (times as fast as loop: loop 1.00, batched 2.50); products "
        "cannot compute this model (no rule)"
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock by which each backend takes as long as `clock[backend]` says, 1 second if it does not."""
    seconds, now = {}, [0.0]
    original = learner_module.mean_gradient

    def slowed(maml, batch, backend, *rest):
        now[0] += seconds.get(backend, 1.0)
        return original(maml, batch, backend, *rest)

    monkeypatch.setattr(learner_module, "mean_gradient", slowed)
    monkeypatch.setattr(learner_module.time, "perf_counter", lambda: now[0])
    return seconds


def test_auto_measures_on_the_first_batches_and_stays(clock, caplog):
    clock |= {"products": 0.25, "batched": 0.5}
    caplog.set_level("INFO", "mamlcourse")
    maml = MAML(Conv4(5, 4, "stride"), inner_steps=1)
    assert maml.backend == "auto"
    found = [maml.meta_gradients(batch(1)).loss.item() for _ in range(20)]
    assert maml.backend == "products" and found == pytest.approx([found[0]] * 20, rel=1e-5)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("meta-gradient of 2 tasks: backend products") and "products 4.00" in said
    maml.meta_gradients(batch(15))  # another kind of batch is measured for itself
    assert maml.backend == "auto" and len(maml.choices) == 2
    maml.backend = "loop"
    maml.meta_gradients(batch(15))
    assert maml.backend == "loop"


def test_the_choice_is_kept_in_the_checkpoint(clock, tmp_path):
    """A resumed run goes on with the backend of the first, also if that is not the fastest any more."""
    clock |= {"batched": 0.2}
    tasks = CharacterTasks(load_characters().split().train, queries=1, tasks_per_batch=2)
    for iterations in (4, 20):  # amid the measuring, and after it
        maml = MAML(Conv4(5, 2, "stride"), inner_steps=1)
        train(maml, tasks, iterations, checkpoint=tmp_path / "run.pt", resume=True, progress=False)
    assert maml.backend == "batched"
    (choice,) = maml.choices.values()
    clock |= {"batched": 5.0}
    again = MAML(Conv4(5, 2, "stride"), inner_steps=1)
    train(again, tasks, 22, checkpoint=tmp_path / "run.pt", resume=True, progress=False)
    assert again.backend == "batched" and list(again.choices.values()) == [choice]


def test_wrong_numbers_are_no_candidate(monkeypatch, clock):
    """A layer whose outputs are right and whose gradients are slightly wrong."""
    clock |= {"batched": 0.1, "products": 0.1, "threads": 9.0, "vmap": 0.5}

    def almost(input, *arguments, **keywords):
        y = nn.functional.conv2d(input, *arguments, **keywords)
        return y + 1e-5 * (y - y.detach())

    for layers in backends.LAYERS.values():
        monkeypatch.setitem(layers, nn.functional.conv2d, almost)
    torch.manual_seed(0)
    model = Conv4(5, 2, "stride")
    nn.init.normal_(model.head.weight)  # with the head of zeros nothing flows back
    maml = MAML(model, inner_steps=2, inner_lr=0.4)
    for _ in range(20):
        maml.meta_gradients(batch(1))
    (choice,) = maml.choices.values()
    assert choice.reasons.keys() == {"batched", "products"}
    assert choice.reasons["batched"] == choice.reasons["products"] == "its numbers are not those of the loop"
    assert maml.backend == "vmap"


@pytest.mark.parametrize("kind", ["labels", "regression"])
def test_ordinary_models_leave_nobody_out(kind):
    if kind == "labels":
        maml, tasks = MAML(Conv4(5, 2, "stride"), "maml++", inner_steps=1), batch(1)
    else:
        maml, tasks = MAML(MLP(), loss=nn.functional.mse_loss), SinusoidTasks(tasks_per_batch=3).batch(0)
    maml.fastest_backend(tasks)
    for _ in range(12):
        maml.trajectory(tasks, parameters=True)
    assert len(maml.choices) == 2 and all(choice.reasons == {} for choice in maml.choices.values())


@pytest.mark.parametrize("backend", ["loop", "threads", "vmap", "batched", "products"])
def test_a_named_backend_is_used(backend):
    maml = MAML(Conv4(5, 2, "stride"), backend=backend, inner_steps=1)
    maml.meta_gradients(batch(1))
    assert maml.backend == backend and not maml.choices


def test_an_unknown_backend_is_refused():
    for give in (lambda: MAML(MLP(), backend="gpu"), lambda: setattr(MAML(MLP()), "backend", "gpu")):
        with pytest.raises(InputError, match="The backend 'gpu' is unknown. Allowed: .*batched, products"):
            give()


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
PYTHON_H = os.path.join(sysconfig.get_path("include"), "Python.h")


@traceable
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(not os.path.exists(PYTHON_H), reason="torch.compile needs Python's headers")
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
    settings = dict(inner_steps=2, multi_step_loss="annealed", multi_step_epochs=8)
    (compiled, batch), (loop, _) = waves("compiled", **settings), waves("loop", **settings)
    for epoch in [*range(12), 0]:
        found, expected = (maml.meta_gradients(batch, epoch).gradients for maml in (compiled, loop))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        assert len(only_traced) <= min(epoch, 8) + 1 or epoch == 0
    assert len(only_traced) == 9  # more than PyTorch's own limit of 8; once annealed, all epochs are alike
    compiled.trajectory(batch)
    assert len(only_traced) == 9


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
