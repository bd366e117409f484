"""Every choice that the algorithms of this family differ in, and the published algorithms as named recipes.

Every learning rate here belongs to a loss averaged over the examples. Finn's code divides a *sum* over classes x shots
by the shots alone, so his 0.4 (5-way) and 0.1 (20-way) are both 2.0 here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from .errors import InputError, check_choice, check_number
from .records import with_current_names


@dataclass(frozen=True)
class Settings:
    """Every choice that the algorithms of this family differ in. All settings are checked on construction.

    Attributes:
        name: the recipe these settings came from; used on the command line, in files and in figures.
        inner_steps: K, adaptation steps per task; 0 is plain supervised learning on the query sets.
        inner_lr: α, under a mean loss; where learning rates are learned, the value they start from.
        order: 2 differentiates through the inner gradients (Finn et al. 2017, equation 1); 1 takes them as constants
            (their section 5.2, "first-order approximation": FOMAML).
        first_order_epochs: derivative-order annealing (Antoniou et al. 2019, section 4, "DA"): this many epochs use
            order 1.
        multi_step_loss: which steps' query losses count: "final", "uniform" (mean over the K steps) or "annealed"
            (from uniform to final; their section 4, "MSL").
        multi_step_epochs: E, after which "annealed" has become "final".
        learned_lr: "none"; "parameter": a learned α for each parameter tensor; "parameter_step": one for each tensor
            and step (MAML++, "LSLR"); "element": one for each element (Meta-SGD, Li et al. 2017). Learned learning
            rates are free to change sign, as in the official MAML++ code.
        learned_lr_outer_lr: Adam's learning rate for the learned learning rates, in units of `inner_lr`: 0.01 moves
            them by at most about 1% of their first value in an update. Adam's steps do not depend on the scale of the
            loss or of a parameter, so this is Adam on multiples of the first value, which begin at 1. It follows the
            same cosine as `outer_lr`. None, the official way: Adam has `outer_lr` for them as for the weights, which
            is `outer_lr / inner_lr` in these units. Without effect where no learning rate is learned.
        per_step_norm: weight γ and bias β of the normalisation layers are learned for each step and not adapted
            (MAML++, "BNWB").
        adapt: which parameters adapt, as name patterns; a leading "!" takes names out again. ANIL: ("head.*",);
            BOIL: ("*", "!head.*").
        adapt_norms: whether the weight and bias of normalisation layers adapt too, where `adapt` names them; if not,
            they are a part of θ that every inner step leaves as it is. With `per_step_norm` they never adapt.
        head_init: what the linear head starts from: "learned", its part of θ, or "prototypes", the class means of the
            support set's features (ProtoNet with 0 inner steps, ProtoMAML with more).
        meta_gradient: "query_loss", the gradient of the query loss after adaptation; or "displacement", how far
            adaptation moved the parameters (Reptile, Nichol et al. 2018).
        checkpoint_steps: recompute each inner step in the backward pass instead of keeping it: memory hardly grows
            with K, for the time of one more gradient in each step.
        outer_lr: Adam's learning rate for the meta-parameters (Reptile too).
        cosine: anneal the outer learning rate along a cosine to a hundredth of it (MAML++, "CA").
    """

    name: str = "maml"
    inner_steps: int = 5
    inner_lr: float = 0.1
    order: int = 2
    first_order_epochs: int = 0
    multi_step_loss: str = "final"
    multi_step_epochs: int = 10
    learned_lr: str = "none"
    learned_lr_outer_lr: float | None = None
    per_step_norm: bool = False
    adapt: tuple[str, ...] = ("*",)
    adapt_norms: bool = True
    head_init: str = "learned"
    meta_gradient: str = "query_loss"
    checkpoint_steps: bool = False
    outer_lr: float = 0.003
    cosine: bool = False

    def __post_init__(self):
        check_number("inner_steps", self.inner_steps, at_least=0, integer=True)
        check_number("inner_lr", self.inner_lr, at_least=0)
        check_number("order", self.order, at_least=1, at_most=2, integer=True)
        check_number("first_order_epochs", self.first_order_epochs, at_least=0, integer=True)
        check_choice("multi_step_loss", self.multi_step_loss, ("final", "uniform", "annealed"))
        check_number("multi_step_epochs", self.multi_step_epochs, at_least=1, integer=True)
        check_choice("learned_lr", self.learned_lr, ("none", "parameter", "parameter_step", "element"))
        if self.learned_lr_outer_lr is not None:
            check_number("learned_lr_outer_lr", self.learned_lr_outer_lr, above=0)
            if self.learned_lr != "none" and self.inner_lr == 0:
                raise InputError(
                    f"learned_lr_outer_lr: expected None where inner_lr is 0, got {self.learned_lr_outer_lr}: it is in "
                    "units of inner_lr."
                )
        check_choice("head_init", self.head_init, ("learned", "prototypes"))
        check_choice("meta_gradient", self.meta_gradient, ("query_loss", "displacement"))
        check_number("outer_lr", self.outer_lr, above=0)
        for name in ("per_step_norm", "adapt_norms", "checkpoint_steps", "cosine"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: expected True or False, got {getattr(self, name)!r}.")
        patterns = (self.adapt,) if isinstance(self.adapt, str) else self.adapt
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise InputError(f"adapt: expected a name pattern or several, got {self.adapt!r}.")
        if self.meta_gradient == "displacement":
            self._check_displacement()
        object.__setattr__(self, "adapt", tuple(patterns))
        # NumPy's numbers are welcome, but a checkpoint takes only plain ones.
        for name in ("inner_steps", "order", "first_order_epochs", "multi_step_epochs"):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in ("inner_lr", "outer_lr", "learned_lr_outer_lr"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    def _check_displacement(self):
        if self.learned_lr != "none" or self.per_step_norm or not self.adapt_norms or self.head_init != "learned":
            raise InputError(
                "Reptile has no query loss, so learned_lr must be 'none', per_step_norm False, adapt_norms True and "
                "head_init 'learned'."
            )
        if self.inner_steps == 0 or self.inner_lr == 0:
            raise InputError("Reptile needs its inner steps: inner_steps must be at least 1 and inner_lr above 0.")
        if self.checkpoint_steps:
            raise InputError("Reptile keeps no graph of its steps, so checkpoint_steps must be False.")

    def to_record(self) -> dict:
        """Its plain values, as JSON gives them back."""
        return asdict(self) | {"adapt": list(self.adapt)}

    @classmethod
    def from_record(cls, record: dict) -> Settings:
        """The settings of a record, of earlier versions too.

        Raises:
            InputError: a name or value is unknown.
        """
        record = with_current_names(record)
        for name in record:
            check_choice("The setting", name, cls.__dataclass_fields__)
        if record.get("name") == "reptile":
            record = {"meta_gradient": "displacement"} | record  # the first edition went by the name alone
        return cls(**record)

    def order_at(self, epoch: int) -> int:
        """The derivative order used in this epoch."""
        return 1 if epoch < self.first_order_epochs else self.order

    def loss_weights(self, epoch: int) -> tuple[float, ...]:
        """How much the query loss after 0, 1, ..., K steps counts in this epoch: K + 1 weights that sum to 1 (MSL).

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


