"""Anybody's labelled images, by class: a folder of folders or any dataset of (image, label); and splits of classes."""

from __future__ import annotations

import os
import warnings
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Subset
from tqdm import tqdm

from ..errors import InputError, check_choice, check_number
from . import cifar

LABEL_NAMES = ("targets", "labels", "_labels")  # where torchvision's datasets keep labels
GREY_MODES = ("1", "L", "LA", "La")  # Pillow's
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R 601), as Pillow's "L"
VALIDATION_SHARE, TEST_SHARE = 0.16, 0.2  # miniImageNet's and CIFAR-FS's 16 and 20 of 100 classes


class ClassSplit(NamedTuple):
    """The names of the classes of each part; no class is in two of them, and validation may be empty."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


class LabelledImages:
    """The images of a dataset, by class, each read when it is asked for.

    Args:
        dataset: a folder that holds a folder of images for each class, or a dataset whose `dataset[i]` is (image,
            label), as torchvision's. Images are Pillow's, uint8 or floating tensors (channels, height, width) or such
            arrays (height, width, channels), grey or RGB; floating values are from 0 to 1 and rounded to bytes.
            Labels are integers or names; `.targets`, `.labels` or `._labels` spare reading images to learn them.
            Transforms must not be random.
        resize: side, or (height, width), that images are resized to (bilinear, antialiased; what is no square is
            stretched); default none, and then all must have one size.
        channels: 1 (grey) or 3 (RGB), to which images are converted; default none, and then all must have as many.

    Attributes:
        name: the folder's or the dataset's name.
        classes: the names of the classes, in the order of their labels.
        members: the numbers of each class's images, int64 (images,).
        shape: (channels, height, width) of every image.

    Raises:
        InputError: there is no such folder, or the dataset, its labels or its first image are not as above.
    """

    def __init__(self, dataset, resize: int | tuple[int, int] | None = None, channels: int | None = None):
        self.size = _size(resize)
        if channels is not None:
            check_choice("channels", channels, (1, 3))
        self.channels, self.shape, self._kept = channels, None, {}
        is_folder = isinstance(dataset, (str, os.PathLike))
        self.name = Path(dataset).resolve().name if is_folder else type(dataset).__name__
        self.dataset = _folder(Path(dataset)) if is_folder else dataset
        if not (hasattr(self.dataset, "__len__") and hasattr(self.dataset, "__getitem__")) or len(self.dataset) == 0:
            found = "an empty one" if hasattr(self.dataset, "__len__") else f"a {self.name}"
            raise InputError(
                f"dataset: expected a folder, or a dataset with len() and (image, label) items, got {found}."
            )
        labels = _labels(self.dataset)
        names = _class_names(self.dataset)
        seen = set(labels) | (set(range(len(names))) if is_folder else set())  # a folder's empty classes too
        self._label_of = {name: label for label, name in _named(seen, names).items()}
        self.classes = tuple(self._label_of)
        place = {label: number for number, label in enumerate(self._label_of.values())}
        numbers = torch.tensor([place[label] for label in labels])
        counts = torch.bincount(numbers, minlength=len(self.classes)).tolist()
        self.members = numbers.argsort(stable=True).split(counts)
        self.shape = tuple(self._read(0).shape)

    def __repr__(self) -> str:
        channels, height, width = self.shape
        return (
            f"LabelledImages({self.name}: {len(self.dataset)} images of {len(self.classes)} classes, "
            f"{channels} x {height} x {width})"
        )

    def numbers_of(self, classes) -> list[int]:
        """The classes' numbers in `classes`, from their names or labels; None is all of them.

        Raises:
            InputError: there is no such class, or one is given twice.
        """
        if classes is None:
            return list(range(len(self.classes)))
        if isinstance(classes, str):
            raise InputError(f"classes: expected a list of names or labels, got {classes!r}.")
        by_label = {label: number for number, label in enumerate(self._label_of.values())}
        by_name = {name: number for number, name in enumerate(self.classes)}
        found = []
        for given in classes:
            number = by_name.get(given) if isinstance(given, str) else by_label.get(_plain(given))
            if number is None:
                near = get_close_matches(str(given), self.classes, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise InputError(f"classes: expected classes of {self.name}, got {given!r}{hint}.")
            found.append(number)
        twice = [self.classes[number] for number in dict.fromkeys(found) if found.count(number) > 1]
        if twice:
            raise InputError(f"classes: expected none twice, got {twice[0]!r} again.")
        return found

    def with_enough(self, numbers: list[int], images: int) -> list[int]:
        """Those of the classes that have so many images; a warning names the others."""
        few = [number for number in numbers if len(self.members[number]) < images]
        if few:
            names = ", ".join(f"{self.classes[number]} ({len(self.members[number])})" for number in few)
            warnings.warn(
                f"{len(few)} of {len(numbers)} classes of {self.name} have fewer than {images} images (shots + "
                f"queries) and are left out: {names}.",
                stacklevel=3,
            )
        return [number for number in numbers if number not in set(few)]

    def read(self, numbers, progress: bool = False) -> Tensor:
        """The images of these numbers: uint8 (images, channels, height, width).

        Raises:
            InputError: an image cannot be read, or differs from the first in size or channels.
        """
        shown = tqdm(numbers, desc="Reading images", leave=False, delay=2, disable=not progress)
        return torch.stack([self._read(int(number)) for number in shown])

    def keep(self, numbers: Tensor, device: torch.device) -> Tensor:
        """As `read`, on the device, and kept there for whoever asks for the same again."""
        key = (str(device), tuple(numbers.tolist()))
        if key not in self._kept:
            self._kept[key] = self.read(numbers, progress=True).to(device)
        return self._kept[key]

    def _read(self, number: int) -> Tensor:
        image = _bytes(number, _item(self.dataset, number)[0])
        if self.channels and len(image) != self.channels:
            image = image.expand(3, -1, -1) if self.channels == 3 else _grey(image)
        if self.size and image.shape[1:] != self.size:
            resized = F.interpolate(image[None].float(), self.size, mode="bilinear", antialias=True)[0]
            image = resized.round().clamp(0, 255).to(torch.uint8)
        if self.shape and len(image) != self.shape[0]:
            raise InputError(
                f"Image {number}: expected {_channels(self.shape[0])}, as image 0 has, got {len(image)}: give "
                "channels=3 or channels=1, to which all are then converted."
            )
        if self.shape and tuple(image.shape) != self.shape:
            raise InputError(
                f"Image {number}: expected {_pixels(self.shape)}, as image 0 has, got {_pixels(image.shape)}: give "
                f"the side that all are resized to, such as {min(self.shape[1:])}."
            )
        return image


def as_images(dataset, resize=None, channels=None) -> LabelledImages:
    """`LabelledImages` of a dataset, which may be one already.

    Raises:
        InputError: as `LabelledImages`, or it is one already and was to be resized or converted.
    """
    if not isinstance(dataset, LabelledImages):
        return LabelledImages(dataset, resize, channels)
    if resize is not None or channels is not None:
        raise InputError("resize, channels: expected none for LabelledImages, which have their own.")
    return dataset


def split_classes(
    dataset, by="random", *, validation: int | None = None, test: int | None = None, seed: int = 1
) -> ClassSplit:
    """Split the classes of a dataset so that none is in two parts: `ImageTasks(dataset, classes=split.train)`.

    Args:
        dataset: as in `LabelledImages`, or one of those.
        by: "random" samples classes with `seed`; "cifar-fs" and "fc100" are the published splits of CIFAR-100
            (`data.cifar`); or the parts themselves, as a dictionary of lists of names or labels: "train", "test" and,
            if wanted, "validation".
        validation, test: number of classes of a random split; default 16% and 20% of them, at least one.
        seed: of a random split.

    Raises:
        InputError: the split is unknown, names what the dataset has not, names a class twice, or leaves no class for
            training.
    """
    images = as_images(dataset)
    if isinstance(by, str):
        check_choice("The split", by, ("random", *cifar.SPLITS))
    if by == "random":
        return split_names(images.classes, validation=validation, test=test, seed=seed)
    if validation is not None or test is not None:
        raise InputError("validation, test: expected with a random split only, as other splits say which classes.")
    parts = ClassSplit(*cifar.SPLITS[by]) if isinstance(by, str) else by
    parts = parts._asdict() if isinstance(parts, ClassSplit) else parts
    if not isinstance(parts, dict) or not {"train", "test"} <= parts.keys() <= set(ClassSplit._fields):
        raise InputError(
            "The split: expected a name, or a dictionary of lists 'train', 'test' and perhaps 'validation', got "
            f"{by!r}."
        )
    numbers = {part: images.numbers_of(parts.get(part, ())) for part in ClassSplit._fields}
    images.numbers_of([images.classes[n] for part in numbers.values() for n in part])  # none twice
    return ClassSplit(*(tuple(images.classes[n] for n in part) for part in numbers.values()))


def split_names(names, *, validation: int | None = None, test: int | None = None, seed: int = 1) -> ClassSplit:
    """A random split of names, as in `split_classes`.

    Raises:
        InputError: a number is not allowed, or no class is left for training.
    """
    shares = (("validation", validation, VALIDATION_SHARE, 0), ("test", test, TEST_SHARE, 1))
    counts = []
    for name, count, share, least in shares:
        if count is not None:
            check_number(name, count, at_least=least, integer=True)
        counts.append(max(round(share * len(names)), 1) if count is None else int(count))
    check_number("seed", seed, at_least=0, at_most=2**63 - 1, integer=True)
    if sum(counts) >= len(names):
        raise InputError(
            f"validation + test: expected at most {len(names) - 1} of {len(names)} classes, got "
            f"{counts[0]} + {counts[1]} = {sum(counts)}."
        )
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(int(seed))).tolist()
    cut = counts[1], sum(counts)
    chosen = order[cut[1] :], order[cut[0] : cut[1]], order[: cut[0]]
    return ClassSplit(*(tuple(names[n] for n in sorted(part)) for part in chosen))


# ---- What datasets are like


def _folder(path: Path):
    """torchvision's `ImageFolder`, with images as they are: grey ones stay grey."""
    from torchvision.datasets import ImageFolder  # imported here: slow, and seldom needed

    if not path.is_dir():
        raise InputError(f"The folder of images {path}: expected a folder for each class in it, got no folder.")
    try:
        return ImageFolder(str(path), loader=_open, allow_empty=True)
    except FileNotFoundError:
        raise InputError(f"The folder of images {path}: expected a folder for each class in it, got none.") from None


