"""MAML, FOMAML and MAML++: one inner loop, one task loss, and the settings that tell the algorithms apart.

Read it in this order. `Settings` names every choice and `RECIPES` makes the published algorithms from them.
`MAML.inner_step` is one adaptation step, `MAML.task_loss` runs K of them and grades the result on the query set, and
`MAML.meta_gradients` differentiates that, averaged over the tasks of a meta-batch. `Reptile` replaces the last part.

Symbols follow the papers: θ are the meta-parameters that adaptation starts from, θ'_k the parameters after k steps,
α the inner rate. Every rate here belongs to a loss averaged over the drawings. Finn's code divides a *sum* over
classes x shots by the shots alone, so his 0.4 (5-way) and 0.1 (20-way) are both 2.0 here.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from . import acceleration
from .errors import InputError, check_choice, check_number
from .inspection import names_that_adapt, normalisation_parameters, refuse_running_statistics
from .tasks import TaskBatch, check_batch

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Every choice that the algorithms of this family differ in. All settings are checked on construction.

    Attributes:
        name: the recipe these settings came from; used on the command line, in files and in figures.
        inner_steps: K, adaptation steps per task; 0 is plain supervised learning on the query sets.
        inner_lr: α, under a mean loss; where rates are learned, the value they start from.
        order: 2 differentiates through the inner gradients (Finn et al. 2017, equation 1); 1 takes them as constants
            (their section 5.2, "first-order approximation": FOMAML).
        first_order_epochs: derivative-order annealing (Antoniou et al. 2019, section 4): this many epochs use order 1.
        multi_step_loss: which steps the query loss grades: "final", "uniform" (mean over the K steps) or "annealed"
            (from uniform to final; their section 4, "MSL").
        multi_step_epochs: E, after which "annealed" has become "final".
        learned_rates: "none"; "parameter": a learned α for each parameter tensor; "parameter_step": one for each
            tensor and step (MAML++, "LSLR"); "element": one for each number (Meta-SGD, Li et al. 2017).
            Learned rates are free to change sign, as in the official MAML++ code.
        per_step_norm: gain and bias of the normalisation layers are learned for each step and not adapted (MAML++,
            "BNWB").
        adapt: which parameters adapt, as name patterns; a leading "!" takes names out again. ANIL: ("head.*",);
            BOIL: ("*", "!head.*").
        checkpoint_steps: recompute each inner step in the backward pass instead of keeping it: memory hardly grows
            with K, for about a third more time.
        outer_lr: Adam's rate for the meta-parameters (Reptile too).
        cosine: anneal the outer rate along a cosine to a hundredth of it (MAML++, "CA").
    """

    name: str = "maml"
    inner_steps: int = 5
    inner_lr: float = 0.1
    order: int = 2
    first_order_epochs: int = 0
    multi_step_loss: str = "final"
    multi_step_epochs: int = 10
    learned_rates: str = "none"
    per_step_norm: bool = False
    adapt: tuple[str, ...] = ("*",)
    checkpoint_steps: bool = False
    outer_lr: float = 0.003
    cosine: bool = False

    def __post_init__(self):
        object.__setattr__(self, "adapt", (self.adapt,) if isinstance(self.adapt, str) else tuple(self.adapt))
        check_number("inner_steps", self.inner_steps, at_least=0, whole=True)
        check_number("inner_lr", self.inner_lr, at_least=0)
        check_choice("order", self.order, (1, 2))
        check_number("first_order_epochs", self.first_order_epochs, at_least=0, whole=True)
        check_choice("multi_step_loss", self.multi_step_loss, ("final", "uniform", "annealed"))
        check_number("multi_step_epochs", self.multi_step_epochs, at_least=1, whole=True)
        check_choice("learned_rates", self.learned_rates, ("none", "parameter", "parameter_step", "element"))
        check_number("outer_lr", self.outer_lr, above=0)

    def order_at(self, epoch: int) -> int:
        """The derivative order used in this epoch."""
        return 1 if epoch < self.first_order_epochs else self.order

    def loss_weights(self, epoch: int) -> tuple[float, ...]:
        """How much the query loss after 0, 1, ..., K steps counts in this epoch: K + 1 weights that sum to 1.

        "annealed" is the schedule of the official MAML++ code: over E epochs the weight of each step but the last
        falls in a straight line from 1/K to 0.03/K, the last takes what they lose, and then it counts alone.
        """
        steps = self.inner_steps
        if steps == 0:
            return (1.0,)
        if self.multi_step_loss == "uniform":
            return (0.0, *[1 / steps] * steps)
        if self.multi_step_loss == "annealed" and epoch < self.multi_step_epochs:
            early = max(1 / steps - epoch / (steps * self.multi_step_epochs), 0.03 / steps)
            return (0.0, *[early] * (steps - 1), 1 - early * (steps - 1))
        return (*[0.0] * steps, 1.0)


