"""How the settings of the short comparison were chosen: a search on validation alphabets of Omniglot's background set.

    MAMLCOURSE_DATA=FOLDER python benchmarks/choose_settings.py results/settings-search.json

Every candidate trains on 200 tasks of the 25 training alphabets and is measured on tasks of the 5 validation
alphabets; the evaluation alphabets are never looked at. One row per candidate is added to the file as it
is measured, and candidates that are already there are skipped.
"""

import itertools
import sys
from pathlib import Path

import torch

from mamlcourse import CharacterTasks, Conv4, evaluate, learner, load_characters, train
from mamlcourse.records import provenance, read_json, write_json

SEED, VALIDATION_TASKS = 0, 200
ITERATIONS, TASKS_PER_BATCH, FILTERS = 50, 4, 32


def candidates():
    """Outer learning rate and its schedule for each algorithm, and another inner one; all else as in its recipe."""
    for algorithm, outer_lr, cosine in itertools.product(("maml", "fomaml", "maml++"), (0.003, 0.005), (True, False)):
        if cosine or algorithm != "maml++":  # cosine annealing is a part of MAML++
            yield dict(algorithm=algorithm, inner_lr=0.1, outer_lr=outer_lr, cosine=cosine)
    for cosine in (True, False):
        yield dict(algorithm="maml", inner_lr=0.2, outer_lr=0.003, cosine=cosine)


def measure(split, seed, algorithm, **settings):
    """Validation accuracy of one candidate after 200 training tasks."""
    torch.manual_seed(seed)
    maml = learner(Conv4(5, FILTERS), algorithm, **settings)
    training = CharacterTasks(split.train, tasks_per_batch=TASKS_PER_BATCH, rotations=True, seed=seed)
    train(maml, training, ITERATIONS, progress=False)
    validation = evaluate(maml, CharacterTasks(split.validation, seed=seed), VALIDATION_TASKS)
    return dict(task_accuracies=validation.per_task, accuracy=validation.accuracy, interval=validation.interval)


def main(path):
    split = load_characters("omniglot").split("alphabet", validation=5)
    record = read_json(path) if path.exists() else {"kind": "settings search", **provenance(), "candidates": []}
    for candidate in candidates():
        key = dict(candidate, seed=SEED)
        if not any(key.items() <= row.items() for row in record["candidates"]):
            record["candidates"].append(key | measure(split, **key))
            write_json(record, path)
            print(key, f"{record['candidates'][-1]['accuracy']:.1%}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
