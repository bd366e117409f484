"""The comparison: fairness, arithmetic worked out a second time, and recommendations that follow from the numbers."""

import copy
import math
import statistics

import pytest
import torch
from matplotlib.figure import Figure

from mamlcourse import InputError
from mamlcourse.comparison import (
    Decision,
    caption,
    compare,
    comparison_figure,
    decide,
    decision,
    legend,
    markdown,
    paired_difference,
    recommendation,
    rows,
    steps_that_raise,
    summary,
)
from mamlcourse.memory import peak_of_training
from mamlcourse.problems import Problem, choose_device
from mamlcourse.records import provenance, read_json, write_json
from mamlcourse.settings import RECIPES, recipe
from mamlcourse.styles import COLOURS, MARKS, TITLES

SMALL = Problem(validation=0, filters=4, queries=2)


@pytest.fixture(scope="module")
def measured():
    """What `compare` asked to be measured: the arguments of every call."""
    return []


@pytest.fixture(scope="module")
def record(measured):
    def peak(*arguments):
        measured.append(arguments)
        # Measuring starts a process, which takes seconds: one algorithm is enough to see that a measurement arrives.
        return peak_of_training(*arguments) if arguments[0].name == "maml" else 10_000_000 + len(measured)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mamlcourse.comparison.peak_of_training", peak)
        return compare(
            ["maml", "fomaml", "maml++"], SMALL, train_tasks=8, tasks_per_batch=4, eval_tasks=12, seeds=range(2),
            progress=False, inner_lr=0.2,
        )  # fmt: skip


