"""How the weights that ship with the package were made: a short training for each algorithm, one torch thread.

    OMP_NUM_THREADS=1 python benchmarks/pretrain.py glyphs
    OMP_NUM_THREADS=1 python benchmarks/pretrain.py glyphs 20    # then: 20 ways, for the playground's round

It writes mamlcourse/data/pretrained/SETTING-ALGORITHM.npz and results/pretrained-DATASET.json (pretrained-SETTING.json
for 20 ways), one algorithm after the other. What the file has already is skipped, and a training run that was stopped
goes on where it was. The 20-way networks go on from the 5-way ones, with a new head at zero: that takes a sixth of the
iterations. They are tested as the playground asks them, each query alone with the support set.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from mamlcourse import evaluate, learner, train
from mamlcourse.explorer.landscape import CROWD, QUERIES, crowd_record, few_shot_tasks, measure_crowd
from mamlcourse.pretrained import load_pretrained, save_weights
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, read_json, write_json

ALGORITHMS = {5: ("maml", "fomaml", "maml++", "fomaml++"), 20: ("maml", "fomaml", "maml++")}
SEED = 0
PLAN = {
    "iterations": 600,
    "tasks_per_batch": 4,
    "test": {"tasks": 200, "queries": 15, "seed": SEED},
    "crowd": {"tasks": CROWD, "queries": QUERIES, "seed": SEED},
}
MORE_WAYS_PLAN = {
    "start": "the 5-way weights of the algorithm, but for the head",
    "iterations": 100,
    "tasks_per_batch": 2,
    "test": {"tasks": 100, "queries": 1, "seed": SEED, "transductive": False},
}
ROOT = Path(__file__).parent.parent


def start_of(problem: Problem, algorithm: str):
    """The learner before training: a seed's network; with more than 5 ways the 5-way weights, but for the head."""
    maml = learner(problem.network(SEED), algorithm, backend="loop")
    if problem.ways != 5:
        fewer = load_pretrained(algorithm, f"{problem.dataset}-5w1s").state_dict()
        head = {name: value for name, value in maml.state_dict().items() if name.startswith("model.head.")}
        maml.load_state_dict(fewer | head)
    return maml


def trained(maml, problem: Problem, plan: dict, checkpoint: Path):
    """The history of the training, of which a part may have been done before."""
    training = problem.tasks("train", plan["tasks_per_batch"], SEED)
    return train(maml, training, plan["iterations"], checkpoint=checkpoint, resume=True)


def tested(maml, problem: Problem) -> tuple[float, dict]:
    """(test accuracy, what the record says of it)."""
    if problem.ways != 5:  # as the playground asks
        tasks = replace(problem, queries=1).tasks("test", tasks_per_batch=10, seed=SEED)
        found = evaluate(maml, tasks, MORE_WAYS_PLAN["test"]["tasks"], only_last=True, transductive=False)
        print(f"{found.accuracy:.1%} ± {found.interval:.1%} on {len(found.per_task)} tasks", flush=True)
        return found.accuracy, {"task_accuracies": [round(accuracy, 4) for accuracy in found.per_task]}
    tasks = replace(problem, queries=15).tasks("test", tasks_per_batch=10, seed=SEED)
    found = evaluate(maml, tasks, PLAN["test"]["tasks"])
    print(f"{found.accuracy:.1%} ± {found.interval:.1%} on {len(found.per_task)} tasks", flush=True)
    crowd = measure_crowd({"": maml}, few_shot_tasks(problem.parts.test, seed=SEED))[""]
    return found.accuracy, {
        "task_accuracies": [round(accuracy, 4) for accuracy in found.per_task],
        "accuracy_by_step": [round(accuracy, 4) for accuracy in found.by_step],
        "loss_by_step": [round(loss, 4) for loss in found.loss_by_step],
        "crowd": crowd_record(crowd),
    }


def main(dataset: str, ways: int = 5) -> None:
    torch.set_num_threads(1)
    setting, plan = f"{dataset}-{ways}w1s", PLAN if ways == 5 else MORE_WAYS_PLAN
    problem = Problem(dataset, validation=5, ways=ways, queries=5 if ways == 5 else 2, filters=32)
    path = ROOT / "results" / f"pretrained-{dataset if ways == 5 else setting}.json"
    record = read_json(path) if path.exists() else {
        "kind": "pretrained",
        **provenance(),
        "setting": setting,
        "problem": problem.describe(),
        "seed": SEED,
        **plan,
        "algorithms": {},
    }  # fmt: skip
    for name in ALGORITHMS[ways]:
        if name in record["algorithms"]:
            continue
        print(f"{name}: ", end="", flush=True)
        maml = start_of(problem, name)
        history = trained(maml, problem, plan, ROOT / "runs" / "pretrained" / f"{setting}-{name}.pt")
        if not history.finished:
            break
        accuracy, found = tested(maml, problem)
        last = history.losses[-plan["iterations"] // 10 :]
        record["algorithms"][name] = {
            "settings": maml.settings.to_record(),
            "train_seconds": round(history.seconds, 1),
            "final_loss": round(sum(last) / len(last), 4),
            **found,
        }
        made_by = {key: record[key] for key in ("command", "date", "versions", "seed", "iterations", "tasks_per_batch")}
        made_by |= {"start": record["start"]} if "start" in record else {}
        description = {"problem": problem.describe(), "made_by": made_by, "accuracy": round(accuracy, 4)}
        save_weights(maml, ROOT / "mamlcourse" / "data" / "pretrained" / f"{setting}-{name}.npz", description)
        write_json(record, path)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
