"""The repository itself: equal requirement lists, tables that agree with their measurements, no private paths."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: pytest brings the same library under its old name
    import tomli as tomllib

from mamlcourse.comparison import summary
from mamlcourse.records import read_json

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tracked_files():
    """The files of the repository, or all of the folder where there is no git (an unpacked archive)."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so there is no list of its files")


def requirements(*extras):
    return sum((PROJECT["optional-dependencies"][extra] for extra in extras), PROJECT["dependencies"])


def test_environment_yml_asks_for_what_pyproject_asks_for():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    assert packages["pip"] == [*requirements("test"), "-e ."]


def test_constraints_name_a_version_for_every_requirement_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines}
    assert all(re.fullmatch(r"[\w-]+==[\d.]+( ; python_version >= \"3\.\d+\")?", line) for line in lines)
    of_book = (ROOT / "book" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = requirements("test", "classroom", "bench") + [line for line in of_book if not line.startswith("#")]
    assert pinned == {re.match(r"[\w-]+", requirement)[0].lower() for requirement in asked}


def test_no_file_names_a_private_folder_or_a_registry():
    private = re.compile(r"(?<![\w.])/(work|root|home|tmp|farm)/[\w.]")
    registry = re.compile("py" + r"pi\.org|python" + r"hosted|registry\.npm" + r"js|deb\.deb" + "ian", re.IGNORECASE)
    for path in tracked_files():
        if path.suffix in {".png", ".npz", ".pt"}:
            continue
        text = path.read_text(encoding="utf-8")
        assert not private.search(text), f"{path.name}: {private.search(text)[0]}"
        assert not registry.search(text), f"{path.name}: {registry.search(text)[0]}"


def test_readme_tables_agree_with_the_measurements():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    filled = runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))["filled"]
    assert filled(readme) == readme, "run: python tools/readme_tables.py"
    assert readme.count("<!-- table:") == 2 and readme.count("| test accuracy (%) |") == 2


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.name)
def test_results_hold_their_raw_values_and_where_they_come_from(path):
    record = read_json(path)
    assert record["command"] and record["date"] and record["versions"]["torch"] and record["hardware"]["processor"]
    if record["kind"] == "comparison":
        for entry in record["algorithms"].values():
            assert [run["seed"] for run in entry["runs"]] == record["seeds"]
            assert all(len(run["task_accuracies"]) == record["eval_tasks"] for run in entry["runs"])
            assert all(0 <= accuracy <= 1 for run in entry["runs"] for accuracy in run["task_accuracies"])
            for run in entry["runs"]:
                mean = sum(run["task_accuracies"]) / len(run["task_accuracies"])
                assert run["accuracy_by_step"][-1] == pytest.approx(mean, abs=1e-4)
        assert summary(record).keys() == record["algorithms"].keys()


def test_the_code_of_the_page_on_ones_own_model_and_data_runs():
    page = (ROOT / "book" / "your_own.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec("\n".join(blocks), names)
    assert len(blocks) == 2 and len(names["parts"].train) >= 3


def test_readme_names_only_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link
