"""Result files: JSON that says with which command, versions and hardware, and when, its numbers came about."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import sys
from pathlib import Path

import torch

from .errors import InputError

NUMBERS = re.compile(r"\[[\s\d.,eE+-]*\]")


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


def write_json(record: dict, path: str | Path) -> None:
    """Write a result file whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A list of numbers takes one line, not one for each.
        text = NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(record, indent=1))
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"The result file {path} cannot be written: {error.strerror}.") from error


def read_json(path: str | Path) -> dict:
    """Read a result file.

    Raises:
        InputError: it is not there, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The result file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"The result file {path} is not JSON.") from error


def origin(record: dict) -> str:
    """Where a result file's numbers come from, in one sentence to print beside them: command, hardware, date."""
    hardware = record["hardware"]
    device = hardware["device"]
    if device == "CPU":
        device = f"{hardware['threads']} CPU thread{'s' * (hardware['threads'] > 1)} ({hardware['processor']})"
    return f"Measured by `{record['command']}` on {device}, {record['date'][:10]}."


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
