"""The built-in letters: enough of them, all different, hard but legible, and drawn anew as packed."""

import hashlib
import random
import time
from collections import Counter

import draw_glyphs
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mamlcourse import Characters, InputError, load_characters
from mamlcourse.data import glyphs
from mamlcourse.figures import character_sheet

GREY_STEP = 17  # 255 is divided into 15 steps


@pytest.fixture(scope="module")
def packed() -> Characters:
    return load_characters("glyphs")


@pytest.fixture(scope="module")
def redrawn():
    return draw_glyphs.draw()


def nearest_neighbour_accuracy(images: torch.Tensor, tasks: int = 1000, ways: int = 5, queries: int = 15) -> float:
    """Share of queries whose nearest support example, by Euclidean distance of raw pixels, is of their own class.

    For each 1-shot task `ways` different classes are sampled, and of each one support example and `queries` others.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = images.flatten(2).float() / 255
    examples = pixels.shape[1]
    classes = torch.rand(tasks, len(pixels), generator=generator).argsort(1)[:, :ways, None]
    order = torch.rand(tasks, ways, examples, generator=generator).argsort(2)[:, :, : queries + 1]
    truth = torch.arange(ways).repeat_interleave(queries)
    correct = 0
    for chosen, sampled in zip(classes, order):
        support, query = pixels[chosen, sampled].split([1, queries], dim=1)
        nearest = torch.cdist(query.flatten(0, 1), support[:, 0]).argmin(1)
        correct += (nearest == truth).sum().item()
    return correct / (tasks * ways * queries)


# ---- What is in the box ------------------------------------------------------------------------------------------


def test_a_thousand_classes_by_twenty_writers(packed):
    assert packed.images.dtype == torch.uint8
    assert packed.images.shape == (len(packed), 20, 28, 28)
    assert len(packed) >= 1000
    assert len(packed.alphabets) == len(packed.names) == len(packed)
    assert len(set(zip(packed.alphabets, packed.names))) == len(packed)


def test_ink_is_bright_in_sixteen_levels_and_never_at_the_border(packed):
    images = packed.images
    assert set(images.unique().tolist()) == set(range(0, 256, GREY_STEP))
    assert images.float().mean() / 255 < 0.25, "most of a sheet is paper, and paper is 0"
    assert images.flatten(2).amax(2).min() >= 128, "every drawing has a stroke in it"
    for border in (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]):
        assert border.max() == 0


def test_letters_shared_by_scripts_are_one_class(packed):
    names = set(packed.names)
    for same in (
        ("LATIN CAPITAL LETTER A", "GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A"),
        ("LATIN CAPITAL LETTER O", "GREEK SMALL LETTER OMICRON", "CYRILLIC CAPITAL LETTER O"),
        ("LATIN CAPITAL LETTER X", "GREEK CAPITAL LETTER CHI", "CYRILLIC SMALL LETTER HA"),
    ):
        assert same[0] in names and names.isdisjoint(same[1:])
    assert not any(" WITH ACUTE" in name or " WITH GRAVE" in name for name in names)


def test_no_two_classes_look_alike_on_average(packed):
    """Independent of how look-alikes were found: compare the mean of each class's drawings."""
    means = torch.nn.functional.normalize(packed.images.float().mean(1).flatten(1))
    similarity = (means @ means.T).fill_diagonal_(0)
    assert similarity.max() < 0.98
    assert (similarity.amax(1) > 0.95).float().mean() < 0.1


def test_drawings_of_a_class_differ_and_writers_are_consistent(packed):
    flat = packed.images.flatten(2).float() / 255
    for letter in flat[::50]:
        assert len(letter.unique(dim=0)) == 20
    # A writer with a broad pen has one in all letters: half of the letters predict the ink of the other half.
    ink = flat.mean(2)
    even, odd = ink[0::2].mean(0), ink[1::2].mean(0)
    assert torch.corrcoef(torch.stack([even, odd]))[0, 1] > 0.95
    assert even.max() > 1.4 * even.min()


def test_nearest_neighbour_finds_the_letters_about_as_hard_as_omniglot(packed):
    assert 0.40 <= nearest_neighbour_accuracy(packed.images) <= 0.60


