"""Characters, their splits, and the two families of tasks: what is in an episode, how it is drawn, and bad input."""

import math
import os
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import refusal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mamlcourse import MAML, Characters, CharacterTasks, FunctionTasks, SinusoidTasks, load_characters, train
from mamlcourse.data.characters import FINN_COUNTS
from mamlcourse.errors import check_choice, check_number
from mamlcourse.tasks import check_batch

# The same examples in every run, and no clock. Sharing `noise` between examples is fine: nothing changes it.
seeded = settings(
    derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SEEDS = st.integers(0, 2**63 - 1)


def blank(classes, alphabets=50, test_alphabets=20):
    """Characters without ink, where only the labels matter."""
    return Characters(
        "blank",
        torch.zeros(classes, 2, 28, 28, dtype=torch.uint8),
        tuple(f"alphabet {c % alphabets}" for c in range(classes)),
        tuple(f"letter {c // alphabets}" for c in range(classes)),
        frozenset(f"alphabet {a}" for a in range(test_alphabets)),
    )


def identities(characters):
    return list(zip(characters.alphabets, characters.names))


def parts_of(split):
    return [part for part in split if part is not None]


# Splits.


def assert_disjoint_and_complete(split, characters):
    found = [identity for part in parts_of(split) for identity in identities(part)]
    assert len(found) == len(set(found)) == len(characters)
    assert set(found) == set(identities(characters))
    originals = dict(zip(identities(characters), characters.images))
    for part in parts_of(split):
        assert len(part.images) == len(part.alphabets) == len(part.names) == len(part)
        assert all(torch.equal(image, originals[who]) for who, image in zip(identities(part), part.images))


@pytest.mark.parametrize("by", ["alphabet", "random"])
@pytest.mark.parametrize("validation", [None, 0, 1, 3])
@pytest.mark.parametrize("name", ["noise", "glyphs"])
def test_every_class_is_in_exactly_one_part(by, validation, name, noise):
    characters = noise if name == "noise" else load_characters("glyphs")
    split = characters.split(by, validation=validation)
    assert_disjoint_and_complete(split, characters)
    assert (split.validation is None) == (validation == 0)
    assert [part.name for part in parts_of(split)] == [
        f"{name}/{part}" for part in ("train", "validation", "test") if part != "validation" or validation != 0
    ]
    if by == "alphabet":
        alphabets = [set(part.alphabets) for part in parts_of(split)]
        assert sum(map(len, alphabets)) == len(set(characters.alphabets))  # no alphabet in two parts
        assert set(split.test.alphabets) == characters.test_alphabets
        assert validation == 0 or len(set(split.validation.alphabets)) == (5 if validation is None else validation)
    elif validation:
        assert len(split.validation) == validation


def test_random_split_of_as_many_classes_as_omniglot_has_finns_counts():
    characters = blank(1623)
    assert tuple(map(len, characters.split("random"))) == FINN_COUNTS == (1100, 100, 423)
    split = characters.split("random", validation=0)
    assert (len(split.train), split.validation, len(split.test)) == (1200, None, 423)
    assert tuple(map(len, characters.split("random", validation=7))) == (1193, 7, 423)


@pytest.mark.parametrize("by", ["alphabet", "random"])
def test_splits_are_seeded(by, noise):
    def drawn(seed):
        return [sorted(identities(part)) for part in noise.split(by, validation=2, seed=seed)]

    assert drawn(1) == drawn(1) == [sorted(identities(part)) for part in noise.split(by, validation=2)]
    assert len({str(drawn(seed)) for seed in range(6)}) > 3


@seeded
@given(by=st.sampled_from(["alphabet", "random"]), validation=st.integers(0, 6), seed=SEEDS)
def test_any_split_is_disjoint_and_complete(noise, by, validation, seed):
    assert_disjoint_and_complete(noise.split(by, validation=validation, seed=seed), noise)


def test_a_random_split_may_leave_a_single_class_for_training(noise):
    tests = len(noise.split("random").test)
    assert len(noise.split("random", validation=40 - tests - 1).train) == 1
    assert "expected at most" in refusal(noise.split, "random", validation=40 - tests)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(by="alphabets"), "The split 'alphabets' is unknown. Did you mean 'alphabet'? Allowed: alphabet, random."),
        (dict(by=None), "The split None is unknown."),
        (dict(validation=-1), "validation: expected an integer at least 0, got -1."),
        (dict(validation=2.0), "validation: expected an integer"),
        (dict(validation=True), "validation: expected"),
        (dict(validation="2"), "validation: expected"),
        (dict(validation=7), "validation: expected at most 6 alphabets, got 7: noise has 7 alphabets outside"),
        (dict(by="random", validation=30), "validation: expected at most 29 classes, got 30: noise has 40"),
        (dict(seed=-1), "seed: expected"),
        (dict(seed=0.5), "seed: expected"),
        (dict(seed=2**63), "seed: expected an integer at least 0 and at most"),
    ],
)
def test_bad_splits_get_one_clear_sentence(arguments, message, noise):
    assert message in refusal(noise.split, **arguments)


