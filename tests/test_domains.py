"""The second built-in domain: icons that are distinct, hard but legible, drawn as packed; and the shift to them."""

import json
import os
from pathlib import Path

import draw_glyphs
import draw_icons
import numpy as np
import pytest
import torch
from conftest import refusal
from test_glyphs import GREY_STEP, nearest_neighbour_accuracy

from mamlcourse import cli, load_characters
from mamlcourse.comparison import caption, compare
from mamlcourse.data import icons
from mamlcourse.problems import Problem
from mamlcourse.records import read_json

PACKAGE = os.environ.get("MAMLCOURSE_ICONS")


@pytest.fixture(scope="module")
def packed():
    return load_characters("icons")


# ---- What is in the box ------------------------------------------------------------------------------------------


def test_hundreds_of_classes_by_twenty_writers(packed):
    assert packed.name == "icons" and len(packed) >= 300
    assert packed.images.dtype == torch.uint8 and packed.images.shape == (len(packed), 20, 28, 28)
    assert len(packed.alphabets) == len(packed.names) == len(set(packed.names)) == len(packed)
    assert icons.PACKED_FILE.stat().st_size < 1.5e6


def test_ink_is_like_the_letters(packed):
    images = packed.images
    assert set(images.unique().tolist()) == set(range(0, 256, GREY_STEP))
    assert images.flatten(2).amax(2).min() >= 128
    assert (images.float().mean((2, 3)) / 255).max() < 0.5, "more paper than ink on every sheet"
    for border in (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]):
        assert border.max() == 0


def test_no_two_classes_look_alike_and_no_two_drawings_are_the_same(packed):
    means = torch.nn.functional.normalize(packed.images.float().mean(1).flatten(1))
    assert (means @ means.T).fill_diagonal_(0).max() < 0.98
    for icon in packed.images[::20].flatten(2):
        assert len(icon.unique(dim=0)) == 20


def test_nearest_neighbour_finds_them_hard_but_not_hopeless(packed):
    assert 0.35 <= nearest_neighbour_accuracy(packed.images) <= 0.65


def test_it_is_another_domain(packed):
    """An icon has more lines than a letter: its ink alone tells it from one, nearly always."""
    letters, pictures = (load_characters(name).images.float().mean((1, 2, 3)) for name in ("glyphs", "icons"))
    assert (pictures[:, None] > letters).float().mean() > 0.85


def test_whole_categories_are_kept_for_testing(packed):
    split = packed.split()
    assert set(split.test.alphabets) == packed.test_alphabets < set(packed.alphabets)
    assert 0.25 <= len(split.test) / len(packed) <= 0.45
    for seed in range(10):
        split = packed.split(seed=seed)
        assert len(split.train) >= 80 and len(split.validation) >= 20


