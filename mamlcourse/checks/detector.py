"""How a student's test of other code is judged: it is asked about good and bad versions, twice about each."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from .judge import CheckFailed


def judge_detector(ask: Callable, versions: dict[str, tuple[bool, Callable]], messages: dict) -> None:
    """Raise `CheckFailed` unless the student's test says the right thing of each version.

    Args:
        ask: version -> what the student's test says of it, on new inputs each time.
        versions: {name: (right answer, version)}.
        messages: {name: what to tell whose test is wrong about this version}; where one sentence explains several
            wrong answers, a tuple of names.
    """
    right = {name: answer for name, (answer, _) in versions.items()}
    said = {name: _answer([ask(version) for _ in range(2)]) for name, (_, version) in versions.items()}
    if said == right:
        return
    if all(said.values()):
        raise CheckFailed("Your test says True of every version, good or bad.")
    if not any(said.values()):
        raise CheckFailed("Your test says False of every version, good or bad.")
    if all(said[name] != right[name] for name in right):
        raise CheckFailed("Your test says the opposite: exchange True and False.")
    wrong = tuple(name for name in right if said[name] != right[name])
    raise CheckFailed(messages.get(wrong) or messages[wrong[0]])


def _answer(answers):
    """The one answer, as a bool; NumPy's and PyTorch's are as good as Python's."""
    plain = []
    for answer in answers:
        if answer is None:
            raise CheckFailed("Is there a `return` missing? Your test returned None.")
        if isinstance(answer, (torch.Tensor, np.ndarray, np.generic)) and math.prod(answer.shape) == 1:
            answer = answer.item()
        if not isinstance(answer, bool):
            raise CheckFailed(f"Your test: expected True or False, got {type(answer).__name__}.")
        plain.append(answer)
    if len(set(plain)) > 1:
        raise CheckFailed(
            "Compare with a tolerance (torch.allclose), not exactly, and leave nothing to chance: your test said True "
            "and then False about the same version, on other inputs."
        )
    return plain[0]
