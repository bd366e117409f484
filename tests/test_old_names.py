"""What the first edition wrote is still read: records, weights and checkpoints with the names of that time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mamlcourse import RECIPES, CharacterTasks, Conv4, InputError, Settings, learner, train
from mamlcourse.claims import SOURCES
from mamlcourse.comparison import caption, claim
from mamlcourse.pretrained import FOLDER, load_pretrained
from mamlcourse.problems import Problem
from mamlcourse.records import read_json, with_current_names
from mamlcourse.stats import paired_difference, verdict, worst_decile

RESULTS = Path(__file__).parent.parent / "results"
OLD_SETTINGS = {
    "name": "maml++", "inner_steps": 5, "inner_lr": 0.1, "order": 2, "first_order_epochs": 0,
    "multi_step_loss": "annealed", "multi_step_epochs": 10, "learned_rates": "parameter_step", "per_step_norm": True,
    "adapt": ["*"], "checkpoint_steps": False, "outer_lr": 0.003, "cosine": True,
}  # fmt: skip
OFFICIAL = dict(learned_lr_outer_lr=None)  # how learned learning rates were learned before there was a choice


def test_settings_of_the_first_edition():
    assert Settings.from_record(OLD_SETTINGS) == replace(RECIPES["maml++"], **OFFICIAL)
    plain = {"learned_rates": "none", "per_step_norm": False, "cosine": False, "multi_step_loss": "final", "order": 1}
    reptile = OLD_SETTINGS | {"name": "reptile"} | plain
    assert Settings.from_record(reptile) == RECIPES["reptile"]
    assert Settings.from_record(RECIPES["protomaml"].to_record()) == RECIPES["protomaml"]
    with pytest.raises(InputError, match="'inner_leaps' is unknown"):
        Settings.from_record(OLD_SETTINGS | {"inner_leaps": 3})


def test_committed_records_and_weights_of_the_first_edition():
    path = RESULTS / "omniglot-200-tasks-original-rates.json"
    text = path.read_text(encoding="utf-8")
    assert "learned_rates" in text and '"reduction"' in text  # else this test shows nothing
    record = read_json(path)
    assert Problem.from_record(record["problem"]).downsampling == "max-pool"
    for name, entry in record["algorithms"].items():
        assert Settings.from_record(entry["settings"]) == replace(
            RECIPES[name], **OFFICIAL, inner_lr=0.01, outer_lr=0.001
        )
    for path in FOLDER.glob("glyphs-5w1s-*.npz"):
        maml = load_pretrained(path.stem.removeprefix("glyphs-5w1s-"))
        learned = maml.meta_params().learning_rates.values()
        assert any((lr != 0.1).any() for lr in learned) == path.stem.endswith("++")


def as_in_the_first_edition(name):
    for kind, old in (("learning_rates.", "rates."), ("norms.", "norms.")):
        if name.startswith(kind):
            return old + name.removeprefix(kind).replace(".", "/")
    return name


def test_a_checkpoint_of_the_first_edition_goes_on(noise, tmp_path):
    def run(iterations, **options):
        torch.manual_seed(0)
        maml = learner(Conv4(3, 2, "stride"), "maml++", inner_steps=2, backend="loop", **OFFICIAL)
        tasks = CharacterTasks(noise, ways=3, queries=2, tasks_per_batch=2)
        train(maml, tasks, 6, progress=False, checkpoint=tmp_path / "run.pt", **options)
        return maml.state_dict()

    unbroken = run(6)
    (tmp_path / "run.pt").unlink()
    run(6, each_iteration=lambda history: len(history.losses) == 3)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    kept = ("format", "config", "optimizer", "done", "iterations", "random_state", "history")
    old = {key: state[key] for key in kept}
    settings = {**state["settings"], "learned_rates": state["settings"]["learned_lr"]}
    old["settings"] = {k: v for k, v in settings.items() if k in OLD_SETTINGS}
    old["maml"] = {as_in_the_first_edition(name): value for name, value in state["maml"].items()}
    assert "rates.head/weight" in old["maml"] and "norms.features/1/weight" in old["maml"]
    torch.save(old, tmp_path / "run.pt")
    resumed = run(6, resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def test_names_are_changed_at_any_depth_and_values_are_not():
    record = {"a": [{"reduction": "reduction"}], "learned_rates": {"one_by_one_accuracies": [1]}}
    assert with_current_names(record) == {
        "a": [{"downsampling": "reduction"}], "learned_lr": {"non_transductive_accuracies": [1]},
    }  # fmt: skip
    assert json.loads(json.dumps(with_current_names([1, "x", None]))) == [1, "x", None]


# The statistics that every table and lesson shares.


def test_verdicts():
    assert [verdict(*gap) for gap in ((2, 1), (-2, 1), (0.5, 1), (1, 1), (3, float("nan")))] == [
        "held", "did not hold", "undecided", "undecided", "undecided",
    ]  # fmt: skip


def test_worst_deciles():
    assert worst_decile(range(30)) == 1 and worst_decile(range(30), highest=True) == 28 and worst_decile([3, 4]) == 3


def test_paired_differences_take_the_wider_interval():
    same_tasks = paired_difference([[0.5, 0.7, 0.9]], [[0.4, 0.6, 0.8]])
    assert same_tasks == (pytest.approx(0.1), pytest.approx(0, abs=1e-12))
    seeds_apart = paired_difference([[0.5, 0.7], [0.9, 1.1]], [[0.4, 0.6], [0.4, 0.6]])
    assert seeds_apart == (pytest.approx(0.3), pytest.approx(12.706 * 0.2))  # half of 0.4 apart, Student's t for 1


def test_captions_of_budgets_by_name_and_of_random_splits():
    record = read_json(RESULTS / "first-order.json")
    assert isinstance(record["train_tasks"], dict)
    assert "training tasks in batches of 4: MAML 200, FOMAML 200" in caption(record)
    # A claim names the budgets of its two alone.
    tripled = claim(record, "fomaml, 3x tasks", "maml", "more tasks help", SOURCES[0]).budget
    assert tripled == "training tasks in batches of 4: FOMAML, 3x tasks 600, MAML 200, 3 seeds"
    assert claim(record, "fomaml", "maml", "it is ahead", SOURCES[0]).budget.startswith(
        "200 training tasks (50 batches"
    )
    assert "of unseen alphabets" in caption(record)
    record["problem"]["split"] = "random"
    assert "of unseen classes" in caption(record)
