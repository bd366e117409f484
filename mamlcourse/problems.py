"""A few-shot problem in plain values: which images, which episodes, which network. Commands and files speak it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch

from .data.characters import Split, load_characters
from .data.images import TEST_SHARE, VALIDATION_SHARE, ClassSplit, LabelledImages, split_names
from .errors import InputError, check_choice, check_number
from .models import SMALLEST_SIDE, Conv4
from .records import with_current_names
from .tasks import CharacterTasks, ImageTasks


@dataclass(frozen=True)
class Problem:
    """Few-shot classification of characters, or of the images in a folder (`from_folder`), with a Conv4.

    Attributes:
        dataset: "glyphs", "icons", "omniglot" or the name of a folder of images.
        split, validation: as in `Characters.split`; "classes" for a folder of images, whose classes are split at
            random, always alike: 20% for testing and `validation` of them (default 16%) for validation, but at least
            as many as there are ways, unless `validation` is 0.
        ways, shots, queries: the episodes, in training and in testing.
        rotations: whether training classes are rotated.
        test_rotations: whether validation and test classes are, as in Finn's protocol.
        filters, downsampling: the network, as in `Conv4`.
        root: folder of the data set; default as in `load_characters`. It is not part of the problem's description.
        test_dataset: where the test classes come from; default `dataset`. Another one makes a domain shift: training
            and validation classes stay those of `dataset`.
        channels, side: of the images.
        data: the folder of images. It is not part of the problem's description either.
    """

    dataset: str = "glyphs"
    split: str = "alphabet"
    validation: int | None = None
    ways: int = 5
    shots: int = 1
    queries: int = 15
    rotations: bool = True
    test_rotations: bool = False
    filters: int = 32
    downsampling: str = "max-pool"
    root: str | Path | None = None
    test_dataset: str | None = None
    channels: int = 1
    side: int = 28
    data: str | Path | None = None

    @classmethod
    def from_folder(cls, data: str | Path, side: int | None = None, channels: int | None = None, **choices) -> Problem:
        """The problem of a folder that holds a folder of images for each class; its images are not rotated.

        Args:
            data: the folder; its name becomes that of the data set.
            side: of the squares that images are resized to; default that of the images, which then must be squares
                of one size.
            channels: 1 (grey) or 3 (RGB), to which images are converted; default that of the images.
            **choices: other attributes.

        Raises:
            InputError: there is no such folder, or its first image cannot be used.
        """
        images = LabelledImages(data, side, channels)
        channels, height, width = images.shape
        if height != width or height < SMALLEST_SIDE:
            raise InputError(
                f"The images of {images.name}: expected squares of at least {SMALLEST_SIDE} pixels on a side, got "
                f"{height} x {width}: give a side that all are resized to."
            )
        choices = {"dataset": images.name, "split": "classes", "rotations": False} | choices
        problem = cls(**choices, channels=channels, side=height, data=data)
        vars(problem)["images"] = images  # those of one size if no side was given: others are then refused
        return problem

    @cached_property
    def images(self) -> LabelledImages:
        """The images of the folder.

        Raises:
            InputError: the folder is not known, or not there.
        """
        if self.data is None:
            raise InputError(f"data: expected the folder of the images {self.dataset!r}, got none.")
        return LabelledImages(self.data, self.side, self.channels)

    @cached_property
    def parts(self) -> Split | ClassSplit:
        """The characters, loaded and split; or the names of the classes of images in each part."""
        if self.split == "classes":
            return self._class_parts()
        parts = load_characters(self.dataset, self.root).split(self.split, validation=self.validation)
        if self.test_dataset in (None, self.dataset):
            return parts
        tested = load_characters(self.test_dataset, self.root).split(self.split, validation=0)
        return parts._replace(test=tested.test)

    def network(self, seed: int, device: str | torch.device = "cpu") -> Conv4:
        """The untrained network of a seed; the same on every device. Leaves the global random state alone."""
        check_number("seed", seed, at_least=0, integer=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Conv4(self.ways, self.filters, self.downsampling, self.channels, self.side).to(device)

    def tasks(
        self, part: str, tasks_per_batch: int, seed: int, device: str | torch.device = "cpu"
    ) -> CharacterTasks | ImageTasks:
        """The episodes of one part ("train", "validation" or "test") of the classes."""
        check_choice("The part", part, Split._fields)
        classes = getattr(self.parts, part)
        if not classes:
            raise InputError(f"There are no {part} classes, as validation is {self.validation}.")
        if self.split == "classes":
            return ImageTasks(
                self.images, self.ways, self.shots, self.queries, tasks_per_batch, classes=classes, seed=seed,
                device=device,
            )  # fmt: skip
        return CharacterTasks(
            classes, self.ways, self.shots, self.queries, tasks_per_batch,
            rotations=self.rotations if part == "train" else self.test_rotations, seed=seed, device=device,
        )  # fmt: skip

    def describe(self) -> dict:
        """Its plain values, from which `Problem.from_record` makes it again; without folders, which are private, and
        without a test data set if there is no other."""
        left_out = {"root", "data"} | (set() if self.split == "classes" else {"channels", "side"})
        left_out |= {"test_dataset"} if self.test_dataset in (None, self.dataset) else set()
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_record(cls, record: dict, root: str | Path | None = None, data: str | Path | None = None) -> Problem:
        """The problem of a record, of earlier versions too."""
        return cls(**with_current_names(record), root=root, data=data)

    def _class_parts(self) -> ClassSplit:
        if self.test_dataset not in (None, self.dataset):
            raise InputError(f"test_dataset: expected none with a folder of images, got {self.test_dataset!r}.")
        for name in ("ways", "shots", "queries"):
            check_number(name, getattr(self, name), at_least=1, integer=True)
        enough = self.images.with_enough(self.images.numbers_of(None), self.shots + self.queries)
        names = [self.images.classes[number] for number in enough]
        test = max(round(TEST_SHARE * len(names)), self.ways)
        validation = self.validation
        if validation is None:
            validation = max(round(VALIDATION_SHARE * len(names)), self.ways)
        check_number("validation", validation, at_least=0, integer=True)
        if len(names) - test - validation < self.ways:
            parts = "training, validation and test" if validation else "training and test"
            raise InputError(
                f"ways: expected at most {len(names) // (3 if validation else 2)}, as the {len(names)} classes of "
                f"{self.dataset} with at least {self.shots + self.queries} images are split into {parts}, got "
                f"{self.ways}."
            )
        return split_names(names, validation=validation, test=test)


def choose_device(device: str = "auto") -> torch.device:
    """The device by name; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises:
        InputError: the name is no device, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()  # there is a device, "meta", that holds no values
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used here; allowed: auto, cpu, cuda (if there).") from error
