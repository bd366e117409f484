"""How a student's function is called and its result compared; knows nothing of any exercise."""

from __future__ import annotations

import functools
import math
import numbers
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from . import progress

# CPU time for each call of a student's function; wall time may be six times as long, as the machine may be busy.
SECONDS = 10
TOLERANCE = 1e-4  # relative to the largest value expected


class CheckFailed(AssertionError):
    """A check that was not passed. The message is one sentence for the student; notebooks show it alone."""

    def _render_traceback_(self):  # IPython asks for this instead of printing the stack
        return [f"CheckFailed: {self}"]


def check(judge: Callable) -> Callable:
    """A check of the course: on success it prints one line and notes progress, else it raises `CheckFailed`."""

    @functools.wraps(judge)
    def checked(*answers, **named):
        try:
            judge(*answers, **named)
        except CheckFailed as failure:
            raise CheckFailed(str(failure)) from None  # without the stack of the check
        said = progress.record(judge.__name__)
        print(f"Passed: {judge.__name__}" + (f" ({said})." if said else "."))

    return checked


def fresh() -> torch.Generator:
    """A generator of a new seed each time; the student's own random state is left alone."""
    generator = torch.Generator()
    generator.seed()
    return generator


def uniform(generator: torch.Generator, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """A float64 tensor of uniform random values."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """A random integer from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


# Calling.


class _OutOfTime(BaseException):  # no Exception: a student's `except Exception` must not swallow it
    pass


def call(function: Callable, *arguments, **named):
    """The function's result. Its exception, or no result in time, becomes a `CheckFailed`."""
    name = getattr(function, "__name__", "your function")
    if not callable(function):
        raise CheckFailed(f"Expected a function, got {function!r} of type {type(function).__name__}.")
    try:
        with torch.enable_grad():
            return _in_time(function, *arguments, **named)
    except _OutOfTime as late:
        raise CheckFailed(
            f"{name} did not answer in time, so it was stopped: is there a loop that never ends?{late}"
        ) from None
    except NotImplementedError:
        raise CheckFailed(f"{name} is still empty: replace its `raise NotImplementedError()` first.") from None
    except KeyboardInterrupt:
        raise
    except CheckFailed:
        raise
    except BaseException as error:  # SystemExit too
        if isinstance(error, RuntimeError) and "in-place" in str(error):
            raise CheckFailed(
                f"You updated the parameters in place{_where(error)}, and autograd refuses: the initialisation is "
                "needed again, so build new tensors instead."
            ) from None
        said = " ".join(str(error).split())[:300].rstrip(".") or "no message"
        raise CheckFailed(f"{name} raised {type(error).__name__}{_where(error)}: {said}.") from None


def _where(error: BaseException) -> str:
    """The line of the student's own code at which it failed: the innermost frame of no library."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        library = any(part in frame.filename for part in ("site-packages", "mamlcourse", "lib/python", "<frozen"))
        if not library and frame.line:
            return f" in line {frame.lineno}, `{frame.line.strip()[:80]}`"
    return ""


def _in_time(function, *arguments, **named):
    on_main = threading.current_thread() is threading.main_thread()
    if hasattr(signal, "setitimer") and on_main and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):
        with _alarms():
            return function(*arguments, **named)
    return _in_thread(function, *arguments, **named)


@contextmanager
def _alarms():
    def ring(number, frame):
        # A bare `except:` inside the loop would swallow this, so from now on every line of the student's raises too.
        while frame is not None and frame.f_code is not _in_time.__code__:
            frame.f_trace = leave
            frame = frame.f_back
        sys.settrace(lambda frame, event, argument: None)
        raise _OutOfTime

    def leave(frame, event, argument):
        if event == "line":  # the first one is that of the `except:`, from where it gets out
            raise _OutOfTime
        return leave

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, 6 * SECONDS))
    before, traced = [signal.signal(number, ring) for number, _, _ in timers], sys.gettrace()
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds, 0.2)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        sys.settrace(traced)


def _in_thread(function, *arguments, **named):
    """Where there is no alarm (Windows, or not in the main thread) a thread is waited for, but cannot be stopped."""
    answer = {}

    def work():
        try:
            answer["result"] = function(*arguments, **named)
        except BaseException as error:
            answer["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(6 * SECONDS)
    if thread.is_alive():
        raise _OutOfTime(" It still runs in the background: restart the kernel.")
    if "error" in answer:
        raise answer["error"]
    return answer["result"]


# Comparing.


def agree(seen, expected, tolerance: float = TOLERANCE) -> bool:
    """Whether a tensor, number or dictionary of tensors is as expected; the tolerance is relative to the largest."""
    try:
        pairs = _pairs(seen, expected)
    except CheckFailed:
        return False
    return all(_distance(s, e) <= tolerance * _scale(expected) for s, e in pairs)


def compare(what: str, seen, expected, mistakes=(), tolerance: float = TOLERANCE) -> None:
    """Raise `CheckFailed` unless `seen` is as expected.

    Args:
        what: what is compared, to begin a sentence with: "The meta-gradient".
        seen, expected: tensors, numbers, or dictionaries of tensors.
        mistakes: pairs (the result of a known mistake, what to tell who made it).
        tolerance: relative to the largest expected value.
    """
    if agree(seen, expected, tolerance):
        return
    for wrong, message in mistakes:
        if agree(seen, wrong, tolerance):
            raise CheckFailed(message)
    pairs = _pairs(seen, expected, what)
    bound = tolerance * _scale(expected)
    names = list(expected) if isinstance(expected, dict) else [None]
    name, (s, e) = max(zip(names, pairs), key=lambda pair: _distance(*pair[1]))
    where = f": {name!r}" if name is not None else ""
    raise CheckFailed(
        f"{what}{where} is off: expected {_show(e)}, got {_show(s)}, largest difference {_distance(s, e):.3g}, "
        f"tolerance {bound:.1g}."
    )


def _pairs(seen, expected, what: str = "The result") -> list[tuple[Tensor, Tensor]]:
    """Seen and expected side by side, as tensors of the same shape."""
    if seen is None:
        raise CheckFailed(f"{what} is None: is there a `return` missing?")
    if isinstance(expected, dict):
        if not isinstance(seen, dict):
            raise CheckFailed(f"{what}: expected a dictionary of tensors by name, got {type(seen).__name__}.")
        if seen.keys() != expected.keys():
            raise CheckFailed(f"{what}: expected the names {sorted(expected)}, got {sorted(map(str, seen))}.")
        return [_pair(seen[name], expected[name], f"{what} for {name!r}") for name in expected]
    return [_pair(seen, expected, what)]


def _pair(seen, expected, what):
    if isinstance(seen, numbers.Number):
        seen = torch.tensor(float(seen), dtype=torch.float64)
    if not isinstance(seen, Tensor):
        kind = "a number" if isinstance(expected, numbers.Number) else "a tensor"
        raise CheckFailed(f"{what}: expected {kind}, got {type(seen).__name__}.")
    expected = torch.as_tensor(expected, dtype=torch.float64)
    if seen.shape != expected.shape:
        raise CheckFailed(f"{what}: expected shape {tuple(expected.shape)}, got {tuple(seen.shape)}.")
    return seen.detach().double(), expected.detach()


def _distance(seen: Tensor, expected: Tensor) -> float:
    if not seen.numel():
        return 0.0
    off = (seen - expected).abs().max().item()
    return math.inf if math.isnan(off) else off


def _scale(expected) -> float:
    values = expected.values() if isinstance(expected, dict) else [expected]
    sizes = [torch.as_tensor(v).detach().abs().max().item() for v in values if torch.as_tensor(v).numel()]
    return max([*sizes, 1e-9])


def _show(value: Tensor) -> str:
    if value.numel() <= 6:
        return str([round(v, 4) for v in value.flatten().tolist()]) if value.ndim else f"{value.item():.4g}"
    first = ", ".join(f"{v:.4g}" for v in value.flatten()[:3].tolist())
    return f"[{first}, ...] of shape {tuple(value.shape)}"


def same_parts(what: str, result, names: tuple[str, ...]) -> tuple:
    """The result as a tuple of as many parts as there are names."""
    if result is None:
        raise CheckFailed(f"{what} returned None: is there a `return` missing?")
    if not isinstance(result, (tuple, list)) or len(result) != len(names):
        got = f"{type(result).__name__}" + (f" of {len(result)}" if isinstance(result, (tuple, list)) else "")
        raise CheckFailed(f"{what}: expected ({', '.join(names)}), got {got}.")
    return tuple(result)


class Untouched:
    """Remembers tensors, to tell afterwards whether somebody changed them in place."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors, self.before = tensors, {name: t.detach().clone() for name, t in tensors.items()}
        self.objects = {name: id(t) for name, t in tensors.items()}

    def check(self) -> None:
        for name, value in self.before.items():
            if name not in self.tensors or not torch.equal(self.tensors[name].detach(), value):
                raise CheckFailed(
                    f"You updated the parameters in place: {name!r} of the input has changed, but the "
                    "initialisation is needed again for every task, so build new tensors instead."
                )
            tensor = self.tensors[name]
            if tensor.is_leaf and tensor.grad is not None:
                raise CheckFailed(
                    f"A call of backward() has left its gradient in .grad of {name!r}, where the next one would be "
                    "added to it: take gradients with torch.autograd.grad, which leaves the input as it is."
                )
            if id(tensor) != self.objects[name]:
                raise CheckFailed(
                    f"You put a new tensor into the input dictionary under {name!r}: the caller's parameters must "
                    "stay as they are, so build a new dictionary."
                )
