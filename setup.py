"""Puts the course's files into a wheel, beside the code; everything else stands in pyproject.toml."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COURSE = runpy.run_path("mamlcourse/course.py")


class WithCourse(build_py):
    """An editable installation needs no copy: it reads the source tree."""

    def copies(self):
        folder = Path(self.build_lib) / "mamlcourse" / COURSE["PACKED"].name
        return {path: folder / path for path in COURSE["course_files"](Path())}

    def run(self):
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(Path(self.build_lib) / "mamlcourse" / COURSE["PACKED"].name, ignore_errors=True)
        for source, copy in self.copies().items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_source_files(self):  # what an sdist must hold
        return [*super().get_source_files(), "mamlcourse/course.py", *self.copies()]

    def get_outputs(self, include_bytecode=True):
        added = [] if self.editable_mode else map(str, self.copies().values())
        return [*super().get_outputs(include_bytecode), *added]


setup(cmdclass={"build_py": WithCourse})
