"""Exercise 06: a paired interval, ratios of time and memory, and the verdict."""

from __future__ import annotations

import itertools
import math
import statistics

from .judge import CheckFailed, call, check, compare, fresh, integer, same_parts, unchanged, uniform

NORMAL_95 = 1.96


@check
def paired_interval(function) -> None:
    """Exercise 06, part 1: paired_interval(first, second) -> (mean difference, half the 95% confidence interval)."""
    generator = fresh()
    for tasks in (integer(generator, 32, 50), 200):
        first, second = _scores(generator, tasks)
        mean, half_width, mistakes = _interval(first, second)
        given = list(first), list(second)
        result = call(function, *given)
        unchanged(first=(given[0], first), second=(given[1], second))
        difference, seen = same_parts("paired_interval", result, ("mean difference", "half width"))
        compare("The mean difference", difference, mean, (
            (-mean, "Subtract the second from the first: the difference has the opposite sign."),
            (statistics.median([a - b for a, b in zip(first, second)]),
             "Take the mean: this is the median of the differences."),
            (mean - half_width,
             "Return the middle of the interval, the mean difference, and half its width: these are its ends."),
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
         "Take the standard deviation of the differences, task by task: this interval is not paired, as the "
         "scores' own "
         "standard deviations were used, but a task that is hard for one is hard for the other."),
        (NORMAL_95 * abs(statistics.stdev(first) - statistics.stdev(second)) / root,
         "Take the differences task by task first, and then their standard deviation: this is a difference of two "
         "standard deviations."),
        (2 * half_width,
         "Return half of it, the number after the ±: this is the whole width of the interval."),
        (NORMAL_95 * std,
         "Divide by the square root of the number of tasks, which is missing: this says how much single tasks differ, "
         "not how well their mean is known."),
        (std / root, "Multiply by 1.96: this is the standard error, of which the interval reaches 1.96 to each side."),
        (std,
         "Divide by the square root of the number of tasks, and multiply by 1.96: this is the standard deviation "
         "of the "
         "differences."),
        (NORMAL_95 * std / len(first), "Divide by the square root of the number of tasks, not by the number itself."),
        # For 200 tasks this differs by a quarter of a percent: the smaller sample judges it.
        *([(NORMAL_95 * statistics.pstdev(differences) / root,
            "Divide the sum of squares by n - 1, as for a sample (statistics.stdev, not pstdev; NumPy: ddof=1).")]
          if len(first) < 100 else []),
    )  # fmt: skip


@check
def costs(function) -> None:
    """Exercise 06, part 2: costs(seconds, other_seconds, peaks, other_peaks) -> (time ratio, memory ratio)."""
    generator = fresh()
    for rounds in (5, 7, 6, 8):
        measured = _rounds(generator, rounds)
        _judge_costs(*measured, call_unchanged(function, measured))
    while True:  # memory may be measured in fewer rounds; whoever leaves rounds out for that must not be right by luck
        seconds, others, peaks, other_peaks = _rounds(generator, 5)
        right, mistakes = _cost_ratios(seconds, others, peaks, other_peaks)[0]
        if all(abs(seconds[0] / others[0] / found - 1) > 0.01 for found in (right, *(wrong for wrong, _ in mistakes))):
            break
    measured = seconds, others, peaks[:1], other_peaks[:1]
    _judge_costs(*measured, call_unchanged(function, measured))


def call_unchanged(function, measured):
    """The function's result for copies of the lists, all of which must come back as they were."""
    given = [list(values) for values in measured]
    result = call(function, *given)
    names = ("seconds", "other_seconds", "peaks", "other_peaks")
    unchanged(**{name: pair for name, pair in zip(names, zip(given, measured, strict=True))})
    return result


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
        answers[0] = answers[0][: None if rounds % 2 == 0 else -2]  # an odd number has but one median
        told_apart = all(abs(a / b - 1) > 0.01 for values in answers for a, b in itertools.combinations(values, 2))
        if told_apart and all(values != sorted(values) for values in measured):  # or sorting in place changes nothing
            return measured


def _judge_costs(seconds, others, peaks, other_peaks, result):
    time, memory = same_parts("costs", result, ("time ratio", "memory ratio"))
    (right_time, of_time), (right_memory, of_memory) = _cost_ratios(seconds, others, peaks, other_peaks)
    compare("The time ratio", time, right_time, of_time, tolerance=1e-3)
    compare("The memory ratio", memory, right_memory, of_memory, tolerance=1e-3)


