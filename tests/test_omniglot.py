"""Loading Omniglot: from zips, a tree, a prepared file or a (local) server, and refusing whatever is damaged.

Most tests use a tiny made-up Omniglot of 3 + 2 characters with 3 drawings each. Those that need the real one find it
through `$MAMLCOURSE_DATA`.
"""

import hashlib
import http.server
import io
import os
import stat
import sys
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.datasets import Omniglot as Source

from mamlcourse.data import omniglot
from mamlcourse.errors import InputError

REAL_DATA = os.environ.get("MAMLCOURSE_DATA")
ZIPS = ["images_background.zip", "images_evaluation.zip"]
CLASSES = {
    "images_background": [("Greek", "character01"), ("Greek", "character02"), ("Latin", "character01")],
    "images_evaluation": [("Atlantean", "character01"), ("Tengwar", "character01")],
}
DRAWERS = 3


@pytest.fixture(autouse=True)
def sandbox(tmp_path, monkeypatch):
    """No test touches the user's cache, the real data or the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))
    monkeypatch.delenv("MAMLCOURSE_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Source, "download_url_prefix", "http://127.0.0.1:9")


@pytest.fixture
def members(monkeypatch):
    """The files of a tiny Omniglot, {"images_background": {name: bytes}, "images_evaluation": {...}}."""
    counts = {split: len(classes) for split, classes in CLASSES.items()} | {"drawings": DRAWERS}
    monkeypatch.setattr(omniglot, "EXPECTED", counts)
    return {split: split_members(split) for split in CLASSES}


def split_members(split):
    return {
        f"{split}/{alphabet}/{character}/{number:04d}_{drawer:02d}.png": drawing(split, number, drawer)
        for number, (alphabet, character) in enumerate(CLASSES[split])
        for drawer in range(1, DRAWERS + 1)
    }


def drawing(split, number, drawer, size=105):
    """A black block whose row tells the class and whose column tells the drawer, and a thin slanted line."""
    image = Image.new("1", (size, size), 1)
    row = number + (split == "images_evaluation") * len(CLASSES["images_background"])
    draw = ImageDraw.Draw(image)
    draw.rectangle((30 * drawer - 15, 15 * row, 30 * drawer - 1, 15 * row + 14), fill=0)
    draw.line((5, 80, 100, 100), fill=0)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def packed(members, extra=()):
    """The bytes of a zip, members in reverse order; `extra` holds further (name or ZipInfo, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        for name, data in [*reversed(members.items()), *extra]:
            archive.writestr(name, data)
    return file.getvalue()


def write_zips(folder, members):
    folder.mkdir(parents=True, exist_ok=True)
    for split in CLASSES:
        (folder / f"{split}.zip").write_bytes(packed(members[split]))
    return folder


def write_tree(folder, members):
    for name, data in (members["images_background"] | members["images_evaluation"]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def same(a, b):
    return torch.equal(a.images, b.images) and a[1:] == b[1:]


def prepared_files():
    return sorted(omniglot.cache_folder().glob("prepared-*/*"))


def refusal(*args, **kwargs):
    """The message with which `load` refuses: one sentence, no chain of causes, and nothing prepared."""
    with pytest.raises(InputError) as caught:
        omniglot.load(*args, **kwargs)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert prepared_files() == []
    return message


# ---- What is loaded


def test_classes_drawers_ink_and_shape(tmp_path, members):
    data = omniglot.load(write_zips(tmp_path / "data", members))
    assert data.images.dtype == torch.uint8 and data.images.shape == (5, 3, 28, 28)
    assert list(zip(data.alphabets, data.names)) == CLASSES["images_background"] + CLASSES["images_evaluation"]
    assert data.test_alphabets == frozenset({"Atlantean", "Tengwar"})
    for row in range(5):
        for drawer in range(1, 4):
            image = data.images[row, drawer - 1, :20]  # the slanted line is below
            # The block starts at (30 drawer - 15, 15 row) of 105 pixels, so at (8 drawer - 4, 4 row) of 28.
            block = image[4 * row : 4 * row + 4, 8 * drawer - 4 : 8 * drawer]
            assert block[1:-1, 1:-1].min() > 250, "ink is 255, at the place of this class and drawer"
            assert (image > 100).sum() <= 16 and image.median() == 0, "and paper is 0 everywhere else"


def test_thin_lines_are_averaged_and_not_sampled(tmp_path, members):
    line = omniglot.load(write_zips(tmp_path / "data", members)).images[:, :, 21:]
    assert ((line > 20) & (line < 235)).float().mean() > 0.05, "1-bit images were resized with nearest neighbour"


@pytest.mark.parametrize("inside", [".", "omniglot-py"])
@pytest.mark.parametrize("write", [write_zips, write_tree])
def test_zips_and_trees_agree(tmp_path, members, write, inside):
    reference = omniglot.load(write_zips(tmp_path / "reference", members))
    write(tmp_path / "data" / inside, members)
    assert same(omniglot.load(str(tmp_path / "data"), download=False), reference)


def test_a_prepared_file_is_enough(tmp_path, members):
    reference = omniglot.load(write_zips(tmp_path / "data", members))
    alone = tmp_path / "alone"
    alone.mkdir()
    prepared_files()[0].rename(alone / "omniglot-28.npz")
    assert same(omniglot.load(alone, download=False), reference)


def test_files_left_by_operating_systems_are_ignored(tmp_path, members):
    folder = write_zips(tmp_path / "data", members)
    reference = omniglot.load(folder)
    junk = [
        "__MACOSX/images_background/Greek/character01/._0001_01.png",
        "__MACOSX/0001_01.png",
        "images_background/.DS_Store",
        "images_background/Greek/Thumbs.db",
        "images_background/Greek/",
    ]
    (folder / ZIPS[0]).write_bytes(packed(members["images_background"], [(name, b"junk") for name in junk]))
    assert same(omniglot.load(folder), reference)
    tree = write_tree(tmp_path / "tree", members)
    (tree / "images_background" / ".DS_Store").write_bytes(b"junk")
    (tree / "images_background" / "Greek" / "._0001_01.png").write_bytes(b"junk")
    assert same(omniglot.load(tree), reference)


# ---- Where it is looked for


def test_root_comes_before_the_environment_before_the_cache_folder(tmp_path, members, monkeypatch):
    for place in (omniglot.cache_folder(), tmp_path / "environment", tmp_path / "root"):
        write_zips(place, members)
    found = omniglot.find()
    assert (found.folder, found.chosen_by) == (omniglot.cache_folder(), "the user's cache folder")
    monkeypatch.setenv("MAMLCOURSE_DATA", str(tmp_path / "environment"))
    found = omniglot.find()
    assert (found.folder, found.chosen_by) == (tmp_path / "environment", "$MAMLCOURSE_DATA")
    found = omniglot.find(tmp_path / "root")
    assert (found.folder, found.chosen_by) == (tmp_path / "root", "root")


def test_find_tells_the_kind_and_prepares_nothing(tmp_path, members):
    root = tmp_path / "data"
    assert omniglot.find(root).kind == "nothing" and not root.exists()
    root.mkdir()
    assert omniglot.find(root).kind == "nothing"
    (root / "omniglot-28.npz").write_bytes(b"")
    assert omniglot.find(root)[2:] == ("cache", (root / "omniglot-28.npz",))
    write_tree(root, members)
    assert omniglot.find(root).kind == "tree"
    write_zips(root / "omniglot-py", members)
    assert omniglot.find(root)[2:] == ("zips", tuple(root / "omniglot-py" / name for name in ZIPS))
    assert prepared_files() == []


def test_an_explicit_folder_without_data_is_refused(tmp_path, members, monkeypatch):
    write_zips(omniglot.cache_folder(), members)  # never to be used silently instead
    absent = tmp_path / "absent"
    message = refusal(absent, download=False)
    assert "does not exist" in message and "(from root)" in message and ZIPS[0] in message and str(absent) in message
    monkeypatch.setenv("MAMLCOURSE_DATA", str(absent))
    assert "(from $MAMLCOURSE_DATA)" in refusal(download=False)
    write_zips(absent, members)
    (absent / ZIPS[1]).unlink()
    assert "does not hold all of Omniglot" in refusal(download=False)
    assert "is a file" in refusal(absent / ZIPS[0])


def test_cache_folder_is_the_systems_unless_the_environment_names_another(tmp_path, monkeypatch):
    assert omniglot.cache_folder() == tmp_path / "user cache" / "mamlcourse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = {"linux": ".cache", "darwin": "Library/Caches"}
    if sys.platform in usual:
        assert omniglot.cache_folder() == tmp_path / usual[sys.platform] / "mamlcourse"
    assert omniglot.cache_folder().parts.count("mamlcourse") == 1  # no author's folder around it


# ---- Damaged and hostile sources


def flipped(data):
    """The zip with one bit of an image's stored bytes changed."""
    position = data.index(b"IDAT") + 10
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


FIRST = "images_background/Greek/character01/0000_01.png"


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[: len(data) // 2], "cannot be used"),
        (lambda data: b"", "cannot be used"),
        (flipped, "CRC"),
    ],
)
def test_a_truncated_or_altered_zip_is_refused(tmp_path, members, damage, words):
    folder = write_zips(tmp_path / "data", members)
    path = folder / ZIPS[1]
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(folder)
    assert str(path) in message and words in message


def symlink(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member",
    [
        "../outside.png",
        "images_background/../../outside.txt",
        "/etc/outside.png",
        "C:/outside.png",
        "images_background\\..\\..\\outside.png",
        symlink("images_background/Greek/link"),
    ],
)
def test_a_zip_that_leads_outside_is_refused(tmp_path, members, member):
    folder = write_zips(tmp_path / "data", members)
    data = packed(members["images_background"], [(member, drawing("images_background", 0, 1))])
    (folder / ZIPS[0]).write_bytes(data)
    message = refusal(folder)
    assert str(folder / ZIPS[0]) in message and "lead out of" in message
    assert not list(tmp_path.rglob("*outside*"))


def test_two_members_of_one_name_are_refused(tmp_path, members):
    folder = write_zips(tmp_path / "data", members)
    other = drawing("images_background", 4, 3)
    (folder / ZIPS[0]).write_bytes(packed(members["images_background"], [(FIRST, other)]))
    assert "two drawings of Greek/character01 by drawer 01" in refusal(folder)


def without(part):
    return lambda files: {name: data for name, data in files.items() if part not in name}


@pytest.mark.parametrize("write", [write_zips, write_tree])
@pytest.mark.parametrize(
    "change, words",
    [
        (without("Latin"), "2 characters, but must hold 3"),
        (without("character01/0000_02"), "2 drawings of Greek/character01, but must hold 3"),
        (lambda files: files | {FIRST.replace("_01.", "_04."): files[FIRST]}, "4 drawings of Greek/character01"),
        (lambda files: files | {FIRST.replace("0000_", "0009_"): files[FIRST]}, "two drawings of Greek/character01"),
        (lambda files: files | {"images_background/Greek/lost.png": files[FIRST]}, "lost.png"),
        (lambda files: files | {FIRST: b"no image"}, "0000_01.png) cannot be used"),
        (lambda files: files | {FIRST: files[FIRST][:70]}, "0000_01.png) cannot be used"),
        (lambda files: files | {FIRST: drawing("images_background", 0, 1, size=104)}, "104 x 104 pixels"),
    ],
    ids=["character", "drawing", "drawer", "twice", "layout", "no image", "half an image", "size"],
)
def test_wrong_contents_are_refused(tmp_path, members, write, change, words):
    folder = write(tmp_path / "data", members | {"images_background": change(members["images_background"])})
    message = refusal(folder)
    assert str(folder / "images_background") in message and words in message


# ---- The prepared file


def forbid_preparing(monkeypatch):
    monkeypatch.setattr(omniglot, "_prepare", lambda found: pytest.fail("the images were decoded again"))


@pytest.mark.parametrize("write", [write_zips, write_tree])
def test_the_second_load_reads_the_prepared_file(tmp_path, members, monkeypatch, write):
    folder = write(tmp_path / "data", members)
    before = sorted(folder.rglob("*"))
    first = omniglot.load(folder)
    assert [path.name for path in prepared_files()] == ["omniglot-28.npz"], "and no temporary file is left"
    assert sorted(folder.rglob("*")) == before, "the given folder may be read-only"
    forbid_preparing(monkeypatch)
    assert same(omniglot.load(folder), first)


@pytest.mark.parametrize("write", [write_zips, write_tree])
def test_prepared_files_of_different_images_are_not_mixed_up(tmp_path, members, write):
    folder = write(tmp_path / "data", members)
    first = omniglot.load(folder)
    other = drawing("images_background", 4, 3)
    write(folder, members | {"images_background": members["images_background"] | {FIRST: other}})
    second = omniglot.load(folder)
    assert torch.equal(second.images[0, 0], first.images[4, 2]) and not same(first, second)


def rewrite(path, **changes):
    with np.load(path) as stored:
        arrays = dict(stored) | changes
    np.savez_compressed(path, **arrays)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter_ink(path):
    images = np.load(path)["images"]
    images[0, 0, 0, 0] ^= 1
    rewrite(path, images=images)


def swap_labels(path):
    rewrite(path, names=np.load(path)["names"][::-1])


def forge_shape(path):
    """A file that was written properly, but from other data than Omniglot."""
    data = omniglot._read_prepared(path)
    omniglot._write_prepared(path, data._replace(images=data.images[:, :2].contiguous()))


def forge_split(path):
    data = omniglot._read_prepared(path)
    omniglot._write_prepared(path, data._replace(test_alphabets=frozenset({"Tengwar"})))


DAMAGES = [
    halve,
    alter_ink,
    swap_labels,
    forge_shape,
    forge_split,
    lambda path: path.write_bytes(b""),
    lambda path: rewrite(path, version=omniglot.VERSION + 1),
    lambda path: np.savez_compressed(path, version=omniglot.VERSION),
]
DAMAGE_NAMES = ["half", "ink", "labels", "shape", "split", "empty", "version", "fields"]


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_NAMES)
def test_a_bad_prepared_file_is_said_and_made_anew(tmp_path, members, monkeypatch, damage):
    folder = write_zips(tmp_path / "data", members)
    first = omniglot.load(folder)
    (prepared,) = prepared_files()
    damage(prepared)
    with pytest.warns(UserWarning, match="omniglot-28.npz.*prepared anew"):
        assert same(omniglot.load(folder), first)
    forbid_preparing(monkeypatch)
    assert same(omniglot.load(folder), first)


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_NAMES)
def test_a_bad_prepared_file_without_images_is_refused(tmp_path, members, damage):
    omniglot.load(write_zips(tmp_path / "data", members))
    alone = tmp_path / "alone"
    alone.mkdir()
    prepared_files()[0].rename(alone / "omniglot-28.npz")
    damage(alone / "omniglot-28.npz")
    assert str(alone / "omniglot-28.npz") in refusal(alone)


