"""A built-in stand-in for Omniglot: letters of the world's scripts, each drawn by 20 synthetic writers.

The letters are those of the DejaVu Sans font that ships inside Matplotlib, moved by synthetic hands and inked on sheets
of 28 x 28 pixels. The package carries the finished sheets; `tools/draw_glyphs.py` made them and says how.
"""

from __future__ import annotations

from pathlib import Path

import torch

from . import packed

PACKED_FILE = Path(__file__).parent / "glyphs.npz"

# Kept for testing: eight whole scripts, so that nothing in a test is written in a script that was trained on.
TEST_ALPHABETS = frozenset({"Armenian", "Georgian", "Hebrew", "Arabic", "N'Ko", "Lao", "Tifinagh", "Old Italic"})


def load(path: str | Path = PACKED_FILE) -> tuple[torch.Tensor, tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Read the packed images.

    Returns:
        images: uint8 (classes, 20, 28, 28), 255 is full ink and 0 is paper; image w is by writer w in all classes.
        alphabets: the alphabet of each class, a script or a division of a large one.
        names: the Unicode name of each class.
        test_alphabets: the alphabets kept for testing.

    Raises:
        InputError: the file is missing, cannot be read, or does not hold what was packed.
    """
    return *packed.load(path, "letters"), TEST_ALPHABETS
