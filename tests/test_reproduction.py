"""Long runs: the protocols' numbers, a tiny run from `reproduce` to the table, stopping anywhere, altered files."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from mamlcourse import learner
from mamlcourse.cli import app
from mamlcourse.data import omniglot
from mamlcourse.errors import InputError
from mamlcourse.evaluation import RISE, evaluate
from mamlcourse.papers import tables as papers
from mamlcourse.papers.reproduction import ensemble_accuracies, plan, reproduce
from mamlcourse.pretrained import load_pretrained, load_weights, save_weights
from mamlcourse.problems import Problem
from mamlcourse.records import read_json, write_json
from mamlcourse.stats import ci95

RESULTS = Path(__file__).parent.parent / "results" / "omniglot"


def tiny(algorithm="maml", seed=0, **options):
    """A run of seconds, on the built-in characters."""
    budget = dict(iterations=6, test_tasks=8, validation_tasks=4, dataset="glyphs", filters=4) | options
    run = plan("5w1s", algorithm, seed, **budget)
    return replace(run, tasks_per_batch=2)


def go(run, folder, **options):
    return reproduce(run, folder / "results", folder / "runs", progress=False, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the results of a MAML run and a MAML++ run."""
    folder = tmp_path_factory.mktemp("reproduction")
    for algorithm in ("maml", "maml++"):
        go(tiny(algorithm), folder)
    return folder


def test_protocols_have_the_papers_numbers():
    finn, many_ways, plus = plan("5w5s", "maml"), plan("20w1s", "fomaml"), plan("20w5s", "maml++")
    assert (finn.iterations, finn.tasks_per_batch, finn.test_steps, finn.test_queries) == (60_000, 32, 3, 5)
    assert (finn.settings.inner_steps, finn.settings.inner_lr, finn.settings.outer_lr) == (1, 2.0, 0.001)
    assert finn.problem.describe() == dict(
        dataset="omniglot", split="random", validation=100, ways=5, shots=5, queries=5, rotations=True,
        test_rotations=True, filters=64, downsampling="stride",
    )  # fmt: skip
    assert (many_ways.tasks_per_batch, many_ways.settings.inner_steps, many_ways.settings.inner_lr) == (16, 5, 2.0)
    assert (plus.iterations, plus.tasks_per_batch, plus.problem.queries, plus.test_steps) == (50_000, 8, 1, 5)
    assert plus.settings.cosine and plus.settings.inner_lr == 0.1 and plus.problem.downsampling == "max-pool"
    assert (plus.problem.validation, plus.problem.test_rotations) == (50, False)
    assert plus.settings.learned_lr_outer_lr is None  # one Adam for all, as theirs


def test_names_tell_the_runs_apart():
    assert plan("5w1s", "maml++", 2).name == "5w1s-maml++-2"
    assert plan("5w1s", "maml", protocol="maml++").name == "5w1s-maml-by-maml++-0"


@pytest.mark.parametrize("bad", [("6w1s", "maml"), ("5w1s", "mamml"), ("5w1s", "maml", 0, "fin")])
def test_unknown_names_are_refused(bad):
    with pytest.raises(InputError, match="is unknown.*Allowed"):
        plan(*bad)


def test_a_result_holds_raw_values_and_where_they_come_from(finished):
    record = read_json(finished / "results" / "5w1s-maml++-0.json")
    assert record["test_accuracy"] == fmean(record["task_accuracies"]) and len(record["task_accuracies"]) == 8
    assert (record["setting"], record["algorithm"], record["seed"]) == ("5w1s", "maml++", 0)
    assert [point["tasks"] for point in record["curve"]] == [2, 4, 6, 8, 10, 12]
    best = max(record["curve"], key=lambda point: (point["validation_accuracy"], point["iteration"]))
    assert record["chosen_iteration"] == best["iteration"] == record["ensemble_iterations"][0]
    assert len(record["ensemble_iterations"]) == 5
    longer = record["longer"]
    assert len(longer["accuracy_by_step"]) == 1 + 4 * 5 and len(longer["any_rise_by_step"]) == 4 * 5
    assert longer["rises"]["size"] == RISE and "overshoot_by_step" not in longer
    for of_any_size, of_size, overfits in zip(
        longer["any_rise_by_step"], longer["rises"]["query"], longer["rises"]["overfits"]
    ):
        assert of_any_size >= of_size >= overfits
    assert record["command"] and record["versions"]["torch"] and record["hardware"] and record["training_seconds"] > 0


