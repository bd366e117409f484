"""Trained weights as small files: arrays and a description in one `.npz`, which holds no code to run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch

from .errors import InputError, check_choice
from .learner import MAML, learner
from .meta_params import with_current_names
from .problems import Problem
from .records import arrays_of, check_keys, check_zip, write_whole
from .settings import Settings
from .training import load_parameters

LARGEST_ARRAY = 1 << 30  # bytes; no network of this course comes near
FOLDER = Path(__file__).parent / "data" / "pretrained"


def save_weights(maml: MAML, path: str | Path, description: dict) -> None:
    """Write a meta-learner's parameters with a description of plain values.

    Args:
        maml: what to keep.
        path: file to write, ending in `.npz`.
        description: must hold "problem" (`Problem.describe()`); the settings are added.

    Raises:
        InputError: it cannot be written.
    """
    text = json.dumps(description | {"settings": maml.settings.to_record()})
    arrays = {name: value.detach().cpu().numpy() for name, value in maml.state_dict().items()}
    content = io.BytesIO()
    np.savez_compressed(content, description=np.array(text), **arrays)
    try:
        write_whole(Path(path), content.getbuffer())
    except OSError as error:
        raise InputError(f"The weights {path} cannot be written: {error.strerror}.") from error


def load_weights(path: str | Path, device: str | torch.device = "cpu", backend: str = "auto") -> tuple[MAML, dict]:
    """The meta-learner of a weights file, and its description.

    Raises:
        InputError: the file is not there, holds no weights, or weights that do not fit its description.
    """
    try:
        check_zip(path, path, LARGEST_ARRAY)
        with arrays_of(path) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "description"}
            description = json.loads(str(file["description"]))
    except FileNotFoundError as error:
        raise InputError(f"There is no weights file {path}.") from error
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in many ways, none of which says so
        raise InputError(f"{path} is not a readable weights file ({type(error).__name__}).") from error
    check_keys(description, {"problem": dict, "settings": dict}, path)
    problem, settings = described(description["problem"], description["settings"], path)
    maml = learner(problem.network(0, device), settings, backend=backend)
    load_parameters(maml, {"maml": with_current_names(arrays)}, path)
    return maml, description


def described(problem: dict, settings: dict, path, *where) -> tuple[Problem, Settings]:
    """The problem and the settings that a file describes; `where` are the folders that `Problem.from_record` takes.

    Raises:
        InputError: this version of the package does not know them.
    """
    try:
        return Problem.from_record(problem, *where), Settings.from_record(settings)
    except (InputError, TypeError) as error:
        raise InputError(f"{path} is of another version of mamlcourse: {str(error).rstrip('.')}.") from None


def load_pretrained(algorithm: str, setting: str = "glyphs-5w1s", device: str | torch.device = "cpu") -> MAML:
    """A meta-learner with the weights that come with the package.

    Args:
        algorithm: a recipe's name, such as "maml++".
        setting: data set, ways and shots, such as "glyphs-5w1s".
        device: where it is put.

    Raises:
        InputError: no such weights come with the package.
    """
    here = {path.stem for path in FOLDER.glob("*.npz")}
    check_choice("The pretrained setting and algorithm", f"{setting}-{algorithm}", sorted(here))
    return load_weights(FOLDER / f"{setting}-{algorithm}.npz", device)[0]