def _open(path: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def _item(dataset, number: int):
    try:
        item = dataset[number]
    except Exception as error:  # whatever the dataset's own code raises
        where = f" ({os.path.join(*Path(dataset.imgs[number][0]).parts[-2:])})" if hasattr(dataset, "imgs") else ""
        raise InputError(f"Image {number}{where} cannot be read ({type(error).__name__}).") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise InputError(f"Item {number} of the dataset: expected (image, label), got a {type(item).__name__}.")
    return item


def _labels(dataset) -> list:
    """The label of each item; read from the items only where the dataset does not tell."""
    if isinstance(dataset, Subset):
        labels = _labels(dataset.dataset)
        return [labels[int(index)] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        if len({str(_class_names(part)) for part in dataset.datasets}) > 1:
            raise InputError("A ConcatDataset: expected parts with the same classes, got different ones.")
        return [label for part in dataset.datasets for label in _labels(part)]
    if getattr(dataset, "target_transform", None) is None:  # with one, items have other labels
        for name in LABEL_NAMES:
            labels = getattr(dataset, name, None)
            if hasattr(labels, "__len__") and len(labels) == len(dataset):
                return [_plain(label) for label in (labels.tolist() if hasattr(labels, "tolist") else labels)]
    return [_plain(_item(dataset, number)[1]) for number in range(len(dataset))]


def _plain(label):
    """A label as an integer or a name."""
    if isinstance(label, (Tensor, np.ndarray, np.generic)) and np.prod(label.shape) == 1:
        label = label.item()
    if isinstance(label, str):
        return label
    if isinstance(label, Integral) and not isinstance(label, bool):
        return int(label)
    raise InputError(f"A label: expected an integer or a name, got a {type(label).__name__}.")


def _class_names(dataset) -> list[str]:
    """The names of the labels 0, 1, ...; none where the dataset has none."""
    while isinstance(dataset, (Subset, ConcatDataset)):
        dataset = dataset.dataset if isinstance(dataset, Subset) else dataset.datasets[0]
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)) or getattr(dataset, "target_transform", None) is not None:
        return []
    return [name if isinstance(name, str) else ", ".join(map(str, np.atleast_1d(name))) for name in names]


