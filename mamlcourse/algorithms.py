"""MAML, FOMAML and MAML++: one inner loop, and what the outer loop differentiates.

Read it from top to bottom. `InnerLoop.adapt` yields θ'_0, ..., θ'_K: the inner loop of every algorithm here.
`InnerLoop.meta_loss` is what the outer loop minimises. The settings tell MAML, FOMAML, MAML++, ANIL, Meta-SGD, ProtoNet
and ProtoMAML apart; one with a meta-gradient of its own, such as Reptile, is one more function in `META_GRADIENTS`.

Symbols (Finn et al. 2017): θ is where adaptation starts, θ'_k the parameters after k steps, α the inner learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .engine.autodiff import Autodiff, detached, zeros_like
from .engine.recomputation import recomputed
from .engine.stateless import Stateless
from .meta_params import MetaGradient, MetaParams, Parameters
from .settings import Settings
from .tasks import TaskBatch, is_labels


@dataclass(frozen=True)
class InnerLoop:
    """Adaptation to one task (tensors without a task dimension), as functions of the meta-parameters.

    Attributes:
        settings: which algorithm.
        model: the network as a function of its parameters; of those that are not given it uses its own.
        loss_fn: (outputs, targets) -> scalar mean.
        adapted_names: names of the parameters that adapt.
        autodiff: how to differentiate.
    """

    settings: Settings
    model: Stateless
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    adapted_names: list[str]
    autodiff: Autodiff

    def adapt(self, meta: MetaParams, x: Tensor, y: Tensor, order: int, steps: int) -> Iterator[Parameters]:
        """The inner loop: yield the adapted parameters θ'_0, θ'_1, ..., θ'_K (Finn et al. 2017, algorithm 1)."""
        params = self.initial(meta, x, y)
        yield params
        for step in range(steps):
            params = self.inner_step(meta, params, step, x, y, order)
            yield params

    def inner_step(self, meta: MetaParams, params: Parameters, step: int, x: Tensor, y: Tensor, order: int):
        """θ'_{k+1} = θ'_k - α ∇L_support(θ'_k) (Finn et al. 2017, equation 1).

        Without a graph the gradient is a constant to the outer loop: that is all there is to FOMAML (section 5.2).
        """

        def support_loss(params):
            return self.loss_fn(self.forward(meta, params, step, x), y)

        grads = self.autodiff.grad(support_loss, params, create_graph=order == 2)
        return self.autodiff.sgd_step(params, self.learning_rates(meta, step), grads)

    def initial(self, meta: MetaParams, x: Tensor, y: Tensor) -> Parameters:
        """θ'_0: the part of θ that adapts; in ProtoNet and ProtoMAML with a head made of prototypes."""
        params = {name: meta.params[name] for name in self.adapted_names}
        if self.settings.head_init == "prototypes":  # views, since the head is a function of θ, but adapts beside it
            params = {name: p.view_as(p) for name, p in params.items()} | self.prototype_head(meta, x, y)
        return params

    def learning_rates(self, meta: MetaParams, step: int) -> Parameters | float:
        """α at this step: one number, or where it is learned (LSLR, Meta-SGD) a tensor for each parameter."""
        if self.settings.learned_lr == "none":
            return self.settings.inner_lr
        by_step = self.settings.learned_lr == "parameter_step"
        return {name: at_step(lr, step) if by_step else lr for name, lr in meta.learning_rates.items()}

    def forward(self, meta: MetaParams, params: Parameters, step: int, x: Tensor) -> Tensor:
        """The network's outputs on x at θ'_k, with the γ and β of this step where batch norm has its own (BNWB)."""
        return self.model(meta.params | params | norms_at(meta, step), x)

    def query_loss(self, meta: MetaParams, params: Parameters, steps_taken: int, x: Tensor, y: Tensor):
        """(loss, outputs) on the query set after so many steps."""
        outputs = self.forward(meta, params, max(steps_taken - 1, 0), x)
        return self.loss_fn(outputs, y), outputs

    def meta_loss(self, meta: MetaParams, task: TaskBatch, order: int, weights) -> tuple[Tensor, Tensor]:
        """(Σ_k w_k L_query(θ'_k), query outputs after the last step): what the outer loop minimises.

        MAML's weights are (0, ..., 0, 1); the multi-step loss of MAML++ (Antoniou et al. 2019, section 4) has others.
        """
        total = 0.0
        path = self.adapt(meta, task.support_x, task.support_y, order, steps=len(weights) - 1)
        for steps_taken, params in enumerate(path):
            if weights[steps_taken]:  # a query pass that counts for nothing is not computed
                loss, outputs = self.query_loss(meta, params, steps_taken, task.query_x, task.query_y)
                total = total + weights[steps_taken] * loss
        return total, outputs

    def meta_gradient(self, meta: MetaParams, task: TaskBatch, order: int, weights) -> MetaGradient:
        """One task's share of the outer loop's gradient."""
        kind = "recomputed" if self.settings.checkpoint_steps else self.settings.meta_gradient
        loss, outputs, gradients = META_GRADIENTS[kind](self, meta, task, order, weights)
        return MetaGradient(loss.detach(), accuracy(outputs, task.query_y), gradients)

    def prototype_head(self, meta: MetaParams, x: Tensor, y: Tensor) -> Parameters:
        """A linear head with w_c = 2 p_c and b_c = -|p_c|², where p_c is the mean feature vector of class c.

        Its logits are, up to a constant, minus the squared distances to the prototypes (Snell et al. 2017, section
        2.4: ProtoNet, which takes no step); ProtoMAML adapts from there (Triantafillou et al. 2020, section 3).
        """
        features = self.model(meta.params | norms_at(meta, 0), x, part="features")
        members = (y == torch.arange(len(meta.params["head.bias"]), device=y.device)[:, None]).to(features.dtype)
        prototypes = members @ features / members.sum(1, keepdim=True)  # (ways, features)
        return {"head.weight": 2 * prototypes, "head.bias": -prototypes.square().sum(1)}


def backpropagated(inner: InnerLoop, meta: MetaParams, task: TaskBatch, order: int, weights):
    """The gradient of the meta-loss, through the whole inner loop."""
    return inner.autodiff.value_and_grad(lambda meta: inner.meta_loss(meta, task, order, weights), meta)


def displacement(inner: InnerLoop, meta: MetaParams, task: TaskBatch, order: int, weights):
    """Reptile (Nichol et al. 2018, section 2): (θ - θ'_K) / α after training on support and query set together."""
    x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
    *_, params = inner.adapt(meta, x, y, order=1, steps=inner.settings.inner_steps)
    loss, outputs = inner.query_loss(meta, params, inner.settings.inner_steps, task.query_x, task.query_y)
    moved = {name: (meta.params[name] - p) / inner.settings.inner_lr for name, p in params.items()}
    return detached((loss, outputs, meta._replace(params=zeros_like(meta.params) | moved)))


META_GRADIENTS = {"query_loss": backpropagated, "recomputed": recomputed, "displacement": displacement}


def norms_at(meta: MetaParams, step: int) -> Parameters:
    """γ and β of this step."""
    return {name: at_step(norm, step) for name, norm in meta.norms.items()}


def at_step(stacked: Tensor, step: int) -> Tensor:
    """What was learned for this step; steps beyond the last use the last's."""
    return stacked[min(step, len(stacked) - 1)]


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """The share of examples (last dimension of labels) whose highest output is their label; nan for regression."""
    if not is_labels(labels):
        return outputs.detach().new_full((), float("nan"))
    return (outputs.detach().argmax(-1) == labels).float().mean(-1)
