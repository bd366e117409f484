"""Result files: JSON that says with which command, versions and hardware, and when, its numbers came about."""

from __future__ import annotations

import datetime
import errno
import io
import json
import os
import platform
import re
import secrets
import shlex
import sys
import threading
import uuid
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    import torch


def machine_name(host: str, node: int) -> str:
    """A name of this machine for file names, the same in each of its processes.

    Where `uuid.getnode` finds no network card, as in many containers, it returns another number in each process, with
    the bit set that no card has.
    """
    found = "" if node >> 40 & 1 else f"{node:x}"
    return re.sub("[^0-9a-z]", "", host.lower())[:32] + found


MACHINE = machine_name(platform.node(), uuid.getnode())
NUMBERS = re.compile(r"\[[\s\d.,eE+-]*\]")
# Names in the records of the first edition, and what they are called now.
OLD_NAMES = {
    "learned_rates": "learned_lr",
    "one_by_one_accuracies": "non_transductive_accuracies",
    "reduction": "downsampling",
    # The share of tasks in which a step raises the query loss at all; `Evaluation.overshoot` asks for a size.
    "overshoot": "any_rise",
    "overshoot_by_step": "any_rise_by_step",
}


def provenance(device: str | torch.device = "cpu") -> dict:
    """Where and how this process runs, for a result file: command, versions, hardware, date (UTC)."""
    import torch  # imported here: `mamlcourse --help` needs none of it

    import mamlcourse

    device = torch.device(device)

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
    temporary = _temporary(path)
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


def check_writable(path: Path) -> None:
    """Find out whether `write_whole` could write there, before the work is done rather than after.

    Raises:
        OSError: it could not.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = _temporary(path)
    probe.touch()
    probe.unlink()


def check_outputs(*paths: Path) -> None:
    """Raise `InputError` unless these files can be written."""
    for path in paths:
        try:
            check_writable(path)
        except OSError as error:
            raise InputError(f"The file {path} cannot be written: {error.strerror}.") from error


def _temporary(path: Path) -> Path:
    """A name of its own beside `path`, so that two writers of one file do not write into each other's."""
    return path.with_name(f"{path.name}.{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def only_writer(path: Path, wait: float = 0):
    """Hold the lock file beside `path`, so that no other process works on that file meanwhile.

    Args:
        path: the file to work on.
        wait: seconds to wait for another process that has it.

    Raises:
        InputError: another process still has it (the message names file and process), or there can be no lock file.
    """
    from filelock import FileLock, Timeout

    beside = path.with_name(f"{path.name}.lock")
    lock, content = FileLock(beside), _content(beside)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait)
    except Timeout:
        if not _content(beside):  # before version 4, filelock empties what it tries to lock
            beside.write_text(content)
        holder = content.partition("\n")[0]
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise InputError(f"{path} is in use by {who}: wait until it ends, or name another file.") from None
    except OSError as error:
        raise InputError(f"The lock file {beside} cannot be written: {error.strerror}.") from error
    try:
        with suppress(OSError):  # Windows lets nobody write into a locked file
            beside.write_text(f"{os.getpid()}\n")
        yield
    finally:
        with suppress(OSError):  # nor remove it
            beside.unlink()  # while it is locked: whoever waits for this one notices and makes a new one
        lock.release()


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of "~"; as shells do, "~nobody" stays where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


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
    # A list of numbers takes one line, not one for each; no string of JSON has a line break.
    text = NUMBERS.sub(lambda found: re.sub(r"\n *", "", found[0]), json.dumps(record, indent=1))
    try:
        write_whole(Path(path), f"{text}\n".encode())
    except OSError as error:
        raise InputError(f"The result file {path} cannot be written: {error.strerror}.") from error


def write_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise InputError(f"The file {path} cannot be written: {error.strerror}.") from error


def write_figure(figure, path: str | Path) -> None:
    """Draw a Matplotlib figure to a file, whole or not at all; the ending says the kind.

    Raises:
        InputError: it cannot be written there.
    """
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=110)
    try:
        write_whole(path, content.getbuffer())
    except OSError as error:
        raise InputError(f"The figure {path} cannot be written: {error.strerror}.") from error


def with_current_names(record):
    """A record of plain values with the keys that are in use now."""
    if isinstance(record, dict):
        return {OLD_NAMES.get(name, name): with_current_names(value) for name, value in record.items()}
    return [with_current_names(value) for value in record] if isinstance(record, list) else record


def read_json(path: str | Path) -> dict:
    """Read a result file; keys of earlier versions get their current names.

    Raises:
        InputError: it is not there, or is no JSON object.
    """
    try:
        record = with_current_names(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"The result file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The result file {path} is not JSON.") from error
    if not isinstance(record, dict):
        raise InputError(f"The result file {path}: expected a JSON object, got a {type(record).__name__}.")
    return record


def check_keys(record, kinds: dict, path, where: str = "") -> None:
    """Raise `InputError` unless a record has these keys with values of these kinds (a dictionary of kinds: nested)."""
    for name, kind in kinds.items():
        full = f"{where}{name}"
        if name not in record:
            raise InputError(f"{path}: expected a value for {full}, got none.")
        value = record[name]
        if isinstance(kind, dict):
            check_keys(value if isinstance(value, dict) else {}, kind, path, f"{full}.")
        elif not isinstance(value, kind) or isinstance(value, bool):
            kinds_in_words = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise InputError(f"{path}: expected {kinds_in_words} for {full}, got {_short(value)}.")


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def arrays_of(path: str | Path):
    """The arrays of a file of NumPy's, by name, inside; threads read one after the other.

    NumPy reads an array's header with Python's own parser, which in some versions fails where two threads use it
    (SystemError, "recursion depth mismatch", seen in 3.11).
    """
    import numpy as np  # not needed by the commands that only print

    with _reading, np.load(path, allow_pickle=False) as stored:
        yield stored


_reading = threading.Lock()


def check_zip(file, what, largest: int) -> None:
    """Raise `InputError` if a member of a zip claims more bytes than `largest`: unpacked, it could fill the memory.

    What is no zip is left to whoever reads it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError):
        return
    for member in members:
        if member.file_size > largest:
            raise InputError(
                f"{what}: expected members of at most {largest:,} bytes, got {member.filename!r} of "
                f"{member.file_size:,}."
            )


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
    return " ".join([program, *(shlex.quote(_without_folders(argument)) for argument in sys.argv[1:])])


def _without_folders(argument: str) -> str:
    """An argument, or an option with its value ("--json=a.json"), where an absolute path is reduced to its name."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _processor() -> str:
    """The processor's model name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
