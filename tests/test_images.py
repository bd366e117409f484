"""Anybody's own images: datasets and folders by class, splits of classes, episodes, and the commands on a folder."""

import functools
import hashlib
import http.server
import pickle
import subprocess
import sys
import tarfile
import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import refusal
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import CIFAR100, FakeData, ImageFolder
from torchvision.transforms import ToTensor

from mamlcourse import MAML, Characters, CharacterTasks, Conv4, ImageTasks, InputError, ResNet12, memory, split_classes
from mamlcourse.data import LabelledImages, cifar
from mamlcourse.data.images import split_names
from mamlcourse.problems import Problem
from mamlcourse.records import read_json
from mamlcourse.settings import recipe
from mamlcourse.tasks import check_batch

SIZES = (9, 4, 12, 5, 7, 6, 2)


def image(label, number, channels=3, height=16, width=16):
    """An image that spells its label and number in its first two pixels, its channels in the third."""
    pixels = torch.full((channels, height, width), 9, dtype=torch.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = label, number
    pixels[:, 0, 2] = torch.arange(channels, dtype=torch.uint8)
    return pixels


def made(sizes=SIZES, **options):
    """A list of (image, label) whose classes take turns, so that none lies in one piece."""
    pairs = sorted((number, label) for label, size in enumerate(sizes) for number in range(size))
    return [(image(label, number, **options), label) for number, label in pairs]


class Told:
    """A dataset that knows its labels, and counts how many of its images were read."""

    def __init__(self, items, name="targets", classes=None):
        self.items, self.reads = items, 0
        setattr(self, name, [label for _, label in items])
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        self.reads += 1
        return self.items[number]


@pytest.fixture
def folder(tmp_path):
    """A function that writes a folder of images, a folder for each class, and returns it."""

    def write(sizes=SIZES, name="birds", **options):
        for label, size in enumerate(sizes):
            (tmp_path / name / f"kind{label:02}").mkdir(parents=True)
            for number in range(size):
                pixels = image(label, number, **options).permute(1, 2, 0).squeeze(-1).numpy()
                Image.fromarray(pixels).save(tmp_path / name / f"kind{label:02}" / f"{number:02}.png")
        return tmp_path / name

    return write


def read(x):
    """(label, number) of each image of a batch."""
    return [tuple(pair) for pair in (x[..., 0, 0, :2] * 255).round().int().flatten(0, -2).tolist()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def quiet(*arguments, **keywords):
    """`ImageTasks` without the warning of classes that are too small."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageTasks(*arguments, **keywords)


# Episodes.


def test_every_episode_keeps_the_rules():
    tasks = quiet(made(), ways=3, shots=2, queries=3, tasks_per_batch=5, seed=7)
    assert tasks.classes == ("0", "2", "3", "4", "5")  # those with at least 5 images
    seen = set()
    for index in range(60):
        batch = check_batch(tasks.batch(index))
        assert batch.support_x.shape == (5, 6, 3, 16, 16) and batch.query_x.shape == (5, 9, 3, 16, 16)
        assert batch.support_x.dtype == torch.float32 and batch.query_y.dtype == torch.int64
        classes, examples = tasks.sample(index)
        for task in range(5):
            assert batch.support_y[task].tolist() == [0, 0, 1, 1, 2, 2]
            support, query = read(batch.support_x[task]), read(batch.query_x[task])
            assert len({label for label, _ in support}) == 3
            for way in range(3):
                mine = support[way * 2 : way * 2 + 2] + query[way * 3 : way * 3 + 3]
                assert len(set(mine)) == 5 and len({label for label, _ in mine}) == 1
                assert int(tasks.classes[classes[task, way]]) == mine[0][0]
                assert [number for _, number in mine] == examples[task, way].tolist()
                seen.update(mine)
    # Every image of every class that is large enough comes, and nothing else.
    assert seen == {(label, number) for label in (0, 2, 3, 4, 5) for number in range(SIZES[label])}


def test_images_are_sampled_evenly_from_classes_of_any_size():
    tasks = quiet(made((40, 5)), ways=1, shots=1, queries=1, tasks_per_batch=6000)
    classes, examples = tasks.sample(0)
    for place, size in enumerate((40, 5)):
        counts = torch.bincount(examples[classes == place].flatten(), minlength=40).double()
        expected = counts.sum() / size
        assert (counts[size:] == 0).all()
        assert ((counts[:size] - expected) ** 2 / expected).sum() < size - 1 + 5 * (2 * (size - 1)) ** 0.5
    assert abs((classes == 0).double().mean() - 0.5) < 0.04


def test_episodes_are_those_of_characters_where_both_can_make_them(noise):
    items = [(x, c) for c, examples in enumerate(noise.images) for x in examples]
    ours = ImageTasks(items, ways=4, shots=2, queries=3, tasks_per_batch=3, seed=5)
    theirs = CharacterTasks(noise, ways=4, shots=2, queries=3, tasks_per_batch=3, seed=5)
    for index in (0, 1, 10**9):
        assert same(ours.batch(index), theirs.batch(index))


@pytest.mark.parametrize("normalize", [None, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), (0.5, 0.25)])
def test_kept_and_streamed_images_give_the_same_episodes(normalize):
    data = Told(made())
    options = dict(ways=3, shots=1, queries=2, seed=3, normalize=normalize)
    bytes_kept = sum(size for size in SIZES if size >= 3) * 3 * 16 * 16
    kept, streamed = quiet(data, keep_bytes=bytes_kept, **options), quiet(data, keep_bytes=bytes_kept - 1, **options)
    assert kept.kept and not streamed.kept
    data.reads = 0
    for index in range(20):
        assert same(kept.batch(index), streamed.batch(torch.tensor(index)))
    assert data.reads == 20 * 4 * 3 * 3  # those of the streamed batches alone


def test_same_seed_same_episodes_in_any_order_and_others_with_another_seed():
    one, again, other = (quiet(made(), ways=3, queries=2, seed=seed) for seed in (1, 1, 2))
    batches = [batch for batch, _ in zip(one, range(4))]
    for index in (3, 0, 2, 1):
        assert same(again.batch(index), batches[index])
        assert not same(other.batch(index)[::2], batches[index][::2])
    with pytest.raises(AssertionError):
        assert same(batches[0][::2], batches[1][::2])
    before = torch.get_rng_state()
    one.batch(0)
    assert torch.equal(before, torch.get_rng_state())


def test_normalisation_is_of_each_channel():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    plain, normal = (quiet(made(), ways=3, queries=2, normalize=n) for n in (None, (mean, std)))
    expected = (plain.batch(1).query_x - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(normal.batch(1).query_x, expected)


def test_classes_are_chosen_by_name_or_label():
    data = Told(made(), classes=["ant", "bee", "cat", "dog", "eel", "fly", "gnu"])
    by_name = quiet(data, ways=2, queries=2, classes=["eel", "ant", "cat"])
    by_label = quiet(data, ways=2, queries=2, classes=[4, np.int64(0), torch.tensor(2)])
    assert by_name.classes == by_label.classes == ("eel", "ant", "cat")
    assert same(by_name.batch(0), by_label.batch(0))
    assert {label for label, _ in read(by_name.batch(0).query_x)} <= {0, 2, 4}


def test_classes_with_too_few_images_are_named_in_one_warning():
    with pytest.warns(UserWarning) as caught:
        ImageTasks(made(), ways=3, shots=1, queries=4)
    assert [str(w.message) for w in caught] == [
        "2 of 7 classes of list have fewer than 5 images (shots + queries) and are left out: 1 (4), 6 (2)."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageTasks(made(), ways=3, shots=1, queries=4, classes=[0, 2, 3])
        ImageTasks(made(), ways=3, shots=1, queries=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_episodes_are_the_same_on_a_gpu():
    here, there, streamed = (
        quiet(made(), ways=3, queries=2, device=device, keep_bytes=size)
        for device, size in (("cpu", 2**30), ("cuda", 2**30), ("cuda", 0))
    )
    for tasks in (there, streamed):
        batch = tasks.batch(torch.tensor(3, device="cuda"))
        assert same(here.batch(3), batch.to("cpu")) and batch.query_x.is_cuda


# Datasets.


def test_torchvisions_datasets_are_taken():
    data = FakeData(size=60, image_size=(3, 20, 20), num_classes=3, transform=ToTensor())
    as_pillow = FakeData(size=60, image_size=(3, 20, 20), num_classes=3)  # the same as Pillow's images
    one, other = (ImageTasks(d, ways=2, queries=2) for d in (data, as_pillow))
    assert one.images.classes == ("0", "1", "2") and one.batch(0).query_x.shape == (4, 4, 3, 20, 20)
    assert same(one.batch(0), other.batch(0))


@pytest.mark.parametrize("name", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_labels_that_the_dataset_tells_spare_reading_images(name, kind):
    data = Told(made(), name)
    setattr(data, name, kind(getattr(data, name)))
    images = LabelledImages(data)
    assert data.reads == 1  # for the shape
    assert [len(members) for members in images.members] == list(SIZES)


def test_labels_are_read_where_the_dataset_does_not_tell_or_changes_them():
    assert [len(members) for members in LabelledImages(made()).members] == list(SIZES)
    data = Told([(x, 10 - label) for x, label in made()])
    data.targets, data.target_transform = [10 - label for label in data.targets], lambda label: 10 - label
    images = LabelledImages(data)
    assert images.classes == tuple(map(str, range(4, 11))) and [len(m) for m in images.members] == list(SIZES[::-1])


def test_names_may_be_labels_and_need_not_be_unique():
    assert LabelledImages([(x, "abcdefg"[label]) for x, label in made()]).classes == tuple("abcdefg")
    data = Told(made((1, 1, 1)), classes=["crane", ("tench", "Tinca tinca"), "crane"])
    assert LabelledImages(data).classes == ("crane (0)", "tench, Tinca tinca", "crane (2)")


def test_subsets_and_concatenations_know_their_labels():
    names = ["ant", "bee", "cat", "dog", "eel", "fly", "gnu"]
    one, other = Told(made(), classes=names), Told(made(), classes=names)
    images = LabelledImages(ConcatDataset([one, Subset(other, torch.arange(10, 20))]))
    assert images.classes == tuple(names) and sum(map(len, images.members)) == sum(SIZES) + 10
    assert one.reads + other.reads == 1
    for members, label in zip(images.members, range(7)):
        assert {int(x[0, 0, 0]) for x in images.read(members)} == {label}
    mixed = ConcatDataset([one, Told(made(), classes=names[::-1])])
    assert "expected parts with the same classes" in refusal(LabelledImages, mixed)


def test_all_kinds_of_images_become_the_same_bytes():
    pixels = image(1, 2)
    flat = pixels.permute(1, 2, 0).numpy()
    kinds = [pixels, pixels.float() / 255, flat, flat.astype(np.float64) / 255, Image.fromarray(flat)]
    for kind in kinds:
        assert torch.equal(LabelledImages([(kind, 0)]).read([0])[0], pixels)
    grey = image(1, 2, channels=1)
    for kind in [grey, grey[0], grey[0].numpy(), grey.permute(1, 2, 0).numpy(), Image.fromarray(grey[0].numpy())]:
        assert torch.equal(LabelledImages([(kind, 0)]).read([0])[0], grey)
    for mode in ("RGBA", "P", "CMYK", "LA", "1"):
        channels = 1 if mode in ("LA", "1") else 3
        assert LabelledImages([(Image.new(mode, (5, 4)), 0)]).shape == (channels, 4, 5)


def test_grey_and_colours_are_converted_if_asked():
    colours = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    data = [(colours, 0), (colours[:1], 0)]
    to_grey, to_colours = LabelledImages(data, channels=1), LabelledImages(data, channels=3)
    pillow = np.array(Image.fromarray(colours.permute(1, 2, 0).numpy()).convert("L")).astype(int)
    assert np.abs(to_grey.read([0])[0, 0].numpy().astype(int) - pillow).max() <= 1
    assert torch.equal(to_grey.read([1])[0], colours[:1])
    assert torch.equal(to_colours.read([0, 1])[1], colours[:1].expand(3, -1, -1))


def test_images_are_resized_if_asked():
    data = [(torch.full((1, 20, 30), 200, dtype=torch.uint8), 0), (torch.full((1, 8, 8), 200, dtype=torch.uint8), 0)]
    images = LabelledImages(data, resize=16)
    assert images.shape == (1, 16, 16) and (images.read([0, 1]) == 200).all()
    assert LabelledImages(data, resize=(4, 6)).shape == (1, 4, 6)
    photo = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    ours = LabelledImages([(photo, 0)], resize=20).read([0])[0].int()
    pillow = Image.fromarray(photo.permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BILINEAR)
    assert (ours - torch.from_numpy(np.array(pillow)).permute(2, 0, 1).int()).abs().max() <= 1


def test_a_folder_of_folders_is_taken(folder):
    path = folder()
    ours, theirs = quiet(path, ways=3, queries=2, seed=4), quiet(ImageFolder(path), ways=3, queries=2, seed=4)
    assert ours.images.name == "birds" and ours.images.classes == tuple(f"kind{label:02}" for label in range(7))
    assert same(ours.batch(2), theirs.batch(2)) and ours.batch(2).query_x.shape == (4, 6, 3, 16, 16)
    assert same(ours.batch(2), quiet(made(), ways=3, queries=2, seed=4).batch(2))
    (path / "empty").mkdir()
    with pytest.warns(UserWarning, match=r"empty \(0\), kind06 \(2\)"):
        ImageTasks(str(path), ways=3, queries=2)
    assert LabelledImages(folder(name="grey", channels=1)).shape == (1, 16, 16)


@pytest.mark.parametrize(
    "item, message",
    [
        (image(0, 0).float(), "Image 0: expected values from 0 to 1, got 0 to 9; to normalise, leave it out of the"),
        (image(0, 0).float() / 255 - 0.5, "Image 0: expected values from 0 to 1, got -0.5 to "),
        (torch.full((1, 16, 16), torch.nan), "Image 0: expected values from 0 to 1, got nan to nan"),
        (image(0, 0).long(), "Image 0: expected dtype uint8 or floating, got int64."),
        (image(0, 0).permute(1, 2, 0), "with 1 or 3 channels, got (channels, height, width) = (16, 16, 3)."),
        (image(0, 0, channels=4), "with 1 or 3 channels, got (channels, height, width) = (4, 16, 16)."),
        (torch.zeros(16), "got (channels, height, width) = (16,)."),
        ("bird.png", "Image 0: expected a Pillow image, a tensor or an array, got a str."),
        (Image.new("I;16", (16, 16)), "Image 0: expected 8 bits for each channel, got Pillow's mode 'I;16'."),
    ],
)
def test_images_of_other_kinds_get_one_clear_sentence(item, message):
    assert message in refusal(LabelledImages, [(item, 0)])


def test_images_that_differ_get_one_clear_sentence():
    sizes = [(image(0, 0), 0), (image(0, 1, height=18, width=20), 0)]
    assert refusal(ImageTasks, sizes, ways=1, queries=1) == (
        "Image 1: expected 16 x 16 pixels, as image 0 has, got 18 x 20 pixels: give the side that all are resized to, "
        "such as 16."
    )
    colours = [(image(0, 0), 0), (image(0, 1, channels=1), 0)]
    assert refusal(ImageTasks, colours, ways=1, queries=1) == (
        "Image 1: expected 3 channels, as image 0 has, got 1: give channels=3 or channels=1, to which all are then "
        "converted."
    )
    for data, options in ((sizes, dict(resize=16)), (colours, dict(channels=1))):
        ImageTasks(data, ways=1, queries=1, **options)


class Broken:
    def __len__(self):
        return 3

    def __getitem__(self, number):
        raise OSError("the disk is gone")


@pytest.mark.parametrize(
    "dataset, message",
    [
        (3, "dataset: expected a folder, or a dataset with len() and (image, label) items, got a int."),
        ([], "got an empty one."),
        (iter(made()), "got a list_iterator."),
        ([image(0, 0)], "Item 0 of the dataset: expected (image, label), got a Tensor."),
        ([(image(0, 0), 1.5)], "A label: expected an integer or a name, got a float."),
        ([(image(0, 0), [0, 1])], "A label: expected an integer or a name, got a list."),
        ([(image(0, 0), None)], "A label: expected an integer or a name, got a NoneType."),
        (Broken(), "Image 0 cannot be read (OSError)."),
        (
            "no such folder",
            "The folder of images no such folder: expected a folder for each class in it, got no folder.",
        ),
    ],
)
def test_what_is_no_dataset_gets_one_clear_sentence(dataset, message):
    assert message in refusal(ImageTasks, dataset)


def test_folders_without_classes_and_damaged_images_get_one_clear_sentence(folder, tmp_path):
    (tmp_path / "bare").mkdir()
    assert "expected a folder for each class in it, got none." in refusal(ImageTasks, tmp_path / "bare")
    path = folder()
    (path / "kind02" / "03.png").write_bytes(b"no image")
    assert "(kind02/03.png) cannot be read (UnidentifiedImageError)." in refusal(quiet, path, ways=3, queries=2)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(ways=6),
            "ways: expected at most 5, the classes of list with at least 1 + 4 images (shots + queries), got 6.",
        ),
        (dict(ways=0), "ways: expected an integer at least 1, got 0."),
        (dict(shots=1.5), "shots: expected an integer"),
        (dict(seed=-1), "seed: expected an integer"),
        (dict(keep_bytes=-1), "keep_bytes: expected an integer at least 0, got -1."),
        (dict(resize=0), "resize: expected an integer at least 1, got 0."),
        (dict(resize=(1, 2, 3)), "resize: expected a side or (height, width), got (1, 2, 3)."),
        (dict(channels=2), "channels 2 is unknown. Allowed: 1, 3."),
        (dict(classes=["3", "8"]), "classes: expected classes of list, got '8'."),
        (dict(classes=[3, 8]), "classes: expected classes of list, got 8."),
        (dict(classes=[3, "3"]), "classes: expected none twice, got '3' again."),
        (dict(classes="3"), "classes: expected a list of names or labels, got '3'."),
        (
            dict(normalize=0.5),
            "normalize: expected (mean, std), each a number or 3, the channels, std above 0, got 0.5.",
        ),
        (dict(normalize=(0.5, 0)), "normalize: expected (mean, std)"),
        (dict(normalize=((0.5, 0.5), (1, 1))), "normalize: expected (mean, std)"),
        (dict(normalize=("a", "b")), "normalize: expected (mean, std)"),
    ],
)
def test_bad_options_get_one_clear_sentence(options, message):
    assert message in refusal(quiet, made(), **{"ways": 3, "queries": 4, **options})


def test_images_that_are_labelled_already_are_not_resized_again():
    images = LabelledImages(made())
    assert quiet(images, ways=3, queries=2).images is images
    assert "resize, channels: expected none for LabelledImages" in refusal(ImageTasks, images, resize=16)
    assert repr(images) == "LabelledImages(list: 45 images of 7 classes, 3 x 16 x 16)"


# Splits of classes.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [{}, dict(validation=0), dict(validation=3, test=5)])
def test_random_splits_are_disjoint_complete_and_seeded(seed, counts):
    names = [f"class {number}" for number in range(25)]
    split = split_names(names, seed=seed, **counts)
    assert sorted(sum(split, ())) == sorted(names)
    assert len(split.test) == counts.get("test", 5) and len(split.validation) == counts.get("validation", 4)
    assert split == split_names(names, seed=seed, **counts) != split_names(names, seed=seed + 1, **counts)


def test_splits_are_of_the_datasets_classes():
    data = made((3,) * 10)
    split = split_classes(data)
    assert tuple(map(len, split)) == (6, 2, 2) and sorted(sum(split, ())) == sorted(map(str, range(10)))
    assert (
        split
        == split_classes(LabelledImages(data))
        == split_classes(data, split._asdict())
        == split_classes(data, split)
    )
    given = split_classes(data, {"train": [3, "1", 2], "test": [0]})
    assert given == (("3", "1", "2"), (), ("0",))
    tasks = [ImageTasks(data, ways=2, queries=2, classes=part) for part in split]
    seen = [{label for i in range(30) for label, _ in read(t.batch(i).query_x)} for t in tasks]
    assert [sorted(map(str, labels)) for labels in seen] == [sorted(part) for part in split]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(by="cifar"), "The split 'cifar' is unknown."),
        (dict(by="fc100"), "classes: expected classes of list, got "),
        (dict(by=[1, 2]), "The split: expected a name, or a dictionary of lists 'train', 'test'"),
        (dict(by={"train": [1]}), "The split: expected a name, or a dictionary of lists 'train', 'test'"),
        (dict(by={"train": [1], "test": [2], "val": [3]}), "The split: expected a name, or a dictionary"),
        (dict(by={"train": [1], "test": [1]}), "classes: expected none twice, got '1' again."),
        (dict(by={"train": [1], "test": [11]}), "classes: expected classes of list, got 11 (did you mean '1'?)."),
        (dict(by={"train": [1], "test": [2]}, test=1), "validation, test: expected with a random split only"),
        (dict(validation=-1), "validation: expected an integer at least 0, got -1."),
        (dict(test=0), "test: expected an integer at least 1, got 0."),
        (dict(validation=4, test=3), "validation + test: expected at most 6 of 7 classes, got 4 + 3 = 7."),
        (dict(seed=0.5), "seed: expected an integer"),
    ],
)
def test_bad_splits_get_one_clear_sentence(options, message):
    assert message in refusal(split_classes, made(), **options)


def test_cifar100_has_its_classes_in_the_order_of_their_labels():
    assert len(cifar.SUPERCLASSES) == 20 and len(set(cifar.CLASSES)) == 100
    labels = {"apple": 0, "baby": 2, "camel": 15, "lawn_mower": 41, "rocket": 69, "tank": 85, "worm": 99}
    assert all(cifar.CLASSES[label] == name for name, label in labels.items())


@pytest.mark.parametrize("name, counts", [("cifar-fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_published_splits_are_disjoint_and_complete(name, counts):
    data = Told([(image(0, 0), label) for label in range(100)], classes=list(cifar.CLASSES))
    split = split_classes(data, name)
    assert tuple(map(len, split)) == counts
    assert sorted(sum(split, ())) == list(cifar.CLASSES)


def test_fc100_keeps_superclasses_together_and_cifar_fs_does_not():
    parts = [set(part) for part in cifar.SPLITS["fc100"]]
    assert all(sum(bool(set(names) & part) for part in parts) == 1 for names in cifar.SUPERCLASSES.values())
    assert [sum(set(names) <= part for names in cifar.SUPERCLASSES.values()) for part in parts] == [12, 4, 4]
    train, validation, test = cifar.SPLITS["cifar-fs"]
    assert "dolphin" in train and "otter" in validation and "whale" in test  # all aquatic mammals
    assert set(cifar.FC100_SUPERCLASSES["test"]) == {"aquatic_mammals", "insects", "medium_mammals", "people"}
    held_out = {"large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals"}
    assert set(cifar.FC100_SUPERCLASSES["validation"]) == held_out
    published = " ".join(map(",".join, cifar.SPLITS["cifar-fs"]))  # as the lists that are in circulation
    assert hashlib.sha256(published.encode()).hexdigest().startswith("076102b0ec9acb7a")


# Networks for them.


@pytest.mark.parametrize("side", [16, 20, 28, 32, 33, 84])
@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
@pytest.mark.parametrize("channels", [1, 3])
def test_conv4_takes_any_side_and_channels(side, downsampling, channels):
    model = Conv4(5, 4, downsampling, channels, side)
    assert model(torch.rand(2, channels, side, side)).shape == (2, 5)
    assert model.head.in_features == (4 * (side // 16) ** 2 if downsampling == "max-pool" else 4)


def test_conv4_has_the_weights_it_always_had():
    torch.manual_seed(3)
    found, after = Conv4(4, 2).state_dict(), torch.rand(1)
    torch.manual_seed(3)
    for name, inputs in (("0", 1), ("4", 2), ("8", 2), ("12", 2)):
        layer = torch.nn.Conv2d(inputs, 2, 3, padding=1)
        assert torch.equal(found[f"features.{name}.weight"], layer.weight)
        assert torch.equal(found[f"features.{name}.bias"], layer.bias)
    assert found["head.weight"].shape == torch.nn.Linear(2, 4).weight.shape
    assert torch.equal(after, torch.rand(1))  # no more random numbers were used, and no fewer


def test_resnet12_has_the_published_size():
    model = ResNet12(ways=64)
    count = sum(p.numel() for p in model.features.parameters())
    expected = sum(
        9 * (i * o + 2 * o * o) + i * o + 8 * o for i, o in zip((3, 64, 160, 320), (64, 160, 320, 640))
    )  # three convolutions, a shortcut, and four pairs of weights and biases of batch normalisation
    assert count == expected and round(count / 1e6, 1) == 12.4
    assert model.head.in_features == 640 and torch.equal(model(torch.rand(2, 3, 32, 32)), torch.zeros(2, 64))
    assert list(model.buffers()) == []


def test_resnet12_has_the_published_blocks():
    model, x = ResNet12(3, (2, 3, 4, 5)), torch.rand(2, 3, 32, 32)
    block = model.features[0]
    y, norm = x, lambda y: F.batch_norm(y, None, None, torch.ones(2), torch.zeros(2), training=True)
    for layer in (0, 3, 6):
        y = norm(F.conv2d(y, block.straight[layer].weight, padding=1))
        y = F.leaky_relu(y, 0.1) if layer < 6 else y
    y = F.max_pool2d(F.leaky_relu(y + norm(F.conv2d(x, block.shortcut[0].weight)), 0.1), 2)
    torch.testing.assert_close(block(x), y)
    assert [block(x).shape[1:] for block in [model.features[:n] for n in (1, 2, 3, 4)]] == [
        (2, 16, 16), (3, 8, 8), (4, 4, 4), (5, 2, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("side", [16, 32, 50])
def test_resnet12_takes_any_side(side):
    model = ResNet12(3, (2, 3, 4, 5), channels=1)
    assert (
        model(torch.rand(2, 1, side, side)).shape == (2, 3) and model.features(torch.rand(2, 1, side, side)).std() > 0
    )


@pytest.mark.parametrize(
    "network, options, message",
    [
        (Conv4, dict(side=15), "side: expected an integer at least 16, got 15."),
        (Conv4, dict(channels=0), "channels: expected an integer at least 1, got 0."),
        (ResNet12, dict(filters=64), "filters: expected four integers, one for each block, got 64."),
        (ResNet12, dict(filters=(1, 2, 3)), "filters: expected four integers"),
        (ResNet12, dict(filters=(1, 2, 3, 0)), "filters: expected an integer at least 1, got 0."),
        (ResNet12, dict(ways=0), "ways: expected an integer at least 1, got 0."),
    ],
)
def test_bad_networks_get_one_clear_sentence(network, options, message):
    assert refusal(network, **options).startswith(message)


NETWORKS = {
    "Conv4": lambda: Conv4(3, 3, channels=3, side=32),
    "Conv4, stride": lambda: Conv4(3, 3, "stride", channels=3, side=32),
    "ResNet12": lambda: ResNet12(3, (2, 2, 3, 3)),
}


def colourful(seed=0):
    generator = torch.Generator().manual_seed(seed)
    items = [(torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8), n % 4) for n in range(24)]
    return ImageTasks(items, ways=3, shots=1, queries=2, tasks_per_batch=2, seed=seed)


@pytest.mark.parametrize("name", ["maml", "fomaml", "maml++"])
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradients_on_rgb_images_agree_between_backends(network, name):
    batch = colourful().batch(0)
    batch = type(batch)(*(x.double() if x.is_floating_point() else x for x in batch))
    found = []
    for backend in ("loop", "vmap", "batched", "products"):
        torch.manual_seed(0)
        model = NETWORKS[network]().double()
        torch.nn.init.normal_(model.head.weight)
        gradient = MAML(model, name, inner_steps=2, backend=backend).meta_gradients(batch)
        found.append(gradient.gradients.tensors())
    assert all(g.isfinite().all() for g in found[0]) and any(g.abs().max() > 1e-6 for g in found[0])
    for theirs, *others in zip(*found):
        for mine in others:
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


# The commands.


TINY = ["--filters", "3", "--queries", "2", "--ways", "3"]


@pytest.mark.parametrize("channels", [1, 3])
def test_compare_on_a_folder(run, folder, tmp_path, channels):
    path = folder((5,) * 8, channels=channels, height=20, width=20)
    options = ["--train-tasks", "4", "--eval-tasks", "4", "--json", "r.json", "--figure", "f.png"]
    code, out, err = run("compare", "--data", path, *TINY, *options, "--algorithm", "maml", "--algorithm", "fomaml")
    assert code == 0, err
    words = " ".join(out.split())
    assert "birds, 3-way 1-shot" in words and "of unseen classes" in words and "Margin:" in words
    problem = read_json(tmp_path / "r.json")["problem"]
    assert (problem["dataset"], problem["split"], problem["channels"], problem["side"]) == (
        "birds",
        "classes",
        channels,
        20,
    )
    assert str(tmp_path) not in (tmp_path / "r.json").read_text() and "data" not in problem
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert Problem.from_record(problem, data=path) == Problem.from_folder(
        path, validation=0, filters=3, queries=2, ways=3
    )


@pytest.mark.parametrize("channels, side", [(1, 28), (3, 40)])
def test_memory_is_measured_on_images_like_those_of_the_folder(folder, channels, side):
    path = folder((5,) * 8, channels=channels, height=side, width=side)
    problem = Problem.from_folder(path, validation=0, ways=3, queries=2, filters=8)
    maml, batch = memory._build(
        dict(settings=recipe("maml").to_record(), problem=problem.describe(), tasks_per_batch=2, backend="loop"), "cpu"
    )
    expected = problem.tasks("train", 2, 0).batch(0)
    assert [x.shape for x in batch] == [x.shape for x in expected]
    assert memory.peak_of_training(recipe("maml"), problem, 2, "cpu") > 0


def test_classes_left_out_are_one_line_of_the_command(folder, tmp_path):
    command = [sys.executable, "-m", "mamlcourse", "train", "--data", folder((5,) * 9 + (2,), height=20, width=20)]
    command += [*TINY, "--out", tmp_path / "m.pt", "--iterations", "2"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    said = [line for line in ran.stderr.splitlines() if "left out" in line]
    assert ran.returncode == 0 and len(said) == 1, ran.stderr
    assert said[0].startswith("mamlcourse: 1 of 10 classes of birds")


def test_train_and_evaluate_on_a_folder(run, folder, tmp_path):
    path = folder((5,) * 9, height=24, width=20)
    options = ["train", "--data", path, *TINY, "--out", "m.pt", "--algorithm", "fomaml", "--side", 16]
    code, out, err = run(*options, "--iterations", 2)
    assert code == 0 and "mamlcourse evaluate m.pt --data" in out, err
    code, out, err = run(*options, "--iterations", 4, "--resume")
    assert code == 0, err
    config = torch.load("m.pt", weights_only=True)["config"]
    assert config["problem"]["side"] == 16 and str(tmp_path) not in str(config)
    code, out, err = run("evaluate", "m.pt", "--data", path, "--tasks", 5, "--json", "e.json")
    assert code == 0 and "test tasks of birds" in out, err
    assert len(read_json(tmp_path / "e.json")["task_accuracies"]) == 5
    code, out, err = run("evaluate", "m.pt", "--tasks", 5)
    assert code == 2 and "data: expected the folder of the images 'birds', got none." in err
    code, out, err = run(*[*options[:-1], 20], "--iterations", 4, "--resume")
    assert code == 2 and "was trained with side 16, but now side is 20" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "absent"], "The folder of images absent: expected a folder for each class in it, got no folder."),
        (["--data", "birds"], "expected squares of at least 16 pixels on a side, got 24 x 20: give a side"),
        (["--data", "birds", "--side", "15"], "expected squares of at least 16 pixels on a side, got 15 x 15"),
        (["--data", "birds", "--side", "16", "--channels", "2"], "channels 2 is unknown. Allowed: 1, 3."),
        (
            ["--data", "birds", "--side", "16", "--ways", "4"],
            "ways: expected at most 3, as the 7 classes of birds with",
        ),
        (["--side", "16"], "--side and --channels: expected with --data only"),
    ],
)
def test_bad_folders_end_in_one_sentence_and_code_2(run, folder, arguments, message):
    folder((5,) * 7, height=24, width=20)
    code, out, err = run("compare", "--queries", "2", "--filters", "3", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("mamlcourse: ")]
    assert code == 2 and len(lines) == 1 and message in lines[0] and "Traceback" not in err, (out, err)


def test_images_of_several_sizes_are_refused_unless_a_side_is_given(folder):
    path = folder((5,) * 8)
    Image.new("RGB", (18, 18)).save(path / "kind07" / "04.png")
    options = dict(validation=0, ways=3, queries=2)
    for part in ("train", "test"):  # one of them has the class
        Problem.from_folder(path, 16, **options).tasks(part, 2, 0)
    with pytest.raises(InputError, match="expected 16 x 16 pixels, as image 0 has, got 18 x 18"):
        for part in ("train", "test"):
            Problem.from_folder(path, **options).tasks(part, 2, 0)


def test_a_problem_reads_its_images_once(folder, monkeypatch):
    problem = Problem.from_folder(folder((5,) * 8), validation=0, ways=3, queries=2)
    problem.tasks("train", 2, 0)
    monkeypatch.setattr(LabelledImages, "_read", None)
    problem.tasks("train", 3, 1).batch(4)
    with pytest.raises(TypeError):
        problem.tasks("test", 2, 0)


def test_a_problem_of_images_splits_its_classes_once_and_for_all(folder):
    path = folder((5,) * 20)
    one, other = (Problem.from_folder(path, ways=2, queries=2) for _ in range(2))
    assert one.parts == other.parts and tuple(map(len, one.parts)) == (13, 3, 4)
    assert not one.rotations  # a photo upside down is no other class
    assert tuple(map(len, Problem.from_folder(path, validation=0, ways=6, queries=2).parts)) == (14, 0, 6)
    assert same(one.tasks("test", 2, 3).batch(1), other.tasks("test", 2, 3).batch(1))
    again = Problem.from_record(one.describe(), data=path)
    assert again == one and same(again.tasks("train", 2, 3).batch(1), one.tasks("train", 2, 3).batch(1))
    assert "There are no validation classes" in refusal(
        Problem.from_folder(path, validation=0, ways=2, queries=2).tasks, "validation", 2, 0
    )
    assert Problem().describe().keys() & {"channels", "side", "data"} == set()  # those of characters are as ever


# Characters are checked too.


def test_wrong_characters_get_one_clear_sentence(noise):
    def said(images=noise.images, alphabets=noise.alphabets, names=noise.names):
        return refusal(Characters, "mine", images, alphabets, names, frozenset())

    assert said(noise.images / 255) == "images: expected dtype uint8 with 255 for full ink, got float32 from 0 to 1."
    assert said(noise.images.long()) == "images: expected dtype uint8 with 255 for full ink, got int64 from 0 to 255."
    assert said(noise.images // 255) == "images: expected 255 for full ink, got at most 1, as after a division by 255."
    assert said(noise.images.numpy()) == (
        "images: expected a tensor (torch.from_numpy makes one of an array), got a ndarray."
    )
    for wrong in (noise.images[:, :, None].expand(-1, -1, 3, -1, -1), noise.images[:, 0], noise.images[..., :3]):
        assert said(wrong) == (
            "images: expected shape (classes, examples, height, width), as characters are grey (ImageTasks takes RGB), "
            f"got {tuple(wrong.shape)}."
        )
    assert said(names=noise.names[1:]) == "names: expected 40, one for each class of the images, got 39."
    assert said(alphabets=()) == "alphabets: expected 40, one for each class of the images, got 0."


def test_characters_that_are_no_squares_cannot_be_rotated(noise):
    wide = Characters("wide", noise.images[:, :, 4:], noise.alphabets, noise.names, frozenset())
    assert CharacterTasks(wide).batch(0).query_x.shape == (4, 75, 1, 24, 28)
    assert refusal(CharacterTasks, wide, rotations=True) == "rotations: expected square images, got 24 x 28 pixels."


@pytest.fixture
def cifar_on_a_local_server(tmp_path, monkeypatch):
    """torchvision's CIFAR-100, whose download is a made-up archive of the same form on this machine."""
    source = tmp_path / "served" / "cifar-100-python"
    source.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, each in (("train", 4), ("test", 2)):
        labels = list(range(100)) * each
        pixels = noise.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (source / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    (source / "meta").write_bytes(pickle.dumps({"fine_label_names": list(cifar.CLASSES)}))
    archive = source.parent / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source, source.name)

    def digest(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    handler = functools.partial(SilentHandler, directory=source.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(CIFAR100, "tgz_md5", digest(archive))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", digest(source / "train")]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", digest(source / "test")]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": digest(source / "meta")})
    yield tmp_path / "data"
    server.shutdown()


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("name, ways", [("cifar-fs", 20), ("fc100", 20)])
def test_cifar100_downloaded_by_torchvision(name, ways, cifar_on_a_local_server):
    both = [CIFAR100(cifar_on_a_local_server, train=part, download=True) for part in (True, False)]
    data = ConcatDataset(both)
    split = split_classes(data, name)
    tasks = ImageTasks(data, ways=ways, queries=5, classes=split.test, normalize=(0.5, 0.25))
    batch = check_batch(tasks.batch(0))
    assert batch.support_x.shape == (4, ways, 3, 32, 32)
    maml = MAML(Conv4(ways, 4, channels=3, side=32), inner_steps=1)
    assert maml.meta_gradients(batch).loss.isfinite()
