"""The round trip of a class with the real nbgrader: release, hand in, grade, give feedback."""

import os
import re
import runpy
import sys
from pathlib import Path

import nbformat
import pytest

from mamlcourse.checks.progress import EXERCISES

pytest.importorskip("nbgrader", reason="the extra [classroom] is not installed; `make assignment` installs it")
pytestmark = pytest.mark.classroom

ROOT = Path(__file__).parent.parent
NAMES = [exercise.name for exercise in EXERCISES]
AUTOMATIC = dict.fromkeys(NAMES, 5) | {"09_capstone": 6}
SHORT = ("01_sample_an_episode", "05_first_order")  # the other students hand in these alone


def answers(name):
    """{grade id: source} of the solution's answers."""
    notebook = nbformat.read(ROOT / "solutions" / f"{name}.ipynb", as_version=4)
    return {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in notebook.cells
        if "nbgrader" in cell.metadata and cell.metadata.nbgrader.solution
    }


def correct(notebook, name):
    for cell in notebook.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = answers(name).get(grade_id, cell.source)


def half_done(notebook, name):
    first = next(iter(answers(name)))
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == first:
            cell.source = answers(name)[first]


def wrong(notebook, name):
    """Answers that run and are wrong: support examples in the query set, MAML for FOMAML, and one answer to all."""
    correct(notebook, name)
    for cell in notebook.cells:
        cell.source = cell.source.replace("order[: shots + queries]", "order[:shots].repeat(shots + queries)")
        cell.source = cell.source.replace("parameters.values()))\n", "parameters.values()), create_graph=True)\n")
        cell.source = cell.source.replace("return any(", "return True or any(")
        cell.source = cell.source.replace("    return train, test", "    return test, train")


def cheating(notebook, name):
    """Nothing solved, but the cells with the tests are emptied, and the imports changed so that checks do nothing."""
    for cell in notebook.cells:
        if "checks." in cell.source and cell.cell_type == "code":
            cell.source = "print('Passed')"
        if cell.source.startswith("%matplotlib"):
            cell.source += "\nfrom unittest.mock import Mock\nchecks = Mock()"


STUDENTS = {"ada": (correct, NAMES), "bea": (half_done, SHORT), "cem": (wrong, SHORT), "dan": (cheating, SHORT[:1])}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder after release, hand-in, grading and feedback."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    folder = tmp_path_factory.mktemp("classroom") / "course"
    make = runpy.run_path(str(ROOT / "tools" / "make_exercises.py"))
    make["main"](["--course", str(folder)])
    config = Config()
    config.CourseDirectory.root, config.CourseDirectory.course_id = str(folder), "mamlcourse"
    config.ExecutePreprocessor.timeout = 120
    config.ClearSolutions.code_stub = {"python": make["STUB"]}  # the API does not read nbgrader_config.py
    assert make["STUB"] in (folder / "nbgrader_config.py").read_text(encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MAMLCOURSE_PROGRESS", "off")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        api = NbGraderAPI(config=config)
        for name in NAMES:
            assert api.generate_assignment(name)["success"]
        for student, (hand_in, names) in STUDENTS.items():
            for name in names:
                notebook = nbformat.read(folder / "release" / name / f"{name}.ipynb", as_version=4)
                hand_in(notebook, name)
                target = folder / "submitted" / student / name
                target.mkdir(parents=True)
                nbformat.write(notebook, target / f"{name}.ipynb")
                graded = api.autograde(name, student)
                assert graded["success"], graded["log"]
        feedback = api.generate_feedback(NAMES[0], "cem")
        assert feedback["success"], feedback["log"]
        with api.gradebook as gradebook:
            scores = {
                (student, name): gradebook.find_submission(name, student).score
                for student, (_, names) in STUDENTS.items()
                for name in names
            }
            defence = gradebook.find_submission("09_capstone", "ada")
            yield folder, scores, (defence.needs_manual_grade, defence.max_score)


def test_released_notebooks_hold_no_solution_and_no_hidden_test(course):
    folder, _, _ = course
    for name in NAMES:
        released = (folder / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
        assert "YOUR CODE HERE" in released and "NotImplementedError" not in released
        assert "SOLUTION" not in released and "HIDDEN" not in released and "../solutions" not in released
        hidden = re.findall(r"### BEGIN HIDDEN TESTS\\n\",\n +\"(.+?)\\n\"",
                            (ROOT / "solutions" / f"{name}.ipynb").read_text(encoding="utf-8"))  # fmt: skip
        assert hidden and not any(line in released for line in hidden)


def test_a_correct_submission_gets_all_points_that_need_no_person(course):
    _, scores, (needs_a_person, all_points) = course
    assert {name: scores["ada", name] for name in NAMES} == AUTOMATIC
    assert needs_a_person and all_points == 16


def test_a_half_done_submission_gets_the_points_of_its_half(course):
    _, scores, _ = course
    assert [scores["bea", name] for name in SHORT] == [2, 3]


def test_a_wrong_submission_gets_nothing_and_is_told_why(course):
    folder, scores, _ = course
    assert [scores["cem", name] for name in SHORT] == [0, 0]
    told = (folder / "feedback" / "cem" / SHORT[0] / f"{SHORT[0]}.html").read_text(encoding="utf-8")
    told = " ".join(told.split())  # sentences are wrapped
    assert "support examples appear in the query set" in told and "the two parts are exchanged" in told
    graded = nbformat.read(folder / "autograded" / "cem" / SHORT[1] / f"{SHORT[1]}.ipynb", as_version=4)
    told = " ".join(
        line for cell in graded.cells for out in cell.get("outputs", []) for line in out.get("traceback", [])
    )
    assert "True of every version" in told and "this is still MAML" in told


def test_editing_the_tests_gains_nothing(course):
    _, scores, _ = course
    assert scores["dan", SHORT[0]] == 0
