"""A few-shot problem in plain values: which characters, which episodes, which network. Commands and files speak it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch

from .data.characters import Split, load_characters
from .errors import InputError, check_choice, check_number
from .models import Conv4
from .records import with_current_names
from .tasks import CharacterTasks


@dataclass(frozen=True)
class Problem:
    """Few-shot classification of characters with a Conv4.

    Attributes:
        dataset: "glyphs" or "omniglot".
        split, validation: as in `Characters.split`.
        ways, shots, queries: the episodes, in training and in testing.
        rotations: whether training classes are rotated.
        test_rotations: whether validation and test classes are, as in Finn's protocol.
        filters, downsampling: the network, as in `Conv4`.
        root: folder of the data set; default as in `load_characters`. It is not part of the problem's description.
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

    @cached_property
    def parts(self) -> Split:
        """The characters, loaded and split."""
        return load_characters(self.dataset, self.root).split(self.split, validation=self.validation)

    def network(self, seed: int, device: str | torch.device = "cpu") -> Conv4:
        """The untrained network of a seed; the same on every device. Leaves the global random state alone."""
        check_number("seed", seed, at_least=0, integer=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Conv4(self.ways, self.filters, self.downsampling).to(device)

    def tasks(self, part: str, tasks_per_batch: int, seed: int, device: str | torch.device = "cpu") -> CharacterTasks:
        """The episodes of one part ("train", "validation" or "test") of the classes."""
        check_choice("The part", part, Split._fields)
        characters = getattr(self.parts, part)
        if characters is None:
            raise InputError(f"There are no {part} classes, as validation is {self.validation}.")
        return CharacterTasks(
            characters, self.ways, self.shots, self.queries, tasks_per_batch,
            rotations=self.rotations if part == "train" else self.test_rotations, seed=seed, device=device,
        )  # fmt: skip

    def describe(self) -> dict:
        """Its plain values, from which `Problem.from_record` makes it again; without the folder, which is private."""
        return {name: value for name, value in asdict(self).items() if name != "root"}

    @classmethod
    def from_record(cls, record: dict, root: str | Path | None = None) -> Problem:
        """The problem of a record, of earlier versions too."""
        return cls(**with_current_names(record), root=root)


def choose_device(device: str = "auto") -> torch.device:
    """The device by name; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises:
        InputError: the name is no device, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used here; allowed: auto, cpu, cuda (if there).") from error