_MAML_PLUS_PLUS = dict(multi_step_loss="annealed", learned_rates="parameter_step", per_step_norm=True, cosine=True)

# The switches are the papers'; the rates are this course's for short training, and each line says what the paper used.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Finn et al. 2017, A.1: Omniglot 5-way 1 step at 2.0 (mean loss), 20-way 5 steps at 2.0; Adam, 0.001.
        Settings("maml"),
        # Finn et al. 2017, section 5.2; Nichol et al. 2018, section 3: the same, the inner gradients held constant.
        Settings("fomaml", order=1),
        # Antoniou et al. 2019, section 4: 5 steps starting at 0.1; Adam, 0.001 to 0.00001. Order annealing is part of
        # the paper, but off in every configuration that the authors published; so it is here.
        Settings("maml++", **_MAML_PLUS_PLUS),
        # Not in a paper: every part of MAML++ on first-order gradients.
        Settings("fomaml++", order=1, **_MAML_PLUS_PLUS),
        # Raghu et al. 2020, section 4: only the head adapts.
        Settings("anil", adapt=("head.*",)),
        # Nichol et al. 2018, appendix A: 5 inner steps of Adam without momentum at 0.001 and an outer step of 1 that
        # falls to 0; here the inner steps are plain and Adam takes the outer one.
        Settings("reptile", order=1),
        # Li et al. 2017, section 3: one step, one learned rate for each number.
        Settings("meta-sgd", inner_steps=1, learned_rates="element"),
    )
}


