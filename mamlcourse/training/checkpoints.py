"""Checkpoints: one file that holds everything a run needs to go on, written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import InputError
from ..learner import MAML
from ..meta_params import with_current_names as current_state_names
from ..records import with_current_names, write_whole

CHECKPOINT_FORMAT = 1


def save_atomically(state: dict, path: Path) -> None:
    """Write a file so that at every moment, a crash included, `path` is the old file or the new one, whole.

    Raises:
        InputError: it cannot be written.
    """
    content = io.BytesIO()  # torch.save hides what is wrong with a file that it writes to
    torch.save(state, content)
    with _naming(path):
        write_whole(path, content.getbuffer())


def load_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint file, loaded without running code from it; names of earlier versions as they are now.

    Raises:
        InputError: the file does not exist or is not a readable checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint file {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, none of which says so
        raise InputError(f"{path} is not a readable checkpoint ({type(error).__name__}).") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version of mamlcourse.")
    current = {name: with_current_names(state[name]) for name in ("settings", "config") if name in state}
    return state | current | {"maml": current_state_names(state["maml"])}


def load_parameters(maml: MAML, state: dict, path) -> None:
    """Put a checkpoint's meta-parameters into `maml`.

    Raises:
        InputError: they belong to another model.
    """
    # load_state_dict would load what fits before it complains about the rest.
    here, there = maml.state_dict(), state["maml"]
    for name in [*here, *(name for name in there if name not in here)]:
        mine, theirs = (f"{v[name].dtype} {tuple(v[name].shape)}" if name in v else "nothing" for v in (here, there))
        if mine != theirs:
            raise InputError(f"{path} belongs to another model: for {name} it holds {theirs}, but this one has {mine}.")
    maml.load_state_dict(there)


def check_writable(path: Path) -> None:
    """Raise `InputError` unless a checkpoint can be written there."""
    with _naming(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        probe.touch()
        probe.unlink()


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
