"""MAML, FOMAML and MAML++: one inner loop and one task loss, which the settings turn into each of the algorithms.

Read it in this order. `InnerLoop.step` is one adaptation step and `InnerLoop.task_loss` runs K of them and grades the
result on the query set: that is the whole family. `MAML` holds what is learned and averages the gradient of the task
loss over the tasks of a meta-batch. `Reptile` replaces that gradient.

Symbols follow the papers: θ are the parameters that adaptation starts from, θ'_k the parameters after k steps, α the
inner rate. In the code `meta` are all meta-parameters (θ, and α and norms where they are learned) and `adapted` is
θ'_k, the part of θ that adapts, as the inner loop has moved it so far. Both are dictionaries of tensors by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from . import acceleration
from .errors import InputError, check_choice, check_number
from .inspection import names_that_adapt, normalisation_parameters, refuse_running_statistics
from .settings import Settings, recipe
from .tasks import TaskBatch, check_batch

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """Adaptation to one task, as functions of the meta-parameters.

    Attributes:
        settings: what kind of adaptation.
        module: the network; its own parameters are not looked at.
        loss: (outputs, targets) -> scalar mean.
        adapted_names: the parameters that adapt.
        norm_names: the gains and biases that are learned for each step instead.
    """

    settings: Settings
    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    adapted_names: list[str]
    norm_names: list[str]

    def start(self, meta: Parameters) -> Parameters:
        """θ'_0: the part of θ that adapts."""
        return {name: meta[name] for name in self.adapted_names}

    def outputs(self, meta: Parameters, adapted: Parameters, step: int, x: Tensor) -> Tensor:
        """The network's outputs on x; norms that differ by step are this step's (beyond the last, the last's)."""
        parameters = {name: p for name, p in meta.items() if not name.startswith(("rates:", "norms:"))} | adapted
        parameters |= {name: at_step(meta[f"norms:{name}"], step) for name in self.norm_names}
        return functional_call(self.module, parameters, (x,))

    def rates(self, meta: Parameters, step: int) -> Parameters | float:
        """α at one step: one number, or where rates are learned, a tensor for each name."""
        if self.settings.learned_rates == "none":
            return self.settings.inner_lr
        rates = {name: meta[f"rates:{name}"] for name in self.adapted_names}
        by_step = self.settings.learned_rates == "parameter_step"
        return {name: at_step(rate, step) for name, rate in rates.items()} if by_step else rates

    def step(self, meta: Parameters, adapted: Parameters, step: int, x, y, order: int, calculus) -> Parameters:
        """θ'_{k+1} = θ'_k - α ∇L(θ'_k) on the support set (Finn et al. 2017, equation 1).

        With order 1 the gradient is a constant: that is all there is to FOMAML. `calculus` knows how to differentiate
        here (see `acceleration.Calculus`).
        """
        slopes = calculus.inner(lambda adapted: self.loss(self.outputs(meta, adapted, step, x), y), adapted, order)
        return calculus.update(adapted, self.rates(meta, step), slopes)

    def query_loss(self, meta: Parameters, adapted: Parameters, steps_taken: int, x, y) -> tuple[Tensor, Tensor]:
        """The loss of θ'_k on the query set, and the outputs it was worked out from."""
        outputs = self.outputs(meta, adapted, max(steps_taken - 1, 0), x)
        return self.loss(outputs, y), outputs

    def one_by_one(self, meta: Parameters, adapted: Parameters, steps_taken: int, support_x, x, y):
        """As `query_loss`, but each query goes through the network with the support set alone, so that normalisation
        sees no other query (not transductive; Nichol et al. 2018, section 6)."""
        step = max(steps_taken - 1, 0)
        outputs = torch.func.vmap(lambda one: self.outputs(meta, adapted, step, torch.cat([support_x, one[None]]))[-1])
        seen = outputs(x)
        return self.loss(seen, y), seen

    def task_loss(self, meta: Parameters, task: TaskBatch, order: int, weights, calculus) -> tuple[Tensor, Tensor]:
        """The meta-objective of one task, Σ_k w_k L_query(θ'_k), and the query outputs after the last step.

        MAML's weights are (0, ..., 0, 1); MAML++ (Antoniou et al. 2019, section 4) grades every step at first.
        """
        adapted, total = self.start(meta), 0.0
        for steps_taken, weight in enumerate(weights):
            if steps_taken > 0:
                adapted = self.step(meta, adapted, steps_taken - 1, task.support_x, task.support_y, order, calculus)
            if weight:  # a query pass that counts for nothing is not worked out
                loss, outputs = self.query_loss(meta, adapted, steps_taken, task.query_x, task.query_y)
                total = total + weight * loss
        return total, outputs


