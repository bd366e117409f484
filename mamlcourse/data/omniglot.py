"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015): 1,623 characters of 50 alphabets, each drawn by 20 people.

One folder is looked at: `root`, else `$MAMLCOURSE_DATA`, else the user's cache folder. The first of these that it
holds is used, and when it holds none of them the two zips are downloaded into it, never anywhere else:

1. `images_background.zip` and `images_evaluation.zip`, the official ones or others packed in the same way,
2. the unpacked folders `images_background` and `images_evaluation`
   (1 and 2 also inside `omniglot-py`, where torchvision puts them),
3. `omniglot-28.npz`, the small file that this module prepares from the images; alone it is enough, for instance
   on a machine that only trains.

Decoding 32,460 images takes seconds, so the result is kept in the user's cache folder, under a fingerprint of the
images it came from. Nothing damaged is ever used: zips are read in place and never unpacked, their checksums and
the number of characters and drawings are checked, and files appear under their own name only when they are complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import stat
import sys
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..errors import InputError
from ..records import arrays_of, check_zip, expanded, write_whole

SPLITS = ("images_background", "images_evaluation")
EXPECTED = {"images_background": 964, "images_evaluation": 659, "drawings": 20}  # characters, and drawings of each
ORIGINAL_SIZE, SIZE = 105, 28  # pixels on a side
PREPARED = "omniglot-28.npz"
VERSION = 1  # of the prepared file: raise it whenever what is stored, or how images are resized, changes
HOMEPAGE = "https://github.com/brendenlake/omniglot"
LARGEST_IMAGE = 1 << 20  # bytes of a file; the real ones take 300
LARGEST_PREPARED = 1 << 27  # bytes of an array; the images take 25 million
DOWNLOAD_TIMEOUT = 30  # seconds without any answer


class Omniglot(NamedTuple):
    """All of Omniglot, the alphabets of the background set first.

    Attributes:
        images: uint8 tensor (1623, 20, 28, 28); 255 is full ink, 0 is paper; drawings in the order of their drawers.
        alphabets: the alphabet of each class.
        names: "character01" and so on for each class, unique within its alphabet.
        test_alphabets: the 20 alphabets of the evaluation set.
    """

    images: torch.Tensor
    alphabets: tuple[str, ...]
    names: tuple[str, ...]
    test_alphabets: frozenset[str]


class Found(NamedTuple):
    """Where Omniglot would come from.

    Attributes:
        folder: the one folder that is looked at, which need not exist.
        chosen_by: who chose it: "root", "$MAMLCOURSE_DATA" or "the user's cache folder".
        kind: "zips", "tree", "cache" (an `omniglot-28.npz` without images) or "nothing".
        paths: the two zips, the two folders or the prepared file; empty for "nothing".
    """

    folder: Path
    chosen_by: str
    kind: str
    paths: tuple[Path, ...]


def load(root: str | Path | None = None, download: bool = True) -> Omniglot:
    """Load Omniglot; the first time it is prepared, and downloaded if the folder does not hold it.

    Args:
        root: the folder to look in, and to download into; default `$MAMLCOURSE_DATA`, else the user's cache folder.
        download: whether Omniglot may be downloaded.

    Raises:
        InputError: the data is absent and cannot be downloaded, or it is damaged, incomplete or unsafe.
    """
    found = find(root)
    if found.kind == "nothing":
        if not download:
            state = "does not hold all of Omniglot" if os.path.isdir(found.folder) else "does not exist"
            raise InputError(
                f"The folder {found.folder} (from {found.chosen_by}) {state}, and it may not be downloaded: "
                f"{_by_hand(found.folder)}."
            )
        _download(found)
        found = find(root)
    if found.kind == "cache":
        return _read_prepared(found.paths[0])
    prepared = cache_folder() / f"prepared-{_fingerprint(found)}" / PREPARED
    if os.path.isfile(prepared):
        try:
            return _read_prepared(prepared)
        except InputError as error:
            warnings.warn(f"{error} It is prepared anew from {found.folder}.", stacklevel=2)
    data = _prepare(found)
    _write_prepared(prepared, data)
    return data


def find(root: str | Path | None = None) -> Found:
    """Say where `load(root)` would take Omniglot from, without reading, preparing or downloading anything.

    Raises:
        InputError: the path to look in is no folder.
    """
    folder, chosen_by = _data_folder(root)
    if os.path.isfile(folder):
        raise InputError(f"The path {folder} (from {chosen_by}) is a file, but must be a folder.")
    # Images come before a prepared file: that file would not tell from which images it was made.
    for kind, ending, present in (("zips", ".zip", os.path.isfile), ("tree", "", os.path.isdir)):
        for place in (folder, folder / "omniglot-py"):
            paths = tuple(place / (split + ending) for split in SPLITS)
            if all(map(present, paths)):
                return Found(folder, chosen_by, kind, paths)
    if os.path.isfile(folder / PREPARED):
        return Found(folder, chosen_by, "cache", (folder / PREPARED,))
    return Found(folder, chosen_by, "nothing", ())


