"""Exercise 06: a paired interval, ratios of time and memory, and the verdict."""

from __future__ import annotations

import itertools
import math
import statistics

from .judge import CheckFailed, call, check, compare, fresh, integer, same_parts, uniform

NORMAL_95 = 1.96


@check
def paired_interval(function) -> None:
    """Exercise 06, part 1: paired_interval(first, second) -> (mean difference, half the 95% confidence interval)."""
    generator = fresh()
    for tasks in (integer(generator, 32, 50), 200):
        first, second = _scores(generator, tasks)
        mean, half_width, mistakes = _interval(first, second)
        result = call(function, list(first), list(second))
        difference, seen = same_parts("paired_interval", result, ("mean difference", "half width"))
        compare("The mean difference", difference, mean, (
            (-mean, "The difference has the opposite sign: it is the first minus the second."),
            (statistics.median([a - b for a, b in zip(first, second)]),
             "This is the median of the differences, but their mean is asked for."),
            (mean - half_width,
             "These are the ends of the interval, but its middle, the mean difference, and half its width are asked "
             "for."),
        ))  # fmt: skip
        compare("The half width", seen, half_width, mistakes, tolerance=1e-3)


def _scores(generator, tasks):
    """Scores of two algorithms, for which every known mistake gives another number than the others."""
    while True:
        # A hard task is hard for both: their scores go up and down together.
        hard = uniform(generator, tasks, low=0.3, high=0.9)
        first = (hard + uniform(generator, tasks, low=-0.02, high=0.08)).tolist()
        second = (hard + uniform(generator, tasks, low=-0.05, high=0.03)).tolist()
        _, half_width, mistakes = _interval(first, second)
        values = sorted([half_width, *(wrong for wrong, _ in mistakes)])
        if all(above / below > 1.005 for below, above in zip(values, values[1:])):
            return first, second


def _interval(first, second):
    """(mean difference, half width of its interval, known mistakes in the latter)."""
    differences = [a - b for a, b in zip(first, second)]
    root, std = math.sqrt(len(first)), statistics.stdev(differences)
    half_width = NORMAL_95 * std / root
    unpaired = NORMAL_95 * math.sqrt(statistics.variance(first) + statistics.variance(second)) / root
    return statistics.fmean(differences), half_width, (
        (unpaired,
         "This interval is not paired: the scores' own standard deviations were used, but a task that is hard for one "
         "is hard for the other, so take the standard deviation of the differences, task by task."),
        (NORMAL_95 * abs(statistics.stdev(first) - statistics.stdev(second)) / root,
         "This is a difference of two standard deviations: take the differences task by task first, and then their "
         "standard deviation."),
        (2 * half_width,
         "This is the whole width of the interval, but half of it is asked for, the number after the ±."),
        (NORMAL_95 * std,
         "The square root of the number of tasks is missing: this says how much single tasks differ, not how well "
         "their mean is known."),
        (std / root, "This is the standard error: a 95% confidence interval reaches 1.96 of them to each side."),
        (std,
         "This is the standard deviation of the differences: divide by the square root of the number of tasks, and "
         "multiply by 1.96."),
        (NORMAL_95 * std / len(first), "It was divided by the number of tasks, but must be by its square root."),
        # For 200 tasks this differs by a quarter of a percent: the smaller sample judges it.
        *([(NORMAL_95 * statistics.pstdev(differences) / root,
            "The sum of squares was divided by n: for a sample it is n - 1 (statistics.stdev, not pstdev).")]
          if len(first) < 100 else []),
    )  # fmt: skip


@check
def costs(function) -> None:
    """Exercise 06, part 2: costs(seconds, other_seconds, peaks, other_peaks) -> (time ratio, memory ratio)."""
    generator = fresh()
    for rounds in (5, 7):
        measured = _rounds(generator, rounds)
        _judge_costs(*measured, call(function, *map(list, measured)))


def _rounds(generator, rounds):
    """Seconds and peak bytes of both, round by round, in which every known mistake gives another number."""
    while True:
        drift = uniform(generator, rounds, low=0.5, high=1.5)
        drift[2] *= 12  # something else used the machine in one round
        seconds = drift * uniform(generator, rounds, low=1.6, high=2.6)
        others = drift * uniform(generator, rounds, low=0.9, high=1.1)
        others[1] /= 8  # and in another a clock was read too early
        peaks, other_peaks = ([integer(generator, low, 2 * low) for _ in range(rounds)] for low in (2_000_000, 900_000))
        measured = seconds.tolist(), others.tolist(), peaks, other_peaks
        # Every mistake must be told from the right answer and from the other mistakes.
        answers = [[right, *(wrong for wrong, _ in mistakes)] for right, mistakes in _cost_ratios(*measured)]
        if all(abs(a / b - 1) > 0.01 for values in answers for a, b in itertools.combinations(values, 2)):
            return measured


