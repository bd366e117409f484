"""The exercises: made from the solutions, equal to the committed ones; stubs fail, solutions pass."""

import ast
import json
import linecache
import re
import runpy
import textwrap
from pathlib import Path

import nbformat
import pytest
import torch
from answers import ANSWERS, HEADS

from mamlcourse import checks
from mamlcourse.checks.progress import EXERCISES

ROOT = Path(__file__).parent.parent
MAKE = runpy.run_path(str(ROOT / "tools" / "make_exercises.py"))
NAMES = [exercise.name for exercise in EXERCISES]
POINTS = {"01": 5, "02": 5, "03": 5, "04": 5, "05": 5, "06": 5, "07": 5, "08": 5, "09": 16}


def read(folder, name):
    return nbformat.read(ROOT / folder / f"{name}.ipynb", as_version=4)


def kind(cell):
    """By nbgrader's metadata: "answer", "test", "locked", "essay" or ""."""
    found = cell.metadata.get("nbgrader")
    if found is None:
        return ""
    if found["grade"] and found["solution"]:
        return "essay"
    return "answer" if found["solution"] else "test" if found["grade"] else "locked"


def cells(notebook, *kinds):
    return [cell for cell in notebook.cells if kind(cell) in kinds]


def text(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def run(source, world):
    exec(compile(re.sub(r"^%.*$", "", source, flags=re.MULTILINE), "<cell>", "exec"), world)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv("MAMLCOURSE_PROGRESS", "off")
    yield
    torch.set_default_dtype(torch.float32)  # exercise 02 works in double precision


def test_there_is_a_solution_and_an_exercise_for_each_entry_and_no_other():
    for folder in ("solutions", "exercises"):
        assert sorted(path.stem for path in (ROOT / folder).glob("*.ipynb")) == NAMES
    assert len(NAMES) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_committed_exercise_is_what_make_exercises_makes(name):
    pytest.importorskip("nbgrader", reason="the extra [classroom] is not installed; `make exercises` installs it")
    made = MAKE["exercise"](read("solutions", name), name)
    committed = (ROOT / "exercises" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert json.loads(nbformat.writes(made)) == json.loads(committed), "run: make exercises"


def test_making_exercises_twice_from_a_changed_solution_follows_the_change():
    pytest.importorskip("nbgrader", reason="the extra [classroom] is not installed; `make exercises` installs it")
    solution = read("solutions", NAMES[0])
    before = MAKE["exercise"](solution, NAMES[0])
    cells(solution, "test")[0].source += "\nassert True"
    assert MAKE["exercise"](solution, NAMES[0]) != before


@pytest.mark.parametrize("name", NAMES)
def test_exercise_gives_nothing_away_and_is_locked_where_it_must_be(name):
    solution, exercise = read("solutions", name), read("exercises", name)
    whole = "\n".join(cell.source for cell in exercise.cells)
    assert "SOLUTION" not in whole and "HIDDEN" not in whole
    told = " ".join(text(exercise).split())
    for answer in cells(solution, "answer"):
        body = re.search(r"### BEGIN SOLUTION\n(.+?)### END SOLUTION", answer.source, re.DOTALL)[1]
        assert body not in whole
        lines = [line.strip().removeprefix("return ") for line in body.splitlines() if len(line.strip()) > 40]
        assert not any(line in told for line in lines), "a hint holds a line of the solution"
    assert all("### BEGIN HIDDEN TESTS" in test.source for test in cells(solution, "test"))
    assert all("...  # YOUR CODE HERE" in cell.source for cell in cells(exercise, "answer"))
    assert "NotImplementedError" not in whole
    assert all(cell.metadata.editable is False for cell in cells(exercise, "test", "locked"))
    assert all(cell.metadata.get("editable", True) for cell in cells(exercise, "answer", "essay"))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in exercise.cells)
    if cells(exercise, "essay"):
        assert cells(exercise, "essay")[0].source == "YOUR ANSWER HERE"


@pytest.mark.parametrize("entry", EXERCISES, ids=lambda entry: entry.name)
def test_exercise_says_what_to_do_how_hard_and_how_long_and_helps(entry):
    exercise = read("exercises", entry.name)
    first = exercise.cells[0].source
    assert first.startswith(f"# Exercise {entry.name[:2]}: ") and re.search(r"^\*\*[^*]+\?\*\*$", first, re.MULTILINE)
    said = re.search(r"^(\w[^.]*)\. Importance: (\d) of 5\. About (\d+) minutes\.\s", first, re.MULTILINE)
    assert said[1].lower() == entry.difficulty and int(said[2]) == entry.importance and 1 <= entry.importance <= 5
    assert int(said[3]) == entry.minutes and 15 <= entry.minutes <= (120 if entry.name == "09_capstone" else 40)
    parts = re.findall(r"^## (?:Part|Bonus).+\n\n\*(.+)\*$", text(exercise), re.MULTILINE)
    assert all(re.search(r"[Ii]mportance [1-5] of 5, about \d+ minutes", part) for part in parts)
    minutes = [int(re.search(r"about (\d+) minutes", part)[1]) for part in parts]
    assert sum(minutes[:-1]) <= entry.minutes and len(parts) == len(cells(exercise, "test", "essay"))
    assert re.search(r"\(\.\./notebooks/\d\d_\w+\.ipynb\)", first)
    whole = text(exercise)
    for link in re.findall(r"\]\(([^):]+)\)", whole):
        assert (ROOT / "exercises" / link).resolve().exists(), link
    assert f"](../solutions/{entry.name}.ipynb)" in exercise.cells[-1].source
    used = re.findall(r"\bchecks\.(\w+)\(", "\n".join(cell.source for cell in cells(exercise, "test")))
    assert tuple(used) == (*entry.checks, entry.bonus)
    assert whole.count("## Part ") == len(cells(exercise, "test", "essay")) - 1 and whole.count("## Bonus") == 1
    for place, cell in enumerate(exercise.cells):
        if kind(cell) == "test":
            hints = re.findall(r"<details><summary>Hint (\d)</summary>\n\n.+?\n\n</details>",
                               exercise.cells[place + 1].source, re.DOTALL)  # fmt: skip
            assert 1 <= len(hints) <= 3 and hints == [str(n + 1) for n in range(len(hints))]
        if kind(cell) == "answer":
            assert all(ast.get_docstring(f) for f in ast.walk(ast.parse(cell.source)) if isinstance(f, ast.FunctionDef))


@pytest.mark.parametrize("name", NAMES)
def test_expected_figure_stands_in_the_exercise_with_words(name):
    attached = [cell for cell in read("exercises", name).cells if cell.get("attachments")]
    assert len(attached) == 1
    assert re.search(r"\*Expected figure.{60,}\*", attached[0].source, re.DOTALL)
    assert re.search(r"!\[[^\]\n]{60,}\]\(attachment:expected\.png\)", attached[0].source)
    assert len(attached[0].attachments["expected.png"]["image/png"]) > 5_000


@pytest.mark.parametrize("name", NAMES)
def test_points_add_up_and_grade_ids_are_unique(name):
    solution = read("solutions", name)
    graded = [cell.metadata.nbgrader for cell in solution.cells if kind(cell)]
    assert sum(found.get("points", 0) for found in graded) == POINTS[name[:2]]
    assert len({found.grade_id for found in graded}) == len(graded)


@pytest.mark.parametrize("name", NAMES)
def test_solution_was_run_and_shows_no_warning_and_no_machine(name):
    solution = read("solutions", name)
    code = [cell for cell in solution.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "make exercises with --run"
    runner = runpy.run_path(str(ROOT / "tools" / "run_notebooks.py"))
    assert runner["output_complaints"](solution) == []
    assert not any(runner["PATH"].search(cell.source) for cell in solution.cells)
    lines = [line for cell in code for line in cell.source.splitlines()]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_untouched_stub_is_not_answered_yet(name):
    exercise, world = read("exercises", name), {"__name__": "__main__"}
    for cell in cells(exercise, "locked", "answer"):
        run(cell.source, world)
    for cell in cells(exercise, "test"):
        with pytest.raises(checks.CheckFailed, match="not answered yet"):
            run(cell.source, world)


def solved(name):
    """The namespace in which the exercise's tests run, with all of the solution's answers."""
    solution, world = read("solutions", name), {"__name__": "__main__"}
    plain = [cell for cell in cells(solution, "") if cell.cell_type == "code"]
    helpers = [cell for cell in plain if re.match(r"def (version|meta_gradient_with_bug)", cell.source)]
    for cell in cells(solution, "locked") + helpers + cells(solution, "answer"):
        run(cell.source, world)
    return world


@pytest.mark.parametrize("name", NAMES)
def test_solution_passes_hidden_tests_and_all_on_other_inputs(name):
    solution, world = read("solutions", name), solved(name)
    for _ in range(4):
        for cell in cells(solution, "test"):
            run(cell.source, world)


def visible_and_hidden(entry, check):
    """The sources of a part's check and of its hidden tests."""
    cell = next(c for c in cells(read("solutions", entry.name), "test") if f"checks.{check}(" in c.source)
    return cell.source.split("### BEGIN HIDDEN TESTS")


def answer(check, body, world):
    """Put a student's answer into the namespace. A line `#model ...` says which network goes with it."""
    head, model = HEADS[check], re.search(r"#model (.+)", body)
    source = f"{head}\n{textwrap.indent(body.strip(), '    ')}" if head else body
    # Where a line failed is said from this cache, in which IPython puts its cells too.
    linecache.cache["<answer>"] = (len(source), None, source.splitlines(True), "<answer>")
    exec(compile(source, "<answer>", "exec"), world)
    if model:
        run(f"def build_model(seed):\n    torch.manual_seed(seed)\n    return {model[1]}", world)


@pytest.mark.filterwarnings("ignore")  # of answers that PyTorch itself advises against
@pytest.mark.parametrize("entry, check", [(entry, c) for entry in EXERCISES for c in (*entry.checks, entry.bonus)],
                         ids=lambda value: getattr(value, "name", value)[:20])  # fmt: skip
def test_check_and_hidden_tests_agree_on_every_answer(entry, check):
    """Right answers of every style pass both, wrong ones neither, and the check names the mistake."""
    visible, hidden = visible_and_hidden(entry, check)
    kept = solved(entry.name)
    for expected, body in ANSWERS[check]:
        for _ in range(2):  # the inputs are new each time
            world = dict(kept)
            answer(check, body, world)
            if not expected:
                run(visible, world)
                run(hidden, world)
                continue
            with pytest.raises(checks.CheckFailed) as told:
                run(visible, world)
            assert any(words in str(told.value) for words in expected.split("|")), (str(told.value), body)
            try:
                run(hidden, world)
            except Exception:  # whatever a wrong answer leads to
                continue
            pytest.fail(f"the hidden tests let it pass: {body}")


def test_each_part_has_right_and_wrong_answers_of_several_kinds():
    parts = [check for entry in EXERCISES for check in entry.checks]
    assert ANSWERS.keys() == HEADS.keys() == {*parts, *(entry.bonus for entry in EXERCISES)}
    for check in parts:
        right = [body for expected, body in ANSWERS[check] if not expected]
        assert len(right) >= 2 and len(ANSWERS[check]) - len(right) >= 5, check


def test_no_exercise_mentions_what_only_a_teacher_needs():
    for name in NAMES:
        assert "nbgrader" not in text(read("exercises", name))
