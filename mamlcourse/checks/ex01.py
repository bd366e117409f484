"""Exercise 01: which classes train and test, and an episode without leakage."""

from __future__ import annotations

import operator

import torch

from .judge import CheckFailed, call, check, fresh, integer, same_parts, unchanged

EPISODES = 40  # so many that a sample which is right by luck alone gives itself away


@check
def split(split_classes) -> None:
    """Exercise 01, part 1: split_classes(alphabets, test_alphabets) -> (train classes, test classes)."""
    generator = fresh()
    for _ in range(3):
        count = integer(generator, 4, 7)
        sizes = torch.randint(2, 6, (count,), generator=generator).tolist()
        letters = [f"alphabet {a}" for a, size in enumerate(sizes) for _ in range(size)]
        order = torch.randperm(len(letters), generator=generator).tolist()
        alphabets = [letters[place] for place in order]  # classes of an alphabet do not stand together
        tests = {f"alphabet {a}" for a in torch.randperm(count, generator=generator)[:2].tolist()}
        given = list(alphabets), set(tests)
        for _ in range(2):
            _judge_split(alphabets, tests, call(split_classes, *given))
            unchanged(alphabets=(given[0], alphabets), test_alphabets=(given[1], tests))


def _judge_split(alphabets, tests, result):
    train, test = (
        _class_indices(name, classes, len(alphabets))
        for name, classes in zip(
            ("train", "test"), same_parts("split_classes", result, ("train classes", "test classes"))
        )
    )
    train, test = set(train), set(test)
    in_tests = {c for c, alphabet in enumerate(alphabets) if alphabet in tests}
    everything = set(range(len(alphabets)))
    if train & test:
        raise CheckFailed(
            f"Keep the two parts apart: class {min(train & test)} is in both parts, and one that was trained on says "
            "nothing about new ones."
        )
    if test == everything - in_tests and train == in_tests:
        raise CheckFailed("Return the train classes first and the test classes second: the two parts are exchanged.")
    shared = {alphabets[c] for c in train} & {alphabets[c] for c in test}
    if shared:
        raise CheckFailed(
            f"Split by alphabet, to keep whole alphabets apart: {min(shared)!r} has classes on both sides, which leaks "
            "its style."
        )
    if train | test != everything:
        raise CheckFailed(f"{len(everything - train - test)} classes of {len(everything)} are in neither part.")
    if test != in_tests:
        raise CheckFailed(f"The test classes: expected {sorted(in_tests)}, got {sorted(test)}.")


def _class_indices(name, classes, count):
    """The student's classes as plain integers."""
    try:
        classes = list(classes)
    except TypeError:
        raise CheckFailed(f"The {name} classes: expected a list of integers, got {type(classes).__name__}.") from None
    if classes and all(isinstance(c, str) for c in classes):
        raise CheckFailed(
            f"Return the positions in the list of alphabets, from 0 to {count - 1}: the {name} classes got names of "
            "alphabets."
        )
    try:
        indices = [operator.index(c) for c in classes]
    except TypeError:
        indices = [-1]
    if not all(0 <= c < count for c in indices):
        raise CheckFailed(f"The {name} classes: expected integers from 0 to {count - 1}, got {classes}.")
    if len(set(indices)) < len(indices):
        raise CheckFailed(f"The {name} classes name a class twice: {sorted(indices)}.")
    return indices


@check
def episode(sample_episode) -> None:
    """Exercise 01, part 2: sample_episode(images, ways, shots, queries, generator) -> an episode's four tensors."""
    generator = fresh()
    _judge_episodes(sample_episode, generator, integer(generator, 7, 9), integer(generator, 3, 4), 1, 3, 7)
    _judge_episodes(sample_episode, generator, 3, 2, 2, 1, 5)  # so few that each class and example must come
    _judge_episodes(sample_episode, generator, 4, 4, 3, 2, 5, episodes=3)  # all classes, and all examples