def test_an_unwritable_cache_folder_is_said(tmp_path, members, monkeypatch):
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    with pytest.warns(UserWarning, match="cannot be written"):
        data = omniglot.load(write_zips(tmp_path / "data", members))
    assert len(data.images) == 5


def test_a_full_disk_leaves_no_half_file(tmp_path, members, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        omniglot.load(write_zips(tmp_path / "data", members))
    assert prepared_files() == []


def test_a_file_being_written_is_not_seen_by_others(tmp_path, members, monkeypatch):
    folder = write_zips(tmp_path / "data", members)
    save, seen = os.fsync, []

    def watched(descriptor):
        save(descriptor)
        seen.extend(path.name for path in prepared_files())

    monkeypatch.setattr(os, "fsync", watched)
    omniglot.load(folder)
    assert len(seen) == 1 and seen[0].endswith(".tmp")


@pytest.mark.filterwarnings("error")
def test_many_at_once(tmp_path, members):
    folder = write_zips(tmp_path / "data", members)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: omniglot.load(folder), range(12)))
    assert all(same(result, results[0]) for result in results)
    assert [path.name for path in prepared_files()] == ["omniglot-28.npz"]


# ---- Downloading


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/")
        data = self.server.files.get(name)
        if data is None:
            return self.send_error(404)
        if name == self.server.silent:
            return self.server.stopped.wait(20)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if name == self.server.cut else data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(members, monkeypatch):
    """A local server of the two tiny zips; a test may remove, `cut` or `silence` one of its files."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {f"{split}.zip": packed(members[split]) for split in CLASSES}
    server.cut, server.silent, server.stopped = None, None, threading.Event()
    checksums = {split: hashlib.md5(server.files[f"{split}.zip"]).hexdigest() for split in CLASSES}
    monkeypatch.setattr(Source, "zips_md5", checksums)
    monkeypatch.setattr(Source, "download_url_prefix", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("chosen_by", ["root", "$MAMLCOURSE_DATA", "the user's cache folder"])
def test_download_fills_the_folder_that_was_chosen(tmp_path, members, server, monkeypatch, capsys, chosen_by):
    reference = omniglot.load(write_zips(tmp_path / "reference", members))
    folder = {"the user's cache folder": omniglot.cache_folder()}.get(chosen_by, tmp_path / "new" / "data")
    if chosen_by == "$MAMLCOURSE_DATA":
        monkeypatch.setenv("MAMLCOURSE_DATA", str(folder))
    root = folder if chosen_by == "root" else None
    assert same(omniglot.load(root), reference)
    said = capsys.readouterr().err
    assert f"into {folder} (from {chosen_by})" in said and "%" in said, "the folder and a progress bar"
    assert [name for name in names_in(folder) if not name.startswith("prepared-")] == ZIPS
    server.files.clear()
    assert same(omniglot.load(root), reference), "nothing is downloaded twice"


def test_only_what_is_missing_is_downloaded(tmp_path, members, server):
    reference = omniglot.load(write_zips(tmp_path / "data", members))
    (tmp_path / "data" / ZIPS[1]).unlink()
    del server.files[ZIPS[0]]
    assert same(omniglot.load(tmp_path / "data"), reference)


def remove(server):
    del server.files[ZIPS[1]]


def cut(server):
    server.cut = ZIPS[1]


def exchange(server):
    server.files[ZIPS[1]] += b"other"


def silence(server):
    server.silent = ZIPS[1]


def close(server):
    Source.download_url_prefix = "http://127.0.0.1:9"


@pytest.mark.parametrize("fault", [remove, cut, exchange, silence, close])
def test_a_failed_download_says_how_to_get_the_data_and_leaves_no_half_file(tmp_path, server, monkeypatch, fault):
    monkeypatch.setattr(omniglot, "DOWNLOAD_TIMEOUT", 0.5)
    folder = tmp_path / "data"
    fault(server)
    message = refusal(folder)
    assert "could not be downloaded" in message and f"into {folder}." in message
    assert all(name in message for name in ZIPS) and omniglot.HOMEPAGE in message
    assert set(names_in(folder)) <= {ZIPS[0]}, "at most the other zip, which is whole"
    refusal(folder, download=False)


def test_downloading_can_be_forbidden(tmp_path, server):
    assert "may not be downloaded" in refusal(tmp_path / "data", download=False)
    assert not (tmp_path / "data").exists()


def test_a_damaged_zip_is_not_replaced_behind_the_back(tmp_path, members, server):
    folder = write_zips(tmp_path / "data", members)
    halve(folder / ZIPS[0])
    assert str(folder / ZIPS[0]) in refusal(folder)


# ---- The real Omniglot


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Omniglot as loaded the first time, and the second time, when the images may not be opened again."""
    if not REAL_DATA:
        pytest.skip("needs the real Omniglot: set $MAMLCOURSE_DATA to a folder that holds it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        first = omniglot.load(REAL_DATA, download=False)
        patch.delattr(omniglot, "_prepare")
        return first, omniglot.load(REAL_DATA, download=False)


def test_real_counts_and_official_split(real):
    data = real[0]
    assert data.images.shape == (1623, 20, 28, 28) and data.images.dtype == torch.uint8
    assert len(set(zip(data.alphabets, data.names))) == 1623
    assert len(data.test_alphabets) == 20 and len(set(data.alphabets)) == 50
    tests = [alphabet in data.test_alphabets for alphabet in data.alphabets]
    assert sum(tests) == 659 and not any(tests[:964])
    assert {"Angelic", "Tengwar"} < data.test_alphabets and not {"Greek", "Latin"} & data.test_alphabets


def test_real_ink(real):
    images = real[0].images
    ink = images.float().mean(dim=(2, 3)) / 255
    assert 0.07 < ink.mean() < 0.10 and ink.min() > 0 and ink.max() < 0.3, "strokes are ink, paper is 0"
    assert images.max() == 255 and images.median() == 0
    assert ((images > 20) & (images < 235)).float().mean() > 0.05, "strokes have grey edges"


def test_real_second_load_is_identical_and_opens_no_image(real):
    assert same(*real)