# ---- Splits ------------------------------------------------------------------------------------------------------


def test_whole_scripts_are_kept_for_testing(packed):
    sizes = Counter(packed.alphabets)
    assert packed.test_alphabets < set(sizes)
    assert len(packed.test_alphabets) >= 5
    assert len(set(sizes) - packed.test_alphabets) >= 10
    assert 0.30 <= sum(sizes[a] for a in packed.test_alphabets) / len(packed) <= 0.40
    labels = list(zip(packed.alphabets, packed.names))
    tested = {name.split()[0] for alphabet, name in labels if alphabet in packed.test_alphabets}
    trained = {name.split()[0] for alphabet, name in labels if alphabet not in packed.test_alphabets}
    assert tested.isdisjoint(trained), "no script is on both sides"


@pytest.mark.parametrize("seed", range(10))
def test_validation_leaves_enough_for_training(packed, seed):
    split = packed.split(by="alphabet", seed=seed)
    assert len(split.train) >= 450
    assert len(split.validation) >= 50
    assert len(split.train) + len(split.validation) + len(split.test) == len(packed)


# ---- Drawing anew ------------------------------------------------------------------------------------------------


def test_drawing_anew_gives_the_packed_letters(packed, redrawn):
    """The same classes exactly; pixels within one grey level on 99.9% of them, as libraries may round differently."""
    images, alphabets, names, test_alphabets = redrawn
    assert (alphabets, names, test_alphabets) == (packed.alphabets, packed.names, packed.test_alphabets)
    difference = (images.int() - packed.images.int()).abs()
    assert (difference <= GREY_STEP).float().mean() >= 0.999


def test_drawing_is_repeatable_for_any_choice_of_classes_and_leaves_global_chance_alone(redrawn):
    torch.manual_seed(12345)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    images, alphabets, names, _ = draw_glyphs.draw(classes=[700, 3, 64])
    assert torch.equal(images, redrawn[0][[700, 3, 64]])
    assert names == tuple(redrawn[2][c] for c in (700, 3, 64))
    assert alphabets == tuple(redrawn[1][c] for c in (700, 3, 64))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


@pytest.mark.parametrize("number", [2, -1, 0.5])
def test_drawing_an_unknown_class_is_refused(number, monkeypatch):
    monkeypatch.setattr(draw_glyphs, "distinct_letters", lambda: (["A", "B"], [torch.zeros(1, 2)] * 2))
    with pytest.raises(InputError, match=f"class number: expected .* at most 1, got {number}"):
        draw_glyphs.draw(classes=[number])


def test_a_writer_draws_a_letter_again_differently_but_in_the_same_hand():
    stroke = torch.linspace(-1, 1, 100)
    cross = torch.cat([torch.stack([stroke, 0 * stroke], 1), torch.stack([0 * stroke, stroke], 1)])
    writers = draw_glyphs._writers()
    first, again, third = (draw_glyphs._draw_letter(cross, writers, seed).float().flatten(1) for seed in (1, 2, 3))
    own = (first - again).norm(dim=1)
    assert own.min() > 0
    assert own.mean() < 0.9 * torch.cdist(first, third)[~torch.eye(20, dtype=torch.bool)].mean()


def test_thinning_keeps_lines_rings_and_dots():
    printed = np.zeros((3, 30, 30), dtype=bool)
    printed[0, 10:17, 3:27] = True  # a bar, 7 pixels thick
    printed[1, 5:25, 5:25] = True
    printed[1, 12:18, 12:18] = False  # a ring
    printed[2, 10:12, 10:12] = True  # a dot of 2 x 2 pixels, which naive peeling from all sides erases
    bar, ring, dot = draw_glyphs.thin(printed)
    assert (bar <= printed[0]).all()
    assert bar.any(1).sum() == 1 and bar.sum() >= 15, "a bar becomes one horizontal line"
    assert 1 <= dot.sum() <= 2
    # The hole of the ring stays closed: paint spreads from outside over the paper and must not reach the middle.
    outside = np.zeros_like(ring)
    outside[0] = True
    for _ in range(ring.size):
        spread = outside.copy()
        for axis in (0, 1):
            spread |= np.roll(outside, 1, axis) | np.roll(outside, -1, axis)
        spread &= ~ring
        if (spread == outside).all():
            break
        outside = spread
    assert not outside[15, 15]
    assert not (ring[:-1, :-1] & ring[1:, :-1] & ring[:-1, 1:] & ring[1:, 1:]).any(), "the ring is one pixel wide"