@pytest.mark.parametrize("stops", [(1,), (2, 3), (6,)])
def test_a_run_in_slices_equals_one_that_was_not_stopped(finished, tmp_path, stops):
    run, left, done = tiny(), list(stops), 0

    def out_of_time():
        nonlocal done
        done += 1
        return bool(left) and done == left[0] and bool(left.pop(0))

    while (record := go(run, tmp_path, out_of_time=out_of_time)) is None:
        done = 0
    whole = read_json(finished / "results" / "5w1s-maml-0.json")
    for name in ("task_accuracies", "non_transductive_accuracies", "ensemble_accuracies", "chosen_iteration", "longer"):
        assert record[name] == whole[name], name
    assert [{**point, "seconds": 0} for point in record["curve"]] == [
        {**point, "seconds": 0} for point in whole["curve"]
    ]
    assert record["slices"][-1]["until_iteration"] == 6
    assert sum(part["seconds"] for part in record["slices"]) == pytest.approx(record["training_seconds"])


def test_a_finished_run_is_not_run_again_and_another_plan_is_refused(finished):
    assert go(tiny(), finished, out_of_time=lambda: pytest.fail("it trained")) is not None
    with pytest.raises(InputError, match="is of a run with iterations 6, but now iterations is 7"):
        go(tiny(iterations=7), finished)


def test_weights_of_the_best_seed_are_kept_and_give_the_recorded_accuracies(finished, tmp_path):
    for seed in (0, 1):
        go(tiny(seed=seed), tmp_path)
    records = [read_json(tmp_path / "results" / f"5w1s-maml-{seed}.json") for seed in (0, 1)]
    maml, description = load_weights(tmp_path / "results" / "5w1s-maml.npz")
    kept = records[description["plan"]["seed"]]
    assert kept["validation_accuracy"] == max(record["validation_accuracy"] for record in records)
    tested = evaluate(maml, tiny().tasks("test", "cpu"), 8, tiny().test_steps)
    assert tested.per_task == pytest.approx(kept["task_accuracies"], abs=1e-4)


def test_ensemble_of_one_model_is_that_model(finished):
    maml, _ = load_weights(finished / "results" / "5w1s-maml.npz")
    tasks = tiny().tasks("test", "cpu")
    weights = {name: value.clone() for name, value in maml.state_dict().items()}
    alone = evaluate(maml, tasks, 15, 3, only_last=True).per_task
    assert ensemble_accuracies(maml, [{"weights": weights}], tasks, 15, 3) == pytest.approx(alone)


def test_the_table_reads_the_results_and_says_what_was_not_measured(finished):
    cells = papers.load_results(finished / "results")
    table = papers.rows(cells)
    line = next(row for row in table if row[:2] == ["5w1s", "MAML"])
    mean = cells["5w1s", "maml"][0]["test_accuracy"]
    assert line[2] == "98.70 ± 0.40" and line[3].startswith(f"{100 * mean:.2f} ± ")
    assert line[4].startswith(f"{100 * mean - 98.7:+.2f} ± ")
    other = next(row for row in table if row[:2] == ["20w5s", "FOMAML"])
    assert other[3] == "not measured" and other[-1] == "`mamlcourse reproduce 20w5s --algorithm fomaml`"
    assert len(table) == 1 + 4 * 8
    assert len(papers.stability_rows(cells, "5w1s")) == 3
    assert papers.budget_rows(cells, "5w1s", (60,))[1][1] == "not measured"
    for figure in (papers.papers_figure(cells), papers.learning_curves(cells, "5w1s")):
        assert figure.axes


