"""Result files: JSON that says with which command, versions and hardware, and when, its numbers came about."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import secrets
import shlex
import sys
import uuid
from pathlib import Path

import torch

from .errors import InputError

MACHINE = f"{uuid.getnode():x}"
NUMBERS = re.compile(r"\[[\s\d.,eE+-]*\]")
# Names in the records of the first edition, and what they are called now.
OLD_NAMES = {
    "learned_rates": "learned_lr",
    "one_by_one_accuracies": "non_transductive_accuracies",
    "reduction": "downsampling",
}


def provenance(device: str | torch.device = "cpu") -> dict:
    """Where and how this process runs, for a result file: command, versions, hardware, date (UTC)."""
    device = torch.device(device)
    import mamlcourse

    return {
        "command": _command(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "mamlcourse": mamlcourse.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        },
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
        },
    }


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment, a crash included, `path` is the old file or the new one, whole.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two writers of one file do not write into each other's.
    temporary = path.with_name(f"{path.name}.{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    _remove_what_the_dead_left(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_what_the_dead_left(path: Path) -> None:
    """Remove half-written files of processes of this machine that were killed while writing this one."""
    try:
        import psutil  # missing on some GPU machines
    except ImportError:
        return
    ours = re.compile(re.escape(f"{path.name}.{MACHINE}-") + r"(\d+)-[0-9a-f]{8}\.tmp")
    for other in path.parent.iterdir():
        found = ours.fullmatch(other.name)
        if found and not psutil.pid_exists(int(found[1])):
            other.unlink(missing_ok=True)


def write_json(record: dict, path: str | Path) -> None:
    """Write a result file whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    # A list of numbers takes one line, not one for each.
    text = NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(record, indent=1))
    try:
        write_whole(Path(path), f"{text}\n".encode())
    except OSError as error:
        raise InputError(f"The result file {path} cannot be written: {error.strerror}.") from error


def with_current_names(record):
    """A record of plain values with the keys that are in use now."""
    if isinstance(record, dict):
        return {OLD_NAMES.get(name, name): with_current_names(value) for name, value in record.items()}
    return [with_current_names(value) for value in record] if isinstance(record, list) else record


def read_json(path: str | Path) -> dict:
    """Read a result file; keys of earlier versions get their current names.

    Raises:
        InputError: it is not there, or is no JSON.
    """
    try:
        return with_current_names(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"The result file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"The result file {path} is not JSON.") from error


def origin(record: dict) -> str:
    """Where a result file's numbers come from, in one sentence to print beside them: command, hardware, date."""
    device, hardware = device_in_words(record), record["hardware"]
    device += f" ({hardware['processor']})" if hardware["device"] == "CPU" else ""
    return f"Measured by `{record['command']}` on {device}, {record['date'][:10]}."


def device_in_words(record: dict) -> str:
    """What a record was measured on: the GPU's name, or how many CPU threads."""
    device, threads = record["hardware"]["device"], record["hardware"]["threads"]
    return f"{threads} CPU thread{'s' * (threads > 1)}" if device == "CPU" else device


def markdown_table(rows: list[list[str]], numeric: bool = False) -> str:
    """Rows of text, the heading first, as a Markdown table; all columns but the first to the right if `numeric`."""
    heading, *body = rows
    rule = ["---", *["---:" if numeric else "---"] * (len(heading) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heading, rule, *body])


def _command() -> str:
    """The command line, with names for absolute paths: what folders a machine has is nobody's business."""
    script = Path(sys.argv[0])
    program = script.name
    if program == "__main__.py":
        program = f"python -m {script.parent.name}"
    elif script.suffix == ".py" and not script.is_absolute():
        program = f"python {script.as_posix()}"
    arguments = [Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]
    return " ".join([program, *map(shlex.quote, arguments)])


def _processor() -> str:
    """The processor's model name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
