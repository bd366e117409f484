"""Other implementations of MAML and FOMAML, each driven as its makers show, for tests/test_peers.py and peers.py.

A driver is called as `driver(model, steps, order)`, once, and returns a function from a `TaskBatch` to (mean query
loss, {name: gradient of a parameter}). It may change what belongs to the model: give each one a copy of its own. None
of it is ours: no function of mamlcourse is called here.

* `plain_loop`: the loop over tasks and steps that a textbook would show, around `torch.autograd.grad`.
* `vmapped_example`: the pattern of PyTorch's own example (functorch/examples/maml_omniglot/maml-omniglot-transforms.py
  in its repository): `vmap` over the tasks of a query loss, and one backward pass through all of it. With
  `F.batch_norm` its second-order gradient is slightly wrong. The example is second order; detaching weights and
  gradients of the inner steps is the usual way to make it first order.
* `higher` 0.2.1 (Grefenstette et al. 2019, https://github.com/facebookresearch/higher):
  `higher.innerloop_ctx(model, torch.optim.SGD(...))` and `diffopt.step(loss)`. MAML: `copy_initial_weights=False` and
  the query loss differentiated for `fmodel.parameters(time=0)`. FOMAML has no switch of its own there; as
  their issue #63 settled it: `track_higher_grads=False` and the derivative for the latest `fmodel.parameters()`.
* `iteryne` 0.1.0 (https://github.com/wonderwice/iteryne): `iteryne.MAML(..., first_order=...)` and
  `iteryne.MetaTrainer(...).meta_step(tasks)`, which averages over the tasks itself.
* `torchopt` 0.7.3 (Ren et al. 2023, https://github.com/metaopt/torchopt): `torchopt.MetaSGD(model).step(loss)` between
  `extract_state_dict` and `recover_state_dict`, as in its few-shot example. It has no switch to first order and
  always builds the graph; `torchopt.stop_gradient(model)` after each step cuts it off, and then FOMAML's gradient is
  the derivative for the latest parameters.
* `parallel-metalearn` 0.5.6 (https://github.com/Razani-Ali/parallel-metalearn): `metalearn.algorithms.MAML.step`, with
  `InnerSGD(first_order=...)`, in both its backends. "vmap" goes backward through vmap, so it needs the library's own
  batch normalisation, written out, to be exact (its `ModelTranslator`, which would put it in, raises a TypeError in
  this version, so it is put in by hand); "sequential" takes PyTorch's layers as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

INNER_LR = 0.4


def relative_error(found, expected):
    """The distance of two gradients by name, in float64, to the norm of the second."""
    found, expected = (
        torch.cat([of[name].double().flatten() for name in sorted(expected)]) for of in (found, expected)
    )
    return ((found - expected).norm() / expected.norm()).item()


class Still(torch.optim.SGD):
    """An outer optimizer that moves nothing, for libraries whose gradient comes with an outer step."""

    def step(self, closure=None):
        pass


def _names(model):
    return [name for name, _ in model.named_parameters()]


def _mean(tensors_by_task):
    return [torch.stack(of_tasks).mean(0) for of_tasks in zip(*tensors_by_task)]


def plain_loop(model, steps, order, forward=None):
    """`forward` is a function of (list of weights, inputs); default the model's own."""
    names = _names(model)
    theta = [p.detach().clone().requires_grad_() for p in model.parameters()]
    forward = forward or (lambda weights, x: functional_call(model, dict(zip(names, weights)), (x,)))

    def meta_gradients(batch):
        losses, gradients = [], []
        for support_x, support_y, query_x, query_y in zip(*batch):
            weights = theta
            for _ in range(steps):
                loss = F.cross_entropy(forward(weights, support_x), support_y)
                grads = torch.autograd.grad(loss, weights, create_graph=order == 2)
                weights = [w - INNER_LR * g for w, g in zip(weights, grads)]
            loss = F.cross_entropy(forward(weights, query_x), query_y)
            gradients.append(torch.autograd.grad(loss, theta))
            losses.append(loss.detach())
        return torch.stack(losses).mean(), dict(zip(names, _mean(gradients)))

    return meta_gradients


def textbook(model, steps, order):
    """The plain loop around a Conv4 written out to its batch normalisation, so that no layer of PyTorch's is in it."""
    pooled = any(isinstance(layer, nn.MaxPool2d) for layer in model.features)

    def forward(weights, x):
        *blocks, head, bias = weights
        for kernel, offset, gamma, beta in zip(*[iter(blocks)] * 4):
            x = F.conv2d(x, kernel, offset, stride=1 if pooled else 2, padding=1)
            mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
            x = (x - mean) / (variance + 1e-5).sqrt() * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
            x = F.max_pool2d(x.relu(), 2) if pooled else x.relu()
        return x.mean((2, 3)) @ head.T + bias

    return plain_loop(model, steps, order, forward)


def vmapped_example(model, steps, order):
    parameters = dict(model.named_parameters())

    def loss_of(weights, x, labels):
        return F.cross_entropy(functional_call(model, weights, (x,)), labels)

    def task_loss(support_x, support_y, query_x, query_y):
        weights = parameters
        for _ in range(steps):
            at = detached(weights) if order == 1 else weights
            grads = torch.func.grad(loss_of)(at, support_x, support_y)
            grads = detached(grads) if order == 1 else grads
            weights = {name: w - INNER_LR * grads[name] for name, w in weights.items()}
        return loss_of(weights, query_x, query_y)

    def detached(tensors):
        return {name: x.detach() for name, x in tensors.items()}

    def meta_gradients(batch):
        loss = torch.func.vmap(task_loss)(*batch).mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        return loss.detach(), dict(zip(parameters, gradients))

    return meta_gradients


