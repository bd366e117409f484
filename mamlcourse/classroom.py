"""What a teacher's nbgrader takes from the course: its settings in a course folder (nbgrader_config.py) name these.

Needs the extra [classroom]; nothing else of the package imports it.
"""

from __future__ import annotations

import csv
import re

from nbformat.v4 import new_output
from nbgrader.api import MissingEntry
from nbgrader.plugins import ExportPlugin
from nbgrader.preprocessors import ClearHiddenTests, NbGraderPreprocessor
from nbgrader.utils import is_grade
from traitlets import List

# What Moodle and Canvas make of 01_sample_an_episode.ipynb, in a folder or beside the others:
#   Ada Lovelace_4711_assignsubmission_file/01_sample_an_episode.ipynb      (also ..._file_/ and ..._file_01_sample...)
#   lovelaceada_LATE_1234_56789_01_sample_an_episode-1.ipynb
# Downloaded twice, a name ends in " (1)".
PLATFORM_NAMES = (
    r".*[/\\](?P<student_id>[^/\\_]+)_(?:LATE_)?\d+_(?:assignsubmission_file_?[/\\]?|\d+_)"
    r"(?P<file_id>\d\d_[a-z_]+)(?:-\d+)?(?: ?\(\d+\))?\.ipynb$"
)
COLOURS = re.compile(r"\x1b\[[\d;]*m")
FRAME = re.compile(r"^(?:Cell In\[|File )", re.MULTILINE)
ARROW = re.compile(r"^-+> *(\d+) +(.*)$", re.MULTILINE)
HIDDEN = "Hidden test: "
FOR_STUDENTS = (
    "Your answer passed the check, but not a hidden test: it is wrong for some inputs that the text allows. "
    "Ask your teacher."
)


def hidden_failure(output) -> str | None:
    """The sentence for a teacher, if this output of a test cell is an error of its hidden test; else None."""
    if output.output_type != "error":
        return None
    frames = FRAME.split(COLOURS.sub("", "\n".join(output.traceback)))
    inside = [frame for frame in frames if re.match(r".*\bin hidden_test\(", frame)]
    if not inside:
        return None
    line = ARROW.search(inside[-1])
    where = f"`{line[2]}` (line {line[1]} of the cell)" if line else "one of its lines"
    holds_not = output.ename == "AssertionError" and inside[-1] is frames[-1]  # else it came from the answer
    how = "does not hold" if holds_not else f"raised {output.ename}"
    return f"{HIDDEN}the check passed, but {where} {how}{f': {output.evalue}' if output.evalue else ''}."


class SayWhatFailed(NbGraderPreprocessor):
    """For autograding: above the error of a hidden test a sentence, as the checks have one."""

    def preprocess_cell(self, cell, resources, index):
        if is_grade(cell) and cell.cell_type == "code":
            said = [sentence for sentence in map(hidden_failure, cell.outputs) if sentence]
            cell.outputs[:0] = [new_output("stream", name="stdout", text=f"{sentence}\n") for sentence in said]
        return cell, resources


class WithoutHiddenTests(ClearHiddenTests):
    """For feedback: neither the source of hidden tests, nor what they raised, nor what an answer printed in them."""

    display_data_priority = List(config=True)  # nbconvert gives it to all, and warns of those that do not know it

    def preprocess_cell(self, cell, resources, index):
        cell, resources = super().preprocess_cell(cell, resources, index)
        if is_grade(cell) and cell.cell_type == "code":
            kept = []
            for output in cell.outputs:
                if hidden_failure(output):
                    kept.append(new_output("error", ename="Hidden test", evalue="", traceback=[FOR_STUDENTS]))
                elif output.output_type == "error":
                    kept.append(output)
                elif output.output_type == "stream":
                    passed = [line for line in output.text.splitlines(True) if line.startswith("Passed: ")]
                    kept += [new_output("stream", name="stdout", text="".join(passed))] if passed else []
            cell.outputs = kept
        return cell, resources


class Formulas(NbGraderPreprocessor):
    """Formulas as MathML, which a browser draws by itself, instead of TeX for a script from another host."""

    display_data_priority = List(config=True)
    TEX = re.compile(r"\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?P<inline>(?=\S)[^$\n]+(?<=\S))\$", re.DOTALL)

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "markdown":
            cell.source = self.TEX.sub(self._drawn, cell.source)
        return cell, resources

    def _drawn(self, found):
        from latex2mathml.converter import convert

        try:
            return convert(found["display"] or found["inline"], display="block" if found["display"] else "inline")
        except Exception:  # whatever a student took for a formula stays as it was written
            return found[0]


class PointsByPart(ExportPlugin):
    """`nbgrader export`: a row for each part of each student's assignment, with its points.

    Columns: assignment, student_id, last_name, first_name, part (the test cell's grade_id), points, max_points,
    needs_a_person (yes where a person still has to read), and seconds_late. Who handed in nothing has 0 points.
    """

    def export(self, gradebook):
        with open(self.to or "points.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["assignment", "student_id", "last_name", "first_name", "part", "points", "max_points",
                            "needs_a_person", "seconds_late"])  # fmt: skip
            for assignment in gradebook.assignments:
                if self.assignment and assignment.name not in self.assignment:
                    continue
                for student in gradebook.students:
                    if not self.student or student.id in self.student:
                        table.writerows(self._rows(gradebook, assignment, student))

    def _rows(self, gradebook, assignment, student):
        who = [assignment.name, student.id, student.last_name or "", student.first_name or ""]
        parts = {cell.name: cell.max_score for notebook in assignment.notebooks for cell in notebook.grade_cells}
        try:
            handed_in = gradebook.find_submission(assignment.name, student.id)
        except MissingEntry:
            return [[*who, part, 0, most, "", ""] for part, most in parts.items() if most]
        grades = {grade.cell.name: grade for notebook in handed_in.notebooks for grade in notebook.grades}
        late = round(handed_in.total_seconds_late)
        return [
            [*who, part, grades[part].score, most, "yes" if grades[part].needs_manual_grade else "", late]
            for part, most in parts.items()
            if most and part in grades
        ]