def recipe(name: str, **changes) -> Settings:
    """The named recipe, with some of its settings changed.

    Raises:
        InputError: the name, or the name of a setting, is unknown; or a value is not allowed.
    """
    check_choice("The algorithm", name, RECIPES)
    for setting in changes:
        check_choice("The setting", setting, Settings.__dataclass_fields__)
    return replace(RECIPES[name], **changes)


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
        backend: how the tasks of a meta-batch are computed: "loop", "threads", "vmap" or "auto"
            (see `acceleration.choose`); the choice is readable as `.backend`.
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
            raise InputError("per_step_norm is True, but the model has no normalisation layer with gain and bias: set it to False.")
        self.adapted_names = names_that_adapt(model, self.settings.adapt, norms)
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
        """Everything that the outer loop learns, by name: θ; "rates.*" if rates are learned; "norms.*" if gain and
        bias are per step (leading dimension: steps), which then stand in for the model's own."""
        learned = {name: p for name, p in self.model.named_parameters() if _key(name) not in self.norms}
        learned |= {f"rates.{_name(key)}": p for key, p in self.rates.items()}
        learned |= {f"norms.{_name(key)}": p for key, p in self.norms.items()}
        return {name: p for name, p in learned.items() if p.requires_grad}

    # One task. `meta` are the meta-parameters, `adapted` those of them that the inner loop has moved so far.

    def outputs(self, module: nn.Module, meta: Parameters, adapted: Parameters, step: int, x: Tensor) -> Tensor:
        """The model's outputs on x with the adapted parameters and, where they differ by step, this step's norms.

        Steps beyond the K that were learned use the last step's norms and rates.
        """
        parameters = {name: p for name, p in meta.items() if not name.startswith(("rates.", "norms."))} | adapted
        for key in self.norms:
            stacked = meta[f"norms.{_name(key)}"]
            parameters[_name(key)] = stacked[min(step, len(stacked) - 1)]
        return functional_call(module, parameters, (x,))

    def rate(self, meta: Parameters, name: str, step: int) -> Tensor | float:
        """α for one parameter tensor at one step."""
        rate = meta.get(f"rates.{name}", self.settings.inner_lr)
        if self.settings.learned_rates == "parameter_step":
            rate = rate[min(step, len(rate) - 1)]
        return rate

    def inner_step(self, module, meta, adapted, step: int, x, y, order: int, gradient) -> Parameters:
        """θ'_{k+1} = θ'_k - α ∇L(θ'_k) on the support set (Finn et al. 2017, equation 1).

        `gradient` is the `inner` of a `Calculus`; with order 1 it returns constants, and that is all there is to FOMAML.
        """

        def support_loss(adapted):
            return self.loss(self.outputs(module, meta, adapted, step, x), y)

        slopes = gradient(support_loss, adapted, order)
        return {name: p - self.rate(meta, name, step) * slopes[name] for name, p in adapted.items()}

    def query_loss(self, module, meta, adapted, steps_taken: int, x, y) -> tuple[Tensor, Tensor]:
        """The loss of the parameters after some steps on the query set, and the outputs it was worked out from."""
        outputs = self.outputs(module, meta, adapted, max(steps_taken - 1, 0), x)
        return self.loss(outputs, y), outputs

    def task_loss(self, module, meta, task: TaskBatch, order: int, weights, gradient) -> tuple[Tensor, Tensor]:
        """The meta-objective of one task: Σ_k w_k L_query(θ'_k) (MAML: the last step only; MAML++, equation 2).

        Returns the loss and the query outputs after the last step.
        """
        adapted = {name: meta[name] for name in self.adapted_names}
        total = 0.0
        for steps_taken, weight in enumerate(weights):
            if steps_taken > 0:
                step = steps_taken - 1
                adapted = self.inner_step(module, meta, adapted, step, task.support_x, task.support_y, order, gradient)
            if weight:  # a query pass that counts for nothing is not worked out
                loss, outputs = self.query_loss(module, meta, adapted, steps_taken, task.query_x, task.query_y)
                total = total + weight * loss
        return total, outputs

    def task_gradients(self, module, meta, task: TaskBatch, epoch: int, calculus) -> tuple[Tensor, ...]:
        """(loss, query outputs, {name: gradient}) of one task's meta-objective."""
        order, weights = self.settings.order_at(epoch), self.settings.loss_weights(epoch)
        if self.settings.checkpoint_steps:
            return self._recomputed_gradients(module, meta, task, order, weights)
        return calculus.outer(lambda meta: self.task_loss(module, meta, task, order, weights, calculus.inner), meta)

    def _recomputed_gradients(self, module, meta, task, order, weights):
        """The same gradients with each inner step recomputed when its turn comes in the backward pass.

        Walking back from step K, v = ∂loss/∂θ'_k becomes (I - αH) v: a vector-Jacobian product of one inner step,
        whose graph is the only one alive.
        """
        gradient = acceleration.FUNCTIONAL.inner

        def step_from(step):
            return lambda meta, adapted: self.inner_step(
                module, meta, adapted, step, task.support_x, task.support_y, order, gradient
            )

        def loss_after(steps_taken):
            return lambda meta, adapted: self.query_loss(
                module, meta, adapted, steps_taken, task.query_x, task.query_y
            )

        path = [{name: meta[name].detach() for name in self.adapted_names}]
        for step in range(len(weights) - 1):
            path.append({name: p.detach() for name, p in step_from(step)(meta, path[-1]).items()})
        total, outputs = 0.0, None
        pulled = {name: torch.zeros_like(p) for name, p in path[0].items()}
        gradients = {name: torch.zeros_like(p) for name, p in meta.items()}
        for steps_taken in reversed(range(len(weights))):
            adapted = path.pop()
            if weights[steps_taken]:
                loss, pull, seen = acceleration.vjp(loss_after(steps_taken), meta, adapted, has_aux=True)
                outputs = seen if outputs is None else outputs
                total = total + weights[steps_taken] * loss
                to_meta, to_adapted = pull(torch.full_like(loss, weights[steps_taken]))
                gradients = {name: g + to_meta[name] for name, g in gradients.items()}
                pulled = {name: v + to_adapted[name] for name, v in pulled.items()}
            if steps_taken > 0:
                _, pull = acceleration.vjp(step_from(steps_taken - 1), meta, path[-1])
                to_meta, pulled = pull(pulled)
                gradients = {name: g + to_meta[name] for name, g in gradients.items()}
        return total, outputs, gradients | {name: gradients[name] + v for name, v in pulled.items()}

    # Whole meta-batches.

    def meta_gradients(self, batch: TaskBatch, epoch: int = 0) -> tuple[Tensor, Parameters]:
        """The meta-loss and its gradient for every meta-parameter, averaged over the tasks of the batch.

        Args:
            batch: tensors with a leading task dimension.
            epoch: where in training we are; decides the loss weights and the derivative order where they anneal.

        Returns:
            (scalar loss, {name: gradient}); nothing is stored in `.grad`.

        Raises:
            InputError: the batch's ranks, types, devices or labels do not fit.
        """
        loss, _, gradients = self.meta_step(batch, epoch)
        return loss, gradients

    def meta_step(self, batch: TaskBatch, epoch: int = 0) -> tuple[Tensor, Tensor | None, Parameters]:
        """As `meta_gradients`, with the query accuracy after the last step in the middle (None for regression)."""
        batch = self._check(batch)
        meta = {name: p.detach() for name, p in self.meta_parameters().items()}

        def one_task(module, task, calculus):
            loss, outputs, gradients = self.task_gradients(module, meta, TaskBatch(*task), epoch, calculus)
            right = _share_right(outputs, task[3])
            return gradients | {"/loss": loss.detach()} | ({} if right is None else {"/right": right})

        mean = acceleration.mean_over_tasks(one_task, self.model, batch, self.backend)
        return mean.pop("/loss"), mean.pop("/right", None), mean

    def trajectory(self, batch: TaskBatch, steps: int | None = None, parameters: bool = False) -> Trajectory:
        """Adapt to every task of the batch and record each step. Leaves the model as it is.

        Args:
            batch: tensors with a leading task dimension.
            steps: adaptation steps; default the K that was trained.
            parameters: whether to keep the adapted parameters too (memory: tasks x steps x parameters).

        Raises:
            InputError: the batch does not fit, or `steps` is negative.
        """
        batch = self._check(batch)
        steps = self.settings.inner_steps if steps is None else steps
        check_number("steps", steps, at_least=0, whole=True)
        meta = {name: p.detach() for name, p in self.meta_parameters().items()}

        def one_task(module, task, calculus):
            task = TaskBatch(*task)
            adapted = {name: meta[name] for name in self.adapted_names}
            records = []
            for steps_taken in range(steps + 1):
                if steps_taken > 0:
                    adapted = self.inner_step(
                        module, meta, adapted, steps_taken - 1, task.support_x, task.support_y, 1, calculus.inner
                    )
                with torch.no_grad():
                    support, _ = self.query_loss(module, meta, adapted, steps_taken, task.support_x, task.support_y)
                    query, outputs = self.query_loss(module, meta, adapted, steps_taken, task.query_x, task.query_y)
                record = {"/support": support, "/query": query, "/outputs": outputs}
                records.append(record | ({n: p.detach() for n, p in adapted.items()} if parameters else {}))
            return {name: torch.stack([record[name] for record in records]) for name in records[0]}

        seen = acceleration.map_over_tasks(one_task, self.model, batch, self.backend)
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
        last = (self.settings.inner_steps if steps is None else steps) - 1
        values |= {_name(key): p[min(max(last, 0), len(p) - 1)] for key, p in self.norms.items()}
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
            with torch.no_grad():
                self.outputs_count = self.model(batch.support_x[0]).shape[-1] if new else self.outputs_count
            for name, labels in (("support_y", batch.support_y), ("query_y", batch.query_y)):
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= self.outputs_count:
                    raise InputError(
                        f"{name} has labels from {low} to {high}, but the model has {self.outputs_count} outputs: "
                        f"labels must be 0 to {self.outputs_count - 1}."
                    )
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
            raise InputError("Reptile learns from its inner steps: inner_steps must be at least 1 and inner_lr above 0.")

    def task_gradients(self, module, meta, task, epoch, calculus):
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        adapted = {name: meta[name] for name in self.adapted_names}
        for step in range(self.settings.inner_steps):
            adapted = self.inner_step(module, meta, adapted, step, x, y, 1, calculus.inner)
        with torch.no_grad():
            loss, outputs = self.query_loss(
                module, meta, adapted, self.settings.inner_steps, task.query_x, task.query_y
            )
        still = {name: torch.zeros_like(p) for name, p in meta.items()}
        moved = {name: (meta[name] - p.detach()) / self.settings.inner_lr for name, p in adapted.items()}
        return loss, outputs, still | moved


def learner(model: nn.Module, settings: str | Settings, **keywords) -> MAML:
    """The meta-learner of a recipe: `Reptile` for "reptile", else `MAML`; arguments as theirs."""
    name = settings if isinstance(settings, str) else settings.name
    return (Reptile if name == "reptile" else MAML)(model, settings, **keywords)


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
