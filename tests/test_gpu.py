"""On a CUDA GPU: the same episodes, and meta-gradients that agree with float64 on the CPU."""

import pytest
import torch

from mamlcourse import RECIPES, CharacterTasks, Conv4, evaluate, learner, load_characters, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU that PyTorch can use"),
]


@pytest.fixture(scope="module")
def letters():
    return load_characters().split()


def test_same_episodes_as_on_the_cpu(letters):
    here, there = (CharacterTasks(letters.train, rotations=True, device=device) for device in ("cpu", "cuda"))
    for index in (0, 1, 1000):
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here.batch(index), there.batch(index)))


@pytest.mark.parametrize("backend", ["auto", "loop", "vmap", "products"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-2)])
@pytest.mark.parametrize("name", RECIPES)
def test_meta_gradients_agree_with_float64_on_the_cpu(name, dtype, tolerance, backend, letters):
    batch = CharacterTasks(letters.train, queries=3, rotations=True).batch(0)
    found = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        torch.manual_seed(0)
        # Strides instead of max-pool: ties between pixels may break differently in another precision.
        maml = learner(Conv4(5, 8, "stride").to(device, kind), name, backend=backend if device == "cuda" else "loop")
        there = batch.__class__(*(x.to(device, kind if x.is_floating_point() else x.dtype) for x in batch))
        gradients = maml.meta_gradients(there).gradients
        found.append(torch.cat([g.flatten().cpu().double() for g in gradients.tensors()]))
    assert (found[1] - found[0]).norm() / found[0].norm() < tolerance


def test_training_and_evaluation_run_there(letters):
    torch.manual_seed(0)
    maml = learner(Conv4(5, 16).cuda(), "maml++")
    history = train(maml, CharacterTasks(letters.train, device="cuda"), 45, progress=False)
    assert len(history.losses) == 45 and history.finished and maml.backend in ("products", "vmap")
    assert evaluate(maml, CharacterTasks(letters.test, device="cuda"), 40).accuracy > 0.3


class InFloat64(Conv4):
    """In float32 two orders of adding leave rounding errors of gradients that are all but zero, of which Adam makes
    whole steps; in float64 they drown in its epsilon."""

    def __init__(self, *args):
        super().__init__(*args)
        self.double()

    def forward(self, x):
        return super().forward(x.double())


def trained(iterations, letters, name="maml++", model=None, backend="auto", device="cuda", **options):
    torch.manual_seed(0)
    maml = learner((model or InFloat64(5, 4, "stride")).to(device), name, inner_steps=2, backend=backend)
    tasks = CharacterTasks(letters.train, queries=2, rotations=True, device=device)
    history = train(maml, tasks, iterations, epochs=5, progress=False, **options)
    return torch.cat([p.detach().flatten() for p in maml.parameters()]), history


@pytest.mark.parametrize("backend", ["vmap", "products"])
@pytest.mark.parametrize("name", ["maml", "fomaml", "maml++", "fomaml++", "reptile", "anil"])
def test_a_captured_run_equals_an_eager_one(name, backend, letters):
    # 25 iterations in 5 epochs: the loss of MAML++ anneals, so that several graphs are recorded.
    how = dict(name=name, backend=backend)
    (captured, one), (eager, other) = (trained(25, letters, capture=capture, **how) for capture in (True, False))
    torch.testing.assert_close(captured, eager, rtol=1e-6, atol=1e-8)
    assert one.losses == pytest.approx(other.losses, rel=1e-6)
    assert one.accuracies == pytest.approx(other.accuracies)


def test_a_captured_run_resumes(tmp_path, letters):
    whole, _ = trained(30, letters, capture=True)
    path = tmp_path / "run.pt"
    stop = {"each_iteration": lambda history: len(history.losses) >= 15}
    trained(30, letters, capture=True, checkpoint=path, **stop)
    for capture in (True, False):  # also without a graph
        copy = tmp_path / f"{capture}.pt"
        copy.write_bytes(path.read_bytes())
        resumed, history = trained(30, letters, capture=capture, checkpoint=copy, resume=True)
        assert history.finished
        torch.testing.assert_close(resumed, whole, rtol=1e-6, atol=1e-8)


def test_memory_stays_flat_over_a_thousand_iterations(letters):
    seen = []
    trained(1100, letters, "maml", capture=True, each_iteration=lambda history: seen.append(
        torch.cuda.memory_allocated()
    ))  # fmt: skip
    assert max(seen[100:]) <= seen[100] + 2**20


class Asks(Conv4):
    """A network that waits for the GPU, which cannot be recorded."""

    def forward(self, x):
        return super().forward(x) * (1 if float(torch.ones((), device="cuda")) > 0 else 2)


def test_what_cannot_be_captured_runs_eagerly_and_says_so(letters, capsys, recwarn):
    _, history = trained(3, letters, "maml", model=Asks(5, 4, "stride"))
    assert history.finished
    assert "without a CUDA graph" in "".join(capsys.readouterr())
    assert not [warning for warning in recwarn if "in a loop" in str(warning.message)]  # only recording was impossible


def test_products_instead_of_convolutions_are_used(letters, monkeypatch):
    from mamlcourse.engine import kernels

    used = []
    original = kernels.unfolded_conv2d
    monkeypatch.setattr(kernels, "unfolded_conv2d", lambda *given: used.append(1) or original(*given))
    trained(1, letters, "maml", backend="vmap", capture=False)
    assert used
