"""The file of a built-in set: its images at 4 bits a pixel, their labels and a checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..records import arrays_of

SIDE = 28  # pixels along each side of an image, as in all work on Omniglot
GREY_LEVELS = 16  # 4 bits a pixel: two pixels share a byte in the packed file


def load(path: str | Path, what: str) -> tuple[torch.Tensor, tuple[str, ...], tuple[str, ...]]:
    """Read a packed set.

    Args:
        path: the file.
        what: what it holds, for messages: "letters" or "icons".

    Returns:
        images: uint8 (classes, 20, 28, 28), 255 is full ink and 0 is paper; image w is by writer w in all classes.
        alphabets: the alphabet of each class.
        names: the name of each class.

    Raises:
        InputError: the file is missing, cannot be read, or does not hold what was packed.
    """
    try:
        with arrays_of(path) as packed:
            images = _unpack(packed["pixels"])
            alphabets, names = tuple(packed["alphabets"].tolist()), tuple(packed["names"].tolist())
            expected = str(packed["sha256"])
    except FileNotFoundError:
        raise InputError(f"The built-in {what} are missing: there is no file {path}.") from None
    except Exception:  # a damaged archive can fail in a dozen ways, with errors of zipfile, zlib, tokenize and others
        raise InputError(f"The built-in {what} cannot be read: {path} is damaged; reinstall mamlcourse.") from None
    if fingerprint(images, alphabets, names) != expected:
        raise InputError(f"The built-in {what} were altered: {path} fails its checksum; reinstall mamlcourse.")
    return images, alphabets, names


def _unpack(pixels: np.ndarray) -> torch.Tensor:
    """(..., 14) bytes of two pixels each to uint8 (..., 28)."""
    levels = np.stack([pixels >> 4, pixels & 15], axis=-1).reshape(*pixels.shape[:-1], SIDE)
    return torch.from_numpy(levels * np.uint8(255 // (GREY_LEVELS - 1)))


def fingerprint(images: torch.Tensor, alphabets: tuple[str, ...], names: tuple[str, ...]) -> str:
    """SHA-256 of the image bytes followed by the labels."""
    digest = hashlib.sha256(images.numpy().tobytes())
    digest.update("\n".join(alphabets + names).encode())
    return digest.hexdigest()
