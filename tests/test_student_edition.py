"""The wheel for a graded class: no solution in it, no formula spelled out in its checks, and the checks work."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import student_edition

ROOT = Path(__file__).parent.parent
CODE = """
import inspect, pathlib, sys, torch
import mamlcourse
from mamlcourse import checks, start
assert mamlcourse.__version__.endswith("+students")
assert pathlib.Path(mamlcourse.__file__).is_relative_to(sys.argv[1]), mamlcourse.__file__

def first_order_step(loss, parameters, alpha):
    grads = torch.autograd.grad(loss(parameters), parameters.values())
    return {name: p - alpha * grad for (name, p), grad in zip(parameters.items(), grads)}

def maml_step(loss, parameters, alpha):
    grads = torch.autograd.grad(loss(parameters), parameters.values(), create_graph=True)
    return {name: p - alpha * grad for (name, p), grad in zip(parameters.items(), grads)}

def split_classes(alphabets, test_alphabets):
    test = [i for i, alphabet in enumerate(alphabets) if alphabet in test_alphabets]
    return [i for i in range(len(alphabets)) if i not in test], test

checks.split(split_classes)
checks.first_order(first_order_step)
try:
    checks.first_order(maml_step)
except checks.CheckFailed as failure:
    print(failure)
try:
    checks.by_hand(lambda theta, H, a, G, b, alpha: torch.ones(2) + None)
except checks.CheckFailed as failure:
    print(failure)
try:
    print(inspect.getsource(inspect.unwrap(checks.by_hand)))
except (OSError, SyntaxError, IndexError):
    print("no source")
start.lay_out(sys.argv[2])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The students' wheel, installed into a folder of its own."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("student")
    wheel = student_edition.build(folder / "wheel")
    if find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "site", wheel]
        subprocess.run(command, check=True, capture_output=True)
    else:  # as in an environment that uv made
        zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def answer_lines():
    """The longer lines of all solutions: 30 characters say more than `return total`."""
    for path in (ROOT / "solutions").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if "BEGIN SOLUTION" in source and cell["cell_type"] == "code":
                for part in source.split("### BEGIN SOLUTION")[1:]:
                    lines = map(str.strip, part.split("### END SOLUTION")[0].splitlines())
                    yield from (line for line in lines if len(line) > 30)


def test_no_solution_and_no_formula_of_the_checks_is_in_it(installed):
    files = [path for path in installed.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not [path for path in files if "solution" in path.name.lower() or "TEACHERS" in path.name]
    checks = {path.name: path.read_text(encoding="utf-8") for path in (installed / "mamlcourse/checks").glob("*.py")}
    assert {"ex01.py", "ex09.py", "reference.py", "judge.py"} <= checks.keys()
    exercises = [path.read_text(encoding="utf-8") for path in (installed / "mamlcourse/files/exercises").iterdir()]
    assert len(exercises) == 9 and not any("../solutions" in text for text in exercises)
    lines = list(answer_lines())
    assert len(lines) > 50
    for text in checks.values():
        assert not [line for line in lines if line in text]
    for name, text in checks.items():
        if name.startswith(("ex", "reference", "detector")):
            assert "torch" not in text and "def " not in text and "no secret" in text


def test_its_checks_work_and_it_lays_out_the_course(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed), "MAMLCOURSE_PROGRESS": "off"}
    command = [sys.executable, "-c", CODE, str(installed), str(tmp_path / "mine")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:2] == ["Passed: split.", "Passed: first_order."]
    assert "so this is still MAML" in said[2] and "raised TypeError" in said[3]
    assert len(said) > 4 and "alpha" not in " ".join(said[4:])  # `checks.by_hand??` shows no formula
    assert (tmp_path / "mine" / "exercises" / "01_sample_an_episode.ipynb").exists()
