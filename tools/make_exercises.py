"""Make the exercises from the solutions: `make exercises`.

    python tools/make_exercises.py                      # write exercises/*.ipynb
    python tools/make_exercises.py --run                # run the solutions first, and keep their outputs
    python tools/make_exercises.py --course FOLDER      # lay out nbgrader's course folder: make assignment

The solutions are written by hand; what is cleared, locked and hidden is decided by nbgrader's own preprocessors.
"""

import argparse
import copy
import os
import re
import shutil
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, ExecutePreprocessor

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = re.compile(r"\*Expected figure[^:]*: (.+?)\*", re.DOTALL)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
STUB = "...  # YOUR CODE HERE"  # and no exception: the check says that there is no answer yet
CONFIG = ROOT / "tools" / "nbgrader_config.py"
# nbconvert's own asks another host for MathJax. Formulas are MathML instead (mamlcourse/classroom.py).
NO_MATHJAX = "{%- macro mathjax(url='') -%}{%- endmacro %}\n"


def solutions() -> list[Path]:
    return sorted((ROOT / "solutions").glob("*.ipynb"))


def with_expected_figures(notebook):
    """A copy in which texts `*Expected figure: ...*` hold the figure that the cell below them shows."""
    notebook = copy.deepcopy(notebook)
    for above, cell in zip(notebook.cells, notebook.cells[1:]):
        described = EXPECTED.search(above.source)
        figures = [out.data["image/png"] for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        if above.cell_type == "markdown" and described and figures:
            words = " ".join(described[1].split())
            above.attachments = {"expected.png": {"image/png": figures[0]}}
            above.source += f"\n\n![{words}](attachment:expected.png)"
    return notebook


def exercise(notebook, name: str):
    """What a student gets: stubs, locked checks, no outputs, no hidden tests, and a link to the solution."""
    from nbgrader.preprocessors import CheckCellMetadata, ClearHiddenTests, ClearSolutions, LockCells

    notebook, resources = with_expected_figures(notebook), {}
    clear = ClearSolutions(enabled=True, code_stub={"python": STUB})
    steps = (CheckCellMetadata, clear, LockCells, ClearOutputPreprocessor, ClearHiddenTests, CheckCellMetadata)
    for step in steps:
        step = step if step is clear else step(enabled=True)
        notebook, resources = step.preprocess(notebook, resources)
    link = f"## Solution\n\nWhen you are done, or stuck for good: [a solution](../solutions/{name}.ipynb)."
    notebook.cells.append(nbformat.v4.new_markdown_cell(link, id=f"{notebook.cells[0].id[:-2]}link"))
    return notebook


def source(notebook):
    """A solution as nbgrader's course folder wants it: no outputs, and no links, which lead nowhere there."""
    notebook = with_expected_figures(notebook)
    notebook, _ = ClearOutputPreprocessor(enabled=True).preprocess(notebook, {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"*\1*", cell.source)
    return notebook


def run(path: Path) -> None:
    """Run a solution and keep its outputs."""
    notebook = nbformat.read(path, as_version=4)
    os.environ |= {"MAMLCOURSE_PROGRESS": "off", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ExecutePreprocessor(
        timeout=300, kernel_name="python3", record_timing=False, coalesce_streams=True,
        extra_arguments=["--log-level=40"],
    ).preprocess(notebook, {"metadata": {"path": str(path.parent)}})  # fmt: skip
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.write(notebook, path)


def lay_out(course: Path) -> None:
    """nbgrader's course folder: its settings, and one assignment for each exercise under source/."""
    course.mkdir(parents=True, exist_ok=True)
    settings = course / "nbgrader_config.py"
    if not settings.exists():  # a teacher's own changes stay
        shutil.copyfile(CONFIG, settings)
    template = course / "jupyter" / "nbconvert" / "templates" / "base" / "mathjax.html.j2"
    template.parent.mkdir(parents=True, exist_ok=True)
    template.write_text(NO_MATHJAX, encoding="utf-8")
    (course / "exchange").mkdir(exist_ok=True)
    for path in solutions():
        folder = course / "source" / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(source(nbformat.read(path, as_version=4)), folder / path.name)
    first = solutions()[0].stem
    print(f"{len(solutions())} assignments in {course}. Go there, and: nbgrader generate_assignment {first}")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="run the solutions first, and keep their outputs")
    parser.add_argument("--course", type=Path, help="lay out nbgrader's course folder here instead")
    given = parser.parse_args(arguments)
    if given.course:
        return lay_out(given.course)
    for path in solutions():
        if given.run:
            run(path)
        target = ROOT / "exercises" / path.name
        nbformat.write(exercise(nbformat.read(path, as_version=4), path.stem), target)
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
