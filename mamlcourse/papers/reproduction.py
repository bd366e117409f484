"""The papers' Omniglot table: long training runs by their protocols, resumable anywhere, each leaving one result file.

A run is known by its setting ("5w1s": 5-way 1-shot), algorithm and seed. While it trains, the checkpoint file holds
everything, the best models so far included; when it has trained, it is tested and writes `SETTING-ALGORITHM-SEED.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from ..errors import InputError, check_choice, check_number
from ..evaluation import LARGEST_NUMBER_OF_TASKS, RISE, evaluate
from ..learner import MAML, learner
from ..meta_params import with_current_names
from ..pretrained import save_weights
from ..problems import Problem, choose_device
from ..records import check_keys, check_outputs, device_in_words, only_writer, provenance, read_json, write_json
from ..settings import Settings, recipe
from ..stats import worst_decile
from ..tasks import CharacterTasks
from ..training import load_checkpoint, train
from . import ALGORITHMS, SETTINGS

PROTOCOLS = ("finn", "maml++")
KEPT = 5  # best checkpoints by validation, for the ensemble of Antoniou et al. 2019
PAPER_TASKS = 600  # test tasks in the papers; the costlier ways of testing use these
VALIDATIONS = 50
PATIENCE = 60  # seconds to wait for another seed of the cell that is writing its result
NUMBER = (int, float)
RISES = ("query", "too_long", "overfits")  # shares of tasks by step, as `Evaluation` has them
KINDS = {
    "setting": str, "algorithm": str, "seed": int, "training_seconds": NUMBER, "test_accuracy": NUMBER,
    "validation_accuracy": NUMBER, "task_accuracies": list, "non_transductive_accuracies": list,
    "ensemble_accuracies": list, "curve": list, "hardware": {"device": str, "threads": int},
    "longer": {"accuracy_by_step": list, "any_rise_by_step": list},
    "plan": {
        "setting": str, "iterations": int, "tasks_per_batch": int, "test_tasks": int, "test_queries": int,
        "settings": {"inner_steps": int}, "problem": dict,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run's numbers.

    Attributes:
        setting, algorithm, seed, protocol: which run.
        problem: characters, episodes and network of training.
        settings: the algorithm.
        iterations, tasks_per_batch: meta-batches, and tasks in each.
        test_steps, test_queries: adaptation steps and queries per class in validation and testing.
        validation_tasks, test_tasks: how many tasks are drawn from the validation and the test classes.
    """

    setting: str
    algorithm: str
    seed: int
    protocol: str
    problem: Problem
    settings: Settings
    iterations: int
    tasks_per_batch: int
    test_steps: int
    test_queries: int
    validation_tasks: int = 300
    test_tasks: int = 6000

    @property
    def name(self) -> str:
        """The run's name, which its files carry; a protocol other than the algorithm's own is part of it."""
        own = self.protocol == own_protocol(self.algorithm)
        return "-".join([self.setting, self.algorithm, *([] if own else [f"by-{self.protocol}"]), str(self.seed)])

    def tasks(self, part: str, device) -> CharacterTasks:
        """The episodes of the "validation" or "test" classes: the same for every seed."""
        return replace(self.problem, queries=self.test_queries).tasks(part, 10, 0, device)

    def describe(self) -> dict:
        """Its plain values."""
        return asdict(self) | {"problem": self.problem.describe(), "settings": self.settings.to_record()}


def own_protocol(algorithm: str) -> str:
    """The protocol that an algorithm is reproduced by unless asked otherwise."""
    return "maml++" if algorithm.endswith("++") else "finn"


