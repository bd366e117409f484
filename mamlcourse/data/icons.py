"""Another domain than letters, built in: icons of things, each drawn by the same 20 synthetic writers.

The icons' lines are those of Tabler Icons (MIT licence: `icons-LICENSE.txt` beside this file). The package carries the
finished sheets of 28 x 28 pixels; `tools/draw_icons.py` made them and says how.
"""

from __future__ import annotations

from pathlib import Path

import torch

from . import packed

PACKED_FILE = Path(__file__).parent / "icons.npz"

# Kept for testing: whole categories, as the letters' whole scripts.
TEST_ALPHABETS = frozenset({"Animals", "Food", "Nature", "Vehicles", "Weather"})


def load(path: str | Path = PACKED_FILE) -> tuple[torch.Tensor, tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Read the packed images.

    Returns:
        images: uint8 (classes, 20, 28, 28), 255 is full ink and 0 is paper; image w is by writer w in all classes.
        alphabets: the category of each icon, which takes the place of its alphabet.
        names: the name of each icon in Tabler Icons.
        test_alphabets: the categories kept for testing.

    Raises:
        InputError: the file is missing, cannot be read, or does not hold what was packed.
    """
    return *packed.load(path, "icons"), TEST_ALPHABETS