def _judge_episodes(sample_episode, generator, classes, ways, shots, queries, examples, episodes=EPISODES):
    """Sample episodes from images of noise, each of which can be recognised again."""
    shape = (classes, examples, 6, 5)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    known = {tuple(images[c, e].flatten().tolist()): (c, e) for c in range(classes) for e in range(examples)}
    arguments, seed = (images.clone(), ways, shots, queries), integer(generator, 0, 2**40)
    first, second = (torch.Generator().manual_seed(seed) for _ in range(2))  # one for all: each episode is a new one
    seen, sampled = [], []
    for _ in range(episodes):
        result = call(sample_episode, *arguments, first)
        if not torch.equal(arguments[0], images):
            raise CheckFailed(
                "Scale a copy: you changed the images in place, and the next episode is sampled from the changed ones."
            )
        parts = _shapes(result, ways, shots, queries)
        again = call(sample_episode, *arguments, second)
        if not all(torch.equal(a, b) for a, b in zip(parts, again)):
            raise CheckFailed(
                "Take every random choice from the generator: two generators of the same seed gave different episodes, "
                "so nobody can repeat the run."
            )
        sampled.append(parts)
        seen.append(_judge_episode(parts, known, ways, shots, queries))
    if classes > ways and all(all(map(torch.equal, parts, sampled[0])) for parts in sampled):
        raise CheckFailed(
            "Sample with the generator as it was handed in, and do not seed it: the next episode must be another one, "
            "but every call gave the same."
        )
    if episodes == EPISODES:
        _judge_randomness(seen, classes, ways, shots, queries, examples)


def _judge_randomness(seen, classes, ways, shots, queries, examples):
    """Whether classes, labels and examples vary from episode to episode; `seen` holds (classes, examples) of each."""
    by_label, by_class = [labels for labels, _ in seen], [sampled for _, sampled in seen]
    if len({frozenset(labels) for labels in by_label}) == 1 and classes > ways:
        raise CheckFailed(
            f"Sample the classes with the generator, with torch.randperm: every episode holds the same {ways} classes."
        )
    if all(labels == sorted(labels) for labels in by_label):
        raise CheckFailed(
            "Assign the labels at random in each episode: label 0 always goes to the lowest class index, and a "
            "network can learn which label a class tends to have."
        )
    if examples > shots + queries and len({frozenset(s[0]) for s in by_class}) == 1:
        raise CheckFailed("Sample the examples with the generator too: the same examples of a class come every time.")
    if len({frozenset(s[0][:shots]) for s in by_class}) == 1:
        raise CheckFailed(
            "Sample the support set with the generator too: it always holds the same examples of a class."
        )
    if all(len({tuple(s) for s in sampled}) == 1 for sampled in by_class):
        raise CheckFailed(
            "Sample the examples of each class anew, inside the loop: in every episode all classes got the same "
            "drawings, such as the first, which one person may have made."
        )
    drawn = {c for labels in by_label for c in labels}, {e for sampled in by_class for s in sampled for e in s}
    for what, size, found in (("class", classes, drawn[0]), ("example", examples, drawn[1])):
        if len(found) < size:
            raise CheckFailed(
                f"Sample from all {size}: {what} {min(set(range(size)) - found)} never came in {len(seen)} episodes; "
                "torch.randperm(n) gives the integers from 0 to n - 1."
            )


def _shapes(result, ways, shots, queries):
    names = ("support_x", "support_y", "query_x", "query_y")
    parts = dict(zip(names, same_parts("sample_episode", result, names)))
    for name, part in parts.items():
        if not isinstance(part, torch.Tensor):
            raise CheckFailed(f"{name}: expected a tensor, got {type(part).__name__}.")
    if parts["support_x"].dtype == torch.uint8:
        raise CheckFailed("Divide by 255, so that ink is 1: the images are still bytes, but networks take float32.")
    wanted = {"support": ways * shots, "query": ways * queries}
    if shots != queries and [len(parts["support_x"]), len(parts["query_x"])] == [ways * queries, ways * shots]:
        raise CheckFailed(
            "Give `shots` examples of each class to the support set: support and query sets are exchanged."
        )
    for kind, count in wanted.items():
        x, y = parts[f"{kind}_x"], parts[f"{kind}_y"]
        if x.shape == (count, 6, 5):
            raise CheckFailed(
                f"Add the channel to {kind}_x, which lacks it: expected shape {(count, 1, 6, 5)}, got {tuple(x.shape)}."
            )
        for name, part, shape in ((f"{kind}_x", x, (count, 1, 6, 5)), (f"{kind}_y", y, (count,))):
            if tuple(part.shape) != shape:
                raise CheckFailed(
                    f"{name}: expected shape {shape} for {ways} ways, {shots} shots and {queries} queries, got "
                    f"{tuple(part.shape)}."
                )
        if x.dtype != torch.float32:
            raise CheckFailed(f"{kind}_x: expected dtype torch.float32, got {x.dtype}.")
        if y.dtype != torch.int64:
            raise CheckFailed(f"{kind}_y: expected dtype torch.int64, as cross_entropy wants labels, got {y.dtype}.")
        if x.max() > 1.5:
            raise CheckFailed(
                f"Divide by 255, so that ink is 1: {kind}_x has values up to {x.max().item():.0f}, but expected were 0 "
                "to 1."
            )
    return tuple(parts.values())