def test_licence_and_source_are_told(packed):
    text = icons.PACKED_FILE.with_name("icons-LICENSE.txt").read_text(encoding="utf-8")
    assert "MIT License" in text and "Copyright" in text and f"version {draw_icons.VERSION}" in text
    readme = " ".join((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").split())
    categories = len(set(packed.alphabets))
    assert f"{len(packed)} icons of things in {categories} categories" in readme
    assert f"Tabler Icons {draw_icons.VERSION}" in readme


def test_an_altered_file_is_named_in_one_sentence(tmp_path):
    assert "The built-in icons are missing" in refusal(icons.load, tmp_path / "absent.npz")
    (tmp_path / "icons.npz").write_bytes(icons.PACKED_FILE.read_bytes()[:1000])
    assert "The built-in icons cannot be read" in refusal(icons.load, tmp_path / "icons.npz")


# ---- Drawing -----------------------------------------------------------------------------------------------------


def distances(points, line):
    """How far each of `line`'s points is from the nearest of `points`."""
    return np.abs(line[:, None] - points).min(1)


PATHS = {
    "lines": ("M1 2l3 4h2v-3m-1 -1l1 1", [1 + 2j, 2.5 + 4j, 4 + 6j, 6 + 6j, 6 + 3j, 5.5 + 2.5j]),
    "quarter circle": ("M5 0a5 5 0 0 1 -5 5", [5 * np.exp(1j * angle) for angle in (0, 0.4, 1.2)]),
    "the other way round": ("M5 0a5 5 0 1 0 -5 5", [5 * np.exp(-1j * angle) for angle in (0.4, 2, 4.5)]),
    "flags that stick": ("M5 0a5 5 0 01-5 5", [5 * np.exp(1j * angle) for angle in (0, 0.4, 1.2)]),
    "ellipse": ("M4 0a4 2 0 0 1 -4 2", [4 * np.cos(a) + 2j * np.sin(a) for a in (0, 0.5, 1)]),
    "turned ellipse": ("M0 4a4 2 90 0 1 -2 -4", [4j * np.cos(a) - 2 * np.sin(a) for a in (0, 0.5, 1)]),
    "radius too short": ("M0 0a1 1 0 0 1 4 0", [2 - 2j, 2 + 2 * np.exp(1j * np.pi * 1.25)]),
    "cubic": ("M0 0c0 4 4 4 4 0", [0, 2 + 3j, 4]),
    "smooth cubic": ("M0 0c0 4 4 4 4 0s4 -4 4 0", [2 + 3j, 6 - 3j, 8]),
    "quadratic": ("M0 0q2 4 4 0t4 0", [2 + 2j, 4, 6 - 2j]),
}


@pytest.mark.parametrize("name", PATHS)
def test_svg_paths_become_points(name):
    path, through = PATHS[name]
    points = draw_icons.points_of([path])
    assert distances(points, np.array(through)).max() <= draw_icons.SPACING / 2 + 1e-6
    jumps = np.abs(np.diff(points))
    assert (jumps > draw_icons.SPACING + 1e-6).sum() == path.count("m"), "the pen is only lifted for a move"


def test_an_unknown_command_is_refused():
    assert "expected relative commands, got 'Q'" in refusal(draw_icons.points_of, ["M1 2Q3 4 5 6"])


@pytest.fixture
def folder(tmp_path):
    """A package of a few icons: of other categories, variants, filled, like another one or (the ring) a letter."""
    square, bars = "M4 4h16v16h-16v-16m3 6h8v3m-8 3h8", "M4 4v16m8 -16v16m8 -16v16"
    circle = "M4 12a8 8 0 1 0 16 0a8 8 0 1 0 -16 0"
    drawn = {
        "box": ("Map", square), "crate": ("Map", square), "gate": ("Map", bars), "gate-2": ("Map", "M1 1l9 9"),
        "face": ("Sport", circle + "m4 -2v3m8 -3v3m-7 2h6"), "ring": ("Sport", circle), "glyph": ("Letters", square),
        "play-card-a": ("Games", "M9 1l2 9"),
        "tangle": ("Map", "M1 1" + "h22v1h-22v1" * 10),
    } | {
        name: ("Map", f"M4 20l16 -{k}v-3") for k, base in enumerate("stuvw") for name in (base * 3, f"{base * 3}-off")
    }  # fmt: skip
    about = {name: {"category": category} for name, (category, _) in drawn.items()} | {"blot": {"category": "Map"}}
    nodes = {name: [["path", {"d": path}]] for name, (_, path) in drawn.items()}
    nodes["blot"] = [["path", {"d": "M3 3h9v9", "fill": "currentColor"}]]
    contents = {
        "package.json": {"name": draw_icons.PACKAGE, "version": draw_icons.VERSION}, "icons.json": about,
        "tabler-nodes-outline.json": nodes,
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_only_distinct_plain_icons_of_the_chosen_categories_are_drawn(folder):
    images, categories, names, _ = draw_icons.draw(folder)
    assert set(names) > {"box", "gate", "face"} and len(names) == len(categories) == len(images)
    left_out = {"crate", "ring", "glyph", "gate-2", "play-card-a", "tangle", "blot"}
    assert not left_out & set(names) and not any(name.endswith("-off") for name in names)
    assert categories[names.index("face")] == "Sport"
    assert images.shape[1:] == (20, 28, 28) and torch.equal(images, draw_icons.draw(folder)[0])


def test_command_line_packs_what_it_drew_and_refuses_another_version(folder, capsys):
    draw_icons.main([str(folder), str(folder / "few.npz")])
    assert torch.equal(icons.load(folder / "few.npz")[0], draw_icons.draw(folder)[0])
    assert "icons of 2 categories, each by 20 writers" in capsys.readouterr().out
    (folder / "package.json").write_text('{"name": "@tabler/icons", "version": "1.0"}')
    for wrong, message in ((folder, "got @tabler/icons 1.0."), (folder / "absent", "is missing.")):
        with pytest.raises(SystemExit):
            draw_icons.main([str(wrong), str(folder / "more.npz")])
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not PACKAGE, reason="set MAMLCOURSE_ICONS to a folder with the unpacked package")
def test_drawing_anew_gives_the_packed_icons(packed):
    images, categories, names, test_categories = draw_icons.draw(PACKAGE)
    assert (categories, names, test_categories) == (packed.alphabets, packed.names, packed.test_alphabets)
    assert ((images.int() - packed.images.int()).abs() <= GREY_STEP).float().mean() >= 0.999


def test_the_letters_hands_and_pens_are_used(packed):
    """A writer with a broad pen has one in both domains."""
    ink = [load_characters(name).images.float().mean((0, 2, 3)) for name in ("glyphs", "icons")]
    assert torch.corrcoef(torch.stack(ink))[0, 1] > 0.9
    assert draw_glyphs.WRITERS == packed.images.shape[1]


# ---- Domain shift ------------------------------------------------------------------------------------------------

SHIFT = Problem(validation=0, filters=4, queries=2, test_dataset="icons")


def test_training_classes_are_of_one_set_and_test_classes_of_the_other():
    parts = Problem(test_dataset="icons").parts
    assert [part.name for part in parts] == ["glyphs/train", "glyphs/validation", "icons/test"]
    own = Problem(dataset="icons").parts
    assert parts.test.names == own.test.names, "the same test tasks as for training on icons"
    assert Problem(test_dataset="glyphs").parts.test.name == "glyphs/test"
    assert "'icon' is unknown. Did you mean 'icons'?" in refusal(lambda: Problem(test_dataset="icon").parts)


def test_only_a_shift_is_described():
    """Records of before the option, and of problems without it, have no entry for it."""
    for own in (Problem(), Problem(test_dataset="glyphs")):
        assert "test_dataset" not in own.describe()
    assert SHIFT.describe()["test_dataset"] == "icons" and Problem.from_record(SHIFT.describe()) == SHIFT


def test_record_and_caption_say_what_was_tested_on(monkeypatch):
    monkeypatch.setattr("mamlcourse.comparison.peak_of_training", lambda *arguments: 1_000_000)
    record = compare(["maml"], SHIFT, train_tasks=4, eval_tasks=2, progress=False)
    assert record["problem"]["test_dataset"] == "icons"
    assert caption(record).startswith("glyphs, tested on icons, 5-way 1-shot")
    own = compare(["maml"], Problem(validation=0, filters=4, queries=2), train_tasks=4, eval_tasks=2, progress=False)
    assert caption(own).startswith("glyphs, 5-way") and "tested on" not in caption(own)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mamlcourse.comparison.peak_of_training", lambda *arguments: 1_000_000)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["mamlcourse", *map(str, arguments)])
        cli.main()

    return run


TINY = ["--filters", 4, "--queries", 2]


def test_commands_compare_and_evaluate_across_domains(run, capsys):
    budget = ["--algorithm", "fomaml", "--train-tasks", 4, "--eval-tasks", 4]
    for option, key in (("--dataset", "dataset"), ("--test-dataset", "test_dataset")):
        with pytest.raises(SystemExit) as done:
            run("compare", *TINY, *budget, option, "icons", "--json", f"{key}.json", "--figure", f"{key}.png")
        assert not done.value.code
        assert read_json(f"{key}.json")["problem"][key] == "icons"
    assert "tested on icons" in " ".join(capsys.readouterr().out.split())
    for command in (
        ["train", *TINY, "--out", "m.pt", "--iterations", 2],
        ["evaluate", "m.pt", "--tasks", 4, "--test-dataset", "icons", "--json", "e.json"],
        ["evaluate", "m.pt", "--tasks", 4, "--json", "f.json"],
    ):
        with pytest.raises(SystemExit) as done:
            run(*command)
        assert not done.value.code
    assert "4 test tasks of icons" in capsys.readouterr().out
    assert read_json("e.json")["problem"]["test_dataset"] == "icons"
    assert "test_dataset" not in read_json("f.json")["problem"]