def plan(
    setting: str, algorithm: str, seed: int = 0, protocol: str | None = None, *, iterations: int | None = None,
    test_tasks: int | None = None, validation_tasks: int | None = None, root=None, **problem,
) -> Plan:  # fmt: skip
    """The plan of a run.

    "finn" is the protocol of Finn et al. 2017 as their code has it: 1100/100/423 classes at random, each rotated by
    multiples of 90 degrees in training and in testing, strided Conv4, as many queries as shots, Adam at 0.001, 60,000
    iterations; 5-way 1 inner step, 20-way 5, at 2.0 under a mean loss (their 0.4 and 0.1 are of a sum divided by the
    shots). "maml++" is the configuration that Antoniou et al. 2019 published: 1150/50/423, rotated in training alone,
    max-pooled Conv4, one query, 5 steps at 0.1, 8 tasks, 50,000 iterations, Adam from 0.001 along a cosine.

    What differs from their programs: the head starts at zeros and all else as PyTorch initialises it (Antoniou et al.:
    xavier_uniform); the activation is ReLU (leaky ReLU); ink is 1 (in theirs the paper is); the cosine falls at every
    iteration (every 500); MAML and FOMAML adapt batch norm's weight and bias like every other parameter (the MAML in
    the MAML++ repository does not: recipe "maml-antoniou"); one model is tested, the ensemble of five beside it; and
    fewer iterations are a whole run, along whose length the schedules are spread. As there, Adam has the weights'
    learning rate for learned learning rates too.

    Args:
        setting: "5w1s", "5w5s", "20w1s" or "20w5s".
        algorithm: one of `ALGORITHMS`.
        seed: initial weights and training tasks; the split and the test tasks are always the same.
        protocol: "finn" or "maml++"; default the algorithm's own.
        iterations, test_tasks, validation_tasks: to change the budget; schedules follow it.
        root: Omniglot's folder.
        **problem: what to change in `Problem`.

    Raises:
        InputError: a name is unknown or a number not allowed.
    """
    check_choice("The setting", setting, SETTINGS)
    check_choice("The algorithm", algorithm, ALGORITHMS)
    protocol = own_protocol(algorithm) if protocol is None else protocol
    check_choice("The protocol", protocol, PROTOCOLS)
    ways, shots = SETTINGS[setting]
    base = Problem("omniglot", split="random", ways=ways, shots=shots, filters=64, root=root)
    official = dict(learned_lr_outer_lr=None)
    if protocol == "finn":
        base = replace(base, validation=100, queries=shots, downsampling="stride", test_rotations=True)
        steps, test_steps, inner_lr = (1, 3, 2.0) if ways == 5 else (5, 5, 2.0)
        steps = 0 if algorithm == "protonet" else steps
        settings = recipe(algorithm, inner_steps=steps, inner_lr=inner_lr, outer_lr=1e-3, **official)
        batch = 32 if ways == 5 else 16
        run = Plan(setting, algorithm, seed, protocol, base, settings, 60_000, batch, test_steps, shots)
    else:
        base = replace(base, validation=50, queries=1)
        steps = 0 if algorithm == "protonet" else 5
        settings = recipe(algorithm, inner_steps=steps, inner_lr=0.1, outer_lr=1e-3, cosine=True, **official)
        run = Plan(setting, algorithm, seed, protocol, base, settings, 50_000, 8, test_steps=5, test_queries=1)
    if algorithm == "reptile":
        # Nichol et al. 2018, table 4 trains on 10 examples of each class, in 5-way tasks 5 at a time. Here: the shots
        # and the rest as queries, all in each step, at a rate that fits plain inner gradient steps.
        settings = replace(run.settings, inner_steps=5, inner_lr=0.1)
        run = replace(run, problem=replace(run.problem, queries=10 - shots), settings=settings, test_steps=10)
    if algorithm == "protonet":
        run = replace(run, test_steps=0)
    given = dict(iterations=iterations, test_tasks=test_tasks, validation_tasks=validation_tasks)
    for name, value in given.items():
        if value is not None:
            check_number(name, value, at_least=2, integer=True)
            check_number(name, value, at_most=LARGEST_NUMBER_OF_TASKS, integer=True)
            run = replace(run, **{name: int(value)})
    return replace(run, problem=replace(run.problem, **problem))


