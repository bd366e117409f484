"""How often the networks of the playground "Draw your own" are right, asked as the page asks: each query alone.

    OMP_NUM_THREADS=1 python benchmarks/playground.py

It needs Omniglot ($MAMLCOURSE_DATA) and writes results/playground.json: the weights that come with the package
(benchmarks/pretrain.py) on tasks of alphabets that no network was trained on, of the built-in glyphs, as on the page's
sheet, and of Omniglot, drawn by people. Batch norm takes its statistics from the five support images and the query, so
this is not the transductive accuracy that papers give (for that see results/pretrained-glyphs.json).
"""

from pathlib import Path

import torch

from mamlcourse import evaluate
from mamlcourse.pretrained import load_pretrained
from mamlcourse.problems import Problem
from mamlcourse.records import provenance, write_json

RECORD = Path(__file__).parent.parent / "results" / "playground.json"
SETTING, ALGORITHMS = "glyphs-5w1s", ("maml", "fomaml", "maml++")
TASKS, QUERIES, SEED = 100, 2, 0


def main() -> None:
    torch.set_num_threads(1)
    record = {
        "kind": "playground",
        **provenance(),
        "setting": SETTING,
        "test": {"tasks": TASKS, "queries": QUERIES, "seed": SEED},
        "tested": {},
    }
    for dataset in ("glyphs", "omniglot"):
        tasks = Problem(dataset, validation=5, queries=QUERIES).tasks("test", tasks_per_batch=10, seed=SEED)
        found = record["tested"][dataset] = {}
        for name in ALGORITHMS:
            maml = load_pretrained(name, SETTING)
            maml.backend = "loop"
            seen = evaluate(maml, tasks, TASKS, only_last=True, transductive=False)
            found[name] = {
                "accuracy": round(seen.accuracy, 4),
                "interval": round(seen.interval, 4),
                "task_accuracies": [round(accuracy, 4) for accuracy in seen.per_task],
            }
            print(f"{dataset}, {name}: {seen.accuracy:.1%} ± {seen.interval:.1%}", flush=True)
    write_json(record, RECORD)


if __name__ == "__main__":
    main()
