"""Checks that teach: one for each part of an exercise, on inputs drawn anew, with a sentence for each known mistake.

A check takes the student's function, prints one line and notes progress when it is right, and raises `CheckFailed`
with one sentence when it is not. What is expected is worked out by other means than the package's own: closed forms,
finite differences, gradients written out by hand, exact fractions.
"""

from .capstone import evidence, problem
from .comparing import costs, paired_interval, verdict
from .episodes import episode, split
from .gradients import by_autograd, by_hand, inner_loop, inner_step
from .judge import CheckFailed
from .loops import builds_a_graph, every_task_counts, first_order, outer_loop
from .plus_plus import learned_rates, loss_weights, multi_step_loss, step_norm

__all__ = [
    "CheckFailed", "builds_a_graph", "by_autograd", "by_hand", "costs", "episode", "every_task_counts", "evidence",
    "first_order", "inner_loop", "inner_step", "learned_rates", "loss_weights", "multi_step_loss", "outer_loop",
    "paired_interval", "problem", "split", "step_norm", "verdict",
]  # fmt: skip
