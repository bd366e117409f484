"""Every choice that the algorithms of this family differ in, and the published algorithms as named recipes.

Every rate here belongs to a loss averaged over the drawings. Finn's code divides a *sum* over classes x shots by the
shots alone, so his 0.4 (5-way) and 0.1 (20-way) are both 2.0 here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import InputError, check_choice, check_number


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
            with K, for the time of one more gradient in each step.
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
        check_number("inner_steps", self.inner_steps, at_least=0, whole=True)
        check_number("inner_lr", self.inner_lr, at_least=0)
        check_number("order", self.order, at_least=1, at_most=2, whole=True)
        check_number("first_order_epochs", self.first_order_epochs, at_least=0, whole=True)
        check_choice("multi_step_loss", self.multi_step_loss, ("final", "uniform", "annealed"))
        check_number("multi_step_epochs", self.multi_step_epochs, at_least=1, whole=True)
        check_choice("learned_rates", self.learned_rates, ("none", "parameter", "parameter_step", "element"))
        check_number("outer_lr", self.outer_lr, above=0)
        for name in ("per_step_norm", "checkpoint_steps", "cosine"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, but must be True or False.")
        patterns = (self.adapt,) if isinstance(self.adapt, str) else self.adapt
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise InputError(f"adapt is {self.adapt!r}, but must be a name pattern or several.")
        object.__setattr__(self, "adapt", tuple(patterns))
        # NumPy's numbers are welcome, but a checkpoint takes only plain ones.
        for name in ("inner_steps", "order", "first_order_epochs", "multi_step_epochs"):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in ("inner_lr", "outer_lr"):
            object.__setattr__(self, name, float(getattr(self, name)))

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

# The switches are the papers'. The rates are this course's, for short training (benchmarks/choose_settings.py); each
# comment says what the paper used.
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
