"""The statistics of the course: 95% confidence intervals, paired differences, verdicts."""

from __future__ import annotations

import math
from statistics import fmean, median, stdev

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


def seeds_and_tasks_ci(by_seed: list[list[float]]) -> float:
    """Half the width of the 95% confidence interval of a mean over several training runs and the same test tasks.

    Args:
        by_seed: (seeds, tasks), the same tasks in the same order for every seed.

    Returns:
        The wider of the one over tasks (each task's mean over the seeds) and, given several seeds, the one over the
        seeds' means (Student's t). With one seed it is over tasks alone and leaves out how much training varies.
    """
    over_tasks = ci95([fmean(of_task) for of_task in zip(*by_seed)])
    over_seeds = ci95([fmean(of_seed) for of_seed in by_seed]) if len(by_seed) > 1 else 0.0
    return max(over_tasks, over_seeds)


def interval_in_words(seeds: int) -> str:
    """What an interval of `seeds_and_tasks_ci` holds, for captions."""
    return "over tasks alone" if seeds == 1 else "over seeds and tasks, the wider of the two"


def paired_difference(by_seed: list[list[float]], others: list[list[float]]) -> tuple[float, float]:
    """How much higher values are than others on the same tasks: (mean difference, half its 95% confidence interval).

    Args:
        by_seed, others: (seeds, tasks), the same tasks in the same order.

    Returns:
        The interval is that of `seeds_and_tasks_ci`.
    """
    differences = [[a - b for a, b in zip(*seeds)] for seeds in zip(by_seed, others)]
    return fmean(map(fmean, differences)), seeds_and_tasks_ci(differences)


def median_interval(values) -> tuple[float, float]:
    """(median, how far its 95% confidence interval reaches on the wider side), whatever the distribution.

    Args:
        values: independent, such as the ratios of rounds; of fewer than six there is no interval, which is infinite.
    """
    ordered, middle, n = sorted(values), median(values), len(values)
    tails = [2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n for k in range(n // 2)]
    left_out = sum(tail <= 0.05 for tail in tails)  # of the values, at each end
    if not left_out:
        return middle, math.inf
    return middle, max(ordered[n - left_out] - middle, middle - ordered[left_out - 1])


def verdict(difference: float, half_width: float) -> str:
    """Whether the claim that a difference is above zero "held", "did not hold" (clearly below) or is "undecided".

    Args:
        difference: as measured.
        half_width: half its 95% confidence interval; nan, where it could not be measured, leaves all undecided.
    """
    return verdict_of_interval(difference - half_width, difference + half_width)


def verdict_of_interval(low: float, high: float) -> str:
    """The verdict on the claim that a number is above zero, from both ends of its 95% confidence interval."""
    if low > 0:
        return "held"
    return "did not hold" if high < 0 else "undecided"


def verdict_within(value: float, half_width: float, low: float, high: float) -> str:
    """The verdict on the claim that a value with its half interval lies between two bounds."""
    found = {verdict(value - low, half_width), verdict(high - value, half_width)}
    if "did not hold" in found:
        return "did not hold"
    return "undecided" if "undecided" in found else "held"


def worst_decile(values, highest: bool = False) -> float:
    """The mean of the lowest tenth of the values, at least one of them; of the highest tenth for losses."""
    ordered = sorted(values, reverse=highest)
    return fmean(ordered[: max(len(ordered) // 10, 1)])
