"""Run notebooks in order, keep their outputs, and write down how long each takes.

    python tools/run_notebooks.py                               # all of them: make notebooks
    python tools/run_notebooks.py notebooks/05_fomaml.ipynb     # one

A notebook with an error, a warning or a machine's path in its outputs is reported and left as it was. Always the
built-in data, two CPU threads and no GPU, so that outputs and times are those that the course speaks of.
"""

import os
import re
import time
from pathlib import Path
from typing import Annotated

import nbformat
import psutil
import torch
import typer
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from rich.console import Console
from rich.table import Table

from mamlcourse.records import provenance, read_json, write_json, write_whole

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "notebooks.json"
STATED = re.compile(r"(about\s+)(\d+)(\s+seconds\s+to\s+run)")
THREADS = 2
CONDITIONS = {"OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": "", "MAMLCOURSE_DATASET": "glyphs"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PATH = re.compile(
    r"(?<![\w.])/(home|root|Users|work|tmp|usr|opt|var|mnt|srv|private|content)/[\w.]|\b[A-Z]:\\\w|site-packages|file://"
)
DEBRIS = re.compile(r"\r|\dit/s|\d+%\|")
WIDGET = "application/vnd.jupyter.widget-view+json"
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


def texts(output) -> list[str]:
    """What can be read in an output: its text, or its representations that are not images."""
    data = output.get("data", {})
    return [output.get("text", ""), *(str(value) for kind, value in data.items() if not kind.startswith("image/"))]


def output_complaints(notebook) -> list[str]:
    """What no output of the course may hold, each with the cell and the place."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"cell {number} failed: {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {number} wrote to stderr (mend the warning): {output.text.strip()[:300]}")
            for text in texts(output):
                for what, pattern in ("a machine's path", PATH), ("progress debris", DEBRIS), ("an address", ADDRESS):
                    if place := pattern.search(text):
                        around = text[max(place.start() - 40, 0) : place.end() + 40]
                        found.append(f"cell {number} shows {what}: {around!r}")
    return found


def tidy(notebook) -> None:
    """Drop what differs from run to run and shows nothing: times, versions, and widgets, which need a live kernel."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]


def rounded(seconds: float) -> int:
    """Up to the next multiple of 5, as the first cell of a notebook states it."""
    return 5 * int(-(-seconds // 5))


def execute(path: Path) -> tuple[float, list[str]]:
    """Run one notebook and write it in place unless something is wrong: (seconds, complaints)."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=600, record_timing=False,
        coalesce_streams=True, extra_arguments=["--log-level=40"], resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    began = time.perf_counter()
    try:
        client.execute(env={**os.environ, **CONDITIONS})
    except CellExecutionError:
        pass  # the cell holds the error, which is among the complaints
    except (CellTimeoutError, DeadKernelError) as error:
        return 0.0, [str(error).splitlines()[0]]
    seconds = time.perf_counter() - began

    tidy(notebook)
    complaints = output_complaints(notebook)
    first = notebook.cells[0]
    first.source, stated = STATED.subn(rf"\g<1>{rounded(seconds)}\g<3>", first.source, count=1)
    if not stated:
        complaints.append("cell 0 does not say 'about N seconds to run'")
    if path.read_text(encoding="utf-8") != before:
        complaints.append("the file was edited while it ran: run it again")
    if not complaints:
        write_whole(path, f"{nbformat.writes(notebook)}\n".encode())
    return seconds, complaints


def remember(measured: dict[str, float]) -> None:
    """Write the seconds down; those of earlier runs stay as long as machine and versions are the same."""
    record = {"kind": "notebooks", **provenance()}
    earlier = read_json(RECORD) if RECORD.exists() else record
    same = all(earlier[key] == record[key] for key in ("versions", "hardware"))
    seconds = {**(earlier.get("seconds", {}) if same else {}), **measured}
    kept = {name: seconds[name] for name in sorted(seconds) if (ROOT / "notebooks" / f"{name}.ipynb").exists()}
    write_json({**record, "seconds": kept}, RECORD)


def main(
    notebooks: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="Notebooks; default: all of the course.")
    ] = None,
) -> None:
    """Run notebooks, keep their outputs and say how long each takes."""
    torch.set_num_threads(THREADS)  # for the record alone: what runs, runs in kernels
    console = Console()
    if (busy := psutil.cpu_percent(interval=1)) > 25:
        console.print(f"Other programs use {busy:.0f}% of the processor: the times will be too long.", style="yellow")
    table = Table("notebook", "seconds", "outputs")
    measured, failed, total = {}, [], 0.0
    for path in sorted(notebooks or (ROOT / "notebooks").glob("*.ipynb")):
        with console.status(path.name):
            seconds, complaints = execute(path.resolve())
        total += seconds
        failed += [f"{path.name}: {complaint}" for complaint in complaints]
        table.add_row(path.name, f"{seconds:.1f}", "not written" if complaints else "written")
        if not complaints and path.resolve().parent == ROOT / "notebooks":
            measured[path.stem] = round(seconds, 1)
    table.add_section()
    table.add_row("total", f"{total:.1f}", "")
    console.print(table)
    if measured:
        remember(measured)
    for line in failed:
        console.print(line, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