def test_algorithms_are_compared_on_the_same_tasks_only(finished):
    cells = papers.load_results(finished / "results")
    assert len(papers.paired_rows(cells, "5w1s")) == 1  # the protocols test on different tasks
    plus = cells["5w1s", "maml++"][0]
    lower = plus | {"task_accuracies": [accuracy - 0.1 for accuracy in plus["task_accuracies"]]}
    pairs = papers.paired_rows({("5w1s", "maml-by-maml++"): [lower], ("5w1s", "maml++"): [plus]}, "5w1s")
    assert pairs[1] == ["MAML++ than MAML (maml++ protocol)", "10.00 ± 0.00, clearly"]
    assert pairs[0][1] == "% points more, 95% CI over tasks alone"


def shifted(record, by, seed):
    """The record of another seed, all of whose accuracies are shifted."""
    values = [accuracy + by for accuracy in record["task_accuracies"]]
    return record | {"seed": seed, "task_accuracies": values, "test_accuracy": fmean(values)}


def test_only_a_run_of_the_published_length_judges_what_is_published(finished):
    one = papers.load_results(finished / "results")["5w1s", "maml++"][0]
    whole = one | {"plan": one["plan"] | {"iterations": 50_000}}
    assert papers.published_claims({("5w1s", "maml++"): [one]}) == []
    (claim,) = papers.published_claims({("5w1s", "maml++"): [whole]})
    assert claim.statement == "MAML++ reaches 99.47% in 5w1s" and claim.verdict == "undecided"  # one seed
    assert claim.difference == pytest.approx(100 * one["test_accuracy"] - 99.47)
    (claim,) = papers.published_claims({("5w1s", "maml++"): [whole, shifted(whole, -0.001, 1)]})
    assert claim.budget == "50,000 x 2 tasks, 2 seeds" and claim.verdict == "did not hold"


def test_maml_and_maml_plus_plus_are_judged_where_both_trained_equally_long(finished):
    plus = papers.load_results(finished / "results")["5w1s", "maml++"][0]
    cells = {("5w1s", "maml-by-maml++"): [shifted(plus, -0.1, 0)], ("5w1s", "maml++"): [plus]}
    (claim,) = papers.same_protocol_claims(cells)
    assert claim.difference == pytest.approx(10) and claim.verdict == "undecided" and "one seed" in claim.budget
    assert claim.measure == "test accuracy, MAML++ - MAML (± 0.00 over tasks alone)"
    for name, by in (("maml-by-maml++", -0.1), ("maml++", 0.0)):
        cells["5w1s", name] = [shifted(plus, by, seed) for seed in (0, 1)]
    assert papers.same_protocol_claims(cells)[0].verdict == "held"
    longer = plus | {"plan": plus["plan"] | {"iterations": 99}}
    assert papers.same_protocol_claims(cells | {("5w1s", "maml++"): [longer]}) == []


def test_a_run_that_moved_says_how_long_it_was_where(finished):
    one = papers.load_results(finished / "results")["5w1s", "maml++"][0]
    gpu = one["slices"][0] | {"hardware": one["hardware"] | {"device": "a GPU"}, "seconds": 120.0}
    moved = one | {"slices": [gpu, one["slices"][0] | {"seconds": 3600.0}, gpu]}
    row = next(row for row in papers.rows({("5w1s", "maml++"): [moved]}) if row[:2] == ["5w1s", "MAML++"])
    threads = one["hardware"]["threads"]
    assert row[-1].endswith(f"tasks, 4 min on a GPU + 60 min on {threads} CPU thread{'s' * (threads > 1)}")
    late = moved | {"training_seconds": 3840.0}
    assert papers.budget_rows({("5w1s", "maml++"): [late]}, "5w1s", (1,))[1][1] == "not measured"
    assert (
        papers.budget_rows({("5w1s", "maml++"): [one | {"training_seconds": 3840.0}]}, "5w1s", (1,))[1][1]
        != "not measured"
    )


