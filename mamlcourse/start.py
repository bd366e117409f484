"""A working copy of the course: laid out, updated around what the student wrote, and opened in JupyterLab."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import sys
import webbrowser
from pathlib import Path
from typing import NamedTuple

from . import __version__
from .course import course_files, course_folder
from .errors import InputError
from .records import expanded, write_whole

RECORD = ".mamlcourse.json"  # what was laid out; the mark of a working copy
HOME = "README.md"
FIRST = "notebooks/00_start_here.ipynb"
# A working copy has no solutions, and JupyterLab says nothing when a link leads nowhere.
SOLUTION = re.compile(rb"\[([^\[\]\n]*)\]\(\.\./(solutions/[\w.]+)\)")
IN_WORDS = rb"\1 is `\2` in the course's repository"


class Print(NamedTuple):
    """What a version of a file is known by: its bytes, and what a person writes in it."""

    content: str
    words: str


def print_of(path: str, content: bytes) -> Print:
    """The `Print` of a file. Words of a notebook are its cells without outputs and metadata: opening and running a
    lesson changes those, and is no edit."""
    words = content
    if path.endswith(".ipynb"):
        try:
            cells = json.loads(content)["cells"]
            words = json.dumps([[cell["cell_type"], "".join(cell["source"])] for cell in cells]).encode()
        except (ValueError, KeyError, TypeError):  # no notebook any more; its bytes are all there is
            pass
    return Print(*(hashlib.sha256(part).hexdigest() for part in (content, words)))


def course() -> dict[str, bytes]:
    """The content of every file of the course by its path, the home page included.

    Raises:
        InputError: this installation has no course files.
    """
    root = course_folder()
    files = {path: SOLUTION.sub(IN_WORDS, (root / path).read_bytes()) for path in course_files(root)}
    if FIRST not in files:
        raise InputError(
            "This installation has only the package, without the course's files: install mamlcourse from its wheel, "
            "or in editable mode from its source tree."
        )
    return {HOME: _home(files).encode(), **files}


def lay_out(folder: str | Path) -> list[str]:
    """Lay out the course in a folder, or update what is there. Every file is written whole or not at all, so what was
    interrupted goes on when it is done again.

    A file that the student did not edit becomes the new one; one that they deleted comes back; one that they edited is
    kept, and if the course's changed too, the new one is put beside it ("05_fomaml.new.ipynb").

    Args:
        folder: a new or empty one, or a working copy that this function made.

    Returns:
        Sentences for the student.

    Raises:
        InputError: the folder holds other files, or cannot be written.
    """
    folder = expanded(folder)
    try:
        return _lay_out(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from error


def _lay_out(folder: Path) -> list[str]:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: expected a folder for the course.")
    is_new = not (folder / RECORD).exists()
    if is_new and folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"The folder {folder} holds other files: expected a new or empty one, "
            "or a working copy that `mamlcourse start` made."
        )
    files, laid_out = course(), {} if is_new else _laid_out(folder)
    before, said, updated = dict(laid_out), [], 0
    if is_new:
        _note(folder, laid_out)  # first, so that what is interrupted is known as ours
    try:
        for path, content in files.items():
            new = print_of(path, content)
            changed, sentence = _put(folder, path, content, new, laid_out.get(path))
            laid_out[path] = new
            updated += changed
            said += sentence
        for path in sorted(before.keys() - files.keys()):
            said += _take_away(folder, path, laid_out.pop(path))
    finally:
        if laid_out != before:
            _note(folder, laid_out)
    if is_new:
        return [f"The course is laid out in {folder}: {len(files)} files. Edit there whatever you like.", *said]
    return [f"{folder}: {updated or 'no'} {'file was' if updated == 1 else 'files were'} updated.", *said]


def _put(folder: Path, path: str, content: bytes, new: Print, old: Print | None) -> tuple[bool, list[str]]:
    """Put one file of the course in its place: (whether it was written, sentences). `old` is what was laid out."""
    target = folder / path
    if not target.exists():
        write_whole(target, content)
        return True, [f"{path} was missing and is there again."] if old else []
    mine = print_of(path, target.read_bytes())
    untouched = old is not None and mine.content == old.content
    if mine.content == new.content or mine.words == new.words and not untouched:
        return False, []  # the same, or only run
    if untouched or old and mine.words == old.words:
        write_whole(target, content)
        return True, []
    if old and new.words == old.words:
        return False, []  # edited, and the course has nothing new
    beside = _beside(target, content)
    return False, [f"{path} has your changes and is kept; the new one is {beside.relative_to(folder).as_posix()}."]


def _beside(target: Path, content: bytes) -> Path:
    """Put a file beside `target`, under a name that nothing else has."""
    number = 1
    while True:
        beside = target.with_suffix(f".new{number if number > 1 else ''}{target.suffix}")
        if not beside.exists():
            write_whole(beside, content)
            return beside
        if beside.read_bytes() == content:
            return beside
        number += 1


def _take_away(folder: Path, path: str, old: Print) -> list[str]:
    """Remove a file that the course has no longer, unless the student edited it."""
    target = folder / path
    if not target.exists():
        return []
    mine = print_of(path, target.read_bytes())
    if mine.content == old.content or mine.words == old.words:
        target.unlink()
        return [f"{path} is no longer part of the course and was removed."]
    return [f"{path} is no longer part of the course, has your changes, and is kept."]


def _laid_out(folder: Path) -> dict[str, Print]:
    """What was laid out; nothing if that cannot be read, and then every file that differs counts as edited."""
    try:
        files = json.loads((folder / RECORD).read_bytes())["files"]
        return {path: Print(content, words) for path, (content, words) in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(folder: Path, laid_out: dict[str, Print]) -> None:
    record = {"kind": "working copy", "version": __version__, "files": laid_out}
    write_whole(folder / RECORD, f"{json.dumps(record, indent=1)}\n".encode())


def _home(files: dict[str, bytes]) -> str:
    """The home page of a working copy, with a link to every lesson and exercise."""

    def links(part, ending=".ipynb"):
        for path in files:
            if path.startswith(part) and path.endswith(ending):
                yield f"- [{_title(path, files[path])}]({path})"

    playgrounds = list(links("book/playgrounds/", ".html"))
    if playgrounds:
        playgrounds = ["", "## Playgrounds", "", "Pages to open in a browser, from this folder.", "", *playgrounds]
    return "\n".join([
        "# Learn MAML, FOMAML and MAML++ by building them", "",
        "This is your copy of the course: run and edit whatever you like. In a terminal,", "",
        "- `mamlcourse start .` in this folder opens it in JupyterLab, and brings what a newer version of the course "
        "has. Files that you edited are kept. To begin one anew, delete it and start again.",
        "- `mamlcourse progress` says which exercises you have done, `mamlcourse doctor` whether all is installed.",
        "", "## Lessons", "", *links("notebooks/"), "", "## Exercises", "", *links("exercises/"), *playgrounds, "",
        "The records and figures that the lessons read are in `results`. Code: MIT licence; text: CC BY 4.0.", "",
    ])  # fmt: skip


def _title(path: str, content: bytes) -> str:
    """The title of a notebook or a web page; its file's name if it has none."""
    if path.endswith(".html"):
        found = re.search("<title>(.*?)</title>", content.decode("utf-8", "replace"), re.DOTALL)
        return html.unescape(found[1].strip()) if found else Path(path).stem
    return "".join(json.loads(content)["cells"][0]["source"]).splitlines()[0].lstrip("# ")