def cache_folder() -> Path:
    """The user's cache folder for this package: `$XDG_CACHE_HOME/mamlcourse` or the system's usual place."""
    if os.environ.get("XDG_CACHE_HOME"):  # on Windows too, where platformdirs does not look at it
        return Path(os.environ["XDG_CACHE_HOME"]) / "mamlcourse"
    from platformdirs import user_cache_path  # imported here: only Omniglot needs it

    return user_cache_path("mamlcourse", appauthor=False, opinion=False)


def _data_folder(root: str | Path | None) -> tuple[Path, str]:
    if root is not None:
        return expanded(root), "root"
    if os.environ.get("MAMLCOURSE_DATA"):
        return expanded(os.environ["MAMLCOURSE_DATA"]), "$MAMLCOURSE_DATA"
    return cache_folder(), "the user's cache folder"


def _by_hand(folder: Path) -> str:
    return f"put {' and '.join(s + '.zip' for s in SPLITS)} (folder `python` of {HOMEPAGE}) into {folder}"


@contextmanager
def _naming(what):
    """Turn whatever goes wrong while a file is read into one `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and Pillow all raise kinds of their own for damaged bytes
        raise InputError(f"{what} cannot be used ({type(error).__name__}: {str(error).rstrip('.')}).") from None


# ---- Downloading


def _download(found: Found) -> None:
    """Put the zips that are missing into the folder, complete and with the checksum that torchvision knows."""
    from torchvision.datasets import Omniglot as Source  # imported here: slow, and seldom needed
    from torchvision.datasets.utils import download_url

    folder, timeout = found.folder, socket.getdefaulttimeout()
    missing = [split for split in SPLITS if not os.path.isfile(folder / f"{split}.zip")]
    tqdm.write(f"Downloading Omniglot into {folder} (from {found.chosen_by}).", file=sys.stderr)
    # torchvision sets no time limit, so a server that falls silent would stop a notebook for good.
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # torchvision leaves half a file behind when it fails: let that happen where nobody looks.
        with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as partial:
            for split in missing:
                name = f"{split}.zip"
                download_url(f"{Source.download_url_prefix}/{name}", partial, name, Source.zips_md5[split])
                os.replace(Path(partial) / name, folder / name)
    except (OSError, HTTPException, RuntimeError) as error:
        raise InputError(
            f"Omniglot could not be downloaded into {folder} (from {found.chosen_by}; {str(error).rstrip('.')}): "
            f"{_by_hand(folder)}."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


# ---- From images to one array


def _prepare(found: Found) -> Omniglot:
    """Decode, resize and check every image of the zips or the tree."""
    images, alphabets, names = [], [], []
    with tqdm(total=sum(EXPECTED[s] for s in SPLITS), desc="Preparing Omniglot", unit="class", leave=False) as bar:
        for split, path in zip(SPLITS, found.paths):
            with _naming(path), _opened(path) as (members, read):
                for (alphabet, character), drawings in _sort_drawings(path, split, members).items():
                    images.append(np.stack([_image(path, drawing, read) for drawing in drawings]))
                    alphabets.append(alphabet)
                    names.append(character)
                    bar.update()
    test_alphabets = frozenset(alphabets[EXPECTED["images_background"] :])
    return Omniglot(torch.from_numpy(np.stack(images)), tuple(alphabets), tuple(names), test_alphabets)


@contextmanager
def _opened(path: Path):
    """Give the names of all files in a zip or a folder, starting with its split, and a function that reads one."""
    if path.is_dir():
        files = (Path(place, name) for place, _, names in os.walk(path) for name in names)
        names = [file.relative_to(path.parent).as_posix() for file in files]
        yield names, lambda name: _read_ordinary(path.parent / name)
        return
    check_zip(path, path, LARGEST_IMAGE)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # The original name, because on Windows zipfile turns backslashes into slashes.
            name = member.orig_filename
            outside = name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name
            if outside or stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(f"{path} holds {name!r}, which may lead out of its folder, so it is not used.")
        yield archive.namelist(), archive.read


def _read_ordinary(path: Path) -> bytes:
    """The bytes of a file; a pipe or a device would be waited for, or give bytes without end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: expected an ordinary file, got a pipe, a device or a socket.")
    if status.st_size > LARGEST_IMAGE:
        raise InputError(f"{path}: expected at most {LARGEST_IMAGE:,} bytes, got {status.st_size:,}.")
    return path.read_bytes()