class Trajectory(NamedTuple):
    """What happened to each of T tasks before adaptation and after each of K steps.

    Attributes:
        support_loss, query_loss: (T, K + 1).
        query_accuracy: (T, K + 1), in [0, 1]; None for regression.
        query_outputs: (T, K + 1, queries, outputs), the model's raw outputs.
        parameters: {name: (T, K + 1, ...)} of the parameters that adapt; None unless asked for.
    """

    support_loss: Tensor
    query_loss: Tensor
    query_accuracy: Tensor | None
    query_outputs: Tensor
    parameters: Parameters | None


class MAML(nn.Module):
    """A model whose parameters are learned so that a few gradient steps on a new task make it good at that task.

    Args:
        model: any `nn.Module` from inputs (examples, ...) to outputs (examples, ...). Its parameters are θ: training
            changes them in place. Normalisation layers must use batch statistics (`track_running_stats=False`).
        settings: a recipe's name or `Settings`; default MAML.
        loss: (outputs, targets) -> scalar, averaged over the examples; default cross-entropy.
        backend: how the tasks of a meta-batch are computed: "loop", "threads", "vmap", "compiled" or "auto"
            (see `acceleration`); the choice is readable as `.backend`, at the latest after the first batch.
        **changes: settings to change, such as `inner_steps=3`.

    Raises:
        InputError: a setting is unknown or not allowed, no parameter adapts, or the model keeps running statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: str | Settings = "maml",
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
        backend: str = "auto",
        **changes,
    ):
        super().__init__()
        if isinstance(settings, str):
            settings = recipe(settings)
        for setting in changes:
            check_choice("The setting", setting, Settings.__dataclass_fields__)
        self.settings = replace(settings, **changes)
        self.model, self.loss = model, loss
        refuse_running_statistics(model)
        norms = normalisation_parameters(model) if self.settings.per_step_norm else []
        if self.settings.per_step_norm and not norms:
            raise InputError("per_step_norm is True, but the model has no normalisation layer: set it to False.")
        self.adapted_names, self.norm_names = names_that_adapt(model, self.settings.adapt, norms), norms
        parameters = dict(model.named_parameters())
        self.rates = nn.ParameterDict(
            {_key(name): _initial_rate(parameters[name], self.settings) for name in self.adapted_names}
            if self.settings.learned_rates != "none"
            else {}
        )
        sets = max(self.settings.inner_steps, 1)
        self.norms = nn.ParameterDict(
            {_key(name): nn.Parameter(torch.stack([parameters[name].detach()] * sets)) for name in norms}
        )
        self.backend = acceleration.choose(backend, model)
        self._checked = set()

    def meta_parameters(self) -> Parameters:
        """Everything that the outer loop learns, by name: θ; "rates:NAME" if rates are learned; "norms:NAME" if gain
        and bias are per step (leading dimension: steps), which then stand in for the model's own."""
        learned = {name: p for name, p in self.model.named_parameters() if _key(name) not in self.norms}
        learned |= {f"rates:{_name(key)}": p for key, p in self.rates.items()}
        learned |= {f"norms:{_name(key)}": p for key, p in self.norms.items()}
        return {name: p for name, p in learned.items() if p.requires_grad}

    def inner_loop(self, module: nn.Module) -> InnerLoop:
        """The adaptation that these settings describe, on a network of the model's kind."""
        return InnerLoop(self.settings, module, self.loss, self.adapted_names, self.norm_names)

    def task_gradients(self, inner: InnerLoop, meta: Parameters, task: TaskBatch, order: int, weights, calculus):
        """(loss, query outputs, {name: gradient}) of one task's meta-objective."""
        if not self.settings.checkpoint_steps:
            return calculus.gradients(lambda meta: inner.task_loss(meta, task, order, weights, calculus), meta)

        def step(meta, adapted, number, order):
            return inner.step(meta, adapted, number, task.support_x, task.support_y, order, calculus)

        def loss(meta, adapted, steps_taken):
            return inner.query_loss(meta, adapted, steps_taken, task.query_x, task.query_y)

        return acceleration.recomputed_gradients(step, loss, meta, inner.start(meta), weights, order, calculus)

    # Whole meta-batches.

    def meta_gradients(self, batch: TaskBatch, epoch: int = 0) -> tuple[Tensor, Parameters]:
        """The meta-loss and its gradient for every meta-parameter, averaged over the tasks of the batch.

        Args:
            batch: tensors with a leading task dimension.
            epoch: where in training we are; decides the loss weights and the derivative order where they anneal.

        Returns:
            (scalar loss, {name: gradient}); nothing is stored in `.grad`.

        Raises:
            InputError: the batch's ranks, types, devices or labels do not fit, or the backend is "compiled" and
                torch.compile cannot do it.
        """
        loss, _, gradients = self.meta_step(batch, epoch)
        return loss, gradients

    @torch.enable_grad()  # whoever calls it under no_grad still wants gradients
    def meta_step(self, batch: TaskBatch, epoch: int = 0) -> tuple[Tensor, Tensor | None, Parameters]:
        """As `meta_gradients`, with the query accuracy after the last step in the middle (None for regression)."""
        batch = self._check(batch)
        meta = {name: p.detach() for name, p in self.meta_parameters().items()}
        order, weights = self.settings.order_at(epoch), self.settings.loss_weights(epoch)

        def one_task(module, task, calculus):
            inner = self.inner_loop(module)
            loss, outputs, gradients = self.task_gradients(inner, meta, TaskBatch(*task), order, weights, calculus)
            right = _share_right(outputs, task[3])
            return gradients | {"/loss": loss.detach()} | ({} if right is None else {"/right": right})

        mean = acceleration.mean_over_tasks(one_task, self.model, batch, self.backend, order)
        return mean.pop("/loss"), mean.pop("/right", None), mean

    @torch.enable_grad()  # adapting needs gradients, wherever it is called
    def trajectory(
        self, batch: TaskBatch, steps: int | None = None, parameters: bool = False, *, only_last: bool = False,
        transductive: bool = True,
    ) -> Trajectory:  # fmt: skip
        """Adapt to every task of the batch and record each step. Leaves the model as it is.

        Args:
            batch: tensors with a leading task dimension.
            steps: adaptation steps; default the K that was trained.
            parameters: whether to keep the adapted parameters too (memory: tasks x steps x parameters).
            only_last: record the last step alone, so that K + 1 becomes 1: much faster where queries are many.
            transductive: whether a task's queries go through the network together, so that its normalisation sees
                them all, or each with the support set alone.

        Raises:
            InputError: the batch does not fit, or `steps` is negative.
        """
        batch = self._check(batch)
        steps = self.settings.inner_steps if steps is None else steps
        check_number("steps", steps, at_least=0, whole=True)
        meta = {name: p.detach() for name, p in self.meta_parameters().items()}

        def one_task(module, task, calculus):
            task, inner = TaskBatch(*task), self.inner_loop(module)
            adapted, records = inner.start(meta), []
            for steps_taken in range(steps + 1):
                if steps_taken > 0:
                    number = steps_taken - 1
                    adapted = inner.step(meta, adapted, number, task.support_x, task.support_y, 1, calculus)
                if only_last and steps_taken < steps:
                    continue
                with torch.no_grad():
                    support, _ = inner.query_loss(meta, adapted, steps_taken, task.support_x, task.support_y)
                    if transductive:
                        query, outputs = inner.query_loss(meta, adapted, steps_taken, task.query_x, task.query_y)
                    else:
                        query, outputs = inner.one_by_one(
                            meta, adapted, steps_taken, task.support_x, task.query_x, task.query_y
                        )
                record = {"/support": support, "/query": query, "/outputs": outputs}
                records.append(record | ({n: p.detach() for n, p in adapted.items()} if parameters else {}))
            return {name: torch.stack([record[name] for record in records]) for name in records[0]}

        seen = acceleration.map_over_tasks(one_task, self.model, batch, self.backend, order=1)
        outputs = seen.pop("/outputs")
        return Trajectory(
            seen.pop("/support"), seen.pop("/query"), _share_right(outputs, batch.query_y[:, None]), outputs,
            seen or None,
        )  # fmt: skip

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> nn.Module:
        """A copy of the model adapted to one task; the model itself stays as it is.

        Args:
            support_x: (examples, ...), one task without a leading task dimension.
            support_y: (examples,) labels, or targets for regression.
            steps: adaptation steps; default the K that was trained.

        Raises:
            InputError: the support set's rank, type, device or labels do not fit, or `steps` is negative.
        """
        task = TaskBatch(support_x[None], support_y[None], support_x[None], support_y[None])
        path = self.trajectory(task, steps, parameters=True).parameters
        adapted = copy.deepcopy(self.model)
        values = {name: p[0, -1] for name, p in path.items()}
        last = max((self.settings.inner_steps if steps is None else steps) - 1, 0)
        values |= {_name(key): at_step(p, last) for key, p in self.norms.items()}
        with torch.no_grad():
            for name, p in adapted.named_parameters():
                if name in values:
                    p.copy_(values[name])
        return adapted

    def _check(self, batch) -> TaskBatch:
        """The batch as a `TaskBatch`, after checking that it fits the model."""
        batch = check_batch(batch)
        device = next(self.model.parameters()).device
        if batch.support_x.device != device:
            raise InputError(f"The batch is on {batch.support_x.device}, but the model is on {device}.")
        # The number of outputs needs one forward pass, so it is looked up once for each shape of input.
        shape = batch.support_x.shape[2:]
        new = shape not in self._checked
        if batch.support_y.dtype == torch.int64 and (new or device.type == "cpu"):
            if new:
                with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    self.outputs_count = self.model(batch.support_x[0]).shape[-1]
            for name, labels in (("support_y", batch.support_y), ("query_y", batch.query_y)):
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= self.outputs_count:
                    raise InputError(
                        f"{name} has labels from {low} to {high}, but the model has {self.outputs_count} outputs: "
                        f"labels must be 0 to {self.outputs_count - 1}."
                    )
        if self.backend == "auto":
            self.backend = acceleration.choose("auto", self.model, batch)
        self._checked.add(shape)
        return batch


