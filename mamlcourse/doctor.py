"""What `mamlcourse doctor` looks at before anything heavy is imported: requirements, widgets, browser, course, disk."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement  # Matplotlib needs it too

from .course import course_files, course_folder
from .start import FIRST, has_browser

SPARE_GB = 1  # less is called little: working copies, checkpoints and Omniglot's images take a part of it
NOT_INSTALLED = "not installed"
IMPORTED = ("torch", "torchvision", "ipywidgets")  # parts that are installed can still not fit together


def examine(folder: Path) -> tuple[list[list[str]], str]:
    """Look at this installation, and at the disk that `folder` is on.

    Returns:
        Rows of (what, how it is), and the command that mends the requirements, or "".
    """
    rows = [["python", platform.python_version()], ["mamlcourse", version("mamlcourse") or NOT_INSTALLED]]
    option, repair = "--upgrade", []
    for requirement in requirements():
        found = version(requirement.name)
        state = found or NOT_INSTALLED
        if found and not requirement.specifier.contains(found, prereleases=True):
            state = f"{found}, but the course needs {requirement.specifier}"
        elif found and requirement.name in IMPORTED and (error := import_error(requirement.name)):
            state, option = f"{found}, but cannot be imported ({error})", "--force-reinstall"
        if state != found:
            repair.append(f'"{requirement.name}{requirement.specifier}"')
        rows.append([requirement.name, state])
    browser = "yes" if has_browser() else "none can be opened here; `mamlcourse start` prints an address to open"
    rows += [["widgets", widgets()], ["browser", browser], ["course", course()], ["disk", disk(folder)]]
    if not repair:
        return rows, ""
    # An environment that uv made has no pip.
    pip = f"{sys.executable} -m pip install" if find_spec("pip") else f"uv pip install --python {sys.executable}"
    return rows, " ".join([pip, option, *repair])


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> list[Requirement]:
    """What this installation says it needs; nothing where the package is only on the path."""
    try:
        found = map(Requirement, importlib.metadata.requires("mamlcourse") or [])
    except importlib.metadata.PackageNotFoundError:
        return []
    return [
        requirement for requirement in found if not requirement.marker or requirement.marker.evaluate({"extra": ""})
    ]


def import_error(module: str) -> str:
    try:
        import_module(module)
        return ""
    except Exception as error:  # whatever a broken installation raises
        return f"{type(error).__name__}: {error}"


def widgets() -> str:
    """Whether JupyterLab finds its half of the widgets."""
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:
        return NOT_INSTALLED
    folders = jupyter_path("labextensions", "@jupyter-widgets", "jupyterlab-manager")
    if any(Path(folder).is_dir() for folder in folders):
        return "JupyterLab can show them"
    return "JupyterLab has no part for them: install ipywidgets beside it, in the same environment"


def course() -> str:
    root = course_folder()
    files = course_files(root)
    if FIRST not in files:
        return "not part of this installation, only the package is"
    lessons, exercises = (
        sum(path.startswith(part) and path.endswith(".ipynb") for path in files) for part in ("notebooks", "exercises")
    )
    return f"{lessons} lessons and {exercises} exercises"


def disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free / 1e9
    return f"{free:.1f} GB free{'' if free >= SPARE_GB else ', which is little'}"