def _judge_costs(seconds, others, peaks, other_peaks, result):
    time, memory = same_parts("costs", result, ("time ratio", "memory ratio"))
    (right_time, of_time), (right_memory, of_memory) = _cost_ratios(seconds, others, peaks, other_peaks)
    compare("The time ratio", time, right_time, of_time, tolerance=1e-3)
    compare("The memory ratio", memory, right_memory, of_memory, tolerance=1e-3)


def _cost_ratios(seconds, others, peaks, other_peaks):
    """For time and for memory: the right ratio, and the known mistakes."""
    ratios, median = [a / b for a, b in zip(seconds, others)], statistics.median
    return (median(ratios), (
        (1 / median(ratios), "The ratio is upside down: it is the first's seconds over the other's."),
        (statistics.fmean(seconds) / statistics.fmean(others),
         "This is the ratio of the means, which one slow round can decide: take the ratio in each round, and their "
         "median."),
        (statistics.fmean(ratios),
         "This is the mean of the ratios, which one disturbed round can decide: take the median."),
        (median(seconds) / median(others),
         "This is the ratio of the medians: the two may be from different rounds, so take the ratio in each round "
         "first, and then the median."),
        (min(seconds) / min(others),
         "This is the ratio of the fastest runs, which may be from different rounds: take the ratio in each round, "
         "and their median."),
    )), (max(peaks) / max(other_peaks), (
        (max(other_peaks) / max(peaks), "The memory ratio is upside down: it is the first's bytes over the other's."),
        (statistics.fmean(peaks) / statistics.fmean(other_peaks),
         "This is a ratio of mean peaks, but memory must suffice at the worst moment: take the largest of each."),
        (median([a / b for a, b in zip(peaks, other_peaks)]),
         "Memory is not like time: it must suffice at the worst moment, so take the largest peak of each and their "
         "ratio."),
        (max(peaks) - max(other_peaks), "This is the difference in bytes, but their ratio is asked for."),
    ))  # fmt: skip


@check
def verdict(function) -> None:
    """Exercise 06, part 3: verdict(difference, half_width) -> "better", "worse" or "undecided"."""
    generator = fresh()
    half = float(uniform(generator, low=0.02, high=0.05))
    cases = {
        (3 * half, half): "better", (-3 * half, half): "worse", (0.5 * half, half): "undecided",
        (-0.5 * half, half): "undecided", (0.0, half): "undecided", (1.2 * half, half): "better",
        (-1.2 * half, half): "worse", (1.2 * half, float("nan")): "undecided",
    }  # fmt: skip
    said = [call(function, *case) for case in cases]
    if said == list(cases.values()):
        return
    for answer in said:
        if answer not in ("better", "worse", "undecided"):
            raise CheckFailed(f'verdict: expected "better", "worse" or "undecided", got {answer!r}.')
    above, below, slightly_above, slightly_below, *_ = said
    if len(set(said)) == 1:
        raise CheckFailed(f"verdict says {above!r} whatever the numbers are.")
    if (above, below) == ("worse", "better"):
        raise CheckFailed("better and worse are exchanged: a positive difference says that the first is more accurate.")
    if (slightly_above, slightly_below) == ("better", "worse"):
        raise CheckFailed(
            "The interval is not looked at: a difference of half the half width is undecided, whatever its sign."
        )
    if slightly_above == "better" or slightly_below == "better":
        raise CheckFailed('A difference smaller than the half width was called "better": the interval holds zero.')
    if below == "undecided":
        raise CheckFailed(
            'A clearly negative difference was called "undecided": compare its size, abs(), with half_width.'
        )
    if said[-3] == "undecided" or said[-2] == "undecided":
        raise CheckFailed(
            "A difference of 1.2 half widths is clear: `half_width` is already half the width, so do not double it."
        )
    place = next(i for i, (case, answer) in enumerate(zip(cases, said)) if cases[case] != answer)
    (difference, half), wanted = list(cases.items())[place]
    raise CheckFailed(
        f"verdict({difference:.3f}, {half:.3f}): expected {wanted!r}, got {said[place]!r}"
        + (": without an interval (nan) all is undecided." if math.isnan(half) else ".")
    )
