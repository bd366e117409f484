"""A wheel for students of a class that is graded: `make student-edition`.

    python tools/student_edition.py FOLDER      # mamlcourse-VERSION+students-py3-none-any.whl

It is the course's wheel, which never has solutions, tests or TEACHERS.md, with two differences: exercises do not say
where a solution is, and the checks' sources are packed, since they spell out what they expect and what each known
mistake would give. Packed is not secret: what Python can run, Python can show. It keeps answers out of sight (out of
`??`, of a search, and of a file opened by chance), no more.
"""

import argparse
import base64
import importlib.metadata
import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPELLED_OUT = ("ex*.py", "reference.py", "detector.py")  # in mamlcourse/checks; judge.py and the rest hold no answer
PACKED = '''"""Packed, so that nobody reads an exercise's answer here by chance. It is no secret."""

import base64
import zlib

TEXT = """
{text}
"""
exec(compile(zlib.decompress(base64.b64decode(TEXT)), __file__, "exec"))
'''


def packed(source: str) -> str:
    """A module that does what `source` does and does not show it."""
    return PACKED.format(text=textwrap.fill(base64.b64encode(zlib.compress(source.encode(), 9)).decode(), 118))


def without_solution(notebook: dict) -> dict:
    """An exercise without the cell that says where its solution is."""
    return notebook | {
        "cells": [cell for cell in notebook["cells"] if not "".join(cell["source"]).startswith("## Solution\n")]
    }


def source_tree(folder: Path) -> None:
    """The students' source tree, from which a wheel can be built."""
    course = runpy.run_path(str(ROOT / "mamlcourse" / "course.py"))
    shutil.copytree(ROOT / "mamlcourse", folder / "mamlcourse", ignore=shutil.ignore_patterns("__pycache__", "files"))
    for path in course["course_files"](ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    for name in ("pyproject.toml", "setup.py", "README.md", *(path.name for path in ROOT.glob("LICENSE*"))):
        shutil.copyfile(ROOT / name, folder / name)
    for pattern in SPELLED_OUT:
        for path in (folder / "mamlcourse" / "checks").glob(pattern):
            path.write_text(packed(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (folder / "exercises").glob("*.ipynb"):
        notebook = without_solution(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    init = folder / "mamlcourse" / "__init__.py"
    text, changed = re.subn(r'^(__version__ = "[^"]+)"', r'\1+students"', init.read_text(encoding="utf-8"), flags=re.M)
    assert changed == 1
    init.write_text(text, encoding="utf-8")


def build(target: Path) -> Path:
    """Build the wheel into a folder, and return its path."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("mamlcourse-*+students-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        source_tree(Path(folder))
        if has_setuptools():  # needs no network, and no pip, which an environment made by uv has not
            code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
            command = [sys.executable, "-c", code, str(target.absolute())]
        else:
            command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(target.absolute()), "."]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = target.glob("mamlcourse-*+students-*.whl")
    return wheel


def has_setuptools() -> bool:
    """Whether the setuptools that is installed can build this project."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "student-edition")
    print(build(parser.parse_args(arguments).folder))


if __name__ == "__main__":
    main()