def has_browser() -> bool:
    """Whether a window can be opened here: not in a container, nor on a machine that one is logged in to by ssh."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))):
        return False
    try:
        webbrowser.get()
        return True
    except webbrowser.Error:
        return False


def is_root() -> bool:
    """Whether this is the superuser of a POSIX system, as whom Jupyter only runs if told to."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def lab_arguments(folder: Path, browser: bool, extra: list[str]) -> tuple[list[str], list[str]]:
    """(Arguments of JupyterLab, sentences for the student): lesson 00 with the whole working copy in reach, on the
    first free port from 8888 on, with a workspace of its own, as another course's open tabs mean nothing here.

    Args:
        folder: the working copy.
        browser: whether to open a browser, if there is one.
        extra: more arguments; of two that contradict each other JupyterLab takes the last.
    """
    arguments = [
        f"--ServerApp.root_dir={folder.absolute()}",
        f"--LabApp.default_url=/lab/workspaces/mamlcourse/tree/{FIRST}",
    ]
    said = []
    if is_root():
        arguments.append("--allow-root")
        said.append("You are root, as in most containers, so JupyterLab is started with --allow-root.")
    if not browser or not has_browser():
        arguments.append("--no-browser")
        said.append(
            "Open the address with ?token= that JupyterLab prints below. From another machine, first "
            "`ssh -L 8888:localhost:8888 HOST`; in a container, publish the port and add: -- --ip=0.0.0.0"
        )
    return arguments + extra, said


def open_lab(arguments: list[str]) -> None:
    """Run JupyterLab in this process, until it is stopped.

    Raises:
        InputError: it is not installed.
    """
    try:
        from jupyterlab.labapp import main
    except ImportError as error:
        raise InputError(f"JupyterLab cannot be started ({error}): install jupyterlab, or use --no-lab.") from error
    main(arguments)
