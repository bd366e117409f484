"""Checks that teach: one for each part of an exercise, on random inputs, with a sentence for each known mistake.

A check takes the student's function, prints one line and notes progress when it is right, and raises `CheckFailed`
with one sentence when it is not. What is expected is computed by other means than the package's own: closed forms,
finite differences, gradients written out by hand, exact fractions.
"""

from .ex01 import episode, rotated, split
from .ex02 import by_autograd, by_hand, many_by_hand
from .ex03 import head_alone, inner_loop, inner_step
from .ex04 import every_task_counts, outer_loop, reptile_step
from .ex05 import builds_a_graph, first_order, left_out
from .ex06 import costs, paired_interval, tasks_needed, verdict
from .ex07 import loss_weights, multi_step_loss, query_passes
from .ex08 import learned_rates, step_layer_norm, step_norm
from .ex09 import choose, evidence, problem
from .judge import CheckFailed

__all__ = [
    "CheckFailed", "builds_a_graph", "by_autograd", "by_hand", "choose", "costs", "episode", "every_task_counts",
    "evidence", "first_order", "head_alone", "inner_loop", "inner_step", "learned_rates", "left_out",
    "loss_weights", "many_by_hand", "multi_step_loss", "outer_loop", "paired_interval", "problem", "query_passes",
    "reptile_step", "rotated", "split", "step_layer_norm", "step_norm", "tasks_needed", "verdict",
]  # fmt: skip
