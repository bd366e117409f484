"""Draw the built-in letters from the font and pack them: `make glyphs`.

    python tools/draw_glyphs.py             # write mamlcourse/data/glyphs.npz, which is committed
    python tools/draw_glyphs.py FILE

Three steps turn a font into handwriting:

1. *Find the centre line.* A printed letter is thinned to the line that a pen would follow. Letters whose lines look
   alike (Latin A, Greek Alpha and Cyrillic A) are one class, not three: only the first is kept.
2. *Move the line by hand.* Each writer has a hand of their own: a slant, a size, a way to bend strokes, a shaky or a
   steady grip. No writer draws a letter twice in the same way, so each drawing adds a smaller, fresh change.
3. *Ink it.* The writer's pen follows the moved line on a sheet of 28 x 28 pixels.

All random numbers come from generators seeded here: the global one is neither read nor changed.
"""

from __future__ import annotations

import argparse
import math
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from mamlcourse.data.glyphs import PACKED_FILE, TEST_ALPHABETS
from mamlcourse.data.packed import GREY_LEVELS, SIDE, fingerprint
from mamlcourse.errors import check_number

WRITERS = 20

# ---- Which letters -----------------------------------------------------------------------------------------------

# Scripts by the first word of their letters' Unicode names. Of two letters that look alike, the earlier script's stays.
SCRIPTS = {
    "LATIN": "Latin",
    "GREEK": "Greek and Coptic",
    "COPTIC": "Greek and Coptic",
    "CYRILLIC": "Cyrillic",
    "ARMENIAN": "Armenian",
    "GEORGIAN": "Georgian",
    "HEBREW": "Hebrew",
    "ARABIC": "Arabic",
    "NKO": "N'Ko",
    "LAO": "Lao",
    "TIFINAGH": "Tifinagh",
    "OLD": "Old Italic",
    "OGHAM": "Ogham",
    "CANADIAN": "Syllabics",
}

# Three scripts are so large that each is divided into alphabets of a usual size, from the given code points on.
# Canadian syllabics are divided by consonant: there the vowel says how far the consonant's shape is rotated. So a
# learner that is also shown rotated letters meets all rotations of one shape in the same part of a split.
DIVISIONS = {
    "Latin": {0x0041: "Latin", 0x0180: "Latin extended", 0x0250: "Latin phonetic", 0x1E00: "Latin additional"},
    "Cyrillic": {0x0400: "Cyrillic", 0x0460: "Cyrillic extended"},
    "Syllabics": {
        first: f"Syllabics {sound}"
        for first, sound in {
            0x1401: "vowels", 0x142F: "P", 0x144C: "T", 0x146B: "K", 0x1489: "C", 0x14A3: "M", 0x14C0: "N",
            0x14D3: "L", 0x14ED: "S", 0x1510: "Sh", 0x1526: "Y", 0x1542: "R", 0x1553: "F", 0x1567: "Th", 0x158E: "Ng",
        }.items()
    },
}  # fmt: skip
CASED = ("Latin", "Cyrillic")

# ---- How letters become lines ------------------------------------------------------------------------------------

FONT_SIZE = 96  # pixels per em when a letter is thinned: a stroke is then about 9 pixels wide
OVERSAMPLING = 4  # letters are rendered this much larger first, so that font hinting moves no edge noticeably
PRINT_SIDE = 160  # pixels along each side of a printed letter, enough for the widest
SMALLEST_EXTENT = 24  # a line shorter than this (a dot, a tick) is not blown up to full size
LOOK_ALIKE = 0.9  # cosine similarity of two plain drawings above which they count as one letter
PLAIN_HALF_SIZE = 9.0  # pixels; leaves room to shift a plain drawing by one pixel
PLAIN_PEN = 1.5  # pixels; a pen this broad makes close lines overlap, hence alike

# ---- How writers differ ------------------------------------------------------------------------------------------

FINENESS = 3  # sheet cells per pixel and axis while inking
BORDER = 1.5  # pixels along the edge of the sheet that stay clear of ink
MIDDLE_HALF_SIZE = 10.0  # pixels: half the size of a letter by the average writer
FRESH = 0.5  # size of the change from drawing to drawing, relative to the differences between writers
BENDS = 3  # waves that bend a hand's lines
SHAKES = 3  # shorter waves that make them tremble
HAND_SEED = 20170309  # no code point, for these seed the fresh changes of each letter's drawings