def by_higher(model, steps, order):
    import higher

    names, optimizer = _names(model), torch.optim.SGD(model.parameters(), lr=INNER_LR)
    options = dict(copy_initial_weights=False, track_higher_grads=order == 2)

    def meta_gradients(batch):
        losses, gradients = [], []
        for support_x, support_y, query_x, query_y in zip(*batch):
            with higher.innerloop_ctx(model, optimizer, **options) as (fmodel, diffopt):
                for _ in range(steps):
                    diffopt.step(F.cross_entropy(fmodel(support_x), support_y))
                loss = F.cross_entropy(fmodel(query_x), query_y)
                wanted = fmodel.parameters(time=0) if order == 2 else fmodel.parameters()
                gradients.append(torch.autograd.grad(loss, list(wanted)))
                losses.append(loss.detach())
        return torch.stack(losses).mean(), dict(zip(names, _mean(gradients)))

    return meta_gradients


def by_iteryne(model, steps, order):
    import iteryne

    return iteryne_steps(iteryne.MAML(model, inner_lr=INNER_LR, inner_steps=steps, first_order=order == 1))


def iteryne_steps(peer):
    """What one meta-step of iteryne leaves behind, for any of its meta-learners."""
    import iteryne

    trainer = iteryne.MetaTrainer(peer, Still(peer.parameters()), F.cross_entropy, task_sampler=None)

    def meta_gradients(batch):
        loss = trainer.meta_step([iteryne.Task(*task) for task in zip(*batch)])
        return loss, {name.removeprefix("module."): p.grad for name, p in peer.named_parameters()}

    return meta_gradients


def by_torchopt(model, steps, order):
    import torchopt

    names, theta = _names(model), list(model.parameters())
    inner = torchopt.MetaSGD(model, lr=INNER_LR)

    def meta_gradients(batch):
        start, state = torchopt.extract_state_dict(model), torchopt.extract_state_dict(inner)
        losses, gradients = [], []
        for support_x, support_y, query_x, query_y in zip(*batch):
            for _ in range(steps):
                inner.step(F.cross_entropy(model(support_x), support_y))
                if order == 1:
                    torchopt.stop_gradient(model)
            loss = F.cross_entropy(model(query_x), query_y)
            gradients.append(torch.autograd.grad(loss, theta if order == 2 else list(model.parameters())))
            losses.append(loss.detach())
            torchopt.recover_state_dict(model, start)
            torchopt.recover_state_dict(inner, state)
        return torch.stack(losses).mean(), dict(zip(names, _mean(gradients)))

    return meta_gradients


class Heedless(nn.Sequential):
    """Layers that pay no heed to the keywords which parallel-metalearn's network hands down."""

    def forward(self, x, **_):
        return super().forward(x)


def by_parallel_metalearn(model, steps, order, backend="vmap"):
    from metalearn.algorithms import MAML
    from metalearn.inner_optimizers import InnerSGD
    from metalearn.loss import CategoricalAccuracy, CrossEntropy
    from metalearn.model_wrappers import MAML_Model
    from metalearn.nn_models.basic_layers.BatchNormalization import BatchNorm

    names, example = _names(model), next(model.parameters())
    layers = list(model.features)
    if backend == "vmap":
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                layers[i] = BatchNorm(layer.num_features, eps=layer.eps, track_running_stats=False).to(example)
                layers[i].load_state_dict(layer.state_dict())
    network = MAML_Model(backbone=Heedless(*layers), head=Heedless(model.head))
    inner = InnerSGD(network.get_fast_weights(), first_order=order == 1, inner_lr=INNER_LR, learn_lr=False).to(example)
    for lr in inner.parameters():
        lr.data.fill_(INNER_LR)  # it was rounded to float32
    peer = MAML(
        model=network, optimizer=Still(network.parameters()), inner_optimizer=inner, inner_steps=steps,
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()), device=example.device, backend=backend,
    )  # fmt: skip

    def meta_gradients(batch):
        support_x, support_y, query_x, query_y = batch
        loss, _ = peer.step(iter([(support_x, {"labels": support_y}, query_x, {"labels": query_y})]))
        if backend == "sequential":
            loss *= len(support_x)  # what it reports has been divided by the number of tasks twice
        return loss, {name: p.grad for name, p in zip(names, network.parameters())}

    return meta_gradients


def by_parallel_metalearn_in_turn(model, steps, order):
    return by_parallel_metalearn(model, steps, order, backend="sequential")


class Peer(NamedTuple):
    """One implementation; `module` is what Python imports of it and `package` what pip installs, None for PyTorch."""

    driver: Callable
    module: str | None = None
    package: str | None = None


PEERS = {
    "plain loop": Peer(plain_loop),
    "vmapped example": Peer(vmapped_example),
    "higher": Peer(by_higher, "higher", "higher"),
    "iteryne": Peer(by_iteryne, "iteryne", "iteryne"),
    "torchopt": Peer(by_torchopt, "torchopt", "torchopt"),
    "parallel-metalearn": Peer(by_parallel_metalearn, "metalearn", "parallel-metalearn"),
    "parallel-metalearn, sequential": Peer(by_parallel_metalearn_in_turn, "metalearn", "parallel-metalearn"),
}
