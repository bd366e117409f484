"""Families of tasks: few-shot classification of characters and of anybody's images, regression of any function, and
the sinusoids of Finn et al. 2017, section 5.1.

A family is an endless, reproducible sequence of meta-batches. Batch i is a function of (seed, i) alone, computed
with tensor arithmetic from a hash: the same on every device, reachable out of order, so that a run resumes in the
middle, and with no generator whose state could get lost. The whole data set lives on the device and episodes are
gathered there by index; no data loader, nothing copied per step. Images that are too many for that are read as a batch
needs them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from .data.characters import Characters
from .data.images import as_images
from .errors import InputError, check_number

LARGEST_SEED = 2**63 - 1  # seeds are hashed as int64


class TaskBatch(NamedTuple):
    """A meta-batch of T tasks (episodes).

    Attributes:
        support_x: (T, support examples, ...) inputs to adapt to.
        support_y: (T, support examples) int64 labels from 0 to ways - 1, or (T, support examples, ...) real targets.
        query_x, query_y: likewise, the examples that adaptation is evaluated on.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    def to(self, device) -> TaskBatch:
        """The same batch on another device."""
        return TaskBatch(*(tensor.to(device) for tensor in self))


def is_family(tasks) -> bool:
    """Whether tasks are a family, with a method batch(index), and not just an iterable of batches."""
    return callable(getattr(tasks, "batch", None))


def is_labels(y: Tensor) -> bool:
    """Whether targets are class labels, and not real values."""
    return y.dtype == torch.int64


