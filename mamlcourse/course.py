"""Which files make the course, and where this installation has them.

`setup.py` runs this file alone to fill a wheel, so it imports nothing of the package.
"""

from __future__ import annotations

from pathlib import Path

PACKED = Path(__file__).parent / "files"  # in a wheel; in a source tree the files lie beside the package
PARTS = ("notebooks/**/*", "exercises/**/*", "results/**/*", "book/*.md", "book/playgrounds/**/*")
FOR_TEACHERS = "exercises/TEACHERS.md"  # of use with a source tree only


def course_folder() -> Path:
    """The folder that has the course's own files: lessons, exercises, records. Nobody works in there."""
    return PACKED if PACKED.is_dir() else Path(__file__).parent.parent


def course_files(root: Path) -> list[str]:
    """Every file of the course under `root`, as paths relative to it with slashes; solutions are none of them."""
    found = (path.relative_to(root) for part in PARTS for path in sorted(root.glob(part)))
    return [
        path.as_posix()
        for path in found
        if (root / path).is_file()
        and not any(part.startswith((".", "__pycache__")) for part in path.parts)
        and path.as_posix() != FOR_TEACHERS
        and path.suffix != ".npz"  # the networks of long runs, megabytes that no lesson reads
    ]


RESULTS = course_folder() / "results"  # the records; a lesson finds them wherever it was copied to
