"""The ladder: what stands between chance and MAML++ on the same 200 test tasks, with the same budget of images.

    OMP_NUM_THREADS=1 python benchmarks/ladder.py results/ladder.json

All on the built-in characters, 5-way 1-shot, 15 queries per class; test tasks of alphabets that nothing trained on.

- "pixels": the nearest support image, by cosine. Nothing is trained, so there is one row.
- "untrained": a random network with a head of zeros, adapted by five gradient steps; "from scratch": by twenty.
- "classifier": trained to tell all 625 training characters apart, fine-tuned by five gradient steps from a head of
  zeros.
- "protonet", "maml", "fomaml", "maml++": the course's recipes.

What each sees. The meta-learners train on 200 tasks, 50 batches of 4: 200 x 5 x (1 + 15) = 16,000 images, labelled 0 to
4 anew in each task. The classifier sees 16,000 images too, in 250 batches of 64, labelled with their characters: more
updates, and a label that says more. Nobody's images are rotated here, unlike elsewhere in the course, so that all see
the same kind.

Inner learning rates of the first three kinds are chosen on validation alphabets by seed 0 from five, for each kind
anew; those of the recipes stand in mamlcourse/settings.py, chosen on validation alphabets of Omniglot.

One row for each method and seed is added to the file as it is measured, and rows that are already there are skipped.
"""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
import typer
from torch.nn.functional import cross_entropy, normalize

from mamlcourse import MAML, Conv4, evaluate, learner, train
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, read_json, write_json

PROBLEM = Problem("glyphs", validation=5, rotations=False)
BATCHES, TASKS_PER_BATCH, EXAMPLES, OUTER_LR = 50, 4, 64, 0.003
INNER_LRS = (0.01, 0.03, 0.1, 0.3, 1.0)
VALIDATION_TASKS = 40
RECIPES = ("protonet", "maml", "fomaml", "maml++")


def images_of(tasks: int) -> int:
    """The images in so many training tasks."""
    return tasks * PROBLEM.ways * (PROBLEM.shots + PROBLEM.queries)


def pixels(batches, number: int) -> list[float]:
    """The accuracy of each of the first tasks, if a query gets the label of the support image at the smallest angle."""
    found = []
    for batch in batches:
        support, query = (normalize(x.flatten(2), dim=-1) for x in (batch.support_x, batch.query_x))
        said = batch.support_y.gather(1, (query @ support.mT).argmax(-1))
        found += (said == batch.query_y).float().mean(1).tolist()
        if len(found) >= number:
            return found[:number]


def classifier(seed: int, images: int, filters: int) -> Conv4:
    """A Conv4 with a head of zeros on features that were trained to tell all training characters apart."""
    torch.manual_seed(seed)
    drawings = PROBLEM.parts.train.images.float()[:, :, None] / 255
    model = Conv4(len(drawings), filters)
    optimizer = torch.optim.Adam(model.parameters(), lr=OUTER_LR)
    for _ in range(images // EXAMPLES):
        labels = torch.randint(len(drawings), (EXAMPLES,))
        writers = torch.randint(drawings.shape[1], (EXAMPLES,))
        loss = cross_entropy(model(drawings[labels, writers]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network = Conv4(PROBLEM.ways, filters)
    network.features.load_state_dict(model.features.state_dict())
    return network


def chosen_lr(network, steps: int) -> tuple[float, dict]:
    """(The inner learning rate with the highest accuracy on validation tasks, {each: that accuracy})."""
    tasks = PROBLEM.tasks("validation", 10, seed=0)
    found = {
        lr: evaluate(MAML(network, inner_lr=lr), tasks, VALIDATION_TASKS, steps=steps, only_last=True).accuracy
        for lr in INNER_LRS
    }
    return max(found, key=found.get), found


def main(path: Path, seeds: int = 3, eval_tasks: int = 200, batches: int = BATCHES, filters: int = PROBLEM.filters):
    """Measure every rung and seed that the file has not yet."""
    torch.set_num_threads(1)
    problem = replace(PROBLEM, filters=filters)
    test = problem.tasks("test", 10, seed=0)
    budget = images_of(batches * TASKS_PER_BATCH)
    record = read_json(path) if path.exists() else {
        "kind": "ladder", **provenance(), "problem": problem.describe(), "eval_tasks": eval_tasks,
        "train_tasks": batches * TASKS_PER_BATCH, "tasks_per_batch": TASKS_PER_BATCH, "images": budget,
        "outer_lr": OUTER_LR, "seeds": list(range(seeds)), "validation_tasks": VALIDATION_TASKS, "validation": {},
        "rows": [],
    }  # fmt: skip

    def add(method, seed, accuracies, **more):
        accuracies = [round(accuracy, 4) for accuracy in accuracies]
        record["rows"].append({"method": method, "seed": seed, **more, "task_accuracies": accuracies})
        write_json(record, path)
        print(f"{method}, seed {seed}: {fmean(accuracies):.1%}", flush=True)

    def missing(method, seed):
        return not any(row["method"] == method and row["seed"] == seed for row in record["rows"])

    def measure_adapted(method, seed, steps, images):
        network = classifier(seed, images, filters) if images else problem.network(seed)
        if method not in record["validation"]:
            lr, found = chosen_lr(network, steps)
            record["validation"][method] = {"inner_lr": lr, "accuracy": {str(k): v for k, v in found.items()}}
        lr = record["validation"][method]["inner_lr"]
        tested = evaluate(MAML(network, inner_lr=lr), test, eval_tasks, steps=steps, only_last=True)
        add(method, seed, tested.per_task, images=images, inner_steps=steps, inner_lr=lr)

    def measure_recipe(method, seed):
        maml = learner(problem.network(seed), method)
        train(maml, problem.tasks("train", TASKS_PER_BATCH, seed), batches, progress=False)
        tested = evaluate(maml, test, eval_tasks, only_last=True)
        add(method, seed, tested.per_task, images=budget, settings=maml.settings.to_record())

    if missing("pixels", 0):
        add("pixels", 0, pixels(test, eval_tasks), images=0)
    adapted = {"classifier": (5, budget), "untrained": (5, 0), "from scratch": (20, 0)}
    for seed in range(seeds):  # a seed at a time, so that a file that is not finished is whole for the first ones
        for method in ("classifier", *RECIPES, "untrained", "from scratch"):
            if missing(method, seed):
                measure_adapted(method, seed, *adapted[method]) if method in adapted else measure_recipe(method, seed)


if __name__ == "__main__":
    typer.run(main)
