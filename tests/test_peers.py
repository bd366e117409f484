"""Our meta-gradients against other implementations of MAML and FOMAML: same weights, same tasks, float64.

benchmarks/peer_drivers.py says which they are and how each is driven. `textbook` there is the plain loop with nothing
of ours or a library's in it: the network and its batch normalisation are written out, and `torch.autograd.grad` does
the rest. The libraries are in the extras "test" and "bench"; without them their tests are skipped.
"""

import pytest
import torch
from peer_drivers import INNER_LR, PEERS, Peer, iteryne_steps, relative_error, textbook

from mamlcourse import MAML, Conv4, learner

TOLERANCE = 1e-10  # of the norm of the whole gradient; measured: at most 2e-14
ALL = {"textbook": Peer(textbook)} | PEERS
INEXACT = ("vmapped example", 2)  # of that order
PAIRS = [(peer, order) for peer in ALL for order in (1, 2) if (peer, order) != INEXACT]


def assert_equal(maml, batch, expected_loss, expected):
    loss, _, gradients = maml.meta_gradients(batch)
    gradients = gradients.params | {f"lr of {name}": g for name, g in gradients.learning_rates.items()}
    assert gradients.keys() == expected.keys()
    assert loss.item() == pytest.approx(float(expected_loss), rel=TOLERANCE)
    assert relative_error(gradients, expected) < TOLERANCE


def imported(module, package):
    return pytest.importorskip(module, reason=f"The library {package} is not installed (pip install {package}).")


def network(downsampling):
    """Conv4 with γ and β that are not 1 and 0, so that no part of batch normalisation is idle."""
    torch.manual_seed(0)
    model = Conv4(ways=3, filters=4, downsampling=downsampling).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("peer, order", PAIRS, ids=lambda value: {1: "fomaml", 2: "maml"}.get(value, value))
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_meta_gradient_equals_the_peers(peer, order, steps, downsampling, backend, episodes):
    if ALL[peer].module:
        imported(ALL[peer].module, ALL[peer].package)
    expected_loss, expected = ALL[peer].driver(network(downsampling), steps, order)(episodes)
    maml = MAML(network(downsampling), order=order, inner_steps=steps, inner_lr=INNER_LR, backend=backend)
    assert_equal(maml, episodes, expected_loss, expected)


def test_backward_through_a_vmapped_batch_norm_is_slightly_wrong(episodes):
    peer, order = INEXACT
    (_, expected), (_, found) = (ALL[p].driver(network("stride"), 5, order)(episodes) for p in ("textbook", peer))
    assert 1e-4 < relative_error(found, expected) < 0.1


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_anil_equals_iteryne(backend, episodes):
    model = network("max-pool")
    peer = imported("iteryne", "iteryne").ANIL(model, head=model.head, inner_lr=INNER_LR, inner_steps=5)
    expected_loss, expected = iteryne_steps(peer)(episodes)
    maml = learner(network("max-pool"), "anil", inner_steps=5, inner_lr=INNER_LR, backend=backend)
    assert_equal(maml, episodes, expected_loss, expected)


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_meta_sgd_and_its_learning_rates_equal_iteryne(backend, episodes):
    peer = imported("iteryne", "iteryne").MetaSGD(network("max-pool"), inner_lr=INNER_LR, inner_steps=2)
    expected_loss, expected = iteryne_steps(peer)(episodes)
    expected = {
        f"lr of {name.removeprefix('lrs.').replace('__', '.')}" if name.startswith("lrs.") else name: gradient
        for name, gradient in expected.items()
    }
    maml = learner(network("max-pool"), "meta-sgd", inner_steps=2, inner_lr=INNER_LR, backend=backend)
    assert_equal(maml, episodes, expected_loss, expected)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
def test_the_comparison_can_tell_first_from_second_order(steps, downsampling, episodes):
    (_, first), (_, second) = (textbook(network(downsampling), steps, order)(episodes) for order in (1, 2))
    assert relative_error(first, second) > 1e-2
    assert all(gradient.norm() > 1e-3 for name, gradient in second.items() if ".bias" not in name)
