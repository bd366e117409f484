"""`MAML`: a model with its meta-parameters, which computes meta-gradients, trajectories and adapted models.

What is computed for one task stands in `algorithms`, how many tasks are computed at once in `engine.backends`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .algorithms import InnerLoop, accuracy, at_step
from .engine import backends
from .engine.autodiff import Autodiff, detached
from .engine.inspection import names_that_adapt, normalisation_parameters, refuse_running_statistics
from .errors import InputError, check_choice, check_number
from .meta_params import MetaGradient, MetaParams, Parameters, nested
from .settings import Settings, recipe
from .tasks import TaskBatch, check_batch, is_labels


class Trajectory(NamedTuple):
    """What happened to each of T tasks before adaptation and after each of K steps.

    Attributes:
        support_loss, query_loss: (T, K + 1).
        query_accuracy: (T, K + 1), in [0, 1]; None for regression.
        query_outputs: (T, K + 1, queries, outputs), the model's raw outputs.
        parameters: {name: (T, K + 1, ...)} of the adapted parameters; None unless asked for.
    """

    support_loss: Tensor
    query_loss: Tensor
    query_accuracy: Tensor | None
    query_outputs: Tensor
    parameters: Parameters | None


class _Measured(NamedTuple):
    """One task after so many steps."""

    support_loss: Tensor
    query_loss: Tensor
    query_outputs: Tensor
    parameters: Parameters


class MAML(nn.Module):
    """A model whose parameters are learned so that a few gradient steps on a new task make it good at that task.

    Args:
        model: any `nn.Module` from inputs (examples, ...) to outputs (examples, ...). Its parameters are θ: training
            changes them in place. Normalisation layers must use batch statistics (`track_running_stats=False`).
        settings: a recipe's name or `Settings`; default MAML.
        loss: (outputs, targets) -> scalar, averaged over the examples; default cross-entropy.
        backend: how the tasks of a meta-batch are computed: "loop", "threads", "vmap", "compiled" or "auto"
            (see `engine.backends`); the choice is readable as `.backend`, at the latest after the first batch.
        **changes: settings to change, such as `inner_steps=3`.

    Raises:
        InputError: a setting is unknown or not allowed, no parameter adapts, the model keeps running statistics, or
            `head_init="prototypes"` and the model has no `features` and linear `head` that adapts.
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
        self.adapted_names = names_that_adapt(model, self.settings.adapt, norms)
        if self.settings.head_init == "prototypes":
            _check_head(model, self.adapted_names)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        self.learning_rates = nested(_initial_learning_rates(parameters, self.adapted_names, self.settings))
        sets = max(self.settings.inner_steps, 1)
        self.norms = nested({name: torch.stack([parameters[name]] * sets) for name in norms})
        self.backend = backends.choose(backend, model)
        self._checked = set()

    def meta_params(self) -> MetaParams:
        """Everything that the outer loop learns: θ, learned learning rates, and norms by step."""
        norms = dict(self.norms.named_parameters())
        theta = {name: p for name, p in self.model.named_parameters() if name not in norms}
        parts = theta, dict(self.learning_rates.named_parameters()), norms
        return MetaParams(*({name: p for name, p in part.items() if p.requires_grad} for part in parts))

    def inner_loop(self, model: nn.Module, autodiff: Autodiff) -> InnerLoop:
        """The adaptation that these settings describe, on a network of the model's kind."""
        return InnerLoop(self.settings, model, self.loss, self.adapted_names, autodiff)

    @torch.enable_grad()  # whoever calls it under no_grad still wants gradients
    def meta_gradients(self, batch: TaskBatch, epoch: int = 0) -> MetaGradient:
        """The meta-loss and its gradient for every meta-parameter, averaged over the tasks of the batch.

        Args:
            batch: tensors with a leading task dimension.
            epoch: where in training we are; decides the loss weights and the derivative order where they anneal.

        Returns:
            (loss, accuracy, gradients): the scalar meta-loss, the query accuracy after the last step (None for
            regression) and the `MetaParams` of gradients; nothing is stored in `.grad`.

        Raises:
            InputError: the batch's ranks, types, devices or labels do not fit, or the backend is "compiled" and
                torch.compile cannot do it.
        """
        batch = self.checked(batch)
        backend = self.chosen_backend(batch)
        meta, order, weights = self._start(epoch)

        def task_gradient(model, autodiff, *task):
            return self.inner_loop(model, autodiff).meta_gradient(meta, TaskBatch(*task), order, weights)

        mean = backends.mean_over_tasks(task_gradient, self.model, batch, backend, order)
        return mean if is_labels(batch.query_y) else mean._replace(accuracy=None)

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
                them all, or each with the support set alone (Nichol et al. 2018, section 6).

        Raises:
            InputError: the batch does not fit, or `steps` is negative.
        """
        batch = self.checked(batch)
        backend = self.chosen_backend(batch)
        steps = self.settings.inner_steps if steps is None else steps
        check_number("steps", steps, at_least=0, integer=True)
        meta, _, _ = self._start()

        def task_trajectory(model, autodiff, *task):
            task, inner, measured = TaskBatch(*task), self.inner_loop(model, autodiff), []
            for k, params in enumerate(inner.adapt(meta, task.support_x, task.support_y, order=1, steps=steps)):
                if k == steps or not only_last:
                    with torch.no_grad():
                        measured.append(_measure(inner, meta, detached(params), k, task, parameters, transductive))
            return backends.stacked(measured)

        found = backends.map_over_tasks(task_trajectory, self.model, batch, backend, order=1)
        scores = accuracy(found.query_outputs, batch.query_y[:, None]) if is_labels(batch.query_y) else None
        return Trajectory(found.support_loss, found.query_loss, scores, found.query_outputs, found.parameters or None)

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
        last = max((self.settings.inner_steps if steps is None else steps) - 1, 0)
        values = {name: at_step(norm, last) for name, norm in self.norms.named_parameters()}
        values |= {name: p[0, -1] for name, p in path.items()}
        with torch.no_grad():
            for name, p in adapted.named_parameters():
                if name in values:
                    p.copy_(values[name])
        return adapted

    def checked(self, batch) -> TaskBatch:
        """The batch as a `TaskBatch`, if it fits the model.

        Raises:
            InputError: it does not.
        """
        batch = check_batch(batch)
        device = next(self.model.parameters()).device
        if batch.support_x.device != device:
            raise InputError(
                f"The batch: expected it on {device}, as the model is, got it on {batch.support_x.device}."
            )
        # The number of outputs needs one forward pass, so it is looked up once for each shape of input.
        shape = batch.support_x.shape[2:]
        new = shape not in self._checked
        labelled = {name: y for name, y in (("support_y", batch.support_y), ("query_y", batch.query_y)) if is_labels(y)}
        if labelled and (new or device.type == "cpu"):
            if new:
                with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    self.outputs_count = self.model(batch.support_x[0]).shape[-1]
            for name, labels in labelled.items():
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= self.outputs_count:
                    raise InputError(
                        f"{name}: expected labels from 0 to {self.outputs_count - 1}, as the model has "
                        f"{self.outputs_count} outputs, got {low} to {high}."
                    )
        self._checked.add(shape)
        return batch

    def chosen_backend(self, batch: TaskBatch) -> str:
        """The backend for this batch; "auto" is decided by the first."""
        self.backend = backends.choose(self.backend, self.model, batch)
        return self.backend

    def _start(self, epoch: int = 0) -> tuple[MetaParams, int, tuple[float, ...]]:
        """The meta-parameters as constants, and the derivative order and loss weights of an epoch."""
        return detached(self.meta_params()), self.settings.order_at(epoch), self.settings.loss_weights(epoch)


class Reptile(MAML):
    """`MAML` with the recipe "reptile" (Nichol et al. 2018) as its default."""

    def __init__(self, model: nn.Module, settings: str | Settings = "reptile", **keywords):
        super().__init__(model, settings, **keywords)


def learner(model: nn.Module, settings: str | Settings, **keywords) -> MAML:
    """`MAML(model, settings, **keywords)`."""
    return MAML(model, settings, **keywords)


def _measure(inner: InnerLoop, meta, params, steps_taken, task, keep_parameters, transductive) -> _Measured:
    support, _ = inner.query_loss(meta, params, steps_taken, task.support_x, task.support_y)
    if transductive:
        query, outputs = inner.query_loss(meta, params, steps_taken, task.query_x, task.query_y)
    else:
        step, forward = max(steps_taken - 1, 0), inner.forward
        with_support = lambda x: forward(meta, params, step, torch.cat([task.support_x, x[None]]))[-1]  # noqa: E731
        outputs = torch.func.vmap(with_support)(task.query_x)
        query = inner.loss_fn(outputs, task.query_y)
    return _Measured(support, query, outputs, params if keep_parameters else {})


def _initial_learning_rates(parameters: Parameters, adapted_names, settings: Settings) -> Parameters:
    if settings.learned_lr == "none":
        return {}
    by_step = (max(settings.inner_steps, 1),)
    shapes = {"parameter": lambda p: (), "parameter_step": lambda p: by_step, "element": lambda p: p.shape}
    shape = shapes[settings.learned_lr]
    return {n: parameters[n].new_full(shape(parameters[n]), settings.inner_lr) for n in adapted_names}


def _check_head(model: nn.Module, adapted_names) -> None:
    """Prototypes are means of `model.features` and become the weights of the linear `model.head`."""
    features, head = (getattr(model, name, None) for name in ("features", "head"))
    if not (isinstance(features, nn.Module) and isinstance(head, nn.Linear) and head.bias is not None):
        raise InputError(
            "head_init is 'prototypes', but the model has not both a module `features` and an `nn.Linear` `head` with "
            "a bias: name its parts so, or set head_init to 'learned'."
        )
    if not {"head.weight", "head.bias"} <= set(adapted_names):
        raise InputError("head_init is 'prototypes', so adapt must include head.weight and head.bias.")
