"""The round trip of a class with the real nbgrader: release, hand in, grade, give feedback."""

import csv
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from mamlcourse.checks.progress import EXERCISES

pytest.importorskip("nbgrader", reason="the extra [classroom] is not installed; `make assignment` installs it")
pytestmark = pytest.mark.classroom
from mamlcourse import classroom  # noqa: E402, needs nbgrader

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


def wrong_for_hidden_tests(notebook, name):
    """Right for the check's inputs; one part fails at an assertion of its hidden test, one raises inside it."""
    correct(notebook, name)
    for cell in notebook.cells:
        cell.source = cell.source.replace("    support_x, support_y, query_x, query_y = [], [], [], []\n",
                                          "    print('seen:', images.shape)\n"
                                          "    if images.shape == (4, 3, 2, 2): raise ValueError('too small')\n"
                                          "    support_x, support_y, query_x, query_y = [], [], [], []\n")  # fmt: skip
        cell.source = cell.source.replace("if alphabet in test_alphabets]",
                                          "if alphabet in test_alphabets - {'x'}]")  # fmt: skip


STUDENTS = {
    "ada": (correct, NAMES),
    "bea": (half_done, SHORT),
    "cem": (wrong, SHORT),
    "dan": (cheating, SHORT[:1]),
    "eve": (wrong_for_hidden_tests, SHORT[:1]),
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder after release, hand-in, grading and feedback."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    folder = tmp_path_factory.mktemp("classroom") / "course"
    make = runpy.run_path(str(ROOT / "tools" / "make_exercises.py"))
    make["main"](["--course", str(folder)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MAMLCOURSE_PROGRESS", "OMP_NUM_THREADS", "PATH", "JUPYTER_PATH"):  # the settings change them
            patch.setenv(name, os.environ.get(name, ""))
        config = PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config()
        assert config.ClearSolutions.code_stub["python"] == make["STUB"]
        config.CourseDirectory.root = str(folder)
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
        for student in ("cem", "eve"):
            feedback = api.generate_feedback(NAMES[0], student)
            assert feedback["success"], feedback["log"]
        with api.gradebook as gradebook:
            scores = {
                (student, name): gradebook.find_submission(name, student).score
                for student, (_, names) in STUDENTS.items()
                for name in names
            }
            classroom.PointsByPart(to="points.csv").export(gradebook)
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


def feedback(folder, student):
    return (folder / "feedback" / student / SHORT[0] / f"{SHORT[0]}.html").read_text(encoding="utf-8")


def test_a_hidden_test_that_fails_says_a_sentence_to_the_teacher(course):
    folder, scores, _ = course
    assert scores["eve", SHORT[0]] == 0
    graded = nbformat.read(folder / "autograded" / "eve" / SHORT[0] / f"{SHORT[0]}.ipynb", as_version=4)
    said = [cell.outputs[0].text for cell in graded.cells if cell.get("outputs") and cell.outputs[0].get("text")]
    said = [text for text in said if text.startswith(classroom.HIDDEN)]
    assert re.search(
        r"the check passed, but `assert \[.* == expected` \(line \d+ of the cell\) does not hold\.$", said[0]
    )
    assert re.search(r"check passed, but `sets, again = .*` \(.*\) raised ValueError: too small\.$", said[1])


def test_feedback_shows_no_hidden_test_and_asks_no_other_host(course):
    folder, _, _ = course
    for student in ("cem", "eve"):
        page = feedback(folder, student)
        assert "hidden_test" not in page and "bincount" not in page and "[4, 3, 2, 2]" not in page
        assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.?(https?:)?//", page)
    assert classroom.FOR_STUDENTS.split(":")[0] in " ".join(feedback(folder, "eve").split())
    assert "Passed: rotated" in feedback(folder, "eve")


def test_points_by_part_are_those_of_the_gradebook(course):
    folder, scores, _ = course
    with open(folder / "points.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for (student, name), score in scores.items():
        parts = [row for row in rows if (row["student_id"], row["assignment"]) == (student, name)]
        assert sum(float(row["points"]) for row in parts) == score
    parts = {row["part"]: row for row in rows if (row["student_id"], row["assignment"]) == ("bea", SHORT[1])}
    assert [float(row["points"]) for row in parts.values()] == [3, 0] and "left-out" not in " ".join(parts)
    nothing = [row for row in rows if (row["student_id"], row["assignment"]) == ("dan", SHORT[1])]
    assert len(nothing) == 2 and all(float(row["points"]) == 0 for row in nothing)
    assert [row["part"] for row in rows if row["needs_a_person"]] == ["defence"]


PLATFORMS = {  # what Moodle and Canvas call a file: the student
    "moodle/Ada Lovelace_4711_assignsubmission_file/{}.ipynb": "Ada Lovelace",
    "moodle/Bea \u017buk-\u00d6st_4712_assignsubmission_file_/{}.ipynb": "Bea \u017buk-\u00d6st",
    "moodle/Cem O'Neil_4713_assignsubmission_file_{}.ipynb": "Cem O'Neil",
    "canvas/lovelaceada_12345_67890_{}.ipynb": "lovelaceada",
    "canvas/zukbea_LATE_12346_67891_{}-1.ipynb": "zukbea",
    "canvas/oneilcem_12347_67892_{} (1).ipynb": "oneilcem",
}


def test_zip_collect_knows_the_names_that_moodle_and_canvas_give(course):
    folder, _, _ = course
    name = SHORT[0]
    archive = folder / "downloaded" / name / "archive"
    archive.mkdir(parents=True)
    for platform in ("moodle", "canvas"):
        with zipfile.ZipFile(archive / f"{platform}.zip", "w") as zipped:
            for path, student in PLATFORMS.items():
                if path.startswith(platform):
                    zipped.writestr(path.format(name).split("/", 1)[1], student)
            zipped.writestr("Dan Doe_4714_assignsubmission_onlinetext/onlinetext.html", "no notebook")
    command = [sys.executable, "-m", "nbgrader", "zip_collect", name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for student in PLATFORMS.values():
        assert (folder / "submitted" / student / name / f"{name}.ipynb").read_text(encoding="utf-8") == student
    assert not (folder / "submitted" / "Dan Doe").exists()


@pytest.mark.parametrize("name", NAMES)
def test_platform_names_find_every_exercise(name):
    for path, student in PLATFORMS.items():
        found = re.match(classroom.PLATFORM_NAMES, f"/somewhere/else_1/{path.format(name)}")
        assert found and (found["student_id"], found["file_id"]) == (student, name)


def test_formulas_are_mathml_and_what_is_none_stays():
    cell = nbformat.v4.new_markdown_cell(r"It costs \$5 or $3. $\theta' = \tfrac12 a$ $$\sum_i w_i$$ $\frac{$")
    source = classroom.Formulas().preprocess_cell(cell, {}, 0)[0].source
    assert source.count("<math") == 2 and 'display="block"' in source
    assert source.startswith(r"It costs \$5") and source.endswith(r"$\frac{$")