def reproduce(
    run: Plan, results: str | Path, checkpoints: str | Path, *, device="auto", backend="auto",
    processes: int = 1, out_of_time: Callable[[], bool] = lambda: False, save_every: int = 500, progress: bool = True,
) -> dict | None:  # fmt: skip
    """Train a run, going on from its checkpoint if there is one, test it, and write its result file.

    Args:
        run: from `plan`.
        results, checkpoints: folders.
        device, backend, processes: as in `choose_device`, `MAML` and `train`.
        out_of_time: asked after each iteration; when it says so, the checkpoint is saved and training stops.
        save_every: iterations between checkpoints.
        progress: whether to show a progress bar.

    Returns:
        The record; None when training stopped before its end.

    Raises:
        InputError: a file of that name is from another plan, or cannot be read or written; or another process does
            this run.
    """
    result, checkpoint = Path(results) / f"{run.name}.json", Path(checkpoints) / f"{run.name}.pt"
    check_outputs(result)
    with only_writer(result):
        if not result.exists():
            return _train_and_test(
                run, result, checkpoint, device, backend, processes, out_of_time, save_every, progress
            )
        record = read_json(result)
        check_result(record, result)
        _check_same_plan(record["plan"], run, result)
        if not _weights(run, result).exists() and checkpoint.exists():
            maml = learner(run.problem.network(run.seed), run.settings)
            _keep_best_seed(run, maml, _kept(run, checkpoint)["best"], record, result)
        return record


def _kept(run: Plan, checkpoint: Path) -> dict:
    """What a run's checkpoint keeps beside the training state."""
    kept = load_checkpoint(checkpoint)["config"]
    check_keys(kept, {"plan": dict, "curve": list, "best": list, "slices": list}, checkpoint)
    kept["best"] = [model | {"weights": with_current_names(model["weights"])} for model in kept["best"]]
    _check_same_plan(kept["plan"], run, checkpoint)
    return kept


