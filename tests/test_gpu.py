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


@pytest.mark.parametrize("backend", ["auto", "loop"])
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
        gradients = maml.meta_gradients(there)[1]
        found.append(torch.cat([gradients[name].flatten().cpu().double() for name in sorted(gradients)]))
    assert (found[1] - found[0]).norm() / found[0].norm() < tolerance


def test_training_and_evaluation_run_there(letters):
    torch.manual_seed(0)
    maml = learner(Conv4(5, 16).cuda(), "maml++")
    assert maml.backend == "vmap"
    history = train(maml, CharacterTasks(letters.train, device="cuda"), 45, progress=False)
    assert len(history.losses) == 45 and history.finished
    assert evaluate(maml, CharacterTasks(letters.test, device="cuda"), 40).accuracy > 0.3
