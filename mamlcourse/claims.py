"""What others say, what was measured about it, and the verdict: a line to print for each claim."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import check_choice
from .stats import verdict

SOURCES = ("the comparison we began from", "the paper", "folklore")


@dataclass(frozen=True)
class Claim:
    """A claim that a difference is above zero, and the measurement that it is judged by.

    Attributes:
        source: who says it: one of `SOURCES`.
        statement: what they say, such as "MAML++ is more accurate than MAML".
        measure: what was measured, such as "test accuracy, MAML++ - MAML".
        budget: under which conditions, such as "200 training tasks, 3 seeds".
        difference: as measured, in `unit`; above zero where the statement is right.
        interval: half its 95% confidence interval; nan, where there is none, leaves the claim undecided.
        unit: of both numbers.
        digits: that are shown behind the decimal point.

    Raises:
        InputError: the source is none of these.
    """

    source: str
    statement: str
    measure: str
    budget: str
    difference: float
    interval: float
    unit: str = "percentage points"
    digits: int = 1

    def __post_init__(self):
        check_choice("The source", self.source, SOURCES)

    @property
    def verdict(self) -> str:
        """Either "held", "did not hold" or "undecided", as `stats.verdict` has it."""
        return verdict(self.difference, self.interval)

    @property
    def measured(self) -> str:
        """The difference with its interval and unit."""
        shown = f"{self.difference:+.{self.digits}f}"
        shown += " (no interval)" if self.interval != self.interval else f" ± {self.interval:.{self.digits}f}"
        return f"{shown} {self.unit}".strip()

    def __str__(self) -> str:
        measured = f"{self.measure} {self.measured}"
        return f"{self.statement} ({self.source}): {self.verdict}; {measured}; {self.budget}."


def table(claims: list[Claim]) -> list[list[str]]:
    """Claims as rows of text, the heading first."""
    heading = ["claim", "who says so", "measured", "with", "difference", "verdict"]
    return [heading, *([c.statement, c.source, c.measure, c.budget, c.measured, c.verdict] for c in claims)]