class Hands(NamedTuple):
    """How each of a batch of drawings moves a letter's line. A half box is the distance from the middle to a side."""

    matrix: torch.Tensor  # (drawings, 2, 2): rotates, slants, stretches
    waves: torch.Tensor  # (drawings, waves, 2): wave vectors, radians per half box
    phases: torch.Tensor  # (drawings, waves): radians
    pushes: torch.Tensor  # (drawings, waves, 2): how far each wave moves the line, half boxes
    half_size: torch.Tensor  # (drawings,): half the letter's size on the sheet, pixels
    offset: torch.Tensor  # (drawings, 2): where its middle lies relative to the sheet's, pixels


# ---- Drawing -----------------------------------------------------------------------------------------------------


def draw(classes=None) -> tuple[torch.Tensor, tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Draw the letters anew from the font; the result has the form of `load`'s.

    The same machine and libraries give the same bits. Another version of the font renderer or of the maths library
    may round a pixel differently.

    Args:
        classes: class numbers to draw, in that order; default all.

    Raises:
        InputError: there is no class of a given number.
    """
    letters, lines = distinct_letters()
    chosen = list(range(len(letters)) if classes is None else classes)
    for number in chosen:
        check_number("A class number", number, at_least=0, at_most=len(letters) - 1, integer=True)
    writers = _writers()
    images = torch.stack([_draw_letter(lines[c], writers, seed=ord(letters[c])) for c in chosen])
    return (
        images,
        tuple(alphabet_of(letters[c]) for c in chosen),
        tuple(unicodedata.name(letters[c]) for c in chosen),
        TEST_ALPHABETS,
    )


def alphabet_of(letter: str) -> str:
    """The alphabet of a letter: its script, or the division of a large script that it falls into."""
    script = SCRIPTS[unicodedata.name(letter).split()[0]]
    if script not in DIVISIONS:
        return script
    division = [name for first, name in DIVISIONS[script].items() if first <= ord(letter)][-1]
    if script not in CASED or division == "Latin phonetic":
        return division
    return f"{division} {'capitals' if unicodedata.category(letter) == 'Lu' else 'small letters'}"


# ---- Step 1: the font's letters as lines -------------------------------------------------------------------------


def distinct_letters() -> tuple[list[str], list[torch.Tensor]]:
    """The letters that become classes, and the line of each: float32 (points, 2), x and y, filling [-1, 1]."""
    letters = _candidates()
    lines = [_line_of(skeleton) for skeleton in thin(_print_letters(letters))]
    kept = _without_look_alikes(lines)
    return [letters[i] for i in kept], [lines[i] for i in kept]


def _font_file() -> str:
    import matplotlib  # only drawing needs the font, and importing Matplotlib takes a second

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _candidates() -> list[str]:
    """All letters of our scripts that the font holds, script by script.

    The font's own table of characters is asked, so no letter shows as the empty box for a missing one. A character
    that Unicode decomposes (an accented letter, a ligature, a letter's form inside a word) is no letter of its own.
    """
    from matplotlib.ft2font import FT2Font

    characters = [chr(code) for code in FT2Font(_font_file()).get_charmap()]
    letters = [
        c
        for c in characters
        if unicodedata.category(c) in ("Lu", "Ll", "Lo")
        and not unicodedata.decomposition(c)
        and unicodedata.name(c, "?").split()[0] in SCRIPTS
    ]
    order = list(SCRIPTS)
    return sorted(letters, key=lambda c: (order.index(unicodedata.name(c).split()[0]), ord(c)))


def _print_letters(letters: list[str]) -> np.ndarray:
    """Each letter in print: bool (letters, 160, 160), true where there is ink."""
    from PIL import Image, ImageDraw, ImageFont

    size, side = FONT_SIZE * OVERSAMPLING, PRINT_SIDE * OVERSAMPLING
    font = ImageFont.truetype(_font_file(), size, layout_engine=ImageFont.Layout.BASIC)
    printed = np.empty((len(letters), PRINT_SIDE, PRINT_SIDE), dtype=bool)
    for i, letter in enumerate(letters):
        page = Image.new("L", (side, side))
        ImageDraw.Draw(page).text((side / 2, side / 2), letter, font=font, fill=255, anchor="mm")
        printed[i] = np.asarray(page.reduce(OVERSAMPLING)) > 127
    return printed


NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # (dy, dx), clockwise from above


def thin(printed: np.ndarray) -> np.ndarray:
    """Thin bool images (letters, height, width) to lines one pixel wide that connect what was connected.

    Rosenfeld's parallel thinning: peel the ink layer by layer from the top, the bottom, the right and the left in
    turn, but spare every pixel that ends a line or whose removal would break one.
    """
    ink = np.pad(printed, ((0, 0), (1, 1), (1, 1)))
    width = ink.shape[2]
    flat = ink.ravel()
    steps = [dy * width + dx for dy, dx in NEIGHBOURS]
    removable = _removable_table()
    inked = np.flatnonzero(flat)
    while True:
        before = len(inked)
        for side in (0, 4, 2, 6):
            edge = inked[~flat[inked + steps[side]]]
            around = np.zeros(len(edge), dtype=np.uint8)
            for bit, step in enumerate(steps):
                around |= flat[edge + step].astype(np.uint8) << bit
            flat[edge[removable[around]]] = False
            inked = inked[flat[inked]]
        if len(inked) == before:
            return ink[:, 1:-1, 1:-1]


def _removable_table() -> np.ndarray:
    """For each of the 256 patterns of a pixel's neighbours: does the ink stay connected without the pixel?"""
    table = np.zeros(256, dtype=bool)
    for pattern in range(256):
        inked = [bool(pattern >> bit & 1) for bit in range(8)]
        # Going round, count the gaps that begin beside the pixel: one gap means that its neighbours hang together.
        gaps = sum(not inked[k] and (inked[k + 1] or inked[(k + 2) % 8]) for k in (0, 2, 4, 6))
        table[pattern] = gaps == 1 and sum(inked) >= 2
    return table


def _line_of(skeleton: np.ndarray) -> torch.Tensor:
    """The pixels of a thinned letter as points (points, 2), centred, the longer side of their box from -1 to 1."""
    y, x = np.nonzero(skeleton)
    points = torch.tensor(np.stack([x, y], axis=1), dtype=torch.float32)
    low, high = points.amin(0), points.amax(0)
    extent = (high - low).max().clamp(min=SMALLEST_EXTENT)
    return (points - (low + high) / 2) / (extent / 2)


def _without_look_alikes(lines: list[torch.Tensor]) -> list[int]:
    """The numbers of the lines that resemble no earlier one that was kept, be it moved by a pixel.

    Rotations by 90 degrees are not compared: many Canadian syllabics are rotations of each other, and are different
    letters.
    """
    pen = _pen_tip(torch.tensor([PLAIN_PEN]))
    plain = torch.cat([_ink((PLAIN_HALF_SIZE * line)[None], pen) for line in lines])
    plain = F.normalize(plain.flatten(1)).view_as(plain)
    similarity = torch.full((len(lines), len(lines)), -1.0)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = plain.roll((dy, dx), dims=(1, 2))
            similarity = torch.maximum(similarity, plain.flatten(1) @ moved.flatten(1).T)
    kept: list[int] = []
    for i in range(len(lines)):
        if not (similarity[i, kept] > LOOK_ALIKE).any():
            kept.append(i)
    return kept


# ---- Step 2: hands that move a line ------------------------------------------------------------------------------


def _random_hands(count: int, generator: torch.Generator, strength: float) -> Hands:
    """Sample `count` hands whose habits depart from a plain hand by up to `strength` times the ranges below."""

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        # torch.rand gives the same numbers on every machine, which its normal distribution does not promise.
        return strength * (low + (high - low) * torch.rand(count, *shape, generator=generator))

    angle, slant, stretch = between(-0.16, 0.16), between(-0.25, 0.45), between(-0.2, 0.2)
    bends, shakes = _wave_vectors(count, BENDS, 1.6, 3.2, generator), _wave_vectors(count, SHAKES, 6, 10, generator)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    # y points down: to lean to the right is to move the upper, negative half to the right.
    slanted = torch.stack([stretch.exp(), -slant, torch.zeros(count), (-stretch).exp()], dim=1).view(-1, 2, 2)
    return Hands(
        matrix=rotation @ slanted,
        waves=torch.cat([bends, shakes], dim=1),
        phases=2 * math.pi * torch.rand(count, BENDS + SHAKES, generator=generator),
        pushes=torch.cat([between(-0.15, 0.15, BENDS, 2), between(-0.035, 0.035, SHAKES, 2)], dim=1),
        half_size=between(-1.5, 1.5),
        offset=between(-1.5, 1.5, 2),
    )


def _wave_vectors(count: int, waves: int, slowest: float, fastest: float, generator: torch.Generator) -> torch.Tensor:
    """Wave vectors (count, waves, 2) in any direction, with `slowest` to `fastest` radians per half box."""
    angle = 2 * math.pi * torch.rand(count, waves, generator=generator)
    frequency = slowest + (fastest - slowest) * torch.rand(count, waves, generator=generator)
    return frequency[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)


def _writers() -> tuple[Hands, torch.Tensor]:
    """The hands of the 20 writers, and the radius of each one's pen in pixels."""
    generator = torch.Generator().manual_seed(HAND_SEED)
    hands = _random_hands(WRITERS, generator, strength=1.0)
    return hands, 0.6 + 0.5 * torch.rand(WRITERS, generator=generator)


def _draw_letter(
    line: torch.Tensor, writers: tuple[Hands, torch.Tensor], seed: int, middle_half_size: float = MIDDLE_HALF_SIZE
) -> torch.Tensor:
    """One letter by all writers: uint8 (20, 28, 28). `seed` makes the fresh changes of this letter's drawings."""
    hands, pens = writers
    fresh = _random_hands(WRITERS, torch.Generator().manual_seed(seed), strength=FRESH)
    points = _move(_move(line.expand(WRITERS, -1, -1), hands), fresh)
    half_size = middle_half_size + hands.half_size + fresh.half_size
    points = _place(points, half_size, hands.offset + fresh.offset, margin=pens + BORDER)
    ink = _ink(points, _pen_tip(pens))
    levels = (ink * (GREY_LEVELS - 1)).round().to(torch.uint8)
    return levels * (255 // (GREY_LEVELS - 1))


def _move(points: torch.Tensor, hands: Hands) -> torch.Tensor:
    """Rotate, slant and stretch the points (drawings, points, 2), then bend and shake them with the hands' waves."""
    points = points @ hands.matrix.transpose(1, 2)
    swing = (points @ hands.waves.transpose(1, 2) + hands.phases[:, None]).sin()
    return points + swing @ hands.pushes


def _place(points: torch.Tensor, half_size: torch.Tensor, offset: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """Put points from the box [-1, 1] on the sheet: in pixels from its middle, all at least `margin` inside it."""
    points = points * half_size[:, None, None]
    low, high = points.amin(1), points.amax(1)
    room = SIDE / 2 - margin[:, None]
    half_extent = (high - low) / 2
    shrink = (room / half_extent).amin(1, keepdim=True).clamp(max=1.0)
    slack = room - shrink * half_extent
    middle = offset.clamp(min=-slack, max=slack)
    return (points - (low + high)[:, None] / 2) * shrink[:, None] + middle[:, None]


# ---- Step 3: ink -------------------------------------------------------------------------------------------------


def _pen_tip(radius: torch.Tensor) -> torch.Tensor:
    """Round pen tips of the given radii (drawings,) in pixels, as filters (drawings, 1, size, size) on sheet cells."""
    cells = radius * FINENESS
    reach = int(cells.max()) + 1
    along = torch.arange(-reach, reach + 1.0)
    distance = (along[:, None] ** 2 + along**2).sqrt()
    return (cells[:, None, None] + 0.5 - distance).clamp(0, 1)[:, None]


def _ink(points: torch.Tensor, pen_tip: torch.Tensor) -> torch.Tensor:
    """Draw points (drawings, points, 2), in pixels from the middle, with each drawing's pen: (drawings, 28, 28)."""
    count, side = len(points), SIDE * FINENESS
    cell = (points * FINENESS + (side - 1) / 2).round().long()
    touched = torch.zeros(count, side * side)
    touched.scatter_(1, cell[..., 1] * side + cell[..., 0], 1.0)
    inked = F.conv2d(touched.view(1, count, side, side), pen_tip, padding="same", groups=count).clamp(max=1.0)
    return F.avg_pool2d(inked[0], FINENESS)


# ---- Packing -----------------------------------------------------------------------------------------------------


def pack(path: str | Path, images: torch.Tensor, alphabets: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Write images, as `draw` returns them, to a file that `packed.load` reads; the same images give the same bytes."""
    levels = images.numpy() // (255 // (GREY_LEVELS - 1))
    with open(path, "wb") as file:
        np.savez_compressed(
            file,
            pixels=levels[..., 0::2] << 4 | levels[..., 1::2],
            alphabets=np.array(alphabets),
            names=np.array(names),
            sha256=np.array(fingerprint(images, alphabets, names)),
        )


# ---- On the command line -----------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Draw all letters and pack them into a file; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser(description="Draw the built-in letters anew.")
    parser.add_argument("output", nargs="?", type=Path, default=PACKED_FILE, help="file to write; default %(default)s")
    path = parser.parse_args(arguments).output
    if not path.parent.is_dir():
        parser.error(f"the folder {path.parent} does not exist")
    images, alphabets, names, test_alphabets = draw()
    pack(path, images, alphabets, names)
    tests = sum(alphabet in test_alphabets for alphabet in alphabets)
    print(f"Drew {len(names)} letters of {len(set(alphabets))} alphabets, each by {images.shape[1]} writers.")
    print(f"Of these, {tests} letters of {len(test_alphabets)} alphabets are for testing.")
    print(f"Wrote {path.stat().st_size / 1e6:.1f} MB to {path}.")


if __name__ == "__main__":
    main()
