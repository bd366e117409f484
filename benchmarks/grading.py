"""How long a class takes to grade: `python benchmarks/grading.py`, on a machine that is idle; needs `make assignment`.

A hundred made-up students hand in exercise 01 and ten of them every other one; an answer is the solution's with a
probability of 0.8, else the untouched stub. Each exercise is graded as exercises/TEACHERS.md says, an nbgrader for each
student and so many at a time, and the points in the gradebook are compared with the answers: they differ where a right
answer calls one that was left open. Writes results/grading.json, with the wall time and the CPU time of all processes
of each exercise.
"""

import csv
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from tqdm.auto import tqdm

from mamlcourse.records import provenance, write_json

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results" / "grading.json"
ANSWERED = 0.8
NBGRADER = [sys.executable, "-m", "nbgrader"]


def hand_in(course: Path, name: str, students: int, chance: random.Random) -> dict[tuple[str, str], bool]:
    """Write the submissions; {(student, test): whether what it tests is answered}."""
    solution = nbformat.read(ROOT / "solutions" / f"{name}.ipynb", as_version=4)
    release = course / "release" / name / f"{name}.ipynb"
    parts = [cell for cell in solution.cells if "nbgrader" in cell.metadata and cell.cell_type == "code"]
    answers = {cell.metadata.nbgrader.grade_id: cell.source for cell in parts}
    tests = {one.metadata.nbgrader.grade_id: other.metadata.nbgrader.grade_id for one, other in zip(parts, parts[1:])}
    answered = {}
    for number in range(students):
        notebook, student = nbformat.read(release, as_version=4), f"student{number:03}"
        for cell in notebook.cells:
            part = cell.metadata.get("nbgrader", {})
            if part.get("solution") and cell.cell_type == "code":
                test = tests[part.grade_id]
                answered[student, test] = chance.random() < ANSWERED
                if answered[student, test]:
                    cell.source = answers[part.grade_id]
        path = course / "submitted" / student / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    return answered


def grade(course: Path, name: str, students: int, processes: int, bar) -> dict:
    """Seconds of the wall and of the CPU that grading one exercise took."""

    def one(number):
        command = [*NBGRADER, "autograde", name, "--student", f"student{number:03}"]
        subprocess.run(command, cwd=course, check=True, capture_output=True)
        bar.update()

    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, range(students)))
    wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime
    return {"students": students, "wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}


def passed(course: Path, name: str) -> dict[tuple[str, str], bool]:
    """{(student, test): whether it gave points} of an exercise, for the tests that have points to give."""
    subprocess.run([*NBGRADER, "export", "--to", "points.csv"], cwd=course, check=True, capture_output=True)
    with open(course / "points.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["student_id"], row["part"]): float(row["points"] or 0) > 0
        for row in rows
        if row["assignment"] == name and row["part"].startswith("test-") and float(row["max_points"]) > 0
    }


def main(
    students: Annotated[int, typer.Option(help="Who hand in exercise 01.")] = 100,
    others: Annotated[int, typer.Option(help="Who hand in each other exercise.")] = 10,
    processes: Annotated[int, typer.Option(help="nbgraders at a time.")] = 2,
):
    """Grade a made-up class."""
    names = sorted(path.stem for path in (ROOT / "solutions").glob("*.ipynb"))
    chance, found = random.Random(0), {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, tqdm(total=students + others * (len(names) - 1)) as bar:
        course = Path(folder)
        subprocess.run(
            [sys.executable, ROOT / "tools" / "make_exercises.py", "--course", course], check=True, capture_output=True
        )
        for name in names:
            bar.set_description(name)
            subprocess.run([*NBGRADER, "generate_assignment", name], cwd=course, check=True, capture_output=True)
            size = students if name == names[0] else others
            handed = hand_in(course, name, size, chance)
            found[name] = grade(course, name, size, processes, bar)
            judged = {place: right for place, right in passed(course, name).items() if place[0] < f"student{size:03}"}
            found[name]["parts"] = len(judged)
            found[name]["parts_judged_otherwise"] = sum(right != handed[place] for place, right in judged.items())
    record = {"kind": "grading", **provenance(), "processes": processes, "answered": ANSWERED, "exercises": found}
    write_json(record, RECORD)
    for name, own in found.items():
        each = own["cpu_seconds"] / own["students"]
        typer.echo(f"{name}: {own['students']} students in {own['wall_seconds']:.0f} s, {each:.1f} s of CPU each")


if __name__ == "__main__":
    typer.run(main)
