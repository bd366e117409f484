"""`mamlcourse doctor`: what is wrong with an installation, and the command that mends it."""

import shutil
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from mamlcourse import cli, doctor


@pytest.fixture
def installed(monkeypatch):
    """An installation that a test can damage: {package: version}; nothing is measured."""
    versions = {"mamlcourse": "0.2.0", "torch": "2.6.0", "typer": "0.16.0"}
    monkeypatch.setattr(doctor, "version", versions.get)
    monkeypatch.setattr(doctor, "requirements", lambda: [Requirement("torch>=2.6"), Requirement("typer>=0.16")])
    monkeypatch.setattr(cli, "_how_computed", lambda device: "backend loop")
    return versions


def test_a_sound_installation_is_told_where_to_begin(run, installed):
    code, out, err = run("doctor")
    assert code == 0 and "lessons and" in out and "GB free" in out, err
    assert out.splitlines()[-1].startswith("Next: mamlcourse start")


@pytest.mark.parametrize(
    "found, said",
    [("2.5.1", "2.5.1, but the course needs >=2.6"), (None, "not installed")],
    ids=["too old", "missing"],
)
def test_a_requirement_that_is_not_met_gets_its_command(found, said, run, installed, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    installed["torch"] = found
    code, out, err = run("doctor")
    assert code == 1 and said in out and "typer" in out
    assert out.splitlines()[-1].endswith('install --upgrade "torch>=2.6"')
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)  # as in an environment of uv's
    assert doctor.examine(tmp_path)[1].startswith("uv pip install --python ")


def test_a_package_that_is_there_but_cannot_be_imported_is_found(run, installed, monkeypatch):
    def broken(name):
        raise RuntimeError(f"operator {name}::nms does not exist")

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "import_module", broken)
    code, out, err = run("doctor")
    assert code == 1 and "cannot be imported (RuntimeError: operator torch::nms does not exist)" in out
    assert '--force-reinstall "torch>=2.6"' in out


def test_widgets_without_their_half_in_jupyterlab_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *parts: [str(tmp_path.joinpath(*parts))])
    assert "no part for them" in doctor.widgets()
    (tmp_path / "labextensions" / "@jupyter-widgets" / "jupyterlab-manager").mkdir(parents=True)
    assert doctor.widgets() == "JupyterLab can show them"


def test_a_full_disk_and_a_package_without_its_course_are_said(monkeypatch, tmp_path):
    assert "which is little" not in doctor.disk(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=4e8))
    assert doctor.disk(tmp_path) == "0.4 GB free, which is little"
    monkeypatch.setattr(doctor, "course_folder", lambda: tmp_path)
    assert doctor.course() == "not part of this installation, only the package is"


def test_extras_are_no_requirements():
    names = {requirement.name for requirement in doctor.requirements()}
    assert not names or "torch" in names and "nbgrader" not in names
