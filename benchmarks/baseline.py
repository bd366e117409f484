"""The baseline to beat: an ordinary classifier of all training classes, fine-tuned on each task, against MAML.

    MAMLCOURSE_DATA=FOLDER python benchmarks/baseline.py results/baseline.json

Both see as many drawings in training: an episode of 5 x (1 + 15) is 80 of them. Both take five gradient steps on the
same test tasks from the same kind of network. The classifier's inner rate is chosen on validation alphabets, as
MAML's was (results/settings-search.json). The file, written again after each seed, can be read with
`comparison.paired_difference`.
"""

from pathlib import Path

import torch
import typer
from torch.nn.functional import cross_entropy

from mamlcourse import MAML, Conv4, evaluate, train
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, write_json

BATCH, OUTER_RATE, RATES = 64, 0.003, (0.01, 0.03, 0.1, 0.3, 1.0)
BUDGETS = (200, 1000)  # tasks of 80 drawings


def classifier(problem, seed, drawings):
    """Features trained to tell all training classes apart, under a new head of zeros; and the last loss."""
    torch.manual_seed(seed)
    images = problem.parts.train.images.float()[:, :, None] / 255
    model = Conv4(len(images), problem.filters)
    optimizer = torch.optim.Adam(model.parameters(), lr=OUTER_RATE)
    losses = []
    for _ in range(drawings // BATCH):
        labels, writers = torch.randint(len(images), (BATCH,)), torch.randint(images.shape[1], (BATCH,))
        loss = cross_entropy(model(images[labels, writers]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network = Conv4(problem.ways, problem.filters)
    network.features.load_state_dict(model.features.state_dict())
    return network, losses


def fine_tuned(problem, seed, tasks):
    """The classifier as a learner that takes plain gradient steps, at the rate that validation prefers."""
    network, losses = classifier(problem, seed, tasks * problem.ways * (problem.shots + problem.queries))
    learners = [MAML(network, inner_lr=rate) for rate in RATES]
    validation = problem.tasks("validation", 10, 0)
    return max(learners, key=lambda maml: evaluate(maml, validation, 100, only_last=True).accuracy), losses


def meta_learned(problem, seed, tasks):
    """MAML by the course's recipe."""
    maml = MAML(problem.network(seed))
    return maml, train(maml, problem.tasks("train", 4, seed), tasks // 4, progress=False).losses


def main(path: Path, seeds: int = 3, eval_tasks: int = 600):
    """Train and test both, at both budgets."""
    problem = Problem("omniglot", validation=5)
    record = {
        "kind": "baseline", **provenance(), "problem": problem.describe(), "train_tasks": list(BUDGETS),
        "tasks_per_batch": 4, "eval_tasks": eval_tasks, "seeds": [], "algorithms": {},
    }  # fmt: skip
    for seed in range(seeds):
        for budget in BUDGETS:
            for name, make in (("classifier", fine_tuned), ("maml", meta_learned)):
                maml, losses = make(problem, seed, budget)
                tested = evaluate(maml, problem.tasks("test", 10, 0), eval_tasks)
                run = {
                    "seed": seed, "inner_lr": maml.settings.inner_lr,
                    "losses": [round(loss, 5) for loss in losses],
                    "task_accuracies": [round(accuracy, 5) for accuracy in tested.per_task],
                    "accuracy_by_step": [round(value, 5) for value in tested.by_step],
                }  # fmt: skip
                entry = record["algorithms"].setdefault(f"{name}, {budget} tasks", {"runs": []})
                entry["runs"].append(run)
                print(seed, name, budget, maml.settings.inner_lr, f"{tested.accuracy:.1%}", flush=True)
        record["seeds"].append(seed)
        write_json(record, path)


if __name__ == "__main__":
    typer.run(main)
