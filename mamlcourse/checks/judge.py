"""How a student's function is called and its result compared; knows nothing of any exercise."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import signal
import sys
import sysconfig
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import progress

# CPU time for each call of a student's function; wall time may be six times as long, as the machine may be busy.
SECONDS = 10
TOLERANCE = 1e-4  # relative to the largest value expected
DIVERGED = 1e9
# Where Python's library and this package lie; a folder above them may have any name, the package's among them.
LIBRARIES = tuple(
    os.path.join(os.path.normcase(folder), "")
    for folder in (*map(sysconfig.get_path, ("stdlib", "platstdlib")), Path(__file__).resolve().parent.parent)
) + ("<frozen",)
WIDTH = 88  # characters in a line of a message: cells of notebooks do not wrap it


class CheckFailed(AssertionError):
    """A check that was not passed. The message is one sentence for the student, the remedy first; notebooks show it
    alone."""

    def _render_traceback_(self):  # IPython asks for this instead of printing the stack
        return textwrap.wrap(f"CheckFailed: {self}", WIDTH, break_long_words=False, break_on_hyphens=False)


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
    """A tensor of uniform random values, of the default dtype: what a student creates meanwhile has it too."""
    return low + (high - low) * torch.rand(shape, generator=generator)


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
            result = _in_time(function, *arguments, **named)
    except _OutOfTime as late:
        raise CheckFailed(
            f"Is there a loop that never ends? {name} did not answer in time, so it was stopped.{late}"
        ) from None
    except NotImplementedError:
        raise CheckFailed(not_answered(name)) from None
    except KeyboardInterrupt:
        raise
    except CheckFailed:
        raise
    except BaseException as error:  # SystemExit too
        said = " ".join(str(error).split())[:300].rstrip(".") or "no message"
        for known, remedy in RAISED.items():
            if known in said and (known != TIMES_TUPLE or ".grad(" in _line(error)[1]):
                raise CheckFailed(f"{remedy} It failed{_where(error)} ({type(error).__name__}).") from None
        raise CheckFailed(f"{name} raised {type(error).__name__}{_where(error)}: {said}.") from None
    if result is None and _is_empty(function):
        raise CheckFailed(not_answered(name))
    return result


def not_answered(name: str) -> str:
    """What is said of an answer that is still as it was handed out."""
    return f"{name} is not answered yet: write your answer in the place of `...  # YOUR CODE HERE`."


def _is_empty(function) -> bool:
    """Whether there is nothing in the function but its docstring."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    stars = sum(bool(code.co_flags & flag) for flag in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS))
    return not code.co_names and code.co_nlocals == code.co_argcount + code.co_kwonlyargcount + stars


IN_PLACE = "Build new tensors instead of updating the parameters in place: the initialisation is needed again."
TUPLE = (
    "Take the gradient out of the tuple: torch.autograd.grad returns one gradient for each tensor, also where there is "
    "only one, so write `(g,) = torch.autograd.grad(...)`, or `[0]` behind it."
)
ONCE = "Go through it once, with a loop: it may be a generator, which has neither a length nor indices."
TIMES_TUPLE = "only integer tensors of a single element"  # a tensor without dimensions times a tuple, among others
RAISED = {  # part of Python's or PyTorch's message: what to do
    "in-place operation": IN_PLACE,
    "can't multiply sequence by non-int": TUPLE,
    "'Tensor' and 'tuple'": TUPLE,
    "'tuple' and 'Tensor'": TUPLE,
    "'float' and 'tuple'": TUPLE,
    TIMES_TUPLE: TUPLE,
    "object of type 'generator' has no len": ONCE,
    "'generator' object is not subscriptable": ONCE,
    "not have been used in the graph":
    "Compute the loss from the very tensors that its gradient is asked for: here it does not depend on one of them.",
    "does not require grad":
    "Leave the loss attached to tensors that require gradients: here it has no graph, because of detach(), .data, "
    ".item(), no_grad(), or a missing requires_grad_().",
    "backward through the graph a second time":
    "Ask for all gradients of a loss at once, or keep its graph with retain_graph=True: it is freed by the first call.",
}  # fmt: skip


def _where(error: BaseException) -> str:
    """Where in the student's own code it failed, in words."""
    number, line = _line(error)
    return f" in line {number}, `{line[:80]}`" if line else ""