def _train_and_test(
    run, result, checkpoint, device, backend, processes, out_of_time, save_every, progress
) -> dict | None:
    device = choose_device(device)
    maml = learner(run.problem.network(run.seed, device), run.settings, backend=backend)
    # Kept in the checkpoint: the plan, the learning curve, the best models, and where it ran for how long.
    kept = {"plan": run.describe(), "curve": [], "best": [], "slices": []}
    if checkpoint.exists():
        kept = _kept(run, checkpoint)
    before = sum(part["seconds"] for part in kept["slices"])
    kept["slices"].append({**provenance(device), "backend": maml.backend, "seconds": 0.0, "until_iteration": 0})

    def each_iteration(history):
        done = len(history.accuracies)
        spent = {"seconds": history.seconds - before, "until_iteration": done}
        kept["slices"][-1] |= spent
        if len(history.validation) > len(kept["curve"]):
            _note(kept, maml, history, run.tasks_per_batch)
        else:  # after a validation it would be the validation's
            kept["slices"][-1] |= {"backend": maml.backend}
        return out_of_time()

    history = train(
        maml, run.problem.tasks("train", run.tasks_per_batch, run.seed, device), run.iterations,
        validation=run.tasks("validation", device), validation_tasks=run.validation_tasks,
        validation_steps=run.test_steps, validate_every=max(run.iterations // VALIDATIONS, 1),
        checkpoint=checkpoint, save_every=save_every, resume=True, config=kept, each_iteration=each_iteration,
        progress=progress, processes=processes,
    )  # fmt: skip
    if not history.finished:
        return None
    record = {
        "kind": "reproduction", **kept["slices"][-1], "plan": run.describe(),
        "setting": run.setting, "algorithm": run.algorithm, "seed": run.seed,
        "slices": kept["slices"], "training_seconds": history.seconds, "curve": kept["curve"],
        **_test(run, maml, kept["best"], device),
    }  # fmt: skip
    for name in ("seconds", "until_iteration"):
        del record[name]
    with only_writer(_weights(run, result), wait=PATIENCE):
        # The result last: where it is, all is there.
        _keep_best_seed(run, maml, kept["best"], record, result)
        write_json(record, result)
    return record


def check_result(record: dict, path) -> None:
    """Raise `InputError` unless a result is whole, and its name and mean follow from its raw values."""
    check_keys(record, KINDS, path)
    plan = record["plan"]
    for name in ("task_accuracies", "non_transductive_accuracies", "ensemble_accuracies"):
        wrong = [value for value in record[name] if not (isinstance(value, NUMBER) and 0 <= value <= 1)]
        if wrong or not record[name]:
            raise InputError(f"{path}: expected accuracies from 0 to 1 in {name}, got {(wrong or ['none'])[0]}.")
    for name in ("test_accuracy", "validation_accuracy"):
        if not 0 <= record[name] <= 1:
            raise InputError(f"{path}: expected {name} from 0 to 1, got {record[name]}.")
    accuracies = record["task_accuracies"]
    if len(accuracies) != plan["test_tasks"]:
        raise InputError(f"{path}: expected {plan['test_tasks']} raw accuracies, got {len(accuracies)}.")
    if not abs(fmean(accuracies) - record["test_accuracy"]) <= 1e-9:
        raise InputError(
            f"{path} says test_accuracy is {record['test_accuracy']}, but its raw values give {fmean(accuracies)}."
        )
    steps = 4 * plan["settings"]["inner_steps"]
    longer, lengths = record["longer"], {"accuracy_by_step": steps + 1, "any_rise_by_step": steps}
    if "rises" in longer:  # files of the first edition know no size
        check_keys(longer, {"rises": {"size": NUMBER} | dict.fromkeys(RISES, list)}, path, "longer.")
        longer = longer | {f"rises.{name}": longer["rises"][name] for name in RISES}
        lengths |= {f"rises.{name}": steps for name in RISES}
    for name, expected in lengths.items():
        values = longer[name]
        if len(values) != expected or not all(isinstance(value, NUMBER) and 0 <= value <= 1 for value in values):
            raise InputError(f"{path}: expected {expected} values from 0 to 1 in longer.{name}, got others.")
    point = {"iteration": int, "tasks": int, "seconds": NUMBER, "validation_accuracy": NUMBER}
    for part in record["curve"]:
        check_keys(part if isinstance(part, dict) else {}, point, path, "a point of the curve: ")
    named = f"{record['setting']}-{record['algorithm']}-"
    if not (Path(path).name.startswith(named) and Path(path).stem.endswith(f"-{record['seed']}")):
        raise InputError(f"{path} holds a run of {named}{record['seed']}: its name must say so.")


def _weights(run: Plan, result: Path) -> Path:
    """The weights file of a run's cell: that of its best seed."""
    return result.with_name(f"{run.name.rsplit('-', 1)[0]}.npz")


def _note(kept: dict, maml: MAML, history, tasks_per_batch: int) -> None:
    """A point of the learning curve, and the model if it is among the best."""
    iteration, accuracy = history.validation[-1]
    since = kept["curve"][-1]["iteration"] if kept["curve"] else 0
    kept["curve"].append({
        "iteration": iteration, "tasks": iteration * tasks_per_batch, "seconds": round(history.seconds, 2),
        "training_loss": round(fmean(history.losses[since:iteration] or [float("nan")]), 5),
        "validation_accuracy": round(accuracy, 5),
    })  # fmt: skip
    weights = {name: value.detach().cpu().clone() for name, value in maml.state_dict().items()}
    kept["best"].append({"iteration": iteration, "validation_accuracy": accuracy, "weights": weights})
    # Of equals the later one, which has seen more tasks.
    kept["best"].sort(key=lambda model: (model["validation_accuracy"], model["iteration"]), reverse=True)
    del kept["best"][KEPT:]


def _test(run: Plan, maml: MAML, best: list[dict], device) -> dict:
    """What the best model by validation does on the test classes."""

    tasks = run.tasks("test", device)
    few = min(PAPER_TASKS, run.test_tasks)
    maml.load_state_dict(best[0]["weights"])
    single = evaluate(maml, tasks, run.test_tasks, run.test_steps, only_last=True)
    alone = evaluate(maml, tasks, few, run.test_steps, only_last=True, transductive=False)
    longer = evaluate(maml, tasks, few, 4 * run.settings.inner_steps)
    return {
        "chosen_iteration": best[0]["iteration"],
        "validation_accuracy": best[0]["validation_accuracy"],
        "test_accuracy": fmean(_rounded(single.per_task)),
        "task_accuracies": _rounded(single.per_task),
        "non_transductive_accuracies": _rounded(alone.per_task),
        "ensemble_iterations": [model["iteration"] for model in best],
        "ensemble_accuracies": _rounded(ensemble_accuracies(maml, best, tasks, few, run.test_steps)),
        "longer": {
            "steps": 4 * run.settings.inner_steps,
            "accuracy_by_step": _rounded(longer.by_step),
            "loss_by_step": _rounded(longer.loss_by_step),
            "worst_decile_by_step": _rounded(map(worst_decile, longer.accuracies.T.tolist())),
            "any_rise_by_step": _share_by_step(longer.rises),
            "rises": {
                "size": RISE,
                "query": _share_by_step(longer.overshoots()),
                "too_long": _share_by_step(longer.too_long()),
                "overfits": _share_by_step(longer.overfits()),
            },
        },
    }


def ensemble_accuracies(maml: MAML, models: list[dict], tasks, number_of_tasks: int, steps: int) -> list[float]:
    """Accuracy on each task of the average of several models' outputs. `maml` is left with the first one's weights."""
    accuracies, index = [], 0
    while len(accuracies) < number_of_tasks:
        batch, total = tasks.batch(index), 0.0
        for model in reversed(models):
            maml.load_state_dict(model["weights"])
            total = total + maml.trajectory(batch, steps, only_last=True).query_outputs[:, -1]
        accuracies += (total.argmax(-1) == batch.query_y).float().mean(-1).tolist()
        index += 1
    return accuracies[:number_of_tasks]


def _keep_best_seed(run: Plan, maml: MAML, best: list[dict], record: dict, result: Path) -> None:
    """Write the weights, unless another seed of this cell was better on its validation classes."""
    weights, others = _weights(run, result), []
    for path in result.parent.glob(f"{weights.stem}-[0-9]*.json"):
        if path != result:
            others.append(read_json(path))
            check_result(others[-1], path)
    if all(record["validation_accuracy"] >= other["validation_accuracy"] for other in others):
        maml.load_state_dict(best[0]["weights"])
        description = {"problem": run.problem.describe(), "plan": run.describe(), "result": result.name}
        save_weights(maml, weights, description)


def expected_time(run: Plan, results: str | Path) -> str:
    """How long training takes, in words, from the measured time per task of a run like it; "not measured" without."""
    for path in sorted(Path(results).glob(f"{run.setting}-{run.algorithm}-*.json")):
        record = read_json(path)
        check_result(record, path)
        like = record["plan"]
        if like["problem"] == run.problem.describe() and Settings.from_record(like["settings"]) == run.settings:
            per_task = record["training_seconds"] / (like["iterations"] * like["tasks_per_batch"])
            hours = per_task * run.iterations * run.tasks_per_batch / 3600
            time = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
            return f"{time} on {device_in_words(record)}"
    return "not measured"


def _check_same_plan(theirs: dict, run: Plan, path: Path) -> None:
    mine = run.describe()
    theirs = theirs | {"settings": Settings.from_record(theirs["settings"]).to_record()}
    for name in mine:
        if theirs.get(name) != mine[name]:
            raise InputError(
                f"{path} is of a run with {name} {theirs.get(name)!r}, but now {name} is {mine[name]!r}: "
                "use the same options, or another folder."
            )


def _share_by_step(steps) -> list[float]:
    """The share of tasks in which something is true of each step, from (T, K)."""
    return _rounded(steps.float().mean(0).tolist())


def _rounded(values) -> list[float]:
    return [round(float(value), 5) for value in values]


def deadline(minutes: float | None) -> Callable[[], bool]:
    """A function that says whether so many minutes have passed since this call; never without a number."""
    if minutes is None:
        return lambda: False
    check_number("max_minutes", minutes, above=0)
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() > end