# ---- The packed file ---------------------------------------------------------------------------------------------


def test_the_packed_file_is_small_and_loads_fast():
    assert glyphs.PACKED_FILE.stat().st_size < 4e6
    start = time.process_time()
    glyphs.load()
    assert time.process_time() - start < 1


def test_packing_keeps_everything_and_gives_the_same_bytes(packed, tmp_path):
    content = packed.images, packed.alphabets, packed.names
    digests = set()
    for name in ("first", "second"):
        draw_glyphs.pack(tmp_path / name, *content)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    images, alphabets, names, _ = glyphs.load(tmp_path / "first")
    assert torch.equal(images, packed.images)
    assert (alphabets, names) == content[1:]


def test_command_line_writes_the_file_and_says_so(redrawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw_glyphs, "draw", lambda: redrawn)
    draw_glyphs.main([str(tmp_path / "letters.npz")])
    assert torch.equal(glyphs.load(tmp_path / "letters.npz")[0], redrawn[0])
    assert f"{len(redrawn[2])} letters" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        draw_glyphs.main([str(tmp_path / "absent" / "letters.npz")])
    assert "does not exist" in capsys.readouterr().err


def _altered(path, **changes):
    """A copy of the packed file's arrays with some replaced, written as `path` with the old checksum."""
    with np.load(glyphs.PACKED_FILE) as packed:
        np.savez_compressed(path, **{**packed, **changes})


def test_a_missing_or_altered_file_is_named_in_one_sentence(tmp_path):
    path = tmp_path / "glyphs.npz"

    def complaint() -> str:
        with pytest.raises(InputError) as caught:
            glyphs.load(path)
        message = str(caught.value)
        assert str(path) in message and message.endswith(".") and "\n" not in message
        return message

    assert "missing" in complaint()
    whole = glyphs.PACKED_FILE.read_bytes()
    for damaged in (b"", b"no zip file", whole[: len(whole) // 2], whole[:5000] + b"\0" * 200 + whole[5200:]):
        path.write_bytes(damaged)
        assert "damaged" in complaint()
    with np.load(glyphs.PACKED_FILE) as packed:
        pixels, names = packed["pixels"].copy(), packed["names"].copy()
    pixels[500, 7, 14, 7] ^= 0x10
    _altered(path, pixels=pixels)
    assert "checksum" in complaint()
    names[0] = "LATIN CAPITAL LETTER Q"
    _altered(path, names=names)
    assert "checksum" in complaint()


# ---- The figure --------------------------------------------------------------------------------------------------


def test_character_sheet_shows_the_chosen_drawings(packed):
    classes, drawings = [0, 500], [2, 7, 19]
    figure = character_sheet(packed, classes=classes, drawings=drawings)
    assert isinstance(figure, Figure)
    assert "glyphs" in figure.get_suptitle()
    (axes,) = figure.axes
    table = axes.images[0].get_array()
    assert table.shape == (2 * 28, 3 * 28)
    for row, c in enumerate(classes):
        for column, d in enumerate(drawings):
            cell = table[28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
            assert np.array_equal(cell, packed.images[c, d].numpy())
    for c, label in zip(classes, axes.get_yticklabels(), strict=True):
        assert " ".join(label.get_text().split()) == f"{packed.alphabets[c]}: {packed.names[c].lower()}"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "8", "20"]


def test_character_sheet_spreads_rows_over_any_set_and_can_be_saved(packed, tmp_path):
    figure = character_sheet(packed.select([5, 6, 7], "few"))
    assert len(figure.axes[0].get_yticks()) == 3
    figure = character_sheet(packed)
    assert len(figure.axes[0].get_yticks()) == 10
    figure.savefig(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
