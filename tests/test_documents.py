"""The documents at the root: versions, licences, the paper's numbers, and workflows that name what there is."""

import json
import re
from pathlib import Path

import pytest
import yaml

import mamlcourse
from mamlcourse import comparison
from mamlcourse.records import read_json

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_in_package_citation_and_changelog():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == mamlcourse.__version__
    newest = re.search(r"^## (\S+) \((\S+)\)", text("CHANGELOG.md"), re.MULTILINE)
    assert newest.groups() == (mamlcourse.__version__, str(citation["date-released"]))


def test_the_citation_has_what_its_schema_requires():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == ["MIT", "CC-BY-4.0"] and 'license = "MIT AND CC-BY-4.0"' in text("pyproject.toml")
    for reference in [citation, *citation["references"]]:
        assert reference["authors"] and all({"name", "family-names"} & author.keys() for author in reference["authors"])


def test_the_paper_says_what_the_records_say():
    paper = " ".join(text("paper.md").split())
    for name in ("equal-search-test", "omniglot-200-tasks-original-rates"):
        record = read_json(ROOT / "results" / f"{name}.json")
        (accuracies,) = [row[1:] for row in comparison.rows(record) if row[0].startswith("test accuracy")]
        assert len(accuracies) >= 3 and all(f"{accuracy}%" in paper for accuracy in accuracies)
    cited = set(re.findall(r"@(\w+)", paper))
    assert cited == set(re.findall(r"^@\w+\{(\w+),", text("paper.bib"), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_read_files_that_exist_and_ask_for_little(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"]["contents"] == ("write" if path.stem == "release" else "read")
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            for name in re.findall(r"--(?:constraint|notes-file) (\S+)", step.get("run", "")):
                assert (ROOT / name).is_file()


def test_workflows_and_metadata_know_the_same_pythons():
    versions = yaml.safe_load(text(".github/workflows/tests.yml"))["jobs"]["tests"]["strategy"]["matrix"]["python"]
    lowest, above = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text("pyproject.toml")).groups()
    assert versions == [f"3.{minor}" for minor in range(int(lowest), int(above))]


def test_the_devcontainer_installs_what_the_workflows_install():
    container = json.loads(text(".devcontainer/devcontainer.json"))
    installed = '--torch-backend cpu --constraint constraints.txt --editable ".[test]"'
    assert installed in container["postCreateCommand"].replace("'", '"') and installed in text(
        ".github/workflows/tests.yml"
    )
