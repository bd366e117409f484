"""Checkpoints: one file that holds everything a run needs to go on, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import struct
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .. import records
from ..errors import InputError
from ..learner import MAML
from ..meta_params import with_current_names as current_state_names
from ..records import check_keys, check_zip, with_current_names, write_whole
from ..settings import Settings

CHECKPOINT_FORMAT = 1
KINDS = {
    "settings": dict, "config": dict, "maml": dict, "optimizer": {"state": dict, "param_groups": list}, "done": int,
    "iterations": int, "random_state": Tensor,
    "history": {"losses": list, "accuracies": list, "validation": list, "seconds": (int, float)},
}  # fmt: skip
END_OF_ZIP = b"PK\5\6"  # a zip ends in 22 bytes that begin so, the last two of which say how long its comment is
DIGEST = b"sha256:"


def save_atomically(state: dict, path: Path) -> None:
    """Write a file so that at every moment, a crash included, `path` is the old file or the new one, whole.

    Raises:
        InputError: it cannot be written.
    """
    content = io.BytesIO()  # torch.save hides what is wrong with a file that it writes to
    torch.save(state, content)
    with _naming(path):
        write_whole(path, with_digest(content.getvalue()))


def load_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint file, loaded without running code from it; names of earlier versions as they are now.

    Raises:
        InputError: the file does not exist or is not a readable checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint file {path}.")
    try:
        content = path.read_bytes()
        check_digest(content, path)
        check_zip(io.BytesIO(content), path, largest=len(content))  # nothing in it is compressed
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in many ways, none of which says so
        raise InputError(f"{path} is not a readable checkpoint ({type(error).__name__}).") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version of mamlcourse.")
    check_keys(state, KINDS, path)
    current = {name: with_current_names(state[name]) for name in ("settings", "config")}
    try:
        Settings.from_record(current["settings"])
    except InputError as error:
        raise InputError(f"{path} is of another version of mamlcourse: {error}") from None
    return state | current | {"maml": current_state_names(state["maml"])}


def with_digest(content: bytes) -> bytes:
    """A zip, as `torch.save` writes it, with the digest of its bytes as its comment, which readers of zips ignore."""
    length = len(DIGEST) + 2 * hashlib.sha256().digest_size
    content = content[:-2] + struct.pack("<H", length)
    return content + DIGEST + hashlib.sha256(content).hexdigest().encode()


def check_digest(content: bytes, path) -> None:
    """Raise `InputError` if a checkpoint's bytes are not those that were written.

    Checkpoints of earlier versions have no digest, and what is no zip is left to whoever reads it.
    """
    if not content.startswith(b"PK") or content[-22:-18] == END_OF_ZIP:
        return
    begin = content.rfind(DIGEST)
    if begin < 0 or content[begin + len(DIGEST) :] != hashlib.sha256(content[:begin]).hexdigest().encode():
        raise InputError(f"{path} is not a readable checkpoint: it was altered or cut after it was written.")


def load_parameters(maml: MAML, state: dict, path) -> None:
    """Put a checkpoint's meta-parameters into `maml`.

    Raises:
        InputError: they belong to another model, or are not finite.
    """
    # load_state_dict would load what fits before it complains about the rest.
    here, there = maml.state_dict(), state["maml"]
    for name in [*here, *(name for name in there if name not in here)]:
        mine, theirs = (_kind(v[name]) if name in v else "nothing" for v in (here, there))
        if mine != theirs:
            raise InputError(f"{path} belongs to another model: for {name} it holds {theirs}, but this one has {mine}.")
        if not there[name].isfinite().all():
            raise InputError(f"{path} cannot be used: {name} has elements that are not finite (nan or inf).")
    maml.load_state_dict(there)


def _kind(value) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def check_writable(path: Path) -> None:
    """Raise `InputError` unless a checkpoint can be written there."""
    with _naming(path):
        records.check_writable(path)


def check_plain(config: dict) -> None:
    """Raise `InputError` unless a checkpoint with this config could be read again."""
    content = io.BytesIO()
    try:
        torch.save(config, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except Exception as error:  # pickle raises many kinds
        raise InputError(f"config: expected plain values (numbers, strings, lists), got {config!r}.") from error


@contextmanager
def _naming(path: Path):
    """Turn what the system says when a file cannot be written into one sentence that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"The checkpoint {path} cannot be written: {error.strerror}.") from error
