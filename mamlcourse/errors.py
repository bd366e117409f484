"""The one exception that this package raises for bad input: one clear sentence, never a stack of causes."""

from difflib import get_close_matches
from numbers import Integral, Real


class InputError(ValueError):
    """Something a user gave cannot be used. The message says what was wrong, the value seen and what is allowed."""


def check_choice(what: str, value, allowed) -> None:
    """Raise `InputError` unless `value` is one of `allowed`; name the nearest valid one when there is one."""
    allowed = list(allowed)
    if value in allowed:
        return
    near = get_close_matches(str(value), [str(a) for a in allowed], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{what} {value!r} is unknown.{hint} Allowed: {', '.join(map(str, allowed))}.")


def check_number(what: str, value, *, at_least=None, above=None, at_most=None, integer: bool = False) -> None:
    """Raise `InputError` unless `value` is a finite number (an integer if `integer`) inside the stated bounds."""
    bounds = [f"at least {at_least}"] if at_least is not None else []
    bounds += [f"above {above}"] if above is not None else []
    bounds += [f"at most {at_most}"] if at_most is not None else []
    kind = "an integer" if integer else "a finite number"
    allowed = " ".join([kind, " and ".join(bounds)]).strip()
    numeric = isinstance(value, Integral if integer else Real) and not isinstance(value, bool)
    inside = (
        numeric
        and abs(value) < float("inf")
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )
    if not inside:
        raise InputError(f"{what}: expected {allowed}, got {value!r}.")