def _line(error: BaseException) -> tuple[int, str]:
    """The line of the student's own code at which it failed: the innermost frame of no library."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        library = "site-packages" in frame.filename or os.path.normcase(frame.filename).startswith(LIBRARIES)
        if not library and frame.line:
            return frame.lineno, frame.line.strip()
    return 0, ""


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
        raise CheckFailed(f"Is there a `return` missing? {what} is None.")
    if isinstance(expected, dict):
        if not isinstance(seen, Mapping):
            raise CheckFailed(f"{what}: expected a dictionary of tensors by name, got {type(seen).__name__}.")
        if seen.keys() != expected.keys():
            raise CheckFailed(f"{what}: expected the names {sorted(expected)}, got {sorted(map(str, seen))}.")
        return [_pair(seen[name], expected[name], f"{what} for {name!r}") for name in expected]
    return [_pair(seen, expected, what)]


def _pair(seen, expected, what):
    kind = "a number" if isinstance(expected, numbers.Number) else "a tensor"
    expected = torch.as_tensor(expected).detach().double()
    if isinstance(seen, tuple) and len(seen) == 1 and isinstance(seen[0], Tensor) and seen[0].shape == expected.shape:
        raise CheckFailed(f"{what}: take it out of the tuple, with [0]; torch.autograd.grad returns a tuple.")
    tensor = as_tensor(seen)
    if tensor is None:
        raise CheckFailed(f"{what}: expected {kind}, got {type(seen).__name__}.")
    if tensor.shape != expected.shape and not (expected.ndim == 0 and tensor.numel() == 1):
        raise CheckFailed(f"{what}: expected shape {tuple(expected.shape)}, got {tuple(tensor.shape)}.")
    return tensor.detach().double().reshape(expected.shape), expected


def as_tensor(value) -> Tensor | None:
    """A tensor of a number, an array, or a list of these, of whatever type; None if it is nothing of that kind."""
    if isinstance(value, Tensor):
        return value
    if value is None or isinstance(value, (str, bytes, Mapping)):
        return None
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(element, Tensor) for element in value):
            return torch.stack([torch.as_tensor(element) for element in value])
        if isinstance(value, (list, tuple)) and any(isinstance(element, str) for element in value):
            return None
        return torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError):
        return None


def _distance(seen: Tensor, expected: Tensor) -> float:
    if not seen.numel():
        return 0.0
    off = (seen - expected).abs()
    # A mistake that diverges does so in all its runs, but where it overflows is a matter of rounding.
    off[~(seen.abs() < DIVERGED) & ~(expected.abs() < DIVERGED)] = 0  # nan is not below anything
    off = off.max().item()
    return math.inf if math.isnan(off) else off


def _scale(expected) -> float:
    values = expected.values() if isinstance(expected, dict) else [expected]
    tensors = [torch.as_tensor(v).detach() for v in values]
    sizes = [v[v.isfinite()].abs().max().item() for v in tensors if v.isfinite().any()]
    return max([*sizes, 1e-9])


def _show(value: Tensor) -> str:
    if value.numel() <= 6:
        return str([round(v, 4) for v in value.flatten().tolist()]) if value.ndim else f"{value.item():.4g}"
    first = ", ".join(f"{v:.4g}" for v in value.flatten()[:3].tolist())
    return f"[{first}, ...] of shape {tuple(value.shape)}"


def same_parts(what: str, result, names: tuple[str, ...]) -> tuple:
    """The result as a tuple of as many parts as there are names; lists, arrays and the like will do."""
    if result is None:
        raise CheckFailed(f"Is there a `return` missing? {what} returned None.")
    alone = isinstance(result, (str, Mapping)) or not isinstance(result, Iterable)
    parts = () if alone or getattr(result, "ndim", 1) == 0 else tuple(result)
    if len(parts) != len(names):
        got = f"{type(result).__name__}" + (f" of {len(parts)}" if isinstance(result, (tuple, list)) else "")
        raise CheckFailed(f"{what}: expected ({', '.join(names)}), got {got}.")
    return parts


def unchanged(**inputs) -> None:
    """Raise `CheckFailed` unless each input, given as (what it is now, what it was), is as before."""
    for name, (now, before) in inputs.items():
        if now != before:
            raise CheckFailed(f"Work with a copy: your function has changed the caller's `{name}`, who needs it again.")


class Untouched:
    """Remembers tensors, to tell afterwards whether somebody changed them in place."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors, self.before = tensors, {name: t.detach().clone() for name, t in tensors.items()}
        self.objects = {name: (id(t), t.requires_grad) for name, t in tensors.items()}

    def check(self) -> None:
        for name, value in self.before.items():
            tensor, (before, needed) = self.tensors.get(name), self.objects[name]
            if tensor is not None and id(tensor) != before:
                raise CheckFailed(
                    f"Build a new dictionary: you put a new tensor into the input dictionary under {name!r}, but the "
                    "caller's parameters must stay as they are."
                )
            if tensor is None or not torch.equal(tensor.detach(), value):
                raise CheckFailed(
                    f"Build new tensors instead of changing them in place: {name!r} of the input has changed, but the "
                    "caller needs it again, the initialisation for every task."
                )
            if tensor.is_leaf and tensor.grad is not None:
                raise CheckFailed(
                    "Take gradients with torch.autograd.grad, which leaves the input as it is: a call of backward() "
                    f"has left its gradient in .grad of {name!r}, where the next one would be added to it."
                )
            if tensor.requires_grad != needed:
                raise CheckFailed(
                    f"Track a copy, {name}.detach().clone().requires_grad_(): your function has switched requires_grad "
                    f"of the caller's {name!r}, which must not be changed."
                )