def test_several_seeds_widen_the_intervals_and_the_captions_say_so(finished):
    one = papers.load_results(finished / "results")["5w1s", "maml++"][0]
    plus = [shifted(one, by, seed) for seed, by in enumerate((0.0, 0.01, 0.02))]
    alone, several = {("5w1s", "maml++"): plus[:1]}, {("5w1s", "maml++"): plus}
    assert "over tasks alone." in papers.caption(alone) and "over seeds and tasks" in papers.caption(several)
    values = one["task_accuracies"]
    assert papers._over_seeds(plus, "task_accuracies")[1] == pytest.approx(max(ci95(values), 4.303 * 0.01 / 3**0.5))
    flat = [record | {"task_accuracies": [0.9 + by] * 8} for record, by in zip(plus, (0.0, 0.01, 0.02))]
    assert papers._over_seeds(flat, "task_accuracies")[1] == pytest.approx(4.303 * 0.01 / 3**0.5)
    # Paired by seed, whatever their order, and only seeds that both have.
    others = [shifted(one, by, seed) for seed, by in ((2, -0.02), (1, -0.02), (0, -0.02), (7, 0.5))]
    pairs = papers.paired_rows({("5w1s", "maml-by-maml++"): others, ("5w1s", "maml++"): plus}, "5w1s")
    assert pairs[0][1] == "% points more, 95% CI over seeds and tasks, the wider of the two"
    assert pairs[1] == ["MAML++ than MAML (maml++ protocol)", "3.00 ± 2.48, clearly"]  # 4.303 / sqrt(3) = 2.48
    assert papers.paired_rows({("5w1s", "maml"): others[3:], ("5w1s", "maml++"): plus}, "5w1s")[1:] == []


def test_files_of_the_first_edition_are_read_and_their_column_says_any_rise(finished, tmp_path):
    record = read_json(finished / "results" / "5w1s-maml++-0.json")
    new = papers.stability_rows({("5w1s", "maml++"): [record]}, "5w1s")
    assert new[0][-3:] == [f"query loss rises by > {RISE} at each step (% of tasks)", "step too long", "overfits"]
    assert new[1][-3] == ", ".join(f"{100 * share:.0f}" for share in record["longer"]["rises"]["query"][:5])
    old = json.loads((finished / "results" / "5w1s-maml++-0.json").read_text(encoding="utf-8"))
    old["longer"]["overshoot_by_step"] = old["longer"].pop("any_rise_by_step")
    del old["longer"]["rises"]
    write_json(old, tmp_path / "5w1s-maml++-0.json")
    cells = papers.load_results(tmp_path)
    table = papers.stability_rows(cells, "5w1s")
    assert table[0][-1] == "query loss rises at each step, however little (% of tasks)"
    assert table[1][-1] == ", ".join(f"{100 * share:.0f}" for share in record["longer"]["any_rise_by_step"][:5])
    both = cells | {("5w1s", "maml"): papers.load_results(finished / "results")["5w1s", "maml"]}
    assert all(len(row) == len(table[0]) for row in papers.stability_rows(both, "5w1s"))


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda record: record["task_accuracies"].__setitem__(0, 0.123), "raw values give"),
        (lambda record: record.__setitem__("test_accuracy", 0.99), "says test_accuracy is 0.99"),
        (lambda record: record["task_accuracies"].pop(), "expected 8 raw accuracies, got 7"),
        (lambda record: record.__setitem__("seed", 3), "its name must say so"),
    ],
)
def test_an_altered_result_is_caught(finished, tmp_path, change, complaint):
    record = read_json(finished / "results" / "5w1s-maml-0.json")
    change(record)
    write_json(record, tmp_path / "5w1s-maml-0.json")
    with pytest.raises(InputError, match=complaint):
        papers.load_results(tmp_path)