def _named(labels, names: list[str]) -> dict:
    """Each label's name, in the labels' order, all names different."""
    ordered = sorted(labels, key=lambda label: (isinstance(label, str), label))
    named = [names[n] if isinstance(n, int) and 0 <= n < len(names) else str(n) for n in ordered]
    return {label: f"{name} ({label})" if named.count(name) > 1 else name for label, name in zip(ordered, named)}


# ---- What images are like


def _bytes(number: int, image) -> Tensor:
    """An image as uint8 (channels, height, width)."""
    if isinstance(image, Image.Image):
        if image.mode in DEEP_MODES:
            raise InputError(f"Image {number}: expected 8 bits for each channel, got Pillow's mode {image.mode!r}.")
        image = np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    if isinstance(image, np.ndarray):
        image = torch.as_tensor(np.ascontiguousarray(image))
        image = image.permute(2, 0, 1) if image.ndim == 3 else image
    if not isinstance(image, Tensor):
        raise InputError(
            f"Image {number}: expected a Pillow image, a tensor or an array, got a {type(image).__name__}."
        )
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or len(image) not in (1, 3):
        raise InputError(
            f"Image {number}: expected a tensor (channels, height, width) or an array (height, width, channels) with 1 "
            f"or 3 channels, got (channels, height, width) = {tuple(image.shape)}."
        )
    if image.is_floating_point():
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"Image {number}: expected values from 0 to 1, got {low:.3g} to {high:.3g}; to normalise, leave it out "
                "of the dataset's transforms and give normalize=(mean, std)."
            )
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise InputError(f"Image {number}: expected dtype uint8 or floating, got {str(image.dtype).split('.')[-1]}.")
    return image


def _grey(image: Tensor) -> Tensor:
    weights = torch.tensor(LUMINANCE)[:, None, None]
    return (image * weights).sum(0, keepdim=True).round().to(torch.uint8)


def _size(resize) -> tuple[int, int] | None:
    if resize is None:
        return None
    size = (resize, resize) if not isinstance(resize, (tuple, list)) else tuple(resize)
    if len(size) != 2:
        raise InputError(f"resize: expected a side or (height, width), got {resize!r}.")
    for length in size:
        check_number("resize", length, at_least=1, integer=True)
    return int(size[0]), int(size[1])


def _channels(count) -> str:
    return f"{count} channel{'s' * (count > 1)}"


def _pixels(shape) -> str:
    return f"{shape[-2]} x {shape[-1]} pixels"
