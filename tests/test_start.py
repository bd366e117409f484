"""The student's working copy: laid out, updated around what they wrote, opened; the wheel that carries the course."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mamlcourse import InputError, start
from mamlcourse.course import FOR_TEACHERS, course_files, course_folder

ROOT = Path(__file__).parent.parent
LESSON = "notebooks/05_fomaml.ipynb"


def notebook(*sources, output=None, kernel="python3"):
    cells = [
        {"cell_type": "code", "source": source, "outputs": [output] if output else [], "metadata": {}}
        for source in sources
    ]
    return json.dumps({"cells": cells, "metadata": {"kernelspec": {"name": kernel}}, "nbformat": 4}).encode()


@pytest.fixture
def course(monkeypatch):
    """A course of three files that a test can change, as a newer version does."""
    files = {start.FIRST: notebook("# 00"), LESSON: notebook("# 05", "train()"), "results/a.json": b"1\n"}
    monkeypatch.setattr(start, "course", lambda: dict(files))
    return files


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != start.RECORD
    }


def test_a_working_copy_has_all_that_lessons_and_exercises_read_and_link_to(tmp_path):
    said = start.lay_out(tmp_path / "mine")
    assert said[0].startswith(f"The course is laid out in {tmp_path / 'mine'}: ") and len(said) == 1
    laid_out = contents(tmp_path / "mine")
    for folder in ("notebooks", "exercises"):
        for path in (ROOT / folder).glob("*.ipynb"):
            copy = laid_out[f"{folder}/{path.name}"]
            assert copy == path.read_bytes() or b"`solutions/" in copy
            for cell in json.loads(copy)["cells"]:
                source = "".join(cell["source"])
                for target in named_files(source):
                    assert (tmp_path / "mine" / folder / target).resolve().exists(), f"{path.name}: {target}"
    home = laid_out[start.HOME].decode()
    assert f"]({start.FIRST})" in home and "](exercises/01_sample_an_episode.ipynb)" in home
    assert not [path for path in laid_out if "solutions" in path or "TEACHERS" in path or ".ipynb_checkpoints" in path]
    assert start.lay_out(tmp_path / "mine") == [f"{tmp_path / 'mine'}: no files were updated."]


def test_the_home_page_names_playgrounds_where_there_are_some(course):
    files = {**course, "book/playgrounds/bowl.html": b"<html><title>\nA bowl &amp; a ball</title>", "book/a.html": b""}
    assert "- [A bowl & a ball](book/playgrounds/bowl.html)" in start._home(files)
    assert "Playgrounds" not in start._home(course)


def named_files(source):
    """What a cell links to or reads."""
    links = re.findall(r"\]\((?!https?:|attachment:)([^)#\s]+\.\w+)", source)
    return links + re.findall(r'"(\.\./[\w./+-]+)"', source)


def test_a_lesson_that_was_only_opened_and_run_is_updated(course, tmp_path):
    start.lay_out(tmp_path)
    ran = notebook("# 05", "train()", output={"output_type": "stream", "text": "0.9"}, kernel="other")
    (tmp_path / LESSON).write_bytes(ran)
    assert start.lay_out(tmp_path) == [f"{tmp_path}: no files were updated."]
    assert (tmp_path / LESSON).read_bytes() == ran  # the course has nothing new: their outputs stay
    course[LESSON] = notebook("# 05", "train(10)")
    assert start.lay_out(tmp_path) == [f"{tmp_path}: 1 file was updated."]
    assert contents(tmp_path) == course


def test_new_outputs_alone_reach_who_has_not_opened_the_lesson(course, tmp_path):
    start.lay_out(tmp_path)
    course[LESSON] = notebook("# 05", "train()", output={"output_type": "stream", "text": "0.8"})
    assert start.lay_out(tmp_path) == [f"{tmp_path}: 1 file was updated."]
    assert contents(tmp_path) == course


def test_an_edited_file_is_kept_and_the_new_one_put_beside_it(course, tmp_path):
    start.lay_out(tmp_path)
    mine = notebook("# 05", "train(my_own)")
    (tmp_path / LESSON).write_bytes(mine)
    assert start.lay_out(tmp_path) == [f"{tmp_path}: no files were updated."]  # nothing new, so nothing beside it
    course[LESSON] = second = notebook("# 05", "train(2)")
    course["results/a.json"] = b"2\n"
    assert start.lay_out(tmp_path) == [
        f"{tmp_path}: 1 file was updated.",
        f"{LESSON} has your changes and is kept; the new one is notebooks/05_fomaml.new.ipynb.",
    ]
    beside = "notebooks/05_fomaml.new.ipynb"
    assert contents(tmp_path) == {**course, LESSON: mine, beside: second}
    assert start.lay_out(tmp_path) == [f"{tmp_path}: no files were updated."]  # said once
    course[LESSON] = third = notebook("# 05", "train(3)")
    assert "the new one is notebooks/05_fomaml.new2.ipynb." in start.lay_out(tmp_path)[1]  # they may have edited .new
    assert contents(tmp_path) == {**course, LESSON: mine, beside: second, "notebooks/05_fomaml.new2.ipynb": third}


def test_a_deleted_file_comes_back(course, tmp_path):
    start.lay_out(tmp_path)
    (tmp_path / LESSON).unlink()
    said = start.lay_out(tmp_path)
    assert said == [f"{tmp_path}: 1 file was updated.", f"{LESSON} was missing and is there again."]
    assert contents(tmp_path) == course


def test_a_file_that_the_course_gave_up_goes_unless_it_was_edited(course, tmp_path):
    start.lay_out(tmp_path)
    (tmp_path / "results/a.json").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_bytes(b"also mine")
    del course["results/a.json"], course[LESSON]
    said = start.lay_out(tmp_path)
    assert said[1:] == [
        f"{LESSON} is no longer part of the course and was removed.",
        "results/a.json is no longer part of the course, has your changes, and is kept.",
    ]
    assert contents(tmp_path) == {**course, "results/a.json": b"mine", "notes.txt": b"also mine"}
    assert len(start.lay_out(tmp_path)) == 1


@pytest.mark.parametrize("writes", range(6))
@pytest.mark.parametrize("first", [True, False], ids=["laying out", "updating"])
def test_what_was_interrupted_goes_on(first, writes, course, tmp_path, monkeypatch):
    """Killed after any number of writes: not even the list of what was laid out is written at the end."""
    mine = notebook("# 05", "mine")
    if not first:
        start.lay_out(tmp_path)
        (tmp_path / LESSON).write_bytes(mine)
        course.update({path: notebook("new") if path.endswith("b") else b"new\n" for path in course})
    left, write = [writes], start.write_whole

    def dying(path, content):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(start, "write_whole", dying)
        try:
            start.lay_out(tmp_path)
        except KeyboardInterrupt:
            pass
    start.lay_out(tmp_path)
    beside = {} if first else {LESSON: mine, "notebooks/05_fomaml.new.ipynb": course[LESSON]}
    assert contents(tmp_path) == {**course, **beside}
    assert start.lay_out(tmp_path) == [f"{tmp_path}: no files were updated."]


def test_without_its_list_every_file_that_differs_counts_as_edited(course, tmp_path):
    start.lay_out(tmp_path)
    (tmp_path / start.RECORD).write_text("{")
    (tmp_path / LESSON).write_bytes(notebook("mine"))
    assert f"{LESSON} has your changes and is kept" in start.lay_out(tmp_path)[1]


def test_a_folder_of_other_things_is_refused_in_one_sentence(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, out, err = run("start", tmp_path, "--no-lab")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"The folder {tmp_path} holds other files: expected a new or empty one" in err
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
    code, out, err = run("start", tmp_path / "thesis.tex", "--no-lab")
    assert code == 2 and "thesis.tex is a file: expected a folder" in err


def test_a_folder_that_cannot_be_written_is_one_sentence(course, tmp_path, monkeypatch):
    def read_only(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(start, "write_whole", read_only)
    with pytest.raises(InputError, match=r"cannot be written: Permission denied\.$"):
        start.lay_out(tmp_path / "mine")


def test_a_working_copy_that_is_up_to_date_need_not_be_writable(course, tmp_path, monkeypatch):
    start.lay_out(tmp_path)
    monkeypatch.setattr(start, "write_whole", lambda *_: pytest.fail("written"))
    assert start.lay_out(tmp_path) == [f"{tmp_path}: no files were updated."]


@pytest.mark.skipif(os.name != "posix", reason="there is no other user to be")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o555)
    tmp_path.chmod(0o755)  # or another user could not even look
    code = (
        "import os, sys\n"
        "from mamlcourse import InputError, start\n"
        "files = start.course()\n"
        "start.course = lambda: files  # another user may not be able to read root's own\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: start.lay_out('mine')\n"
        "except InputError as error: print(error)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert re.fullmatch(r"mine\S*\.mamlcourse\.json\S* cannot be written: Permission denied\.\n", done.stdout), done


@pytest.fixture
def lab(monkeypatch):
    """What JupyterLab would be started with; no browser, no root."""
    started = []
    monkeypatch.setattr(start, "open_lab", started.append)
    monkeypatch.setattr(start, "has_browser", lambda: True)
    monkeypatch.setattr(start, "is_root", lambda: False)
    return started


def test_start_opens_lesson_00_with_the_whole_copy_in_reach(run, course, lab, tmp_path):
    code, out, err = run("start", "mine", "--", "--ServerApp.port=9999")
    assert code == 0 and out.count("\n") == 1, err
    (arguments,) = lab
    assert f"--ServerApp.root_dir={tmp_path / 'mine'}" in arguments and arguments[-1] == "--ServerApp.port=9999"
    assert arguments[1].endswith(f"/tree/{start.FIRST}") and (tmp_path / "mine" / start.FIRST).exists()
    assert not {"--allow-root", "--no-browser"} & set(arguments)
    run("start", "mine", "--no-lab")
    assert len(lab) == 1


def test_on_a_hub_no_second_server_is_started(run, course, lab, monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    code, out, _ = run("start", "mine")
    assert code == 0 and not lab and (tmp_path / "mine" / start.FIRST).exists()
    assert out.endswith("JupyterLab runs here already: open the folder mine in its file browser.\n")


def test_root_and_no_browser_get_a_sentence_each(run, course, lab, monkeypatch):
    monkeypatch.setattr(start, "is_root", lambda: True)
    monkeypatch.setattr(start, "has_browser", lambda: False)
    code, out, err = run("start")
    assert code == 0 and {"--allow-root", "--no-browser"} <= set(lab[0])
    assert "You are root" in out and "Open the address with ?token=" in out
    monkeypatch.setattr(start, "is_root", lambda: False)
    monkeypatch.setattr(start, "has_browser", lambda: True)
    code, out, err = run("start", "--no-browser")
    assert "--no-browser" in lab[1] and "Open the address" in out and "root" not in out


def test_no_jupyterlab_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)
    with pytest.raises(InputError, match="install jupyterlab, or use --no-lab"):
        start.open_lab([])


def test_a_package_without_its_course_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(start, "course_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="without the course's files"):
        start.lay_out(tmp_path / "mine")


def test_the_wheel_carries_the_course_without_solutions(tmp_path):
    """Built in a copy of the tree without isolation, so with the setuptools that is here and no download."""
    pytest.importorskip("setuptools", minversion="77")
    shutil.copytree(ROOT / "mamlcourse", tmp_path / "mamlcourse", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*course_files(ROOT), FOR_TEACHERS, "solutions/01_sample_an_episode.ipynb"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for name in ("pyproject.toml", "setup.py", "README.md", *(path.name for path in ROOT.glob("LICENSE*"))):
        shutil.copy(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / "dist" / done.stdout.split()[-1]
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 20e6, "what made it so large? it was 11 MB once"
    packed = {name.removeprefix("mamlcourse/files/") for name in names if name.startswith("mamlcourse/files/")}
    assert packed == set(course_files(ROOT)) and start.FIRST in packed
    assert not [name for name in names if "solutions" in name or "tests" in name]
    assert course_folder() == ROOT  # here, and in any editable installation