def test_lists_of_numbers_take_one_line_and_read_the_same(tmp_path):
    record = {"a": [1, 2.5, -3e-07], "b": [], "c": ["x [1, 2]", [0.1]], "d": {"e": [True, None]}}
    write_json(record, tmp_path / "r.json")
    assert read_json(tmp_path / "r.json") == record
    assert "[1,2.5,-3e-07]" in (tmp_path / "r.json").read_text()


def test_commands(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    listed = runner.invoke(app, ["reproduce", "--list"])
    assert listed.exit_code == 0 and "60000 x 32" in listed.output and "not measured" in listed.output
    made = runner.invoke(app, ["results", str(finished / "results")])
    assert made.exit_code == 0, made.output
    text = (finished / "results" / "README.md").read_text()
    assert "| 5w1s | MAML++ | 99.47 |" in text and "not measured" in text
    assert {path.name for path in (finished / "results").glob("*.png")} == {
        "table.png", "5w1s-tasks.png", "5w1s-seconds.png",
    }  # fmt: skip
    assert "MAML++" in made.output and "Not measured: 30 more" in made.output
    refused = runner.invoke(app, ["results", str(tmp_path / "elsewhere")])
    assert "There is no result file" in str(refused.exception) and not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(omniglot.find().kind == "nothing", reason="Omniglot is not here: set MAMLCOURSE_DATA")
def test_command_stops_in_time_and_goes_on(tmp_path):
    command = "reproduce 5w1s --algorithm maml++ --iterations 3 --filters 2 --test-tasks 4 --validation-tasks 2".split()
    command += ["--results", str(tmp_path / "r"), "--checkpoints", str(tmp_path / "c")]
    stopped = CliRunner().invoke(app, [*command, "--max-minutes", "0.0000001"])
    assert stopped.exit_code == 75 and "Go on with the same command" in stopped.output
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "5w1s-maml++-0: test accuracy" in done.output, done.output


# What is committed.


def committed():
    return sorted(RESULTS.glob("*.npz"))


def test_committed_results_are_whole_and_weights_small():
    for folder in (RESULTS, RESULTS.with_name("omniglot-short")):
        assert papers.load_results(folder)
    assert all(path.stat().st_size < 500_000 for path in committed())


@pytest.mark.skipif(omniglot.find().kind == "nothing", reason="Omniglot is not here: set MAMLCOURSE_DATA")
@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem)
def test_committed_weights_give_the_committed_accuracies(path):
    maml, description = load_weights(path)
    record = read_json(RESULTS / description["result"])
    problem = Problem(**record["plan"]["problem"] | {"queries": record["plan"]["test_queries"]})
    tested = evaluate(maml, problem.tasks("test", 10, 0), 100, record["plan"]["test_steps"], only_last=True)
    # Another processor rounds differently, which may turn a query or two.
    assert tested.accuracy == pytest.approx(fmean(record["task_accuracies"][:100]), abs=0.006)


# Weights files.


def test_weights_refuse_what_is_not_there_or_damaged(tmp_path):
    with pytest.raises(InputError, match="There is no weights file"):
        load_weights(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match="not a readable weights file"):
        load_weights(tmp_path / "bad.npz")
    with pytest.raises(InputError, match="'glyphs-5w1s-mamll' is unknown"):
        load_pretrained("mamll")


def test_weights_keep_learning_rates_and_norms(tmp_path):
    problem = Problem(filters=4)
    maml = learner(problem.network(0), "maml++", inner_steps=2)
    with torch.no_grad():
        for parameter in maml.meta_params().tensors():
            parameter.add_(torch.randn_like(parameter))
    save_weights(maml, tmp_path / "w.npz", {"problem": problem.describe(), "note": "π"})
    again, description = load_weights(tmp_path / "w.npz")
    assert description["note"] == "π" and again.settings == maml.settings
    for name, value in maml.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert json.dumps(description)
