"""How the networks of the playground "Draw your own" were trained: small enough for a browser, for drawings by hand.

    OMP_NUM_THREADS=1 python benchmarks/pretrain_drawing.py [ALGORITHM ...]

It needs Omniglot ($MAMLCOURSE_DATA). It writes mamlcourse/data/pretrained/drawing-5w1s-ALGORITHM.npz and
results/pretrained-drawing.json, one algorithm after the other. What the file has already is skipped, and a training run
that was stopped goes on where it was.

A strided Conv4 with 32 filters costs a tenth of the pooled one that the explorer has. It learns from Omniglot's background
alphabets, drawn by people with thin pens, and from the built-in glyphs, larger and with broader pens: a reader's
drawing lies between them. Tested are alphabets of neither training set, each query alone with the support set, as the
page classifies it, and all queries of a task together. All three algorithms have the same cosine, rates and tasks.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from mamlcourse import evaluate, learner, train
from mamlcourse.data.characters import Characters
from mamlcourse.pretrained import save_weights
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, read_json, write_json
from mamlcourse.tasks import CharacterTasks

ALGORITHMS = ("maml", "fomaml", "maml++")
INNER_LR = 0.4
SEED, ITERATIONS, TASKS_PER_BATCH, TEST_TASKS = 0, 900, 4, 200
ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results" / "pretrained-drawing.json"
PROBLEM = Problem("omniglot+glyphs", validation=5, queries=3, filters=32, downsampling="stride")
TESTED = ("omniglot", "glyphs")  # each on its own test alphabets


def training_characters() -> Characters:
    """The training alphabets of both data sets."""
    parts = [replace(PROBLEM, dataset=name).parts.train for name in TESTED]
    alphabets, names = (tuple(x for part in parts for x in getattr(part, of)) for of in ("alphabets", "names"))
    return Characters("omniglot+glyphs/train", torch.cat([p.images for p in parts]), alphabets, names, frozenset())


def measured(maml) -> dict:
    """Accuracy on test alphabets: as the page classifies, and as the papers do."""
    found = {}
    for name in TESTED:
        tasks = replace(PROBLEM, dataset=name).tasks("test", tasks_per_batch=10, seed=SEED)
        for way, transductive in (("each query alone", False), ("queries together", True)):
            seen = evaluate(maml, tasks, TEST_TASKS, only_last=True, transductive=transductive)
            found[f"{name}, {way}"] = {
                "accuracy": round(seen.accuracy, 4),
                "interval": round(seen.interval, 4),
                "task_accuracies": [round(accuracy, 4) for accuracy in seen.per_task],
            }
    return found


def main(algorithms) -> None:
    torch.set_num_threads(1)
    tasks = CharacterTasks(
        training_characters(), PROBLEM.ways, PROBLEM.shots, PROBLEM.queries, TASKS_PER_BATCH, rotations=True, seed=SEED
    )
    record = read_json(RECORD) if RECORD.exists() else {
        "kind": "pretrained",
        **provenance(),
        "setting": "drawing-5w1s",
        "problem": PROBLEM.describe(),
        "seed": SEED,
        "iterations": ITERATIONS,
        "tasks_per_batch": TASKS_PER_BATCH,
        "test": {"tasks": TEST_TASKS, "queries": PROBLEM.queries, "seed": SEED},
        "algorithms": {},
    }  # fmt: skip
    for name in algorithms:
        if name in record["algorithms"]:
            continue
        maml = learner(PROBLEM.network(SEED), name, inner_lr=INNER_LR, cosine=True, backend="products")
        checkpoint = ROOT / "runs" / "pretrained" / f"drawing-5w1s-{name}.pt"
        began = time.process_time()
        history = train(maml, tasks, ITERATIONS, checkpoint=checkpoint, resume=True)
        seconds = time.process_time() - began
        maml.backend = "loop"
        record["algorithms"][name] = {
            "settings": maml.settings.to_record(),
            "train_seconds": round(history.seconds, 1),  # on a machine that had other work, too
            "processor_seconds": round(seconds, 1),
            "final_loss": round(sum(history.losses[-100:]) / 100, 4),
            "tested": measured(maml),
        }
        made_by = {key: record[key] for key in ("command", "date", "versions", "seed", "iterations", "tasks_per_batch")}
        accuracy = record["algorithms"][name]["tested"]["omniglot, each query alone"]["accuracy"]
        description = {"problem": PROBLEM.describe(), "made_by": made_by, "accuracy": accuracy}
        save_weights(maml, ROOT / "mamlcourse" / "data" / "pretrained" / f"drawing-5w1s-{name}.npz", description)
        write_json(record, RECORD)
        print(name, {test: row["accuracy"] for test, row in record["algorithms"][name]["tested"].items()}, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ALGORITHMS)