class Reptile(MAML):
    """Reptile (Nichol et al. 2018): move θ towards where plain training on the task's examples ends.

    Its "gradient" is (θ - θ'_K) / α (their section 2), worked out on support and query set together, as there is no
    query loss to differentiate. Rates cannot be learned from it.
    """

    def __init__(self, model, settings="reptile", **keywords):
        super().__init__(model, settings, **keywords)
        if self.settings.learned_rates != "none" or self.settings.per_step_norm:
            raise InputError("Reptile has no query loss, so learned_rates must be 'none' and per_step_norm False.")
        if self.settings.inner_steps == 0 or self.settings.inner_lr == 0:
            raise InputError("Reptile needs its inner steps: inner_steps must be at least 1 and inner_lr above 0.")

    def task_gradients(self, inner, meta, task, order, weights, calculus):
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        adapted = inner.start(meta)
        for step in range(self.settings.inner_steps):
            adapted = inner.step(meta, adapted, step, x, y, 1, calculus)
        with torch.no_grad():
            loss, outputs = inner.query_loss(meta, adapted, self.settings.inner_steps, task.query_x, task.query_y)
        still = {name: torch.zeros_like(p) for name, p in meta.items()}
        moved = {name: (meta[name] - p.detach()) / self.settings.inner_lr for name, p in adapted.items()}
        return loss, outputs, still | moved


def learner(model: nn.Module, settings: str | Settings, **keywords) -> MAML:
    """The meta-learner of a recipe: `Reptile` for "reptile", else `MAML`; arguments as theirs."""
    name = settings if isinstance(settings, str) else settings.name
    return (Reptile if name == "reptile" else MAML)(model, settings, **keywords)


def at_step(stacked: Tensor, step: int) -> Tensor:
    """What was learned for this step; steps beyond the last use the last's."""
    return stacked[min(step, len(stacked) - 1)]


def _share_right(outputs: Tensor, labels: Tensor) -> Tensor | None:
    """The share of examples (last dimension of labels) whose highest output is their label; None for regression."""
    if labels.dtype != torch.int64:
        return None
    return (outputs.detach().argmax(-1) == labels).float().mean(-1)


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict takes no dots


def _name(key: str) -> str:
    return key.replace("/", ".")


def _initial_rate(parameter: Tensor, settings: Settings) -> nn.Parameter:
    shapes = {"parameter": (), "parameter_step": (max(settings.inner_steps, 1),), "element": parameter.shape}
    return nn.Parameter(parameter.new_full(shapes[settings.learned_rates], settings.inner_lr))
