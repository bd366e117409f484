"""`MAML`: a model with its meta-parameters, which computes meta-gradients, trajectories and adapted models.

What is computed for one task stands in `algorithms`, how many tasks are computed at once in `engine.backends`.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .algorithms import InnerLoop, accuracy, at_step
from .engine import backends
from .engine.autodiff import EAGER, Autodiff, detached
from .engine.choice import Choice
from .engine.inspection import (
    draws_random_numbers,
    names_that_adapt,
    normalisation_parameters,
    refuse_running_statistics,
)
from .engine.stateless import Stateless
from .engine.trees import leaves
from .errors import InputError, check_choice, check_number
from .meta_params import MetaGradient, MetaParams, Parameters, nested
from .settings import Settings, recipe
from .tasks import TaskBatch, check_batch, is_labels
from .trial import check_labels, try_out

SAME = 1e-8  # relative difference of two backends' numbers in float64; rounding makes 1e-11 of it at most
_log = logging.getLogger(__name__)


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
        backend: how the tasks of a meta-batch are computed: "loop", "threads", "vmap", "batched", "products",
            "compiled" or "auto", the fastest of them, which the first batches show (see `engine.backends`); then
            `.backend` is the one that was chosen.
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
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise InputError(
                f"model: expected the network itself, got a {type(model).__name__} around it: pass its `.module`; "
                "several processes share the tasks by `train(..., ranks=...)`."
            )
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
        self._norm_names = norms
        if self.settings.head_init == "prototypes":
            _check_head(model, self.adapted_names)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        self.learning_rates = nested(_initial_learning_rates(parameters, self.adapted_names, self.settings))
        sets = max(self.settings.inner_steps, 1)
        self.norms = nested({name: torch.stack([parameters[name]] * sets) for name in norms})
        self._norms_came_from = {name: (0, parameters[name].clone()) for name in norms}
        check_choice("The backend", backend, backends.BACKENDS)
        self._backend, self.choices, self._latest = backend, {}, None
        self._kinds = {}

    @property
    def adapted_names(self) -> list[str]:
        """The parameters that adapt: those that `settings.adapt` names and that are trainable now; of normalisation
        layers none if they are learned by step or `settings.adapt_norms` is False."""
        norms = [] if self.settings.adapt_norms else normalisation_parameters(self.model)
        return names_that_adapt(self.model, self.settings.adapt, self._norm_names + norms)

    def meta_params(self) -> MetaParams:
        """Everything that the outer loop learns: θ, learned learning rates, and norms by step."""
        theta, norms = dict(self.model.named_parameters()), dict(self.norms.named_parameters())
        self._check_norms_are_the_models(theta)
        learning_rates = dict(self.learning_rates.named_parameters())
        adapted = self.adapted_names if learning_rates else []
        missing = [name for name in adapted if name not in learning_rates]
        if missing:
            raise InputError(
                f"{missing[0]} has no learned learning rate, as it was frozen when this learner was made: make the "
                "learner after unfreezing."
            )
        parts = (
            {name: p for name, p in theta.items() if name not in norms and p.requires_grad},
            {name: learning_rates[name] for name in adapted},
            {name: norm for name, norm in norms.items() if theta[name].requires_grad},
        )
        return MetaParams(*parts)

    def inner_loop(self, model: Stateless, autodiff: Autodiff, adapted_names: list[str] | None = None) -> InnerLoop:
        """The adaptation that these settings describe, on `Stateless(maml.model)`."""
        names = self.adapted_names if adapted_names is None else adapted_names
        return InnerLoop(self.settings, model, self.loss, names, autodiff)

    @torch.inference_mode(False)  # whoever calls it under no_grad or inference_mode still wants gradients
    @torch.enable_grad()
    def meta_gradients(self, batch: TaskBatch, epoch: int = 0, *, workers=None, first_task: int = 0) -> MetaGradient:
        """The meta-loss and its gradient for every meta-parameter, averaged over the tasks of the batch.

        Args:
            batch: tensors with a leading task dimension.
            epoch: where in training we are; decides the loss weights and the derivative order where they anneal.
            workers: the processes that share the tasks (`training.workers`); default this one alone.
            first_task: number of the batch's first task in the meta-batch of which it is a part; decides what a model
                draws at random.

        Returns:
            (loss, accuracy, gradients): the scalar meta-loss, the query accuracy after the last step (None for
            regression) and the `MetaParams` of gradients; nothing is stored in `.grad`.

        Raises:
            InputError: the batch, the model and the loss do not fit together, or the backend is "compiled" and
                torch.compile cannot do it.
        """
        batch = self.checked(batch)
        return self._by_fastest(
            "meta-gradient", batch, self.settings.order_at(epoch), mean_gradient, epoch,
            workers=workers, first_task=first_task,
        )  # fmt: skip

    @torch.inference_mode(False)  # adapting needs gradients, wherever it is called
    @torch.enable_grad()
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
        steps = self.settings.inner_steps if steps is None else steps
        check_number("steps", steps, at_least=0, integer=True)
        found = self._by_fastest("trajectory", batch, None, _measured, steps, parameters, only_last, transductive)
        scores = accuracy(found.query_outputs, batch.query_y[:, None]) if is_labels(batch.query_y) else None
        return Trajectory(found.support_loss, found.query_loss, scores, found.query_outputs, found.parameters or None)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> nn.Module:
        """A copy of the model adapted to one task; the model itself stays as it is.

        The copy is for use, not for the outer loop: calling `.backward()` on its loss reaches the copy's parameters and
        no meta-parameter. `meta_gradients` differentiates through adaptation, and `train` steps along that.

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
        """The batch as a `TaskBatch`, if it fits the model and the loss.

        Raises:
            InputError: it does not.
        """
        batch = check_batch(batch)
        device = next(self.model.parameters()).device
        if batch.support_x.device != device:
            raise InputError(
                f"The batch: expected it on {device}, as the model is, got it on {batch.support_x.device}."
            )
        if any(part.is_inference() for part in batch):
            batch = TaskBatch(*(part.clone() for part in batch))  # autograd takes no tensors of inference mode
        kind = self._kind(batch)
        new = kind not in self._kinds
        if new:  # what takes a forward pass is done once for each kind of batch
            outputs_count = try_out(self.model, self.loss, batch)
            draws = device.type == "cpu" and draws_random_numbers(self.model, batch.support_x[0])
            self._kinds[kind] = (outputs_count, draws)
        if new or device.type == "cpu":  # on a GPU, looking at labels would make the CPU wait each time
            check_labels(batch, self._kinds[kind][0])
        return batch

    def _kind(self, batch: TaskBatch):
        return (self.model.training, *((part.shape[2:], part.dtype) for part in batch))

    @property
    def backend(self) -> str:
        """The backend that was asked for; of "auto" the one that was chosen, once it is, for the latest batch."""
        return (self._latest and self._latest.chosen) or self._backend

    @backend.setter
    def backend(self, name: str):
        check_choice("The backend", name, backends.BACKENDS)
        self._backend, self._latest = name, None

    def _by_fastest(
        self, what: str, batch: TaskBatch, order: int | None, compute, *arguments, workers=None, first_task=0
    ):
        """`compute(self, batch, backend, seed, *arguments)` by this learner's backend; of "auto", by the candidate
        whose turn it is.

        Args:
            what: is computed, in a word; with the batch's shapes it says which measurements are comparable.
            batch: checked.
            order: of the meta-gradients; None where there are none.
            compute: gets the seed for the tasks' random numbers, or None where there are none.
            workers: whose `mean_gradient` does it instead of `compute`.
        """
        run = compute if workers is None else workers.mean_gradient
        draws = self._kinds[self._kind(batch)][1]
        seed = int(torch.randint(2**40, ())) + first_task if draws else None
        if self._backend != "auto":
            return run(self, batch, self._backend, seed, *arguments)
        choice = self._latest = self._choice(what, batch, order, draws, workers)
        while True:
            name, settled = choice.next(), choice.chosen
            try:
                if name in backends.BELOW_VMAP and not settled and name not in choice.cold:
                    self._check_numbers(name, batch, compute, arguments)
                began = time.perf_counter()
                result = run(self, batch, name, seed, *arguments)
                if not settled and batch.support_x.is_cuda:
                    torch.cuda.synchronize(batch.support_x.device)
            except (InputError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                if name == "loop":  # which can compute whatever can be computed: the model is at fault
                    raise
                if batch.support_x.is_cuda and torch.cuda.is_current_stream_capturing():
                    raise  # it may be that this cannot be recorded
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._exclude(choice, name, reason)
                continue
            choice.note(name, time.perf_counter() - began)
            if choice.chosen and not settled:
                _log.info("%s of %d tasks: %s.", what, len(batch.support_x), choice.in_words())
            return result

    def fastest_backend(self, batch: TaskBatch, epoch: int = 0, *, workers=None) -> str:
        """The backend for meta-gradients of batches like this one; "auto" measures it now, if it has not yet.

        Raises:
            InputError: the batch does not fit.
        """
        self.meta_gradients(batch, epoch, workers=workers)
        while self.backend == "auto":
            self.meta_gradients(batch, epoch, workers=workers)
        return self.backend

    def settle(self, backend: str | None) -> None:
        """Have "auto" go on with this backend for batches as the latest; None leaves it as it is."""
        if backend and self._latest and not self._latest.chosen:
            self._latest.chosen = backend

    def _choice(self, what, batch, order, draws, workers) -> Choice:
        processes, threads = (1, torch.get_num_threads()) if workers is None else (workers.processes, workers.threads)
        shapes = " and ".join("x".join(map(str, part.shape)) for part in (batch.support_x, batch.query_x))
        derivatives = "" if order is None else f", order {order}"
        device = batch.support_x.device.type
        where = f"{processes} x {threads} threads" if device == "cpu" else device
        key = f"{what} of {shapes}{derivatives}, {where}"
        if key not in self.choices:
            each = -(-len(batch.support_x) // processes)  # tasks of a process, rounded up
            self.choices[key] = Choice(backends.candidates(self.model, each, draws, threads, order))
        return self.choices[key]

    def _exclude(self, choice: Choice, name: str, reason: str) -> None:
        """Go on without this candidate, and say so where the loop alone is left."""
        if choice.chosen:  # what was chosen, or was the only one, fails later
            choice.chosen, choice.names = None, [name, "loop"]
        # What cannot be differentiated below vmap may still be within it.
        tried = {*choice.reasons, *choice.names}
        choice.exclude(name, reason, "vmap" if name in backends.BELOW_VMAP and "vmap" not in tried else None)
        if choice.chosen == "loop":
            warnings.warn(
                f"The tasks are computed in a loop from now on: {name} cannot compute this model ({reason}).",
                stacklevel=5,
            )

    def _check_numbers(self, backend: str, batch: TaskBatch, compute, arguments) -> None:
        """Raise `ArithmeticError` unless this backend gives the loop's numbers on two tasks, in float64.

        A model may do what no rule for all tasks at once knows rightly.
        """
        twin = copy.deepcopy(self).double()
        few = TaskBatch(*(x[:2].double() if x.is_floating_point() else x[:2] for x in batch))
        found, expected = (leaves(compute(twin, few, name, None, *arguments)) for name in (backend, "loop"))
        for one, other in zip(found, expected):
            if one is None:  # the accuracy of regression
                continue
            one, other = one.nan_to_num(), other.nan_to_num()
            if (one - other).norm() > SAME * max(1.0, other.norm()):
                raise ArithmeticError("its numbers are not those of the loop")

    def load_state_dict(self, state_dict, *arguments, **keywords):
        """As `nn.Module.load_state_dict`."""
        found = super().load_state_dict(state_dict, *arguments, **keywords)
        parameters = dict(self.model.named_parameters())
        self._norms_came_from = {name: (0, parameters[name].detach().clone()) for name in self._norm_names}
        return found

    def _check_norms_are_the_models(self, parameters) -> None:
        for name, (version, value) in self._norms_came_from.items():
            if parameters[name]._version == version:  # nothing wrote to it, which is known without waiting for a GPU
                continue
            if torch.equal(parameters[name].detach().to(value), value):
                self._norms_came_from[name] = (parameters[name]._version, value)
            else:
                raise InputError(
                    f"{name} was changed after this learner was made, which keeps a set of it for each step in "
                    "`norms`: load the model's weights first, then make the learner."
                )


def mean_gradient(maml: MAML, batch: TaskBatch, backend: str, seed: int | None, epoch: int) -> MetaGradient:
    """The mean meta-gradient of the batch's tasks."""
    settings, meta, names = maml.settings, detached(maml.meta_params()), maml.adapted_names
    order, weights = settings.order_at(epoch), settings.loss_weights(epoch)

    def task_gradient(model, autodiff, *task):
        return maml.inner_loop(model, autodiff, names).meta_gradient(meta, TaskBatch(*task), order, weights)

    mean = backends.mean_over_tasks(task_gradient, maml.model, batch, backend, order, seed)
    return mean if is_labels(batch.query_y) else mean._replace(accuracy=None)


def _measured(
    maml: MAML, batch: TaskBatch, backend: str, seed: int | None, steps: int, parameters: bool, only_last: bool,
    transductive: bool,
) -> _Measured:  # fmt: skip
    """Every task after each step, stacked."""
    meta, names = detached(maml.meta_params()), maml.adapted_names

    def task_trajectory(model, autodiff, *task):
        task, inner, measured = TaskBatch(*task), maml.inner_loop(model, autodiff, names), []
        for k, params in enumerate(inner.adapt(meta, task.support_x, task.support_y, order=1, steps=steps)):
            if k == steps or not only_last:
                # All parameters are constants, so no graph is built; a model may still differentiate by itself.
                seen = _measure(inner, meta, detached(params), k, task, parameters, transductive)
                measured.append(detached(seen))
        return backends.stacked(measured)

    return backends.map_over_tasks(task_trajectory, maml.model, batch, backend, 1, seed)


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
        in_a_loop = inner.autodiff is EAGER  # then the model need not be one that vmap can compute
        outputs = (
            torch.stack([with_support(x) for x in task.query_x])
            if in_a_loop
            else torch.func.vmap(with_support)(task.query_x)
        )
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
