"""Exercise 01: which classes train and test, and an episode without leakage."""

from __future__ import annotations

import torch

from .judge import CheckFailed, call, check, fresh, integer, same_parts

EPISODES = 12  # so many that a sample which is right by luck alone gives itself away


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
        _judge_split(alphabets, tests, call(split_classes, list(alphabets), set(tests)))


def _judge_split(alphabets, tests, result):
    train, test = same_parts("split_classes", result, ("train classes", "test classes"))
    for name, classes in (("train", train), ("test", test)):
        classes = classes.tolist() if isinstance(classes, torch.Tensor) else classes
        if not isinstance(classes, (list, tuple)):
            raise CheckFailed(f"The {name} classes: expected a list of integers, got {type(classes).__name__}.")
        if classes and all(isinstance(c, str) for c in classes):
            raise CheckFailed(
                f"The {name} classes: expected class indices from 0 to {len(alphabets) - 1}, positions in the list of "
                "alphabets, got names of alphabets."
            )
        if not all(isinstance(c, int) and 0 <= c < len(alphabets) for c in classes):
            raise CheckFailed(
                f"The {name} classes: expected integers from 0 to {len(alphabets) - 1}, got {list(classes)}."
            )
        if len(set(classes)) < len(classes):
            raise CheckFailed(f"The {name} classes name a class twice: {sorted(classes)}.")
    train, test = set(map(int, train)), set(map(int, test))
    in_tests = {c for c, alphabet in enumerate(alphabets) if alphabet in tests}
    everything = set(range(len(alphabets)))
    if train & test:
        raise CheckFailed(
            f"Class {min(train & test)} is in both parts: a class that was trained on says nothing about new ones."
        )
    if test == everything - in_tests and train == in_tests:
        raise CheckFailed("The two parts are exchanged: train classes come first, test classes second.")
    shared = {alphabets[c] for c in train} & {alphabets[c] for c in test}
    if shared:
        raise CheckFailed(
            f"{min(shared)!r} has classes in both parts: a split by class leaks the style of an alphabet, so keep "
            "whole alphabets apart."
        )
    if train | test != everything:
        raise CheckFailed(f"{len(everything - train - test)} classes of {len(everything)} are in neither part.")
    if test != in_tests:
        raise CheckFailed(f"The test classes: expected {sorted(in_tests)}, got {sorted(test)}.")


@check
def episode(sample_episode) -> None:
    """Exercise 01, part 2: sample_episode(images, ways, shots, queries, generator) -> an episode's four tensors."""
    generator = fresh()
    for shots, queries, spare in ((1, 3, 2), (2, 1, 3), (3, 2, 0)):
        ways, classes = integer(generator, 3, 4), integer(generator, 7, 9)
        _judge_episodes(sample_episode, generator, classes, ways, shots, queries, shots + queries + spare)


def _judge_episodes(sample_episode, generator, classes, ways, shots, queries, examples):
    """Sample episodes from images of noise, each of which can be recognised again."""
    shape = (classes, examples, 6, 5)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    known = {tuple(images[c, e].flatten().tolist()): (c, e) for c in range(classes) for e in range(examples)}
    seen = []
    for _ in range(EPISODES):
        seed = integer(generator, 0, 2**40)
        arguments = images.clone(), ways, shots, queries
        result = call(sample_episode, *arguments, torch.Generator().manual_seed(seed))
        if not torch.equal(arguments[0], images):
            raise CheckFailed(
                "You changed the images in place: scale a copy, or the next episode is sampled from the changed ones."
            )
        parts = _shapes(result, ways, shots, queries)
        again = call(sample_episode, *arguments, torch.Generator().manual_seed(seed))
        if not all(torch.equal(a, b) for a, b in zip(parts, again)):
            raise CheckFailed(
                "Two generators of the same seed gave different episodes: every random choice must come from the "
                "generator, or nobody can repeat the run."
            )
        seen.append(_judge_episode(parts, known, ways, shots, queries))
    if len({tuple(classes) for classes, _ in seen}) == 1:
        raise CheckFailed(
            f"Every episode holds the same {ways} classes: sample them with the generator, with torch.randperm."
        )
    if all(classes == sorted(classes) for classes, _ in seen):
        raise CheckFailed(
            "Label 0 always goes to the lowest class index: labels must be assigned at random in each episode, or a "
            "network can learn which label a class tends to have."
        )
    if examples > shots + queries and len({tuple(sorted(sampled)) for _, sampled in seen}) == 1:
        raise CheckFailed("The same examples of a class come in every episode: sample them with the generator too.")
    if shots < examples and len({tuple(sampled[:shots]) for _, sampled in seen}) == 1:
        raise CheckFailed(
            "The support set always holds the same examples of a class: sample them with the generator too."
        )


def _shapes(result, ways, shots, queries):
    names = ("support_x", "support_y", "query_x", "query_y")
    parts = dict(zip(names, same_parts("sample_episode", result, names)))
    for name, part in parts.items():
        if not isinstance(part, torch.Tensor):
            raise CheckFailed(f"{name}: expected a tensor, got {type(part).__name__}.")
    if parts["support_x"].dtype == torch.uint8:
        raise CheckFailed("The images are still bytes: networks take float32, and ink should be 1, so divide by 255.")
    wanted = {"support": ways * shots, "query": ways * queries}
    if shots != queries and [len(parts["support_x"]), len(parts["query_x"])] == [ways * queries, ways * shots]:
        raise CheckFailed("Support and query sets are exchanged: `shots` examples of each class are for support.")
    for kind, count in wanted.items():
        x, y = parts[f"{kind}_x"], parts[f"{kind}_y"]
        if x.shape == (count, 6, 5):
            raise CheckFailed(f"{kind}_x lacks the channel: expected shape {(count, 1, 6, 5)}, got {tuple(x.shape)}.")
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
                f"{kind}_x: expected values between 0 and 1, got up to {x.max().item():.0f}: divide by 255, so that "
                "ink is 1."
            )
    return tuple(parts.values())


def _judge_episode(parts, known, ways, shots, queries):
    """(the class of each label, the examples of label 0's class in order), after judging one episode."""
    support, query = (_identify(x, known) for x in (parts[0], parts[2]))
    support_y, query_y = parts[1].tolist(), parts[3].tolist()
    if set(support) & set(query):
        raise CheckFailed(
            "Support examples appear in the query set, so memory alone answers these queries: sample shots + queries "
            "different examples of each class and cut them in two."
        )
    for name, sampled in (("support", support), ("query", query)):
        if len(set(sampled)) < len(sampled):
            raise CheckFailed(
                f"One example is twice in the {name} set: examples must be sampled without replacement "
                "(torch.randperm, not torch.randint), and so must classes."
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
        raise CheckFailed("One class is in the episode under two labels: sample the classes without replacement.")
    for name, given, count in (("support", support_y, shots), ("query", query_y, queries)):
        if any(given.count(y) != count for y in range(ways)):
            raise CheckFailed(f"The {name} set: expected {count} examples of each label, got the labels {given}.")
    return [by_label[y] for y in range(ways)], [e for c, e in support + query if c == by_label[0]]


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
