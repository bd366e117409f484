"""Verdicts, the intervals that they rest on, and the lines that claims are printed as."""

import math
import statistics

import pytest

from mamlcourse import InputError, comparison
from mamlcourse.claims import SOURCES, Claim, table
from mamlcourse.stats import (
    ci95,
    interval_in_words,
    median_interval,
    paired_difference,
    seeds_and_tasks_ci,
    verdict,
    verdict_of_interval,
    verdict_within,
)


def test_the_interval_is_the_wider_of_the_one_over_tasks_and_the_one_over_seeds():
    over_tasks = [[0.1, 0.9, 0.5, 0.3], [0.1, 0.9, 0.5, 0.3]]  # the seeds agree, the tasks differ
    assert seeds_and_tasks_ci(over_tasks) == pytest.approx(3.182 * statistics.stdev(over_tasks[0]) / 2)
    over_seeds = [[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]]  # the other way round
    assert seeds_and_tasks_ci(over_seeds) == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert seeds_and_tasks_ci(over_tasks[:1]) == ci95(over_tasks[0])  # one seed: over tasks alone
    both = [[0.2, 0.4, 0.9], [0.3, 0.3, 0.8]]
    assert paired_difference(both, [[0.0] * 3] * 2)[1] == pytest.approx(seeds_and_tasks_ci(both))
    assert interval_in_words(1) == "over tasks alone" and "seeds and tasks" in interval_in_words(3)


def test_verdicts_of_ends_and_of_ranges():
    assert [verdict_of_interval(*ends) for ends in ((0.1, 1), (-1, -0.1), (-1, 1), (0, 1), (math.nan, 1))] == [
        "held", "did not hold", "undecided", "undecided", "undecided",
    ]  # fmt: skip
    cases = {
        (1.4, 0.05): "held", (1.4, 0.2): "undecided", (1.08, 0.11): "did not hold", (1.8, 0.2): "did not hold",
        (1.25, 0.1): "undecided", (1.02, 0.38): "undecided", (1.4, math.nan): "undecided",
    }  # fmt: skip
    assert {case: verdict_within(*case, 1.3, 1.5) for case in cases} == cases


def claim(difference=1.0, interval=0.5, source=SOURCES[1], **more):
    statement, measure = "MAML++ is more accurate than MAML", "test accuracy, MAML++ - MAML"
    return Claim(source, statement, measure, "200 training tasks, 3 seeds", difference, interval, **more)


@pytest.mark.parametrize("gap", [(2, 1), (-2, 1), (0.5, 1), (1, 1), (3, math.nan)])
def test_a_claims_verdict_is_that_of_the_statistics(gap):
    assert claim(*gap).verdict == verdict(*gap)


def test_a_claim_is_one_line():
    assert str(claim(-1.36, 2.14)) == (
        "MAML++ is more accurate than MAML (the paper): undecided; test accuracy, MAML++ - MAML -1.4 ± 2.1 percentage "
        "points; 200 training tasks, 3 seeds."
    )
    assert "MAML -0.120 ± 0.050; 200" in str(claim(-0.12, 0.05, unit="", digits=3))
    assert "undecided; test accuracy, MAML++ - MAML +1.0 (no interval) percentage" in str(claim(1.0, math.nan))


def test_claims_name_one_of_three_sources():
    assert all(source in str(claim(source=source)) for source in SOURCES)
    with pytest.raises(InputError, match="The source 'the papers' is unknown. Did you mean 'the paper'"):
        claim(source="the papers")


def test_claims_make_a_table():
    heading, row = table([claim(-1.36, 2.14)])
    assert row[-2:] == ["-1.4 ± 2.1 percentage points", "undecided"] and len(row) == len(heading)


def test_a_comparison_judges_a_claim_by_accuracy_and_by_loss():
    def entry(accuracies, losses):
        return {"runs": [{"task_accuracies": a, "task_losses": b} for a, b in zip(accuracies, losses)]}

    record = {
        "algorithms": {
            "maml": entry([[0.5, 0.6, 0.7], [0.5, 0.7, 0.6]], [[1.0, 1.1, 0.9]] * 2),
            "maml++": entry([[0.7, 0.8, 0.9], [0.7, 0.9, 0.8]], [[0.5, 0.6, 0.4], [0.6, 0.7, 0.5]]),
        },
        "seeds": [0, 1], "train_tasks": 200, "tasks_per_batch": 4,
    }  # fmt: skip
    of = [comparison.claim(record, *pair, "better", SOURCES[1]) for pair in (("maml++", "maml"), ("maml", "maml++"))]
    assert [found.verdict for found in of] == ["held", "did not hold"]
    assert of[0].difference == pytest.approx(20) and of[0].measure == "test accuracy, MAML++ - MAML"
    assert of[0].budget == "200 training tasks (50 batches of 4), 2 seeds"
    loss = comparison.claim(record, "maml++", "maml", "better", SOURCES[1], "task_losses")
    assert loss.difference == pytest.approx(0.45) and loss.measure == "test loss, MAML - MAML++"
    with pytest.raises(InputError, match="The values"):
        comparison.claim(record, "maml", "maml++", "better", SOURCES[1], "losses")


def test_the_interval_of_a_median_needs_six_values_and_minds_no_outlier():
    assert median_interval([3, 1, 2, 5, 4]) == (3, math.inf)
    assert median_interval([1, 2, 3, 4, 5, 6]) == (3.5, 2.5)  # 2 / 2^6 = 0.03 lies outside the whole range
    # Of 15 values the fourth from each end: 2 (1 + 15 + 105 + 455) / 2^15 = 0.035.
    assert median_interval([*range(1, 15), 1000]) == (8, 4)