def check_batch(batch) -> TaskBatch:
    """The four tensors as a `TaskBatch`.

    Raises:
        InputError: not four tensors, or their ranks, sizes, types or devices do not fit together.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 4 or not all(isinstance(part, Tensor) for part in batch):
        parts = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) else ""
        raise InputError(
            "A task batch: expected four tensors (support_x, support_y, query_x, query_y), got a "
            f"{type(batch).__name__}{parts}."
        )
    batch = TaskBatch(*batch)
    for name, x in (("support_x", batch.support_x), ("query_x", batch.query_x)):
        if x.ndim < 3:
            raise InputError(f"{name}: expected shape (tasks, examples, ...), got {tuple(x.shape)}.")
        if x.shape[1] == 0:
            raise InputError(f"{name}: expected at least one example in each task, got none.")
    for name, y, x in (
        ("support_y", batch.support_y, batch.support_x),
        ("query_y", batch.query_y, batch.query_x),
    ):
        if not is_labels(y) and not y.is_floating_point():
            raise InputError(f"{name}: expected dtype torch.int64 (labels) or floating (targets), got {y.dtype}.")
        if y.shape[:2] != x.shape[:2] or (is_labels(y) and y.ndim != 2):
            raise InputError(
                f"{name}: expected a shape that begins with {tuple(x.shape[:2])} (tasks, examples)"
                + (" and ends there, as labels do" if is_labels(y) else "")
                + f", got {tuple(y.shape)}."
            )
    if len(batch.support_x) != len(batch.query_x) or len(batch.support_x) == 0:
        raise InputError(
            f"The support set has {len(batch.support_x)} tasks and the query set {len(batch.query_x)}, "
            "but both must have the same number, at least 1."
        )
    devices = {str(tensor.device) for tensor in batch}
    if len(devices) > 1:
        raise InputError(f"A task batch: expected tensors on one device, got {' and '.join(sorted(devices))}.")
    return batch


class CharacterTasks:
    """Episodes of N-way K-shot character classification.

    In each task `ways` different classes are sampled, and from each class `shots` + `queries` different examples, so no
    class is twice in a task and no example in both support and query. With `rotations`, each class of a task is
    rotated as a whole by 0, 90, 180 or 270 degrees (Santoro et al. 2016): more classes to learn from, never two
    rotations of one character in the same task. Examples are sorted by label.

    Args:
        characters: the classes to sample from.
        ways: N, classes per task.
        shots: K, support examples per class.
        queries: query examples per class.
        tasks_per_batch: T.
        rotations: whether classes are rotated.
        seed: same seed, same episodes, on every device.
        device: where the data lives and the batches are made.

    Batches hold float32 images (T, N x shots, 1, 28, 28) with ink = 1.

    Raises:
        InputError: a number is not positive, the data has too few classes or examples, or images that are no squares
            were to be rotated.
    """

    def __init__(
        self,
        characters: Characters,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        tasks_per_batch: int = 4,
        rotations: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        _check_episodes(ways, shots, queries, tasks_per_batch, seed)
        if not isinstance(characters, Characters):
            kind = type(characters).__name__
            raise InputError(f"characters: expected Characters, such as one part of a split, got a {kind}.")
        classes, drawings, height, width = characters.images.shape
        if ways > classes:
            raise InputError(f"ways: expected at most {classes}, the classes of {characters.name}, got {ways}.")
        if shots + queries > drawings:
            raise InputError(
                f"shots + queries: expected at most {drawings}, the examples of each class of {characters.name}, got "
                f"{shots} + {queries} = {shots + queries}."
            )
        if rotations and height != width:
            raise InputError(f"rotations: expected square images, got {height} x {width} pixels.")
        self.characters, self.ways, self.shots, self.queries = characters, ways, shots, queries
        self.tasks_per_batch, self.rotations, self.seed = tasks_per_batch, rotations, seed
        self.device = torch.device(device)
        self._images = characters.images.flatten(2).to(self.device)  # (classes, drawings, pixels) bytes
        pixels = torch.arange(height * width).reshape(height, width)
        rotated = torch.stack([torch.rot90(pixels, turns).flatten() for turns in range(4)])
        self._rotated = rotated.to(self.device)  # (4, pixels): which pixel comes here
        self._white = torch.tensor(255.0, device=self.device)  # by a number, a GPU divides less precisely than a CPU
        labels = torch.arange(ways, device=self.device)
        self._support_y = labels.repeat_interleave(shots).repeat(tasks_per_batch, 1)
        self._query_y = labels.repeat_interleave(queries).repeat(tasks_per_batch, 1)

    def sample(self, index: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What batch `index` is made of: classes (T, ways), examples of each (T, ways, shots + queries), of which the
        first `shots` are the support set, and rotations by 0, 1, 2 or 3 times 90 degrees (T, ways)."""
        key = _task_keys(self.seed, index, self.tasks_per_batch, self.device)
        classes = _random_ints(key, 0, len(self.characters)).topk(self.ways).indices
        order = _random_ints(key, 1, self.ways * self._images.shape[1])
        order = order.reshape(self.tasks_per_batch, self.ways, -1)
        examples = order.topk(self.shots + self.queries).indices
        rotations = _random_ints(key, 2, self.ways) & 3 if self.rotations else torch.zeros_like(classes)
        return classes, examples, rotations

    def batch(self, index: int | Tensor) -> TaskBatch:
        """Batch number `index` of this seed's sequence (an integer, or a tensor holding one on the device)."""
        classes, examples, rotations = self.sample(index)
        images = self._images[classes[..., None], examples]  # (T, ways, examples, pixels)
        if self.rotations:
            images = images.gather(-1, self._rotated[rotations][:, :, None].expand_as(images))
        images = (images.float() / self._white).unflatten(-1, (1, *self.characters.images.shape[2:]))
        return TaskBatch(
            images[:, :, : self.shots].flatten(1, 2), self._support_y,
            images[:, :, self.shots :].flatten(1, 2), self._query_y,
        )  # fmt: skip

    def __iter__(self):
        index = 0
        while True:
            yield self.batch(index)
            index += 1


