"""Which exercises a student has done: a small JSON file of their own, outside the repository."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..records import expanded, only_writer, write_whole

FORMAT = 1
PATIENCE = 10  # seconds to wait for another notebook that is noting its own
UNDER_TEST = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")  # set by pytest, also for the kernels that it starts


class Exercise(NamedTuple):
    """One exercise: its file's name, its title, how hard it is, how central (1 to 5), how long without its bonus, the
    checks it asks for, and the check of the bonus, for which there are no points."""

    name: str
    title: str
    difficulty: str
    importance: int
    minutes: int
    checks: tuple[str, ...]
    bonus: str


EXERCISES = (
    Exercise("01_sample_an_episode", "Sample an episode", "easy", 4, 25, ("split", "episode"), "rotated"),
    Exercise("02_quadratic_meta_gradient", "The meta-gradient of a quadratic", "easy to medium", 4, 25,
             ("by_hand", "by_autograd"), "many_by_hand"),
    Exercise("03_inner_loop", "The inner loop", "medium", 5, 25, ("inner_step", "inner_loop"), "head_alone"),
    Exercise("04_outer_loop", "The outer loop", "medium", 5, 35, ("outer_loop", "every_task_counts"), "reptile_step"),
    Exercise("05_first_order", "First order in one line", "medium", 4, 25, ("first_order", "builds_a_graph"),
             "left_out"),
    Exercise("06_fair_comparison", "A fair comparison", "medium", 5, 35, ("paired_interval", "costs", "verdict"),
             "tasks_needed"),
    Exercise("07_multi_step_loss", "The multi-step loss", "medium", 2, 30, ("loss_weights", "multi_step_loss"),
             "query_passes"),
    Exercise("08_learned_rates", "Learned learning rates, and per-step batch norm", "hard", 3, 40,
             ("learned_rates", "step_norm"), "step_layer_norm"),
    Exercise("09_capstone", "Capstone: a problem of your own", "hard, and open", 4, 120, ("problem", "evidence"),
             "choose"),
)  # fmt: skip


def location() -> Path | None:
    """The file of progress: $MAMLCOURSE_PROGRESS, else in the user's data folder.

    None if that variable is "off", or if pytest runs and it is not set: tests are no one's progress.
    """
    given = os.environ.get("MAMLCOURSE_PROGRESS")
    if given:
        return None if given.lower() == "off" else expanded(given)
    if any(variable in os.environ for variable in UNDER_TEST):
        return None
    from platformdirs import user_data_path

    base = os.environ.get("XDG_DATA_HOME")  # on every system
    folder = Path(base) / "mamlcourse" if base else user_data_path("mamlcourse", appauthor=False)
    return folder / "progress.json"


def load() -> dict[str, str]:
    """{check: when it was first passed}. A damaged file is said and set aside under another name."""
    path = location()
    if path is None or not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        passed = kept["passed"]
        if kept["format"] != FORMAT or not all(isinstance(word, str) for pair in passed.items() for word in pair):
            raise ValueError
    except OSError as error:
        print(f"The file of progress {path} cannot be read: {error.strerror}.")
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        aside = _free_name(path)
        try:
            path.rename(aside)
        except OSError as error:
            print(f"The file of progress {path} is damaged and cannot be set aside: {error.strerror}.")
        else:
            print(f"The file of progress {path} is damaged; it is kept as {aside.name}, and a new one begins.")
        return {}
    return passed


def record(check: str) -> str:
    """Note that a check was passed, and say how far the student is."""
    path = location()
    passed = {} if path is None else _noted(path, check)
    exercise = next(exercise for exercise in EXERCISES if check in (*exercise.checks, exercise.bonus))
    number, parts = exercise.name[:2], sum(part in passed for part in exercise.checks)
    done = f"exercise {number} is done" if parts == len(exercise.checks) else (
        f"{parts} of {len(exercise.checks)} parts of exercise {number}"
    )  # fmt: skip
    if check == exercise.bonus:
        done = f"bonus of exercise {number}"
    # Without a file nothing is known of the other exercises.
    return "" if path is None else f"{done}, {finished(passed)} of {len(EXERCISES)} in all"


def finished(passed: dict[str, str]) -> int:
    """How many exercises have all their checks passed."""
    return sum(all(check in passed for check in exercise.checks) for exercise in EXERCISES)


def rows() -> list[list[str]]:
    """The progress as rows of text, the heading first."""
    passed = load()
    lines = [["exercise", "difficulty", "importance", "minutes", "parts done", "last"]]
    for exercise in EXERCISES:
        when = sorted(passed[check][:10] for check in exercise.checks if check in passed)
        parts = f"{len(when)} of {len(exercise.checks)}" + " and the bonus" * (exercise.bonus in passed)
        title = f"{exercise.name[:2]} {exercise.title}"
        importance = f"{exercise.importance} of 5"
        lines.append([title, exercise.difficulty, importance, str(exercise.minutes), parts, when[-1] if when else ""])
    return lines


def _noted(path: Path, check: str) -> dict[str, str]:
    """Add a check to the file, unless it is there, and return all that is in it now."""
    try:
        # Several notebooks may note at once: each adds to what the others have written.
        with only_writer(path, wait=PATIENCE):
            passed = load()
            if check not in passed:
                passed[check] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                _write(path, passed)
            return passed
    except InputError as error:
        print(f"The progress is not kept: {error}")
    return load() | {check: ""}


def _write(path: Path, passed: dict[str, str]) -> None:
    text = json.dumps({"format": FORMAT, "passed": passed}, indent=2) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        print(f"The file of progress {path} cannot be written: {error.strerror}.")


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")).exists():
        number += 1
    return aside