def _cost_ratios(seconds, others, peaks, other_peaks):
    """For time and for memory: the right ratio, and the known mistakes."""
    ratios, median = [a / b for a, b in zip(seconds, others)], statistics.median
    one_of_two = (
        "Take the mean of the two in the middle where the number of rounds is even (statistics.median does): "
        "this is {} "
        "of the two."
    )
    return (median(ratios), (
        (1 / median(ratios), "Divide the first's seconds by the other's: the time ratio is upside down."),
        (statistics.fmean(seconds) / statistics.fmean(others),
         "Take the ratio in each round, and their median: this is the ratio of the means, which one slow round can "
         "decide."),
        (statistics.fmean(ratios),
         "Take the median: this is the mean of the ratios, which one disturbed round can decide."),
        (median(seconds) / median(others),
         "Take the ratio in each round first, and then the median: this is the ratio of the medians, and the two "
         "may be "
         "from different rounds."),
        (min(seconds) / min(others),
         "Take the ratio in each round, and their median: this is the ratio of the fastest runs, which may be from "
         "different rounds."),
        (statistics.median_low(ratios), one_of_two.format("the lower (as torch.median's)")),
        (statistics.median_high(ratios), one_of_two.format("the upper")),
    )), (max(peaks) / max(other_peaks), (
        (max(other_peaks) / max(peaks), "Divide the first's bytes by the other's: the memory ratio is upside down."),
        (statistics.fmean(peaks) / statistics.fmean(other_peaks),
         "Take the largest peak of each: this is a ratio of mean peaks, but memory must suffice at the worst moment."),
        (median([a / b for a, b in zip(peaks, other_peaks)]),
         "Take the largest peak of each and their ratio: memory is not like time, it must suffice at the worst "
         "moment."),
        (max(peaks) - max(other_peaks), "Return the ratio: this is the difference in bytes."),
    ))  # fmt: skip


@check
def verdict(function) -> None:
    """Exercise 06, part 3: verdict(difference, half_width) -> "better", "worse" or "undecided"."""
    generator = fresh()
    half = float(uniform(generator, low=0.02, high=3))  # of fractions, percentages, losses
    within, nan = float(uniform(generator, low=0.6, high=0.95)) * half, math.nan
    cases = {
        (3 * half, half): "better", (-3 * half, half): "worse", (within, half): "undecided",
        (-within, half): "undecided", (0.0, half): "undecided", (1.2 * half, half): "better",
        (-1.2 * half, half): "worse", (1.2 * half, nan): "undecided", (-1.2 * half, nan): "undecided",
        (nan, half): "undecided",
    }  # fmt: skip
    said = [call(function, *case) for case in cases]
    if said == list(cases.values()):
        return
    for answer in said:
        if not isinstance(answer, str) or answer not in ("better", "worse", "undecided"):
            raise CheckFailed(f'verdict: expected "better", "worse" or "undecided", got {answer!r}.')
    above, below, slightly_above, slightly_below, _, clear_above, clear_below, *_ = said
    if len(set(said)) == 1:
        raise CheckFailed(f"verdict says {above!r} whatever the numbers are.")
    if (above, below) == ("worse", "better"):
        raise CheckFailed(
            "Turn it round: better and worse are exchanged, and a positive difference says that the first is "
            "more accurate."
        )
    if (slightly_above, slightly_below) == ("better", "worse") and (
        [call(function, share * half, half) for share in (0.45, 0.55)] == ["undecided", "better"]
    ):
        raise CheckFailed("Compare with `half_width` as it is: it is already half the width, so do not halve it again.")
    if (slightly_above, slightly_below) == ("better", "worse"):
        raise CheckFailed(
            "Compare with the half width: the interval is not looked at, but a difference within it is "
            "undecided, whatever "
            "its sign."
        )
    if slightly_above == "better" or slightly_below == "better":
        raise CheckFailed(
            'Say "undecided" of a difference smaller than the half width: it was called "better", but the '
            "interval holds zero."
        )
    if below == "undecided":
        raise CheckFailed(
            'Look below zero too: a clearly negative difference was called "undecided", but it is "worse".'
        )
    if clear_above == "undecided" or clear_below == "undecided":
        raise CheckFailed(
            "Do not double `half_width`, which is already half the width: a difference of 1.2 half widths is clear."
        )
    place = next(i for i, (case, answer) in enumerate(zip(cases, said)) if cases[case] != answer)
    (difference, half), wanted = list(cases.items())[place]
    raise CheckFailed(
        f"verdict({difference:.3f}, {half:.3f}): expected {wanted!r}, got {said[place]!r}"
        + (": where a number is nan all is undecided." if math.isnan(half + difference) else ".")
    )


@check
def tasks_needed(function) -> None:
    """Exercise 06, bonus: tasks_needed(differences, half_width) -> how many tasks make the interval that narrow."""
    generator = fresh()
    for tasks in (40, 100):
        differences = uniform(generator, tasks, low=-0.1, high=0.2).tolist()
        std, half = statistics.stdev(differences), float(uniform(generator, low=0.004, high=0.02))
        seen = call(function, list(differences), half)
        exact = (NORMAL_95 * std / half) ** 2
        compare("The number of tasks", seen, math.ceil(exact), (
            (math.floor(exact), "Round up: with the tasks rounded down the interval is a little too wide."),
            (exact, "Round up to an integer number of tasks."),
            (math.ceil(NORMAL_95 * std / half), "Take the square: the width falls with the root of the tasks."),
            (math.ceil((std / half) ** 2), "Put the 1.96 in: this many tasks make the standard error that small."),
        ), tolerance=1e-6)  # fmt: skip