def test_a_split_with_an_empty_part_is_refused(noise):
    untested = Characters("untested", noise.images, noise.alphabets, noise.names, frozenset())
    assert "cannot be split by alphabet" in refusal(untested.split)
    assert "cannot be split by random" in refusal(blank(1).split, "random")


@pytest.mark.parametrize("name", ["omniglott", "Glyphs", "", None, 3])
def test_unknown_data_set_is_refused(name):
    assert "Allowed: glyphs, icons, omniglot." in refusal(load_characters, name)


@pytest.mark.skipif(not os.environ.get("MAMLCOURSE_DATA"), reason="set MAMLCOURSE_DATA to a folder with Omniglot")
def test_splits_of_the_real_omniglot():
    omniglot = load_characters("omniglot", download=False)
    assert len(omniglot) == 1623 and len(set(omniglot.alphabets)) == 50
    split = omniglot.split(validation=0)
    assert (len(split.train), len(split.test)) == (964, 659)  # the official background and evaluation sets
    assert "Greek" in split.train.alphabets and "Angelic" in split.test.alphabets
    split = omniglot.split()
    assert_disjoint_and_complete(split, omniglot)
    assert [len(set(part.alphabets)) for part in split] == [25, 5, 20]
    assert tuple(map(len, omniglot.split("random"))) == FINN_COUNTS


def test_characters_are_shown_and_selected(noise):
    assert repr(noise) == "Characters(noise: 40 classes x 20 drawings, 8 alphabets)"
    part = noise.select([7, 3], "two")
    assert part.name == "noise/two" and part.names == ("letter 2", "letter 3")
    assert torch.equal(part.images, noise.images[[7, 3]])
    for wrong in (-1, 40):
        expected = f"A class: expected an integer at least 0 and at most 39, got {wrong}."
        assert refusal(noise.select, [0, wrong], "x") == expected


# Episodes of characters.


