"""Our meta-gradients against three other implementations of MAML and FOMAML: same weights, same tasks, float64.

* `textbook` (below): the plain loop a textbook would show. Nothing of it is ours or a library's: the network and its
  batch normalisation are written out, and `torch.autograd.grad` does the rest.
* `higher` 0.2.1 (Grefenstette et al. 2019, https://github.com/facebookresearch/higher):
  `higher.innerloop_ctx(model, torch.optim.SGD(...))` and `diffopt.step(loss)`. MAML: `copy_initial_weights=False` and
  the query loss differentiated for `fmodel.parameters(time=0)`. FOMAML has no switch of its own there; as
  their issue #63 settled it: `track_higher_grads=False` and the derivative for the latest `fmodel.parameters()`.
* `iteryne` 0.1.0 (https://github.com/wonderwice/iteryne): `iteryne.MAML(..., first_order=...)` and
  `iteryne.MetaTrainer(...).meta_step(tasks)`, which averages over the tasks itself; and `ANIL` and `MetaSGD`.

The libraries are in the extra "peers"; without them their tests are skipped.
"""

import pytest
import torch
from torch.nn import functional as F

from mamlcourse import MAML, Conv4, learner

TOLERANCE = 1e-10  # of the norm of the whole gradient; measured: at most 2e-14
RATE = 0.4


def relative_error(found, expected):
    found, expected = (torch.cat([of[name].flatten() for name in sorted(expected)]) for of in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()


def assert_equal(maml, batch, expected_loss, expected):
    loss, gradients = maml.meta_gradients(batch)
    assert gradients.keys() == expected.keys()
    assert loss.item() == pytest.approx(expected_loss, rel=TOLERANCE)
    assert relative_error(gradients, expected) < TOLERANCE


def imported(peer):
    return pytest.importorskip(peer, reason=f"The library {peer} is not installed (pip install {peer}).")


def network(reduction):
    """Conv4 with gains and biases that are not 1 and 0, so that no part of batch normalisation is idle."""
    torch.manual_seed(0)
    model = Conv4(ways=3, filters=4, reduction=reduction).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def textbook(model, batch, steps, order):
    """(mean query loss, {name: gradient}), by a plain loop over tasks and steps."""
    theta = [p.detach().clone().requires_grad_() for p in model.parameters()]
    pooled = any(isinstance(layer, torch.nn.MaxPool2d) for layer in model.features)

    def loss_of(weights, x, labels):
        *blocks, head, bias = weights
        for kernel, offset, gain, shift in zip(*[iter(blocks)] * 4):
            x = F.conv2d(x, kernel, offset, stride=1 if pooled else 2, padding=1)
            mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
            x = (x - mean) / (variance + 1e-5).sqrt() * gain.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
            x = F.max_pool2d(x.relu(), 2) if pooled else x.relu()
        scores = x.mean((2, 3)) @ head.T + bias
        return (scores.logsumexp(1) - scores[torch.arange(len(labels)), labels]).mean()

    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch):
        weights = theta
        for _ in range(steps):
            slopes = torch.autograd.grad(loss_of(weights, support_x, support_y), weights, create_graph=order == 2)
            weights = [w - RATE * slope for w, slope in zip(weights, slopes)]
        total = total + loss_of(weights, query_x, query_y) / len(batch.query_x)
    names = [name for name, _ in model.named_parameters()]
    return total.item(), dict(zip(names, torch.autograd.grad(total, theta)))


def by_higher(model, batch, steps, order):
    higher = imported("higher")
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses, gradients = [], []
    for support_x, support_y, query_x, query_y in zip(*batch):
        options = dict(copy_initial_weights=False, track_higher_grads=order == 2)
        with higher.innerloop_ctx(model, optimizer, **options) as (fmodel, diffopt):
            for _ in range(steps):
                diffopt.step(F.cross_entropy(fmodel(support_x), support_y))
            loss = F.cross_entropy(fmodel(query_x), query_y)
            wanted = fmodel.parameters(time=0) if order == 2 else fmodel.parameters()
            gradients.append(torch.autograd.grad(loss, list(wanted)))
            losses.append(loss.item())
    names = [name for name, _ in model.named_parameters()]
    mean = [torch.stack(of_tasks).mean(0) for of_tasks in zip(*gradients)]
    return sum(losses) / len(losses), dict(zip(names, mean))


def by_iteryne(model, batch, steps, order):
    iteryne = imported("iteryne")
    return iteryne_step(iteryne.MAML(model, inner_lr=RATE, inner_steps=steps, first_order=order == 1), batch)


def iteryne_step(peer, batch):
    """(loss, gradients) that one meta-step of iteryne leaves behind; the outer rate is 0, so nothing moves."""
    iteryne = imported("iteryne")
    outer = torch.optim.SGD(peer.parameters(), lr=0.0)
    trainer = iteryne.MetaTrainer(peer, outer, F.cross_entropy, task_sampler=None)
    loss = trainer.meta_step([iteryne.Task(*task) for task in zip(*batch)])
    return loss, {name.removeprefix("module."): p.grad for name, p in peer.named_parameters()}


@pytest.mark.parametrize("peer", [textbook, by_higher, by_iteryne])
@pytest.mark.parametrize("order", [1, 2], ids=["fomaml", "maml"])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("reduction", ["max-pool", "stride"])
@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_meta_gradient_equals_the_peers(peer, order, steps, reduction, backend, episodes):
    expected_loss, expected = peer(network(reduction), episodes, steps, order)
    maml = MAML(network(reduction), order=order, inner_steps=steps, inner_lr=RATE, backend=backend)
    assert_equal(maml, episodes, expected_loss, expected)


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_anil_equals_iteryne(backend, episodes):
    model = network("max-pool")
    peer = imported("iteryne").ANIL(model, head=model.head, inner_lr=RATE, inner_steps=5)
    expected_loss, expected = iteryne_step(peer, episodes)
    maml = learner(network("max-pool"), "anil", inner_steps=5, inner_lr=RATE, backend=backend)
    assert_equal(maml, episodes, expected_loss, expected)


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_meta_sgd_and_its_rates_equal_iteryne(backend, episodes):
    peer = imported("iteryne").MetaSGD(network("max-pool"), inner_lr=RATE, inner_steps=2)
    expected_loss, expected = iteryne_step(peer, episodes)
    expected = {
        f"rates:{name.removeprefix('lrs.').replace('__', '.')}" if name.startswith("lrs.") else name: gradient
        for name, gradient in expected.items()
    }
    maml = learner(network("max-pool"), "meta-sgd", inner_steps=2, inner_lr=RATE, backend=backend)
    assert_equal(maml, episodes, expected_loss, expected)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("reduction", ["max-pool", "stride"])
def test_the_comparison_can_tell_first_from_second_order(steps, reduction, episodes):
    (_, first), (_, second) = (textbook(network(reduction), episodes, steps, order) for order in (1, 2))
    assert relative_error(first, second) > 1e-2
    assert all(gradient.norm() > 1e-3 for name, gradient in second.items() if ".bias" not in name)