class ImageTasks:
    """Episodes of N-way K-shot classification of anybody's images, sampled as those of `CharacterTasks`.

    Classes may have different numbers of images: from each of a task's `ways` different classes, `shots` + `queries`
    different images are sampled. Classes with fewer are left out, with a warning. Examples are sorted by label.

    Args:
        dataset: a folder that holds a folder of images for each class, or any dataset of (image, label), as
            torchvision's: see `data.images.LabelledImages`, which is taken too.
        ways: N, classes per task.
        shots: K, support examples per class.
        queries: query examples per class.
        tasks_per_batch: T.
        classes: the names or labels of the classes to sample from, such as one part of `split_classes`; default all.
        resize: side, or (height, width), that images are resized to; default none, and then all must have one size.
        channels: 1 (grey) or 3 (RGB), to which images are converted; default none, and then all must have as many.
        normalize: (mean, std), of each channel or of all, in units of 0 to 1; default none.
        keep_bytes: the images are kept on the device, as bytes, if they take at most so many; otherwise those of a
            batch are read when it is made. The episodes are the same.
        seed: same seed, same episodes, on every device.
        device: where the batches are made.

    Batches hold float32 images (T, N x examples, channels, height, width), from 0 to 1 before `normalize`.

    Raises:
        InputError: a number is not allowed, there are too few classes with enough images, or the dataset is not as
            `LabelledImages` takes it.
    """

    def __init__(
        self,
        dataset,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        tasks_per_batch: int = 4,
        *,
        classes=None,
        resize: int | tuple[int, int] | None = None,
        channels: int | None = None,
        normalize: tuple | None = None,
        keep_bytes: int = 2**30,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        _check_episodes(ways, shots, queries, tasks_per_batch, seed)
        check_number("keep_bytes", keep_bytes, at_least=0, integer=True)
        images = as_images(dataset, resize, channels)
        chosen = images.with_enough(images.numbers_of(classes), shots + queries)
        if ways > len(chosen):
            raise InputError(
                f"ways: expected at most {len(chosen)}, the classes of {images.name} with at least {shots} + {queries} "
                f"images (shots + queries), got {ways}."
            )
        self.images, self.ways, self.shots, self.queries = images, ways, shots, queries
        self.tasks_per_batch, self.seed, self.device = tasks_per_batch, seed, torch.device(device)
        self.classes = tuple(images.classes[number] for number in chosen)
        self._moments = None if normalize is None else _moments(normalize, images.shape[0], self.device)
        self._numbers = torch.cat([images.members[number] for number in chosen])  # class by class
        sizes = torch.tensor([len(images.members[number]) for number in chosen])
        self._sizes, self._first = sizes.to(self.device), (sizes.cumsum(0) - sizes).to(self.device)
        self._places = torch.arange(int(sizes.max()), device=self.device)
        self.kept = len(self._numbers) * math.prod(images.shape) <= keep_bytes
        self._pixels = images.keep(self._numbers, self.device) if self.kept else None
        self._white = torch.tensor(255.0, device=self.device)  # by a number, a GPU divides less precisely than a CPU
        labels = torch.arange(ways, device=self.device)
        self._support_y = labels.repeat_interleave(shots).repeat(tasks_per_batch, 1)
        self._query_y = labels.repeat_interleave(queries).repeat(tasks_per_batch, 1)

    def sample(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        """What batch `index` is made of: classes (T, ways), as places in `classes`, and examples of each (T, ways,
        shots + queries), of which the first `shots` are the support set."""
        key = _task_keys(self.seed, index, self.tasks_per_batch, self.device)
        classes = _random_ints(key, 0, len(self.classes)).topk(self.ways).indices
        order = _random_ints(key, 1, self.ways * len(self._places))
        order = order.reshape(self.tasks_per_batch, self.ways, -1)
        beyond = self._places >= self._sizes[classes][..., None]  # a class ends before the largest one does
        examples = order.masked_fill(beyond, -LARGEST_SEED - 1).topk(self.shots + self.queries).indices
        return classes, examples

    def batch(self, index: int | Tensor) -> TaskBatch:
        """Batch number `index` of this seed's sequence (an integer, or a tensor holding one on the device)."""
        classes, examples = self.sample(index)
        places = self._first[classes][..., None] + examples  # (T, ways, examples), in the order of `_numbers`
        if self.kept:
            images = self._pixels[places]
        else:
            found = self.images.read(self._numbers[places.flatten().cpu()])
            images = found.to(self.device).unflatten(0, places.shape)
        images = images.float() / self._white
        if self._moments is not None:
            mean, std = self._moments
            images = (images - mean) / std
        return TaskBatch(
            images[:, :, : self.shots].flatten(1, 2), self._support_y,
            images[:, :, self.shots :].flatten(1, 2), self._query_y,
        )  # fmt: skip

    __iter__ = CharacterTasks.__iter__


class FunctionTasks:
    """Regression of a function of x whose parameters differ from task to task:

        FunctionTasks(lambda x, a, b: a * x + b, a=(0, 1), b=(-1, 1))

    Args:
        function: takes x (T, points, 1) and, by name, each parameter (T, 1, 1); returns the targets
            (T, points, ...), float.
        **ranges: (low, high) of each parameter, from which it is sampled uniformly for each task.
        x: (low, high) of the inputs, sampled uniformly too.
        noise: standard deviation of normal noise added to all targets.
        shots, queries: points per task in the support and the query set.
        tasks_per_batch: T.
        seed: same seed, same tasks, on every device.
        device: where batches are made.

    Batches hold float32 (T, points, 1) inputs and what the function makes of them.

    Raises:
        InputError: a number or a range is not allowed, there is no parameter, or the function does not fit.
    """

    def __init__(
        self, function: Callable[..., Tensor], *, x: tuple[float, float] = (-5, 5), noise: float = 0, shots: int = 10,
        queries: int = 10, tasks_per_batch: int = 25, seed: int = 0, device: str | torch.device = "cpu",
        **ranges: tuple[float, float],
    ):  # fmt: skip
        for name, number in {"shots": shots, "queries": queries, "tasks_per_batch": tasks_per_batch}.items():
            check_number(name, number, at_least=1, integer=True)
        check_number("seed", seed, at_least=0, at_most=LARGEST_SEED, integer=True)
        check_number("noise", noise, at_least=0)
        _check_takes(function, list(ranges))
        self.function, self.x, self.noise = function, _limits("x", x), float(noise)
        self.ranges = {name: _limits(name, limits) for name, limits in ranges.items()}
        self.shots, self.queries, self.tasks_per_batch, self.seed = shots, queries, tasks_per_batch, seed
        self.device = torch.device(device)

    def parameters(self, index: int | Tensor) -> dict[str, Tensor]:
        """The parameters of the tasks in batch `index` by name, each (T, 1, 1)."""
        key = _task_keys(self.seed, index, self.tasks_per_batch, self.device)
        shares = _uniform(_random_ints(key, 0, len(self.ranges)))[..., None, None].unbind(1)
        return {name: _between(limits, share) for (name, limits), share in zip(self.ranges.items(), shares)}

    def batch(self, index: int | Tensor) -> TaskBatch:
        """Batch number `index` of this seed's sequence."""
        key = _task_keys(self.seed, index, self.tasks_per_batch, self.device)
        x = _between(self.x, _uniform(_random_ints(key, 1, self.shots + self.queries))[..., None])
        with torch.no_grad():
            y = self.function(x, **self.parameters(index))
        if not isinstance(y, Tensor) or y.shape[:2] != x.shape[:2] or y.ndim < 3 or not y.is_floating_point():
            found = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise InputError(
                f"The function's result: expected floats of a shape that begins with {tuple(x.shape[:2])} (tasks, "
                f"points) and goes on, got {found}."
            )
        if self.noise:
            y = y + self.noise * _normal(key, 2, y[0].numel()).view_as(y)
        cut = self.shots
        return TaskBatch(x[:, :cut], y[:, :cut], x[:, cut:], y[:, cut:])

    __iter__ = CharacterTasks.__iter__


class SinusoidTasks(FunctionTasks):
    """Regression of y = a sin(x - φ): amplitude a in [0.1, 5], phase φ in [0, π], x in [-5, 5], all uniform
    (Finn et al. 2017, section 5.1).

    Args:
        shots, queries: points per task in the support and the query set.
        tasks_per_batch: T.
        seed: same seed, same tasks, on every device.
        device: where batches are made.

    Batches hold float32 (T, points, 1) inputs and targets.

    Raises:
        InputError: a number is not positive.
    """

    def __init__(
        self, shots: int = 10, queries: int = 10, tasks_per_batch: int = 25, seed: int = 0,
        device: str | torch.device = "cpu",
    ):  # fmt: skip
        super().__init__(
            _sinusoid, amplitude=(0.1, 5), phase=(0, math.pi), shots=shots, queries=queries,
            tasks_per_batch=tasks_per_batch, seed=seed, device=device,
        )  # fmt: skip

    def waves(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes and phases (radians) of the tasks in batch `index`, each (T, 1, 1)."""
        return tuple(self.parameters(index).values())


def _sinusoid(x: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    return amplitude * torch.sin(x - phase)


def _limits(name: str, limits) -> tuple[float, float]:
    pair = isinstance(limits, (tuple, list)) and len(limits) == 2
    numbers = pair and all(isinstance(limit, Real) and math.isfinite(limit) for limit in limits)
    if not numbers or limits[0] > limits[1]:
        raise InputError(f"{name}: expected a range (low, high) of two numbers with low <= high, got {limits!r}.")
    return float(limits[0]), float(limits[1])


def _check_takes(function, parameters: list[str]) -> None:
    """Refuse what cannot be called with x and these parameters."""
    if not callable(function):
        raise InputError(f"The function: expected a function of x and its parameters, got {function!r}.")
    if not parameters:
        raise InputError("The function: expected at least one parameter with its range, such as a=(0, 1), got none.")
    try:
        inspect.signature(function).bind(None, **dict.fromkeys(parameters))
    except TypeError as error:
        raise InputError(f"The function: expected to take x, {', '.join(parameters)}, but got: {error}.") from None
    except ValueError:
        pass  # a built-in function need not tell what it takes


def _check_episodes(ways, shots, queries, tasks_per_batch, seed) -> None:
    numbers = {"ways": ways, "shots": shots, "queries": queries, "tasks_per_batch": tasks_per_batch}
    for name, number in numbers.items():
        check_number(name, number, at_least=1, integer=True)
    check_number("seed", seed, at_least=0, at_most=LARGEST_SEED, integer=True)


def _moments(normalize, channels: int, device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (channels, 1, 1)."""
    try:
        mean, std = (torch.as_tensor(part, dtype=torch.float32, device=device).flatten() for part in normalize)
        if mean.isfinite().all() and (std > 0).all() and {len(mean), len(std)} <= {1, channels}:
            return mean[:, None, None], std[:, None, None]
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(
        f"normalize: expected (mean, std), each a number or {channels}, the channels, std above 0, got {normalize!r}."
    )


# Random numbers as a hash of where they are used: splitmix64 (Steele, Lea and Flood 2014), in wrapping int64.


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 has only the arithmetic shift: clear the copied sign


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _task_keys(seed: int, index: int | Tensor, tasks: int, device) -> Tensor:
    """One key (T, 1) for each task of a batch."""
    if not isinstance(index, Tensor):
        check_number("A batch's index", index, at_least=0, at_most=LARGEST_SEED, integer=True)
        index = torch.full((), index, dtype=torch.int64, device=device)
    key = _mix(torch.full((), seed, dtype=torch.int64, device=device))  # filled there: a copy would break a CUDA graph
    return _mix(_mix(key + index) + torch.arange(tasks, device=device))[:, None]


def _random_ints(key: Tensor, stream: int, count: int) -> Tensor:
    """(T, count) random int64; different streams of one key are independent."""
    return _mix(_mix(key + stream) + torch.arange(count, device=key.device))


def _uniform(x: Tensor) -> Tensor:
    """Random int64 to float32 in [0, 1)."""
    return _shift(x, 40).float() / (1 << 24)


def _between(limits: tuple[float, float], share: Tensor) -> Tensor:
    low, high = limits
    return low + (high - low) * share


def _normal(key: Tensor, stream: int, count: int) -> Tensor:
    """(T, count) standard normal float32 (Box and Muller 1958), from two streams."""
    radius, turn = (_uniform(_random_ints(key, stream + i, count)) for i in range(2))
    return (-2 * (1 - radius).log()).sqrt() * (2 * math.pi * turn).cos()