def numbered(classes=12, drawings=10):
    """Characters whose pictures spell their own class and drawing, in a corner that shows how they are turned."""
    images = torch.zeros(classes, drawings, 28, 28, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.arange(1, classes + 1, dtype=torch.uint8)[:, None]
    images[:, :, 0, 1] = torch.arange(1, drawings + 1, dtype=torch.uint8)
    names = tuple(map(str, range(classes)))
    return Characters("numbered", images, ("all",) * classes, names, frozenset())


def read(picture):
    """(class, drawing, rotation) of one picture of `numbered` characters."""
    for rotations in range(4):
        upright = torch.rot90((picture[0] * 255).round(), -rotations)
        if upright[0, 0] > 0 and upright[0, 1] > 0:
            return int(upright[0, 0]) - 1, int(upright[0, 1]) - 1, rotations
    raise AssertionError("the picture is none of the numbered ones")


@seeded
@given(
    ways=st.integers(1, 12), shots=st.integers(1, 5), queries=st.integers(1, 5), tasks=st.integers(1, 4),
    rotations=st.booleans(), seed=SEEDS, index=st.integers(0, 10**9),
)  # fmt: skip
def test_every_episode_keeps_the_rules(ways, shots, queries, tasks, rotations, seed, index):
    characters = numbered()
    family = CharacterTasks(characters, ways, shots, queries, tasks, rotations, seed)
    batch = family.batch(index)
    check_batch(batch)
    assert batch.support_x.shape == (tasks, ways * shots, 1, 28, 28)
    assert batch.query_x.shape == (tasks, ways * queries, 1, 28, 28)
    assert batch.support_x.dtype == batch.query_x.dtype == torch.float32
    assert batch.support_y.dtype == batch.query_y.dtype == torch.int64
    classes, drawings, turned = family.sample(index)
    assert classes.shape == turned.shape == (tasks, ways) and drawings.shape == (tasks, ways, shots + queries)
    for task in range(tasks):
        assert batch.support_y[task].tolist() == sorted(list(range(ways)) * shots)
        assert batch.query_y[task].tolist() == sorted(list(range(ways)) * queries)
        support, query = [read(x) for x in batch.support_x[task]], [read(x) for x in batch.query_x[task]]
        for label in range(ways):
            mine = support[label * shots :][:shots] + query[label * queries :][:queries]
            assert {c for c, _, _ in mine} == {classes[task, label].item()}  # one class for each label
            assert len({t for _, _, t in mine}) == 1  # turned as a whole
            assert [d for _, d, _ in mine] == drawings[task, label].tolist()  # what `draw` said, support first
            assert len({d for _, d, _ in mine}) == shots + queries  # no drawing twice
            assert mine[0][2] == turned[task, label] and (rotations or mine[0][2] == 0)
        assert len(set(classes[task].tolist())) == ways  # no class twice in a task


def test_pictures_are_the_originals_turned(noise):
    tasks = CharacterTasks(noise, ways=4, shots=2, queries=3, tasks_per_batch=8, rotations=True)
    batch = tasks.batch(5)
    classes, drawings, rotations = tasks.sample(5)
    assert set(rotations.flatten().tolist()) == {0, 1, 2, 3}
    for task in range(8):
        for label in range(4):
            originals = noise.images[classes[task, label], drawings[task, label]].float() / 255
            expected = torch.rot90(originals, int(rotations[task, label]), dims=(1, 2))[:, None]
            assert torch.equal(batch.support_x[task, label * 2 : label * 2 + 2], expected[:2])
            assert torch.equal(batch.query_x[task, label * 3 : label * 3 + 3], expected[2:])


def test_ink_is_one_and_paper_zero():
    glyphs = load_characters("glyphs")
    batch = CharacterTasks(glyphs, rotations=True).batch(0)
    assert (batch.query_x.min(), batch.query_x.max()) == (0, 1)
    assert batch.query_x.mean() < 0.5  # more paper than ink


def test_all_classes_and_all_drawings_can_be_used_at_once():
    tasks = CharacterTasks(numbered(), ways=12, shots=4, queries=6, tasks_per_batch=2)
    classes, drawings, _ = tasks.sample(0)
    assert torch.equal(classes.sort().values, torch.arange(12).expand(2, 12))
    assert torch.equal(drawings.sort().values, torch.arange(10).expand(2, 12, 10))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


FAMILIES = {
    "characters": lambda seed=0, tasks=4: CharacterTasks(numbered(), 5, 1, 3, tasks, rotations=True, seed=seed),
    "sinusoids": lambda seed=0, tasks=4: SinusoidTasks(tasks_per_batch=tasks, seed=seed),
    "functions": lambda seed=0, tasks=4: FunctionTasks(
        lambda x, a, b: a * x + b, a=(0, 1), b=(-1, 1), noise=0.1, tasks_per_batch=tasks, seed=seed
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_batches_in_any_order(family):
    make = FAMILIES[family]
    tasks, again = make(3), make(3)
    in_order = [batch for batch, _ in zip(tasks, range(6))]
    for index in (5, 0, 3, 1, 4, 2):
        assert same(again.batch(index), in_order[index])
        assert same(tasks.batch(torch.tensor(index)), in_order[index])
        assert same(tasks.batch(np.int64(index)), in_order[index])
    assert same(next(iter(tasks)), in_order[0])  # each loop begins at the beginning


@pytest.mark.parametrize("family", FAMILIES)
def test_no_task_comes_twice(family):
    """Tasks of different seeds, batches and places are different; with few seeds and batches, all of them."""
    seen = Counter()
    for seed in (0, 1, 2, 3, 10, 2**40, 2**63 - 1):
        for index in (0, 1, 2, 3, 10, 1000, 2**40):
            batch = FAMILIES[family](seed).batch(index)
            seen.update(str((x.tolist(), y.tolist())) for x, y in zip(batch.support_x, batch.query_x))
    assert len(seen) == 7 * 7 * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_depends_on_seed_batch_and_place_only(family):
    """With more tasks in a batch, its first tasks stay what they were."""
    few, many = FAMILIES[family](7, tasks=2), FAMILIES[family](7, tasks=5)
    assert same(few.batch(9), [part[:2] for part in many.batch(9)])


def test_shots_queries_and_ways_only_add_to_a_task(noise):
    """Classes, drawings and rotations do not depend on how many are asked for, so that shots compare on equal tasks."""
    small = CharacterTasks(noise, ways=3, shots=1, queries=2, rotations=True, seed=5).sample(2)
    large = CharacterTasks(noise, ways=5, shots=5, queries=15, rotations=True, seed=5).sample(2)
    assert torch.equal(small[0], large[0][:, :3]) and torch.equal(small[2], large[2][:, :3])
    assert torch.equal(small[1], large[1][:, :3, :3])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_global_random_state_is_neither_read_nor_written(family):
    torch.manual_seed(1)
    first = FAMILIES[family]().batch(0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(first, FAMILIES[family]().batch(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def assert_uniform(counts):
    """Chi-square by hand: with k cells it has mean k - 1 and variance 2 (k - 1), so 5 deviations never come by chance.

    Too even is as suspicious as too uneven.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    expected = counts.sum() / len(counts)
    assert expected > 20
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    freedom = len(counts) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom), (chi_square, freedom)


def count(values, cells):
    return torch.bincount(values.flatten(), minlength=cells)


@pytest.mark.parametrize("over", ["tasks", "batches", "seeds"])
def test_classes_drawings_and_rotations_are_uniform(over, noise):
    """One hash makes all numbers; none of its three inputs may leave a pattern."""
    settings = dict(ways=1, shots=1, queries=1, rotations=True)
    if over == "tasks":
        drawn = [CharacterTasks(noise, **settings, tasks_per_batch=4000).sample(0)]
    elif over == "batches":
        tasks = CharacterTasks(noise, **settings, tasks_per_batch=1)
        drawn = [tasks.sample(index) for index in range(4000)]
    else:
        drawn = [CharacterTasks(noise, **settings, tasks_per_batch=1, seed=seed).sample(0) for seed in range(4000)]
    classes, drawings, rotations = (torch.cat(parts) for parts in zip(*drawn))
    assert_uniform(count(classes, 40))
    assert_uniform(count(rotations, 4))
    support, query = drawings[:, 0, 0], drawings[:, 0, 1]
    assert_uniform(count(support, 20))
    assert_uniform(count(query, 20))
    # No two of these know of each other: their pairs are uniform too.
    assert_uniform(count(classes[:, 0] * 4 + rotations[:, 0], 160))
    pairs = count(support * 20 + query, 400).reshape(20, 20)
    assert pairs.diagonal().sum() == 0
    halves = (classes[:, 0] >= 20).long() * 2 + (support >= 10)
    assert_uniform(count(halves, 4))
    # Neighbours (tasks, batches or seeds) are independent of each other.
    assert_uniform(count(rotations[1:, 0] * 4 + rotations[:-1, 0], 16))
    assert_uniform(count((classes[1:, 0] >= 20).long() * 2 + (classes[:-1, 0] >= 20), 4))


def test_every_label_draws_uniformly_and_independently(noise):
    """Within a task, all ordered pairs of classes are equally frequent, and the rotations of two labels independent."""
    tasks = CharacterTasks(noise, ways=5, shots=1, queries=1, rotations=True, tasks_per_batch=40000)
    classes, drawings, rotations = tasks.sample(1)
    for label in range(5):
        assert_uniform(count(classes[:, label], 40))
        assert_uniform(count(drawings[:, label, 0], 20))
    pairs = count(classes[:, 0] * 40 + classes[:, 1], 1600).reshape(40, 40)
    assert_uniform(pairs[~torch.eye(40, dtype=torch.bool)])
    assert_uniform(count(rotations[:, 0] * 4 + rotations[:, 4], 16))
    assert_uniform(count(drawings[:, 0, 0] * 20 + drawings[:, 1, 0], 400))


def test_numpy_numbers_are_numbers(noise):
    plain = CharacterTasks(noise, 3, 1, 2, 2, seed=4)
    strange = CharacterTasks(noise, np.int64(3), np.int32(1), np.uint8(2), np.int16(2), seed=np.uint64(4))
    assert same(plain.batch(1), strange.batch(1))
    assert same(
        SinusoidTasks(2, 3, 4, seed=5).batch(0), SinusoidTasks(*map(np.int64, (2, 3, 4)), seed=np.int64(5)).batch(0)
    )
    assert len(noise.split(validation=np.int64(2), seed=np.int64(3)).train) == 25


BAD_NUMBERS = [0, -1, 2.0, 1.5, math.nan, math.inf, "3", None, True, np.float64(2), np.int64(0), [2]]


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["ways", "shots", "queries", "tasks_per_batch"])
def test_bad_numbers_get_one_clear_sentence(name, value, noise):
    expected = f"{name}: expected an integer at least 1, got {value!r}."
    assert refusal(CharacterTasks, noise, **{name: value}) == expected
    if name != "ways":
        assert refusal(SinusoidTasks, **{name: value}) == expected


@pytest.mark.parametrize("value", [-1, 0.0, None, "0", 2**63], ids=repr)
def test_bad_seeds_get_one_clear_sentence(value, noise):
    for family in (lambda seed: CharacterTasks(noise, seed=seed), lambda seed: SinusoidTasks(seed=seed)):
        assert "seed: expected an integer at least 0 and at most" in refusal(family, value)


@pytest.mark.parametrize("value", [-1, 1.7, "0", None, True], ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_bad_indices_get_one_clear_sentence(family, value):
    assert "A batch's index: expected an integer" in refusal(FAMILIES[family]().batch, value)


@seeded
@given(ways=st.integers(1, 60), shots=st.integers(1, 30), queries=st.integers(1, 30))
@example(ways=40, shots=1, queries=19)
@example(ways=41, shots=1, queries=19)
@example(ways=40, shots=20, queries=1)
def test_only_what_the_data_can_give_is_accepted(noise, ways, shots, queries):
    if ways > 40:
        assert refusal(CharacterTasks, noise, ways, shots, queries) == (
            f"ways: expected at most 40, the classes of noise, got {ways}."
        )
    elif shots + queries > 20:
        assert refusal(CharacterTasks, noise, ways, shots, queries) == (
            "shots + queries: expected at most 20, the examples of each class of noise, got "
            f"{shots} + {queries} = {shots + queries}."
        )
    else:
        CharacterTasks(noise, ways, shots, queries, tasks_per_batch=1).sample(0)


def test_a_whole_split_is_not_a_set_of_characters(noise):
    for wrong in (noise.split(validation=2), noise.split(validation=0).validation, "glyphs", noise.images):
        said = refusal(CharacterTasks, wrong)
        assert said.startswith("characters: expected Characters") and said.endswith(f"got a {type(wrong).__name__}.")


# Sinusoids.


def test_sinusoids_have_the_papers_formula_and_ranges():
    tasks = SinusoidTasks(shots=7, queries=9, tasks_per_batch=500, seed=1)
    batch = tasks.batch(3)
    assert batch.support_x.shape == batch.support_y.shape == (500, 7, 1)
    assert batch.query_x.shape == batch.query_y.shape == (500, 9, 1)
    assert {part.dtype for part in batch} == {torch.float32}
    amplitude, phase = tasks.waves(3)
    assert amplitude.shape == phase.shape == (500, 1, 1)
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        assert torch.equal(y, amplitude * torch.sin(x - phase))
        assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5
    assert 0.1 <= amplitude.min() < 0.2 and 4.9 < amplitude.max() <= 5
    assert 0 <= phase.min() < 0.05 and 3.1 < phase.max() <= math.pi


@pytest.mark.parametrize("over", ["tasks", "batches", "seeds"])
def test_sinusoids_are_uniform(over):
    if over == "tasks":
        families = [(SinusoidTasks(1, 1, tasks_per_batch=2500), 0)]
    elif over == "batches":
        families = [(SinusoidTasks(1, 1, tasks_per_batch=1), index) for index in range(2500)]
    else:
        families = [(SinusoidTasks(1, 1, tasks_per_batch=1, seed=seed), 0) for seed in range(2500)]
    waves = [torch.cat(parts).flatten() for parts in zip(*(tasks.waves(index) for tasks, index in families))]
    batches = [tasks.batch(index) for tasks, index in families]
    support, query = (torch.cat([batch[part] for batch in batches]).flatten() for part in (0, 2))
    shares = [(waves[0] - 0.1) / 4.9, waves[1] / math.pi, (support + 5) / 10, (query + 5) / 10]
    cells = [(share * 10).long().clamp(0, 9) for share in shares]
    for one in range(4):
        assert_uniform(count(cells[one], 10))
        for other in range(one):
            assert_uniform(count(cells[one] * 10 + cells[other], 100))  # independent of each other
        assert_uniform(count(cells[one][1:] * 10 + cells[one][:-1], 100))  # and of the neighbour's


def test_sinusoids_keep_their_numbers():
    """Hashes and float32 arithmetic, exact on every machine; published results rest on them."""
    tasks = SinusoidTasks(shots=2, queries=1, tasks_per_batch=2, seed=7)
    amplitude, phase = tasks.waves(5)
    assert amplitude.flatten().tolist() == [2.448733329772949, 1.3985075950622559]
    assert phase.flatten().tolist() == [0.8317688703536987, 2.2101733684539795]
    inputs = [-4.626545429229736, -3.5876882076263428, 0.6687259674072266, 1.6537666320800781]
    assert tasks.batch(5).support_x.flatten().tolist() == inputs


# Functions of one's own.


def line_tasks(**options):
    return FunctionTasks(lambda x, a, b: a * x + b, **{"a": (0, 1), "b": (-1, 1), **options})


def test_functions_equal_sinusoids_where_they_say_the_same():
    ours = SinusoidTasks(shots=3, queries=4, tasks_per_batch=5, seed=6)
    same_waves = FunctionTasks(
        lambda x, a, phi: a * torch.sin(x - phi), a=(0.1, 5), phi=(0, math.pi), shots=3, queries=4, tasks_per_batch=5,
        seed=6,
    )  # fmt: skip
    for index in (0, 3, 10**9):
        assert same(same_waves.batch(index), ours.batch(index))


def test_functions_have_the_given_formula_and_ranges():
    tasks = line_tasks(x=(2, 3), shots=7, queries=9, tasks_per_batch=500, seed=1)
    batch, (a, b) = tasks.batch(3), tasks.parameters(3).values()
    assert batch.support_x.shape == batch.support_y.shape == (500, 7, 1)
    assert batch.query_x.shape == batch.query_y.shape == (500, 9, 1)
    assert {part.dtype for part in batch} == {torch.float32}
    assert list(tasks.parameters(3)) == ["a", "b"] and a.shape == b.shape == (500, 1, 1)
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        assert torch.equal(y, a * x + b)
        assert 2 <= x.min() < 2.01 and 2.99 < x.max() <= 3
    assert 0 <= a.min() < 0.02 and 0.98 < a.max() <= 1
    assert -1 <= b.min() < -0.98 and 0.98 < b.max() <= 1
    assert_uniform(count((a * 10).long().clamp(0, 9), 10))
    assert_uniform(count((a * 4).long().clamp(0, 3) * 4 + (2 * b + 2).long().clamp(0, 3), 16))  # independent
    assert (line_tasks(a=(2, 2)).parameters(0)["a"] == 2).all()


def test_noise_is_normal_and_leaves_the_rest_alone():
    plain, noisy = (line_tasks(noise=noise, shots=50, queries=50, tasks_per_batch=100) for noise in (0, 0.3))
    one, other = plain.batch(2), noisy.batch(2)
    assert torch.equal(one.support_x, other.support_x) and torch.equal(one.query_x, other.query_x)
    noise = torch.cat([other.support_y - one.support_y, other.query_y - one.query_y], dim=1).flatten() / 0.3
    assert abs(noise.mean()) < 0.05 and noise.std() == pytest.approx(1, abs=0.03)
    for bound, share in ((0.6745, 0.5), (1.96, 0.05), (2.576, 0.01)):
        assert (noise.abs() > bound).float().mean() == pytest.approx(share, abs=5 * math.sqrt(share / len(noise)))
    assert abs(torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1]) < 0.05


def test_a_function_may_have_several_outputs_and_be_a_network():
    tasks = FunctionTasks(lambda x, a: torch.cat([a * x, x**2], dim=-1), a=(0, 1), noise=0.1)
    assert tasks.batch(0).query_y.shape == (25, 10, 2)
    layer = torch.nn.Linear(1, 3)
    batch = FunctionTasks(lambda x, a: a * layer(x), a=(0, 1)).batch(0)
    assert batch.query_y.shape == (25, 10, 3) and not batch.query_y.requires_grad


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(a=(1, 0)), "a: expected a range (low, high) of two numbers with low <= high, got (1, 0)."),
        (dict(a=3), "a: expected a range (low, high) of two numbers with low <= high, got 3."),
        (dict(b=(0, math.inf)), "b: expected a range"),
        (dict(b=(0, "1")), "b: expected a range"),
        (dict(x=(0, 1, 2)), "x: expected a range"),
        (dict(c=(0, 1)), "The function: expected to take x, a, b, c, but got: "),
        (dict(noise=-1), "noise: expected a finite number at least 0, got -1."),
        (dict(shots=0), "shots: expected an integer at least 1, got 0."),
        (dict(queries=2.5), "queries: expected an integer"),
        (dict(tasks_per_batch=0), "tasks_per_batch: expected an integer"),
        (dict(seed=-1), "seed: expected an integer"),
    ],
)
def test_bad_functions_and_ranges_get_one_clear_sentence(options, message):
    assert message in refusal(line_tasks, **options)


def test_what_is_no_function_of_x_gets_one_clear_sentence():
    assert refusal(FunctionTasks, 3, a=(0, 1)) == "The function: expected a function of x and its parameters, got 3."
    assert "expected at least one parameter" in refusal(FunctionTasks, lambda x: x)
    assert "expected to take x, b, but got: " in refusal(FunctionTasks, lambda x, a: a * x, b=(0, 1))
    for function, found in (
        (lambda x, a: a, "torch.float32 (25, 1, 1)"),
        (lambda x, a: (a * x)[..., 0], "torch.float32 (25, 20)"),
        (lambda x, a: (a * x).long(), "torch.int64 (25, 20, 1)"),
        (lambda x, a: 3.0, "a float"),
    ):
        said = refusal(FunctionTasks(function, a=(0, 1)).batch, 0)
        assert "that begins with (25, 20) (tasks, points) and goes on" in said and said.endswith(f"got {found}.")


# Batches of one's own need no class.


def token_tasks(seed=0):
    """Does the task's token occur in the sequence? Integer inputs, for an embedding."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randint(10, (4, 20, 6), generator=generator)
        y = (x == torch.randint(10, (4, 1, 1), generator=generator)).any(-1).long()
        yield x[:, :10], y[:, :10], x[:, 10:], y[:, 10:]


def test_integer_inputs_train_an_embedding():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(24, 2))
    before = model[0].weight.detach().clone()
    maml = MAML(model, "maml", inner_lr=0.1)
    history = train(maml, token_tasks(), 30, progress=False)
    assert history.finished and sum(history.losses[-10:]) < sum(history.losses[:10])
    assert not torch.equal(maml.meta_params().params["0.weight"], before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["characters", "sinusoids"])
def test_episodes_are_the_same_on_a_gpu(kind, noise):
    def make(device):
        if kind == "characters":
            return CharacterTasks(noise, 5, 2, 3, rotations=True, seed=3, device=device)
        return SinusoidTasks(seed=3, device=device)

    here, there = make("cpu").batch(11), make("cuda").batch(torch.tensor(11, device="cuda"))
    assert {part.device.type for part in there} == {"cuda"}
    for mine, theirs in zip(here, there):
        if kind == "characters":
            assert torch.equal(mine, theirs.cpu())
        else:
            torch.testing.assert_close(mine, theirs.cpu(), rtol=0, atol=2e-5)  # another sine


# Batches that others bring.


def test_a_list_of_four_tensors_is_a_batch(episodes):
    assert same(check_batch(list(episodes)), episodes)


@pytest.mark.parametrize(
    "wrong, found",
    [
        (None, "NoneType"), (3, "int"), (torch.zeros(4, 2, 3, 1), "Tensor"), ({}, "dict"),
        ([torch.zeros(1)] * 3, "list of Tensor, Tensor, Tensor"), (tuple("abcd"), "tuple of str, str, str, str"),
        ([torch.zeros(2, 3, 1)] * 3 + [np.zeros((2, 3, 1))], "list of Tensor, Tensor, Tensor, ndarray"),
    ],
)  # fmt: skip
def test_what_is_no_batch_gets_one_clear_sentence(wrong, found):
    assert refusal(check_batch, wrong) == (
        f"A task batch: expected four tensors (support_x, support_y, query_x, query_y), got a {found}."
    )


# The checks themselves.


def test_numbers_are_checked_against_every_bound():
    for fine in (1, 5, np.int64(3), np.float32(2.5), 2.5):
        check_number("rate", fine, at_least=1, at_most=5)
    for wrong in (0.99, 5.01, math.nan, math.inf, -math.inf, "1", None, True, 1j, np.bool_(True), torch.tensor(2)):
        assert refusal(check_number, "rate", wrong, at_least=1, at_most=5) == (
            f"rate: expected a finite number at least 1 and at most 5, got {wrong!r}."
        )
    assert "expected a finite number above 0, got 0." in refusal(check_number, "rate", 0, above=0)


def test_choices_name_the_nearest():
    check_choice("The colour", "red", ["red", "blue"])
    assert refusal(check_choice, "The colour", "bleu", ["red", "blue"]) == (
        "The colour 'bleu' is unknown. Did you mean 'blue'? Allowed: red, blue."
    )
    assert refusal(check_choice, "The colour", 3, ["red"]) == "The colour 3 is unknown. Allowed: red."
