"""Which backend is fastest for this model on this machine: found out by the first batches of a run.

Nothing is computed for the measuring alone. The candidates take turns on batches that are needed anyway, each first
once to warm up, and when all were timed the fastest computes what follows. All give the same numbers within rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROUNDS = 3  # timed calls of each candidate; the fastest one counts
# A candidate slower than the fastest by more is not tried again: after one call, the cold one, and after two more.
HOPELESS_WHEN_COLD, HOPELESS, HOPELESS_AFTER = 2.5, 1.5, 2
WORTH_IT = 1.05  # who comes earlier in the list stays the choice unless another is faster by more


@dataclass
class Choice:
    """The candidates for one kind of work, what was measured of them, and the one that was chosen.

    Attributes:
        names: the candidates that are left, the preferred first.
        seconds: of each candidate's timed calls.
        cold: seconds of each one's first call.
        reasons: why others are no candidates.
        chosen: who computes from now on; None while it is being measured.
    """

    names: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cold: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    chosen: str | None = None

    def __post_init__(self):
        self._decide()

    def next(self) -> str:
        """Who computes the next batch."""
        return self.chosen or min(self.names, key=self._calls)

    def note(self, name: str, seconds: float) -> None:
        """A batch took this one so long."""
        if self.chosen:
            return
        if name not in self.cold:
            self.cold[name] = seconds
            hopeless = seconds > HOPELESS_WHEN_COLD * min(self.cold.values())
        else:
            own = self.seconds.setdefault(name, [])
            own.append(seconds)
            hopeless = len(own) >= HOPELESS_AFTER and min(own) > HOPELESS * min(map(min, self.seconds.values()))
        if hopeless and len(self.names) > 1:
            self.names.remove(name)
        self._decide()

    def exclude(self, name: str, reason: str, instead: str | None = None) -> None:
        """This one cannot compute it; if given, another is a candidate in its place."""
        self.reasons[name] = reason
        self.names.remove(name)
        self.names += [instead] if instead else []
        self._decide()

    def _calls(self, name):
        return (name in self.cold) + len(self.seconds.get(name, []))

    def _decide(self):
        if len(self.names) == 1:
            self.chosen = self.names[0]
        elif all(self._calls(name) > ROUNDS for name in self.names):
            best = min(min(self.seconds[name]) for name in self.names)
            self.chosen = next(name for name in self.names if min(self.seconds[name]) <= WORTH_IT * best)

    def times_as_fast(self) -> dict[str, float]:
        """{candidate: how many times as fast as the first one, the loop}; of a hopeless one from its first call."""
        times = self.cold | {name: min(seconds) for name, seconds in self.seconds.items()}
        base = next(iter(times.values()), 0.0)
        return {name: base / seconds for name, seconds in times.items()}

    def in_words(self) -> str:
        """What was chosen, and why, in one line."""
        speeds = self.times_as_fast()
        said = f"backend {self.chosen}"
        if len(speeds) > 1:
            rivals = ", ".join(f"{name} {speed:.2f}" for name, speed in speeds.items())
            said += f", measured by the first batches (times as fast as {next(iter(speeds))}: {rivals})"
        return said + "".join(f"; {name} cannot compute this model ({why})" for name, why in self.reasons.items())

    def to_record(self) -> dict:
        """Plain values, for a checkpoint; `Choice(**record)` is the same again."""
        return {name: getattr(self, name) for name in ("names", "seconds", "cold", "reasons", "chosen")}