# 0.03 for learned learning rates is this course's choice on validation data (benchmarks/learned_lrs.py). With inner_lr
# 0.1 and outer_lr 0.003 the official way is just that; with inner_lr 0.01, as on sinusoids, it is 0.3, by which MAML++
# ended at errors from 0.7 to 3.3 by the seed, and one of five runs diverged. In the papers' Omniglot runs it is 0.01.
_LEARNED_LR_OUTER_LR = 0.03
_MAML_PLUS_PLUS = dict(
    multi_step_loss="annealed", learned_lr="parameter_step", learned_lr_outer_lr=_LEARNED_LR_OUTER_LR,
    per_step_norm=True, cosine=True,
)  # fmt: skip

# The switches are the papers'. The learning rates are this course's, for short training
# (benchmarks/choose_settings.py); each comment says what the paper used.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Finn et al. 2017, A.1: Omniglot 5-way 1 step at 2.0 (mean loss), 20-way 5 steps at 2.0; Adam, 0.001.
        Settings("maml"),
        # "MAML" in the repository of Antoniou et al. 2019 (configurations of its main branch), with which they compare
        # MAML++: that without learned learning rates, per-step norm and multi-step loss. So its cosine is on, and
        # batch norm's weight and bias are learned but do not adapt. 5 steps at 0.1; Adam, 0.001 to 0.00001.
        Settings("maml-antoniou", adapt_norms=False, cosine=True),
        # Finn et al. 2017, section 5.2; Nichol et al. 2018, section 3: the same, the inner gradients held constant.
        Settings("fomaml", order=1),
        # Antoniou et al. 2019, section 4: 5 steps starting at 0.1; Adam, 0.001 to 0.00001. Derivative-order annealing
        # is off in the authors' present configurations (it was on in some of 2018); so it is here.
        Settings("maml++", **_MAML_PLUS_PLUS),
        # Not in a paper: every part of MAML++ on first-order gradients.
        Settings("fomaml++", order=1, **_MAML_PLUS_PLUS),
        # Raghu et al. 2020, section 4: only the head adapts.
        Settings("anil", adapt=("head.*",)),
        # Nichol et al. 2018, appendix A: 5 inner steps of Adam without momentum at 0.001 and an outer step of 1 that
        # falls to 0; here the inner steps are plain and Adam takes the outer one.
        Settings("reptile", order=1, meta_gradient="displacement"),
        # Li et al. 2017, section 3: one step, one learned rate for each element.
        Settings("meta-sgd", inner_steps=1, learned_lr="element", learned_lr_outer_lr=_LEARNED_LR_OUTER_LR),
        # Snell et al. 2017: no adaptation, the head is the prototypes; Adam, 0.001.
        Settings("protonet", inner_steps=0, head_init="prototypes"),
        # Triantafillou et al. 2020, section 3: MAML from a head of prototypes.
        Settings("protomaml", head_init="prototypes"),
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
    if name == "protonet" and changes.get("inner_steps"):
        raise InputError(f"protonet: expected inner_steps 0, got {changes['inner_steps']}: with steps it is protomaml.")
    return replace(RECIPES[name], **changes)
