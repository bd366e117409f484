"""Draw the built-in icons from Tabler Icons and pack them.

    python tools/draw_icons.py FOLDER           # write mamlcourse/data/icons.npz, which is committed
    python tools/draw_icons.py FOLDER FILE

FOLDER is the unpacked package `@tabler/icons` of the version below (MIT licence). Its icons are lines already, so only
two steps are left: the letters' hands move them, and the letters' pens ink them (`draw_glyphs.py`).
"""

from __future__ import annotations

import argparse
import cmath
import functools
import json
import math
import re
import zlib
from collections import Counter
from pathlib import Path

import draw_glyphs
import numpy as np
import torch

from mamlcourse.data.icons import PACKED_FILE, TEST_ALPHABETS
from mamlcourse.errors import InputError

PACKAGE, VERSION = "@tabler/icons", "3.52.0"

# ---- Which icons -------------------------------------------------------------------------------------------------

# Pictures of things; not letters, digits, arrows, the shapes that windows and files are marked with, or trade marks.
CATEGORIES = (
    "Animals", "Buildings", "Charts", "Communication", "Electrical", "Food", "Games", "Health", "Laundry", "Map",
    "Media", "Nature", "Sport", "Symbols", "Vehicles", "Weather",
)  # fmt: skip
COMMON_ENDING = 5  # an ending that so many names share ("off", "plus", "heart") marks a variant of another icon
LONGEST_LINE = 95.0  # of an icon's grid of 24 x 24; a longer one leaves no paper between its lines on the sheet

# ---- How they are drawn ------------------------------------------------------------------------------------------

SPACING = 0.2  # between the points of a line, in the icon's grid; the pen touches every cell of the sheet on its way
MIDDLE_HALF_SIZE = 11.0  # pixels: half the size of an icon by the average writer; larger than a letter, as it has more


