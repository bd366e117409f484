"""How the weights that ship with the package were made: a short training for each algorithm, one torch thread.

    OMP_NUM_THREADS=1 python benchmarks/pretrain.py glyphs

It writes mamlcourse/data/pretrained/DATASET-5w1s-ALGORITHM.npz and results/pretrained-DATASET.json, one algorithm after
the other. What the file has already is skipped, and a training run that was stopped goes on where it was.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from mamlcourse import evaluate, learner, train
from mamlcourse.explorer.landscape import CROWD, QUERIES, crowd_record, few_shot_tasks, measure_crowd
from mamlcourse.pretrained import save_weights
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, read_json, write_json

ALGORITHMS = ("maml", "fomaml", "maml++", "fomaml++")
SEED, ITERATIONS, TASKS_PER_BATCH, TEST_TASKS = 0, 600, 4, 200
ROOT = Path(__file__).parent.parent


def trained(problem: Problem, algorithm: str, checkpoint: Path):
    """(learner, training history): from a seed's untrained network, or on from the checkpoint."""
    maml = learner(problem.network(SEED), algorithm, backend="loop")
    training = problem.tasks("train", TASKS_PER_BATCH, SEED)
    return maml, train(maml, training, ITERATIONS, checkpoint=checkpoint, resume=True)


def main(dataset: str) -> None:
    torch.set_num_threads(1)
    setting = f"{dataset}-5w1s"
    problem = Problem(dataset, validation=5, queries=5, filters=32)
    test = replace(problem, queries=15).tasks("test", tasks_per_batch=10, seed=SEED)
    path = ROOT / "results" / f"pretrained-{dataset}.json"
    record = read_json(path) if path.exists() else {
        "kind": "pretrained",
        **provenance(),
        "setting": setting,
        "problem": problem.describe(),
        "seed": SEED,
        "iterations": ITERATIONS,
        "tasks_per_batch": TASKS_PER_BATCH,
        "test": {"tasks": TEST_TASKS, "queries": 15, "seed": SEED},
        "crowd": {"tasks": CROWD, "queries": QUERIES, "seed": SEED},
        "algorithms": {},
    }  # fmt: skip
    for name in ALGORITHMS:
        if name in record["algorithms"]:
            continue
        maml, history = trained(problem, name, ROOT / "runs" / "pretrained" / f"{setting}-{name}.pt")
        tested = evaluate(maml, test, TEST_TASKS)
        crowd = measure_crowd({name: maml}, few_shot_tasks(problem.parts.test, seed=SEED))
        record["algorithms"][name] = {
            "settings": maml.settings.to_record(),
            "train_seconds": round(history.seconds, 1),
            "final_loss": round(sum(history.losses[-60:]) / 60, 4),
            "task_accuracies": [round(accuracy, 4) for accuracy in tested.per_task],
            "accuracy_by_step": [round(accuracy, 4) for accuracy in tested.by_step],
            "loss_by_step": [round(loss, 4) for loss in tested.loss_by_step],
            "crowd": crowd_record(crowd[name]),
        }
        made_by = {key: record[key] for key in ("command", "date", "versions", "seed", "iterations", "tasks_per_batch")}
        description = {"problem": problem.describe(), "made_by": made_by, "accuracy": round(tested.accuracy, 4)}
        save_weights(maml, ROOT / "mamlcourse" / "data" / "pretrained" / f"{setting}-{name}.npz", description)
        write_json(record, path)
        print(f"{name}: {tested.accuracy:.1%} ± {tested.interval:.1%} on {TEST_TASKS} tasks", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
