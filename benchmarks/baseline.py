"""The baseline to beat: an ordinary classifier of all training classes, fine-tuned on each task.

    MAMLCOURSE_DATA=FOLDER python benchmarks/baseline.py results/baseline.json

It sees as many images as 200 episodes of 5 x (1 + 15) hold, takes five gradient steps, and is tested on the tasks of
results/equal-search-test.json, so that the two files can be compared task by task. Its inner learning rate is chosen
on validation alphabets, as theirs were; then it trains on all background alphabets.
"""

from pathlib import Path

import torch
import typer
from torch.nn.functional import cross_entropy

from mamlcourse import MAML, Conv4, evaluate
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, write_json

IMAGES, BATCH, OUTER_LR, INNER_LRS = 16_000, 64, 0.003, (0.01, 0.03, 0.1, 0.3, 1.0)


def classifier(problem: Problem, seed: int):
    """(Conv4 whose features were trained to tell all training classes apart, under a new head of zeros; losses)."""
    torch.manual_seed(seed)
    images = problem.parts.train.images.float()[:, :, None] / 255
    model = Conv4(len(images), problem.filters)
    optimizer = torch.optim.Adam(model.parameters(), lr=OUTER_LR)
    losses = []
    for _ in range(IMAGES // BATCH):
        labels, writers = torch.randint(len(images), (BATCH,)), torch.randint(images.shape[1], (BATCH,))
        loss = cross_entropy(model(images[labels, writers]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network = Conv4(problem.ways, problem.filters)
    network.features.load_state_dict(model.features.state_dict())
    return network, losses


def score(network, inner_lr: float, tasks, number: int):
    """Five plain gradient steps from these weights on each task: what `MAML` does when it adapts."""
    return evaluate(MAML(network, inner_lr=inner_lr), tasks, number, only_last=True).per_task


def main(path: Path, seeds: int = 3, eval_tasks: int = 600):
    """Choose the inner learning rate, train and test."""
    problem = Problem("omniglot", validation=5)
    network, _ = classifier(problem, seed=0)
    validation = {lr: score(network, lr, problem.tasks("validation", 10, 0), 200) for lr in INNER_LRS}
    chosen = max(INNER_LRS, key=lambda lr: sum(validation[lr]))
    problem, runs = Problem("omniglot", validation=0), []
    for seed in range(seeds):
        network, losses = classifier(problem, seed)
        accuracies = score(network, chosen, problem.tasks("test", 10, 0), eval_tasks)
        runs.append({"seed": seed, "losses": losses, "task_accuracies": accuracies})
        print(seed, chosen, sum(accuracies) / eval_tasks, flush=True)
    record = {
        "kind": "baseline", **provenance(), "problem": problem.describe(), "drawings": IMAGES,
        "validation": validation, "inner_lr": chosen, "eval_tasks": eval_tasks,
        "seeds": list(range(seeds)), "algorithms": {"classifier": {"runs": runs}},
    }  # fmt: skip
    write_json(record, path)


if __name__ == "__main__":
    typer.run(main)
