"""The statistics of the course: 95% confidence intervals, paired differences, verdicts."""

from __future__ import annotations

import math
from statistics import fmean, stdev

# Two-sided 95% quantiles of Student's t for 1, 2, ..., 30 degrees of freedom; beyond, the normal's is near.
STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_95 = 1.96


def ci95(values) -> float:
    """Half the width of the 95% confidence interval of a mean; nan for fewer than two values.

    Student's t up to 31 values, the normal distribution above, as the papers use for 600 tasks.
    """
    values = [float(value) for value in values]
    if len(values) < 2:
        return math.nan
    quantile = STUDENT_95[len(values) - 2] if len(values) - 2 < len(STUDENT_95) else NORMAL_95
    return quantile * stdev(values) / math.sqrt(len(values))


def paired_difference(by_seed: list[list[float]], others: list[list[float]]) -> tuple[float, float]:
    """How much higher values are than others on the same tasks: (mean difference, half its 95% confidence interval).

    Args:
        by_seed, others: (seeds, tasks), the same tasks in the same order.

    Returns:
        The interval is the wider of the one over tasks and, given several seeds, the one over seeds.
    """
    differences = [[a - b for a, b in zip(*seeds)] for seeds in zip(by_seed, others)]
    over_tasks = ci95([fmean(of_task) for of_task in zip(*differences)])
    over_seeds = ci95([fmean(of_seed) for of_seed in differences]) if len(differences) > 1 else 0.0
    return fmean(map(fmean, differences)), max(over_tasks, over_seeds)


def verdict(difference: float, half_width: float) -> str:
    """Whether the claim that a difference is above zero "held", "did not hold" (clearly below) or is "undecided".

    Args:
        difference: as measured.
        half_width: half its 95% confidence interval; nan, where it could not be measured, leaves all undecided.
    """
    if not abs(difference) > half_width:
        return "undecided"
    return "held" if difference > 0 else "did not hold"


def worst_decile(values, highest: bool = False) -> float:
    """The mean of the lowest tenth of the values, at least one of them; of the highest tenth for losses."""
    ordered = sorted(values, reverse=highest)
    return fmean(ordered[: max(len(ordered) // 10, 1)])