def _judge_episode(parts, known, ways, shots, queries):
    """(the class of each label, for each label the examples in order), after judging one episode."""
    support, query = (_identify(x, known) for x in (parts[0], parts[2]))
    support_y, query_y = parts[1].tolist(), parts[3].tolist()
    if set(support) & set(query):
        raise CheckFailed(
            "Sample shots + queries different examples of each class and cut them in two: support examples appear in "
            "the query set, so memory alone answers these queries."
        )
    for name, sampled in (("support", support), ("query", query)):
        if len(set(sampled)) < len(sampled):
            raise CheckFailed(
                "Sample examples and classes without replacement (torch.randperm, not torch.randint): one example is "
                f"twice in the {name} set."
            )
    classes = [c for c, _ in support]
    labels = set(support_y) | set(query_y)
    if labels - set(range(ways)) and all(y == c for y, c in zip(support_y, classes)):
        raise CheckFailed(
            f"The labels: expected 0 to {ways - 1}, assigned at random in each episode, got the classes' indices in "
            "the data set."
        )
    if labels != set(range(ways)):
        raise CheckFailed(f"The labels: expected 0 to {ways - 1}, each of them present, got {sorted(labels)}.")
    by_label = {}
    for name, sampled, given in (("support", support, support_y), ("query", query, query_y)):
        for (c, _), y in zip(sampled, given):
            if by_label.setdefault(y, c) != c:
                raise CheckFailed(
                    f"Label {y} stands for two different classes (seen in the {name} set): images and labels are in "
                    "different orders, or support and query label the classes differently."
                )
    if len(set(by_label.values())) < ways:
        raise CheckFailed("Sample the classes without replacement: one class is in the episode under two labels.")
    for name, given, count in (("support", support_y, shots), ("query", query_y, queries)):
        if any(given.count(y) != count for y in range(ways)):
            raise CheckFailed(f"The {name} set: expected {count} examples of each label, got the labels {given}.")
    return [by_label[y] for y in range(ways)], [
        [e for c, e in support + query if c == by_label[y]] for y in range(ways)
    ]


def _identify(images, known):
    """(class, example) of each image."""
    found = []
    for image in images:
        pixels = tuple((image * 255).round().to(torch.int64).flatten().tolist())
        if pixels not in known:
            raise CheckFailed(
                "An image of the episode is none of the data set's: its pixels must come through unchanged but for "
                "the division by 255."
            )
        found.append(known[pixels])
    return found


@check
def rotated(rotate_classes) -> None:
    """Exercise 01, bonus: rotate_classes(images) -> four times as many classes, each in four turns."""
    generator = fresh()
    classes, examples, side = integer(generator, 2, 4), integer(generator, 1, 3), integer(generator, 4, 6)
    images = torch.randint(0, 256, (classes, examples, side, side), generator=generator, dtype=torch.uint8)
    given = images.clone()
    seen = call(rotate_classes, given)
    if not torch.equal(given, images):
        raise CheckFailed("Turn copies: you changed the images in place.")
    shape = (4 * classes, examples, side, side)
    if not isinstance(seen, torch.Tensor) or tuple(seen.shape) != shape:
        got = f"shape {tuple(seen.shape)}" if isinstance(seen, torch.Tensor) else type(seen).__name__
        raise CheckFailed(f"rotate_classes: expected a tensor of shape {shape}, got {got}.")
    # Turned by hand, pixel by pixel: row i of the one is column i of the other.
    turns = [images, *(images.flip(2).mT if k == 1 else images.flip(2).flip(3) if k == 2 else images.flip(3).mT
                       for k in (1, 2, 3))]  # fmt: skip
    wanted = {tuple(c.flatten().tolist()) for turn in turns for c in turn}
    found = {tuple(c.flatten().tolist()) for c in seen}
    if found - wanted and len(found) > classes:
        raise CheckFailed(
            "Turn all examples of a class by the same angle, and the images themselves (torch.rot90 over the last two "
            "dimensions): a class was found that is no turned class."
        )
    if found != wanted:
        raise CheckFailed(
            f"Return each class in all four turns: {len(wanted - found)} of {len(wanted)} turned classes are missing."
        )