def draw(folder: str | Path) -> tuple[torch.Tensor, tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Draw the icons of the unpacked package; the result has the form of `icons.load`'s.

    Raises:
        InputError: the folder does not hold the package in its version.
    """
    categories, names, lines = distinct_icons(folder)
    writers = draw_glyphs._writers()
    images = [
        draw_glyphs._draw_letter(line, writers, zlib.crc32(name.encode()), MIDDLE_HALF_SIZE)
        for name, line in zip(names, lines)
    ]
    return torch.stack(images), categories, names, TEST_ALPHABETS


def distinct_icons(folder: str | Path) -> tuple[tuple[str, ...], tuple[str, ...], list[torch.Tensor]]:
    """The icons that become classes: categories, names, and lines, each float32 (points, 2) that fill [-1, 1]."""
    about, paths = _read(Path(folder))
    endings = Counter(name.rpartition("-")[2] for name in paths if name.rpartition("-")[0] in paths)

    def is_plain(name: str) -> bool:
        words = name.split("-")
        written = any(len(word) == 1 or re.search(r"\d", word) for word in words)  # it shows a letter or a digit
        return not written and (len(words) == 1 or endings[words[-1]] < COMMON_ENDING)

    chosen = sorted(
        (about[name]["category"], name) for name in paths if about[name]["category"] in CATEGORIES and is_plain(name)
    )
    found = [(category, name, points_of(paths[name])) for category, name in chosen]
    found = [icon for icon in found if SPACING * len(icon[2]) <= LONGEST_LINE]
    lines = [_fill_box(points) for _, _, points in found]
    letters = _letters()
    kept = [i - len(letters) for i in draw_glyphs._without_look_alikes(letters + lines) if i >= len(letters)]
    return tuple(found[i][0] for i in kept), tuple(found[i][1] for i in kept), [lines[i] for i in kept]


@functools.cache
def _letters() -> list[torch.Tensor]:
    """The lines of the built-in letters, which no icon may look like."""
    return draw_glyphs.distinct_letters()[1]


def _read(folder: Path) -> tuple[dict, dict[str, list[str]]]:
    """What the package says about its icons, and the lines of those without filled areas: SVG path data by name."""
    try:
        package, about, nodes = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("package.json", "icons.json", "tabler-nodes-outline.json")
        )
    except OSError as error:
        missing = Path(error.filename).name
        raise InputError(f"{folder}: expected {PACKAGE} {VERSION} unpacked, but {missing} is missing.") from None
    found = f"{package['name']} {package['version']}"
    if found != f"{PACKAGE} {VERSION}":
        raise InputError(f"{folder}: expected {PACKAGE} {VERSION}, got {found}.")
    return about, {
        name: [attributes["d"] for _, attributes in drawn]
        for name, drawn in nodes.items()
        if all(kind == "path" and attributes.keys() == {"d"} for kind, attributes in drawn)
    }


# ---- SVG paths as points: a point is a complex number x + iy, with y down ------------------------------------------

ARGUMENTS = {"m": 2, "l": 2, "h": 1, "v": 1, "c": 6, "s": 4, "q": 4, "t": 2, "a": 7}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


def points_of(paths: list[str]) -> np.ndarray:
    """Points along an icon's lines, `SPACING` apart or closer."""
    return np.concatenate([piece for path in paths for piece in _pieces(path)])


def _pieces(path: str):
    """The points of each piece of a path that begins with M and goes on with relative commands."""
    here, control = 0j, None
    for command, text in re.findall(r"([a-zA-Z])([^a-zA-Z]*)", path):
        if command not in ARGUMENTS and command != "M":
            raise InputError(f"An SVG path: expected relative commands, got {command!r} in {path!r}.")
        for place, values in enumerate(_arguments(command.lower(), text)):
            if command in "hv":
                points = [values[0] * (1j if command == "v" else 1)]
            else:
                pairs = values[5:] if command == "a" else values
                points = [complex(*pair) for pair in zip(pairs[::2], pairs[1::2])]
            end = points[-1] if command == "M" else here + points[-1]
            inner = []
            if command == "a":
                yield _arc(here, end, *values[:5])
            elif command not in "Mm" or place > 0:  # a move draws nothing; more pairs after it are lines
                inner = [here + point for point in points[:-1]]
                if command in "st":  # the first control point mirrors the last one of the piece before
                    inner.insert(0, here if control is None else 2 * here - control)
                yield _bezier([here, *inner, end])
            control = inner[-1] if command in "csqt" else None
            here = end


def _arguments(kind: str, text: str):
    """The numbers of a command, cut into its repetitions. The two flags of an arc may stick to what follows them."""
    numbers = [NUMBER] * ARGUMENTS[kind]
    if kind == "a":
        numbers[3:5] = ["[01]", "[01]"]
    pattern = r"[\s,]*".join(f"({number})" for number in numbers)
    return [[float(number) for number in found.groups()] for found in re.finditer(pattern, text)]


def _bezier(controls: list[complex]) -> np.ndarray:
    """A Bézier curve by de Casteljau's rule; with two points, a straight line."""
    along = _along(sum(abs(b - a) for a, b in zip(controls, controls[1:])))
    while len(controls) > 1:
        controls = [(1 - along) * a + along * b for a, b in zip(controls, controls[1:])]
    return controls[0]


def _arc(start: complex, end: complex, rx: float, ry: float, tilt: float, large: float, sweep: float) -> np.ndarray:
    """An elliptical arc from its ends (SVG 1.1, appendix F.6), by way of the frame where the ellipse is a circle."""
    if start == end:
        return np.array([start])
    turn = cmath.exp(1j * math.radians(tilt))

    def unit(point: complex) -> complex:
        return complex((point / turn).real / rx, (point / turn).imag / ry)

    half = (unit(end) - unit(start)) / 2
    if abs(half) > 1:  # the radii are too short to reach: the standard makes them just long enough
        return _arc(start, end, rx * abs(half) * (1 + 1e-9), ry * abs(half) * (1 + 1e-9), tilt, large, sweep)
    side = 1j if large != sweep else -1j
    centre = (unit(start) + unit(end)) / 2 + side * half / abs(half) * math.sqrt(1 - abs(half) ** 2)
    swing = cmath.phase((unit(end) - centre) / (unit(start) - centre))
    if sweep and swing < 0:
        swing += 2 * math.pi
    if not sweep and swing > 0:
        swing -= 2 * math.pi
    circle = centre + (unit(start) - centre) * np.exp(1j * swing * _along(abs(swing) * max(rx, ry)))
    return turn * (rx * circle.real + 1j * ry * circle.imag)


def _along(length: float) -> np.ndarray:
    """Numbers from 0 to 1 so many that steps along a line of this length are `SPACING` or shorter."""
    return np.linspace(0, 1, math.ceil(length / SPACING) + 1)


def _fill_box(points: np.ndarray) -> torch.Tensor:
    """Complex points as (points, 2), centred, the longer side of their box from -1 to 1."""
    line = torch.tensor(np.stack([points.real, points.imag], axis=1), dtype=torch.float32)
    low, high = line.amin(0), line.amax(0)
    return (line - (low + high) / 2) / ((high - low).max() / 2)


# ---- On the command line -----------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Draw all icons and pack them into a file; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser(description="Draw the built-in icons anew.")
    parser.add_argument("folder", type=Path, help=f"{PACKAGE} {VERSION}, unpacked")
    parser.add_argument("output", nargs="?", type=Path, default=PACKED_FILE, help="file to write; default %(default)s")
    options = parser.parse_args(arguments)
    try:
        images, categories, names, test_categories = draw(options.folder)
        draw_glyphs.pack(options.output, images, categories, names)
    except (InputError, OSError) as error:
        parser.error(str(error))
    tests = sum(category in test_categories for category in categories)
    print(f"Drew {len(names)} icons of {len(set(categories))} categories, each by {images.shape[1]} writers.")
    print(f"Of these, {tests} icons of {len(test_categories)} categories are for testing.")
    print(f"Wrote {options.output.stat().st_size / 1e6:.1f} MB to {options.output}.")


if __name__ == "__main__":
    main()
