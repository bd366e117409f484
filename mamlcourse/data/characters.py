"""Sets of handwritten characters, and how their classes are split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import InputError, check_choice, check_number
from . import glyphs, icons, omniglot

BUILT_IN = {"glyphs": glyphs, "icons": icons}
DATASETS = (*BUILT_IN, "omniglot")
FINN_COUNTS = (1100, 100, 423)


class Split(NamedTuple):
    """Three sets of characters that share no class. `validation` is None when no class was set aside for it."""

    train: Characters
    validation: Characters | None
    test: Characters


@dataclass(frozen=True, eq=False, repr=False)  # tensors have no truth value to compare by
class Characters:
    """Images of many characters, each drawn by several writers.

    Attributes:
        name: "glyphs", "icons" or "omniglot", plus the part of a split.
        images: uint8 tensor (classes, examples, 28, 28); 255 is full ink, 0 is paper.
        alphabets: the alphabet (script) of each class, or an icon's category.
        names: a name for each class that is unique within its alphabet.
        test_alphabets: the alphabets that the data's official protocol keeps for testing.

    Raises:
        InputError: the images are not as above, or their classes are more or fewer than the alphabets or names.
    """

    name: str
    images: torch.Tensor
    alphabets: tuple[str, ...]
    names: tuple[str, ...]
    test_alphabets: frozenset[str]

    def __post_init__(self):
        images = self.images
        if not isinstance(images, torch.Tensor):
            kind = type(images).__name__
            raise InputError(f"images: expected a tensor (torch.from_numpy makes one of an array), got a {kind}.")
        if images.ndim != 4 or images.shape[-1] in (3, 4):
            raise InputError(
                "images: expected shape (classes, examples, height, width), as characters are grey (ImageTasks takes "
                f"RGB), got {tuple(images.shape)}."
            )
        if images.dtype != torch.uint8:
            values = f" from {images.min():.3g} to {images.max():.3g}" if images.numel() else ""
            kind = str(images.dtype).removeprefix("torch.")
            raise InputError(f"images: expected dtype uint8 with 255 for full ink, got {kind}{values}.")
        if images.numel() and images.max() == 1:
            raise InputError("images: expected 255 for full ink, got at most 1, as after a division by 255.")
        for name in ("alphabets", "names"):
            count = len(getattr(self, name))
            if count != len(images):
                raise InputError(f"{name}: expected {len(images)}, one for each class of the images, got {count}.")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"Characters({self.name}: {len(self)} classes x {self.images.shape[1]} drawings, "
            f"{len(set(self.alphabets))} alphabets)"
        )

    def select(self, classes, part: str) -> Characters:
        """The characters with the given class numbers, in that order, named after their `part` of a split.

        Raises:
            InputError: there is no class of such a number.
        """
        classes = [int(c) for c in classes]
        for c in classes:
            check_number("A class", c, at_least=0, at_most=len(self) - 1, integer=True)
        return Characters(
            f"{self.name}/{part}",
            self.images[classes],
            tuple(self.alphabets[c] for c in classes),
            tuple(self.names[c] for c in classes),
            self.test_alphabets,
        )

    def split(self, by: str = "alphabet", *, validation: int | None = None, seed: int = 1) -> Split:
        """Split the classes so that no class, and for "alphabet" no alphabet, is in two parts.

        Args:
            by: "alphabet" keeps the official test alphabets for testing (Omniglot: background against evaluation)
                and sets aside `validation` whole alphabets, sampled with `seed`, from the rest.
                "random" samples classes with `seed`, in the proportions of Finn's 1100/100/423 for Omniglot.
            validation: number of alphabets ("alphabet", default 5) or classes ("random", default 100 of Omniglot's
                1,623, in proportion for other data) for validation; 0 leaves them all for training.
            seed: samples the validation alphabets or the random classes.

        Raises:
            InputError: `by` is unknown, or `validation` is negative or leaves no class for training.
        """
        check_choice("The split", by, ("alphabet", "random"))
        check_number("seed", seed, at_least=0, at_most=2**63 - 1, integer=True)
        if validation is not None:
            check_number("validation", validation, at_least=0, integer=True)
        generator = torch.Generator().manual_seed(int(seed))
        if by == "alphabet":
            pool = sorted(set(self.alphabets) - self.test_alphabets)
            count = 5 if validation is None else validation
            if count >= len(pool):
                raise InputError(
                    f"validation: expected at most {len(pool) - 1} alphabets, got {count}: "
                    f"{self.name} has {len(pool)} alphabets outside its test set."
                )
            chosen = {pool[i] for i in torch.randperm(len(pool), generator=generator)[:count].tolist()}
            validation_classes = [c for c, alphabet in enumerate(self.alphabets) if alphabet in chosen]
            test_classes = [c for c, alphabet in enumerate(self.alphabets) if alphabet in self.test_alphabets]
        else:
            # Omniglot's 1,623 classes give exactly 1100/100/423; other sets keep the proportions.
            total = sum(FINN_COUNTS)
            count = round(FINN_COUNTS[1] * len(self) / total) if validation is None else validation
            tests = round(FINN_COUNTS[2] * len(self) / total)
            if count + tests >= len(self):
                raise InputError(
                    f"validation: expected at most {len(self) - tests - 1} classes, got {count}: {self.name} has "
                    f"{len(self)} classes, {tests} of them for testing."
                )
            order = torch.randperm(len(self), generator=generator).tolist()
            test_classes, validation_classes = order[:tests], order[tests : tests + count]
        taken = set(test_classes) | set(validation_classes)
        train_classes = [c for c in range(len(self)) if c not in taken]
        if not train_classes or not test_classes:
            raise InputError(f"{self.name} cannot be split by {by}: one part would be empty.")
        return Split(
            self.select(train_classes, "train"),
            self.select(validation_classes, "validation") if validation_classes else None,
            self.select(test_classes, "test"),
        )


def load_characters(name: str = "glyphs", root: str | Path | None = None, download: bool = True) -> Characters:
    """Load a set of characters by name.

    Args:
        name: "glyphs" (built in: letters of the world's scripts drawn by 20 synthetic hands; no network needed),
            "icons" (built in: another domain, icons of things by the same hands) or "omniglot" (Lake et al. 2015: 964
            background + 659 evaluation classes by 20 people).
        root: for "omniglot", the folder with its zips or unpacked tree; default `$MAMLCOURSE_DATA`, else the user's
            cache folder.
        download: for "omniglot", whether it may be fetched when it is found nowhere.

    Raises:
        InputError: the name is unknown, or the data is absent, truncated or altered.
    """
    check_choice("The data set", name, DATASETS)
    if name in BUILT_IN:
        return Characters(name, *BUILT_IN[name].load())
    return Characters("omniglot", *omniglot.load(root, download=download))