def _sort_drawings(path: Path, split: str, names: list[str]) -> dict[tuple[str, str], list[str]]:
    """For each (alphabet, character), sorted, the names of its drawings in the order of their drawers."""
    layout = re.compile(rf"{split}/([^/]+)/(character\d\d)/\d+_(\d\d)\.png")
    drawings_of: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        # Folders and the extra files that macOS and Windows leave behind are no images.
        if not name.endswith(".png") or any(part.startswith((".", "__MACOSX")) for part in name.split("/")):
            continue
        match = layout.fullmatch(name)
        if not match:
            raise InputError(f"{path} holds {name!r}, but must hold {split}/<alphabet>/character<NN>/<id>_<NN>.png.")
        alphabet, character, drawer = match.groups()
        drawings = drawings_of.setdefault((alphabet, character), {})
        if drawer in drawings:
            raise InputError(f"{path} holds two drawings of {alphabet}/{character} by drawer {drawer}.")
        drawings[drawer] = name
    if len(drawings_of) != EXPECTED[split]:
        raise InputError(f"{path} holds {len(drawings_of)} characters, but must hold {EXPECTED[split]}.")
    drawers = [f"{number:02d}" for number in range(1, EXPECTED["drawings"] + 1)]
    for (alphabet, character), drawings in drawings_of.items():
        if sorted(drawings) != drawers:
            raise InputError(
                f"{path} holds {len(drawings)} drawings of {alphabet}/{character}, but must hold {len(drawers)}, "
                f"by the drawers {drawers[0]} to {drawers[-1]}."
            )
    return {key: [drawings_of[key][drawer] for drawer in drawers] for key in sorted(drawings_of)}


def _image(path: Path, name: str, read) -> np.ndarray:
    """Read one drawing, black ink on white paper, as a uint8 array (28, 28) with ink = 255."""
    with _naming(f"{path} ({name})"), Image.open(io.BytesIO(read(name)), formats=["PNG"]) as image:
        if image.size != (ORIGINAL_SIZE, ORIGINAL_SIZE):
            width, height = image.size
            raise InputError(
                f"{path} ({name}) is {width} x {height} pixels, but must be {ORIGINAL_SIZE} x {ORIGINAL_SIZE}."
            )
        # "L" (grey) first: Pillow silently resizes 1-bit images with nearest neighbour, which breaks thin strokes.
        return 255 - np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


# ---- The prepared file


def _fingerprint(found: Found) -> str:
    """Tell one source of images from another: by the bytes of zips, by the names, sizes and times of a tree."""
    digest = hashlib.sha256(f"{found.kind} {VERSION}".encode())
    for path in found.paths:
        with _naming(path):
            if found.kind == "zips":
                digest.update(hashlib.sha256(path.read_bytes()).digest())
                continue
            # Reading 32,460 files to hash them would take nearly as long as preparing them.
            for place, folders, names in os.walk(path.resolve()):
                folders.sort()
                for name in sorted(names):
                    file = os.path.join(place, name)
                    status = os.stat(file)
                    digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _checksum(data: Omniglot) -> str:
    labels = json.dumps([data.alphabets, data.names, sorted(data.test_alphabets)])
    return hashlib.sha256(data.images.numpy().tobytes() + labels.encode()).hexdigest()


def _write_prepared(path: Path, data: Omniglot) -> None:
    """Keep `data` for the next time; if that cannot be done, say so and go on without."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        version=VERSION,
        images=data.images.numpy(),
        alphabets=data.alphabets,
        names=data.names,
        test_alphabets=sorted(data.test_alphabets),
        checksum=_checksum(data),
    )
    try:
        write_whole(path, content.getbuffer())  # other processes may be reading or writing the same file
    except OSError as error:
        warnings.warn(f"Omniglot will be prepared again next time: {path} cannot be written ({error}).", stacklevel=3)


def _read_prepared(path: Path) -> Omniglot:
    """Read a prepared file and check that it is whole and unaltered."""
    check_zip(path, path, LARGEST_PREPARED)
    with _naming(path), arrays_of(path) as stored:
        if stored["version"] != VERSION:
            raise InputError(f"{path} has version {stored['version']}, but must have version {VERSION}.")
        alphabets, names = tuple(stored["alphabets"].tolist()), tuple(stored["names"].tolist())
        test_alphabets = frozenset(stored["test_alphabets"].tolist())
        data = Omniglot(torch.from_numpy(stored["images"]), alphabets, names, test_alphabets)
        if stored["checksum"] != _checksum(data):
            raise InputError(f"{path} has been altered: its checksum does not fit what it holds.")
    shape = (sum(EXPECTED[split] for split in SPLITS), EXPECTED["drawings"], SIZE, SIZE)
    tests = sum(alphabet in test_alphabets for alphabet in alphabets)
    fits = len(alphabets) == len(names) == shape[0] and tests == EXPECTED["images_evaluation"]
    if tuple(data.images.shape) != shape or data.images.dtype != torch.uint8 or not fits:
        raise InputError(f"{path} holds {tuple(data.images.shape)} images with {tests} test classes, not {shape}.")
    return data