def made_up(accuracies, seconds, memory=None):
    """A record with given per-seed, per-task accuracies."""
    algorithms = {}
    for name, by_seed in accuracies.items():
        runs = [
            {
                "seed": seed, "train_seconds": seconds[name], "losses": [2.0] * 9 + [1.0], "task_accuracies": tasks,
                "accuracy_by_step": [0.2, statistics.fmean(tasks)], "any_rise": 0.5,
            }
            for seed, tasks in enumerate(by_seed)
        ]  # fmt: skip
        memory_of = (memory or {}).get(name, 10_000_000)
        algorithms[name] = {"settings": recipe(name).to_record(), "runs": runs, "peak_memory_bytes": memory_of}
    return {
        "problem": {"dataset": "glyphs", "split": "alphabet", "ways": 5, "shots": 1, "queries": 15}, "train_tasks": 200,
        "tasks_per_batch": 4, "eval_tasks": 4, "seeds": list(range(len(by_seed))), "algorithms": algorithms,
        "hardware": {"device": "CPU", "threads": 2}, "date": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip


def test_record_holds_everything_and_survives_json(record, tmp_path):
    write_json(record, tmp_path / "new folder" / "record.json")
    assert read_json(tmp_path / "new folder" / "record.json") == record
    assert {"command", "date", "versions", "hardware", "problem", "seeds", "train_tasks"} <= record.keys()
    for name, entry in record["algorithms"].items():
        assert entry["settings"]["inner_lr"] == 0.2 and entry["settings"]["name"] == name
        assert [run["seed"] for run in entry["runs"]] == [0, 1]
        for run in entry["runs"]:
            assert len(run["losses"]) == 2 and len(run["task_accuracies"]) == 12
            assert run["accuracy_by_step"][-1] == pytest.approx(statistics.fmean(run["task_accuracies"]), abs=1e-4)
            assert run["loss_by_step"][-1] == pytest.approx(statistics.fmean(run["task_losses"]), abs=1e-4)
            steps = entry["settings"]["inner_steps"]
            for raw, by_step in (("query_losses", "loss_by_step"), ("support_losses", "support_loss_by_step")):
                assert len(run[raw]) == 12 and all(len(of_task) == steps + 1 for of_task in run[raw])
                assert all(round(loss, 4) == loss for of_task in run[raw] for loss in of_task)
                means = [statistics.fmean(losses) for losses in zip(*run[raw])]
                assert run[by_step] == pytest.approx(means, abs=1e-4)
            assert [of_task[-1] for of_task in run["query_losses"]] == pytest.approx(run["task_losses"], abs=1e-4)
            assert run["query_losses"] != run["support_losses"]


def test_rises_of_any_size_can_be_computed_from_a_record(record):
    for name, entry in record["algorithms"].items():
        for size in (0.0, 0.01, 0.05):
            for found, run in zip(zip(*steps_that_raise(record, name, size).values()), entry["runs"]):
                up = [[b - a > size for a, b in zip(path, path[1:])] for path in run["query_losses"]]
                long = [[b - a > size for a, b in zip(path, path[1:])] for path in run["support_losses"]]
                falls = [[b - a < 0 for a, b in zip(path, path[1:])] for path in run["support_losses"]]
                both = [[x and y for x, y in zip(*of_task)] for of_task in zip(up, falls)]
                assert found == pytest.approx([sum(map(any, steps)) / 12 for steps in (up, long, both)])
        own = summary(record)[name]
        shares = {what: statistics.fmean(by_seed) for what, by_seed in steps_that_raise(record, name).items()}
        assert {"overshoot": own.overshoot, "too_long": own.too_long, "overfits": own.overfits} == shares
        any_rise = statistics.fmean(steps_that_raise(record, name, 0.0)["overshoot"])
        assert own.any_rise == pytest.approx(any_rise, abs=0.1)  # that of losses with all their digits


def test_a_record_of_the_first_edition_keeps_its_meaning_and_says_so(record, tmp_path):
    new = [row[0] for row in rows(record)]
    assert "overshoot by > 0.05 (% of tasks)" in new and "test loss" in new and "test loss minus MAML's" in new
    assert "by more than 0.05" in legend(record) and not any("any step" in title for title in new)
    old = copy.deepcopy(record)
    for entry in old["algorithms"].values():
        for run in entry["runs"]:
            run["overshoot"] = 0.25
            for name in ("any_rise", "task_losses", "support_loss_by_step", "query_losses", "support_losses"):
                del run[name]
    write_json(old, tmp_path / "old.json")
    old = read_json(tmp_path / "old.json")
    table = {title: values for title, *values in rows(old)}
    assert table["tasks in which any step raises the loss (%)"] == ["25", "25", "25"]
    assert not [title for title in table if "overshoot" in title or "test loss" in title or "too long" in title]
    assert summary(old)["maml"].overshoot is None and summary(old)["maml"].loss is None and legend(old) == ""
    mixed = copy.deepcopy(record)  # one old run is enough: a share of both kinds would be of neither
    mixed["algorithms"]["maml"]["runs"][0] = old["algorithms"]["maml"]["runs"][0]
    assert "tasks in which any step raises the loss (%)" in [row[0] for row in rows(mixed)]
    assert legend(mixed) == "" and not any("overshoot" in row[0] for row in rows(mixed))


def test_every_algorithm_gets_its_own_peak_of_memory(record, measured):
    peaks = {name: entry["peak_memory_bytes"] for name, entry in record["algorithms"].items()}
    assert peaks.pop("maml") > 0 and peaks == {"fomaml": 10_000_002, "maml++": 10_000_003}
    assert [settings.name for settings, *_ in measured] == ["maml", "fomaml", "maml++"]
    for settings, problem, tasks_per_batch, device, backend in measured:
        assert settings.inner_lr == 0.2 and problem == SMALL and tasks_per_batch == 4
        assert torch.device(device) == choose_device()
        assert [run["backend"] for run in record["algorithms"][settings.name]["runs"]][0] == backend


def test_every_algorithm_starts_alike_and_is_tested_alike(record, monkeypatch):
    """MAML and FOMAML differ only in the gradient, so their first meta-loss is the same; and so is a repetition."""
    maml, fomaml = (record["algorithms"][name]["runs"] for name in ("maml", "fomaml"))
    for seed in range(2):
        assert maml[seed]["losses"][0] == pytest.approx(fomaml[seed]["losses"][0], abs=1e-5)
    assert maml[0]["losses"][0] != maml[1]["losses"][0]
    monkeypatch.setattr("mamlcourse.comparison.peak_of_training", lambda *arguments: 1)
    again = compare(["fomaml"], SMALL, train_tasks=8, eval_tasks=12, progress=False, inner_lr=0.2)
    alone = again["algorithms"]["fomaml"]["runs"][0]
    assert alone["losses"] == fomaml[0]["losses"] and alone["task_accuracies"] == fomaml[0]["task_accuracies"]


def test_training_and_test_classes_share_no_alphabet():
    parts = SMALL.parts
    assert not set(parts.train.alphabets) & set(parts.test.alphabets)
    assert SMALL.tasks("train", 4, 0).rotations and not SMALL.tasks("test", 4, 0).rotations


def test_summary_agrees_with_the_arithmetic_written_out():
    maml, fomaml = [[0.8, 0.7, 0.9, 0.6], [0.6, 0.7, 0.8, 0.7]], [[0.7, 0.7, 0.8, 0.5], [0.5, 0.6, 0.8, 0.7]]
    found = summary(made_up({"maml": maml, "fomaml": fomaml}, {"maml": 10.0, "fomaml": 5.0}, {"maml": 20_000_000}))
    assert found["maml"].accuracy == pytest.approx(0.725)
    by_task = [0.7, 0.7, 0.85, 0.65]
    assert 3.182 * statistics.stdev(by_task) / 2 < 12.706 * statistics.stdev([0.75, 0.7]) / math.sqrt(2)
    assert found["maml"].interval == pytest.approx(12.706 * statistics.stdev([0.75, 0.7]) / math.sqrt(2))
    assert found["maml"].over_chance == pytest.approx(0.525)
    assert found["maml"].std_over_seeds == pytest.approx(statistics.stdev([0.75, 0.7]))
    assert found["maml"].std_over_tasks == pytest.approx((statistics.stdev(maml[0]) + statistics.stdev(maml[1])) / 2)
    assert found["maml"].worst_decile == pytest.approx(0.6)
    assert found["maml"].final_loss == 1.0 and found["maml"].difference is None
    assert found["fomaml"].difference == pytest.approx(-0.0625)
    over_tasks = 3.182 * statistics.stdev([-0.1, -0.05, -0.05, -0.05]) / 2
    over_seeds = 12.706 * statistics.stdev([-0.075, -0.05]) / math.sqrt(2)
    assert found["fomaml"].difference_interval == pytest.approx(max(over_tasks, over_seeds))
    assert found["fomaml"].time_ratio == 0.5 and found["fomaml"].memory_ratio == 0.5


def tasks(mean, seed=0, count=200):
    """Accuracies of many tasks that scatter around a mean."""
    generator = torch.Generator().manual_seed(seed)
    return (mean + 0.05 * torch.randn(count, generator=generator)).tolist()


def test_test_losses_are_compared_as_accuracies_are():
    record = made_up({"maml": [[0.5] * 4] * 2, "fomaml": [[0.5] * 4] * 2}, {"maml": 10.0, "fomaml": 5.0})
    losses = {"maml": [[1.0, 2.0, 1.0, 2.0], [1.5, 2.5, 1.5, 2.5]],
              "fomaml": [[1.1, 2.1, 1.1, 2.1], [1.8, 2.8, 1.8, 2.8]]}  # fmt: skip
    for name, by_seed in losses.items():
        for run, values in zip(record["algorithms"][name]["runs"], by_seed):
            run["task_losses"] = values
    maml, fomaml = summary(record).values()
    assert maml.loss == pytest.approx(1.75) and maml.loss_difference is None
    assert maml.loss_interval == pytest.approx(12.706 * statistics.stdev([1.5, 2.0]) / math.sqrt(2))
    assert fomaml.loss_difference == pytest.approx(fomaml.loss - maml.loss) == pytest.approx(0.2)
    assert fomaml.loss_difference_interval == pytest.approx(12.706 * statistics.stdev([0.1, 0.3]) / math.sqrt(2))


# The rule of the recommendation. A is the most accurate; the others as (accuracy minus A's, half its interval), with
# the training time; the margin is 0.02.
CHEAP, ALIKE, DEAR = 5.0, 9.5, 30.0


@pytest.mark.parametrize(
    "others, use, between",
    [
        ([(-0.001, 0.005, CHEAP)], "B", ()),  # shown to be good enough
        ([(-0.010, 0.005, CHEAP)], "B", ()),  # clearly behind, and shown to be by less than the margin
        ([(-0.008, 0.056, CHEAP)], None, "AB"),  # a wide interval shows nothing
        ([(-0.010, 0.0101, CHEAP)], None, "AB"),
        ([(-0.010, 0.0099, CHEAP)], "B", ()),
        ([(-0.050, 0.010, CHEAP)], "A", ()),  # clearly worse
        ([(-0.025, 0.010, CHEAP)], "A", ()),  # clearly worse, by more than the margin or not: A is the better one
        ([(-0.025, 0.030, CHEAP)], None, "AB"),
        ([(-0.001, 0.005, ALIKE)], "A", ()),  # nothing to save
        ([(-0.008, 0.020, ALIKE)], "A", ()),  # nothing to save, and at best 0.012 ahead
        ([(-0.008, 0.056, ALIKE)], None, "AB"),  # it may be ahead by more than the margin
        ([(-0.008, 0.020, DEAR)], "A", ()),
        ([(-0.008, 0.056, DEAR)], None, "AB"),
        ([(-0.080, 0.056, DEAR)], "A", ()),
        ([(0.0, math.nan, CHEAP)], None, "AB"),
        ([(0.0, 0.0, CHEAP)], "B", ()),
        ([(-0.001, 0.005, CHEAP), (-0.001, 0.005, 2.0)], "C", ()),  # of two that are good enough, the cheaper
        ([(-0.001, 0.005, CHEAP), (-0.008, 0.056, 2.0)], None, "BC"),  # A is out: B is as good and cheaper
        ([(-0.001, 0.005, CHEAP), (-0.008, 0.020, 7.0)], "B", ()),  # whatever C is, it is no cheaper than B
        ([(-0.050, 0.005, CHEAP), (-0.001, 0.005, 7.0)], "C", ()),
        ([(-0.008, 0.056, CHEAP), (-0.008, 0.056, DEAR)], None, "ABC"),
        ([(-0.008, 0.056, CHEAP), (-0.014, 0.021, ALIKE)], None, "AB"),
    ],
)
def test_the_cheaper_algorithm_must_be_shown_to_be_good_enough(others, use, between):
    named = dict(zip("BC", others))
    seconds = {"A": 10.0} | {name: time for name, (_, _, time) in named.items()}
    found = decide("A", {name: (gap, half) for name, (gap, half, _) in named.items()}, seconds, 0.02)
    assert (found.use, found.between) == (use, tuple(between))
    assert sorted([*found.enough, *found.worse, *found.open]) == sorted(named)


@pytest.mark.parametrize("half", [0.001, 0.01, 0.1, 1.0])
def test_a_wider_interval_never_turns_the_answer_to_the_cheaper_one(half):
    """The old rule took "not clearly worse" for "good enough", so that fewer seeds spoke for the cheaper one."""
    for gap in (0.0, -0.005, -0.015, -0.03, -0.3):
        narrow, wide = (decide("A", {"B": (gap, h)}, {"A": 10.0, "B": 5.0}, 0.02).use for h in (half, 2 * half))
        assert wide == narrow or wide is None


def test_recommendation_follows_the_numbers():
    clearly = made_up({"maml": [tasks(0.8)], "fomaml": [tasks(0.7, 1)]}, {"maml": 10.0, "fomaml": 5.0})
    assert "MAML is clearly more accurate than FOMAML, by 1" in recommendation(clearly)
    assert "It took 2.0 times the training time of the fastest, FOMAML: use MAML here." in recommendation(clearly)
    turned = made_up({"maml": [tasks(0.7)], "fomaml": [tasks(0.8, 1)]}, {"maml": 10.0, "fomaml": 5.0})
    assert "FOMAML is clearly more accurate" in recommendation(turned)
    assert "None of the others trained noticeably faster: use FOMAML here. (One seed" in recommendation(turned)
    level = made_up({"maml": [tasks(0.8)], "fomaml": [tasks(0.798, 1)]}, {"maml": 10.0, "fomaml": 5.0})
    assert "than the margin" in recommendation(level) and "2.0 times faster than" in recommendation(level)
    assert "use FOMAML here." in recommendation(level) and decision(level).use == "fomaml"
    slower = made_up({"maml": [tasks(0.801)], "fomaml": [tasks(0.8, 1)]}, {"maml": 10.0, "fomaml": 9.8})
    assert "than the margin" in recommendation(slower) and "noticeably" in recommendation(slower)
    mixed = made_up(
        {"maml": [tasks(0.8)], "fomaml": [tasks(0.6, 1)], "maml++": [tasks(0.8, 2)]},
        {"maml": 10.0, "fomaml": 5.0, "maml++": 30.0},
    )
    assert "than the margin" in recommendation(mixed) and "use MAML here." in recommendation(mixed)
    assert "clearly more accurate than FOMAML" in recommendation(mixed)
    alone = made_up({"maml": [tasks(0.8)]}, {"maml": 10.0})
    assert "nothing to compare" in recommendation(alone)


def test_the_margin_is_said_and_can_be_set():
    plain, lower = tasks(0.8), [value - 0.03 for value in tasks(0.8)]
    record = made_up({"maml": [plain], "fomaml": [lower]}, {"maml": 10.0, "fomaml": 5.0})
    assert "2 percentage points less accurate than the best" in recommendation(record)
    assert "use MAML here" in recommendation(record) and decision(record).worse == ("fomaml",)
    wider = recommendation(record, margin=0.035)
    assert "3.5 percentage points less accurate than the best" in wider and "use FOMAML here" in wider
    assert "MAML is clearly more accurate than FOMAML, but within the margin (3.0 ± 0.0 percentage points)" in wider
    for bad in (-0.01, 2, math.nan, "wide"):
        with pytest.raises(InputError, match="margin: expected a finite number at least 0 and at most 1, got"):
            recommendation(record, margin=bad)


def test_one_seed_says_that_the_intervals_are_over_tasks_alone():
    level = made_up({"maml": [tasks(0.8)], "fomaml": [tasks(0.8, 1)]}, {"maml": 10.0, "fomaml": 5.0})
    assert "(One seed: the intervals are over tasks alone and leave out" in recommendation(level)
    assert "95% confidence interval over tasks alone;" in caption(level)
    two = made_up({"maml": [tasks(0.8)] * 2, "fomaml": [tasks(0.8, 1)] * 2}, {"maml": 10.0, "fomaml": 5.0})
    assert "One seed" not in recommendation(two) and "interval over seeds and tasks, the wider" in caption(two)


def test_few_seeds_that_disagree_make_a_difference_unclear():
    """Over 200 tasks the difference is clear in each seed, but the seeds contradict each other."""
    record = made_up(
        {"maml": [tasks(0.8), tasks(0.7, 1)], "fomaml": [tasks(0.7, 2), tasks(0.77, 3)]},
        {"maml": 10.0, "fomaml": 5.0},
    )
    difference, interval = paired_difference(record, "maml", "fomaml")
    assert "One seed" not in recommendation(record)
    assert 0 < difference < interval
    assert recommendation(record).endswith("Undecided: more seeds must tell between MAML and FOMAML.")
    assert decision(record) == Decision("maml", None, ("maml", "fomaml"), (), (), ("fomaml",))


def test_table_and_markdown_show_every_algorithm(record):
    heading, *body = rows(record)
    assert heading[1:] == ["MAML", "FOMAML", "MAML++"] and all(len(row) == 4 for row in body)
    text = markdown(record)
    assert text.count("\n") == len(body) + 1 and "test accuracy (%)" in text
    assert "2 seeds" in caption(record) and "8 training tasks (2 batches of 4)" in caption(record)


def test_every_recipe_has_a_title_a_colour_and_a_mark_of_its_own():
    for names in (TITLES, COLOURS, MARKS):
        assert names.keys() == RECIPES.keys() and len(set(names.values())) == len(names)


def test_comparison_figure(record):
    figure = comparison_figure(record)
    assert isinstance(figure, Figure)
    path, difference, cost = figure.axes
    assert all(axes.get_title() and axes.get_xlabel() for axes in figure.axes)
    assert [line.get_label() for line in path.lines] == ["MAML", "FOMAML", "MAML++", "chance"]
    drawn = path.lines[1].get_ydata()[-1]
    assert drawn == pytest.approx(100 * summary(record)["fomaml"].accuracy, abs=0.01)
    assert [label.get_text() for label in difference.get_yticklabels()] == ["FOMAML", "MAML++"]
    single = copy.deepcopy(record)
    single["algorithms"] = {"maml": single["algorithms"]["maml"]}
    comparison_figure(single)


def test_peak_memory_grows_with_the_network_and_the_graded_steps():
    small = peak_of_training(recipe("maml"), Problem(filters=8), 2, "cpu")
    every_step = peak_of_training(recipe("maml", multi_step_loss="uniform"), Problem(filters=32), 2, "cpu")
    assert every_step > 3 * small


def test_a_failed_memory_measurement_is_said():
    with pytest.raises(InputError, match="Measuring memory failed with exit code 1"):
        peak_of_training(recipe("maml"), Problem(dataset="glyphs", downsampling="none"), 2, "cpu")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(algorithms=["maml", "mmal"]), "'mmal' is unknown. Did you mean 'maml'"),
        (dict(algorithms=[]), "algorithms: expected at least one name and none twice, got []"),
        (dict(algorithms=["maml", "maml"]), "none twice"),
        (dict(seeds=[]), "seeds: expected at least one and none twice, got []"),
        (dict(train_tasks=7), "train_tasks: expected a multiple of tasks_per_batch (4), got 7"),
        (dict(train_tasks=0), "train_tasks: expected"),
        (dict(eval_tasks=1), "eval_tasks: expected an integer at least 2"),
        (dict(tasks_per_batch=0), "tasks_per_batch: expected"),
        (dict(problem=Problem(ways=5000)), "got 5000"),
        (dict(problem=Problem(dataset="omniglott")), "Did you mean 'omniglot'"),
        (dict(device="cuda:99"), "The device 'cuda:99' cannot be used here"),
        (dict(inner_lr=-1.0), "inner_lr: expected"),
        (dict(inner_rate=1.0), "The setting 'inner_rate' is unknown. Did you mean 'inner_lr'"),
    ],
)
def test_bad_input_gets_one_clear_sentence(arguments, message):
    with pytest.raises(InputError) as caught:
        compare(**{"problem": SMALL, "progress": False, **arguments})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_result_files_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("no json")
    with pytest.raises(InputError, match="is not JSON"):
        read_json(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be written"):
        write_json({}, tmp_path / "file" / "below.json")


def test_provenance_names_no_folder(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/mamlcourse", "compare", "--json", "/secret/a.json"])
    assert provenance()["command"] == "mamlcourse compare --json a.json"
    monkeypatch.setattr("sys.argv", ["/somewhere/mamlcourse/__main__.py", "doctor"])
    assert provenance()["command"] == "python -m mamlcourse doctor"


def test_auto_device_is_the_gpu_if_there_is_one():
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
