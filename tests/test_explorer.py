"""The trajectory explorer: its numbers against hand calculation, its figures, and its widgets without a browser."""

import io
import re
import threading
import time

import numpy as np
import pytest
import torch
from conftest import refusal
from ipykernel.comm.comm import BaseComm
from ipywidgets import HTML, Box, FloatSlider, IntSlider, ToggleButtons
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from mamlcourse import (
    MAML,
    MLP,
    Characters,
    CharacterTasks,
    Conv4,
    Evaluation,
    InputError,
    SinusoidTasks,
    TaskBatch,
    evaluate,
    train,
)
from mamlcourse.explorer import SinusoidExplorer, TrainingMonitor, TrajectoryExplorer, widgets
from mamlcourse.explorer.base import DescribedImage, all_in
from mamlcourse.explorer.figures import (
    CAPTION,
    CELL,
    CORRECT,
    WRONG,
    ZOOM,
    Frames,
    landscape_drawing,
    predictions_figure,
    predictions_sheet,
    progress_drawing,
    sinusoid_drawing,
    training_figure,
)
from mamlcourse.explorer.landscape import (
    _loss_at,
    crowd_record,
    few_shot_tasks,
    in_words,
    loss_slice,
    measure_crowd,
    most_disputed_task,
    most_overshooting_task,
    read_crowd,
    with_inner_lr_times,
    worst_task,
)
from mamlcourse.pretrained import FOLDER, load_pretrained
from mamlcourse.problems import Problem
from mamlcourse.records import read_json
from mamlcourse.styles import COLOURS

NAMES = ("maml", "fomaml", "maml++")


@pytest.fixture
def learners():
    """Three untrained learners of 3 ways whose heads are not zero, so that they have opinions."""

    def make(seed, name):
        torch.manual_seed(seed)
        network = Conv4(ways=3, filters=4)
        torch.nn.init.normal_(network.head.weight)
        return MAML(network, name, backend="loop")

    return {name: make(seed, name) for seed, name in enumerate(NAMES)}


@pytest.fixture
def tasks(noise):
    return few_shot_tasks(noise, ways=3, shots=1)


@pytest.fixture
def trajectories(learners, tasks):
    return {name: maml.trajectory(tasks.batch(0), parameters=True) for name, maml in learners.items()}


@pytest.fixture
def explore(learners, noise):
    return TrajectoryExplorer(learners, noise, ways=3, number=6)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def images(explore):
    return explore.predictions.value, explore.progress.value, explore.landscape.value


# The numbers.


def test_tasks_stand_alone_and_keep_to_a_script(noise):
    tasks = few_shot_tasks(noise, ways=3, shots=2, seed=4, script="alphabet 2")
    assert tasks.batch(7).support_x.shape == (1, 6, 1, 28, 28) and tasks.batch(7).query_x.shape == (1, 15, 1, 28, 28)
    assert set(tasks.characters.alphabets) == {"alphabet 2"} and len(tasks.characters) == 5
    same = CharacterTasks(noise, ways=3, shots=2, queries=5, tasks_per_batch=1, seed=4)
    assert torch.equal(few_shot_tasks(noise, 3, 2, seed=4).batch(7).query_x, same.batch(7).query_x)
    assert "alphabet 2" in refusal(few_shot_tasks, noise, script="alphabet2")
    assert "at most 5" in refusal(few_shot_tasks, noise, ways=6, script="alphabet 1")


@pytest.mark.parametrize("name", ["maml", "maml++"])
def test_inner_learning_rates_of_a_copy_are_multiplied(learners, tasks, name):
    maml, batch = learners[name], tasks.batch(0)
    before = {key: value.clone() for key, value in maml.state_dict().items()}
    first, tenfold = (m.trajectory(batch, 1, parameters=True).parameters for m in (maml, with_inner_lr_times(10, maml)))
    for key in first:
        move, further = first[key][0, 1] - first[key][0, 0], tenfold[key][0, 1] - tenfold[key][0, 0]
        torch.testing.assert_close(further, 10 * move, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in maml.state_dict().items())
    assert "above 0" in refusal(with_inner_lr_times, 0, maml)


def plane_of_two_weights(steps):
    """A linear model of two weights: every plane through weight space is the whole of it, so all is known."""
    torch.manual_seed(0)
    maml = MAML(torch.nn.Linear(2, 1, bias=False), inner_lr=0.3, inner_steps=steps, loss=torch.nn.functional.mse_loss)
    task = TaskBatch(*(torch.randn(1, 4, size) for size in (2, 1, 2, 1)))
    trajectory = maml.trajectory(task, parameters=True)
    return maml, task, trajectory, trajectory.parameters["weight"][0, :, 0]  # (K + 1, 2)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_slice_holds_the_loss_of_its_places(steps):
    maml, task, trajectory, weights = plane_of_two_weights(steps)
    part = loss_slice(maml, task, trajectory, points=5)
    first = (weights[-1] - weights[0]) / (weights[-1] - weights[0]).norm()
    for second in (torch.stack([-first[1], first[0]]), torch.stack([first[1], -first[0]])):  # its sign is free
        places = weights[0] + part.x[None, :, None] * first + part.y[:, None, None] * second
        loss = (torch.einsum("yxw,qw->yxq", places, task.query_x[0]) - task.query_y[0, :, 0]).square().mean(-1)
        path = torch.stack([(weights - weights[0]) @ first, (weights - weights[0]) @ second], 1)
        if torch.allclose(loss, part.loss, atol=1e-4):
            torch.testing.assert_close(path, part.path, atol=1e-5, rtol=1e-4)
            break
    else:
        pytest.fail("the grid holds other losses")
    assert part.seen == pytest.approx(1) and part.path[0].tolist() == [0, 0]
    assert part.x[0] < part.path[:, 0].min() and part.x[-1] > part.path[:, 0].max()


@pytest.mark.parametrize("name", NAMES)
def test_slice_of_a_network(learners, tasks, trajectories, name):
    part = loss_slice(learners[name], tasks.batch(0), trajectories[name], points=3)
    assert part.loss.shape == (3, 3) and torch.isfinite(part.loss).all() and 0 < part.seen <= 1 + 1e-6
    assert part.path[0].tolist() == [0, 0] and abs(part.path[-1, 1]) < 1e-4 * part.path[-1, 0]
    parameters = trajectories[name].parameters
    end = torch.cat([(path[0, -1] - path[0, 0]).flatten() for path in parameters.values()])
    assert part.path[-1, 0] == pytest.approx(end.norm().item(), rel=1e-4)
    there = _loss_at(learners[name], tasks.batch(0), trajectories[name])(end)
    assert there == pytest.approx(trajectories[name].query_loss[0, -1].item(), rel=1e-3)


def test_slice_refuses_what_it_cannot_cut(learners, tasks):
    maml, batch = learners["maml"], tasks.batch(0)
    assert "parameters=True" in refusal(loss_slice, maml, batch, maml.trajectory(batch))
    assert "one task" in refusal(loss_slice, maml, batch, maml.trajectory(batch, 0, parameters=True))
    still = MAML(maml.model, inner_lr=0.0)
    assert "differ" in refusal(loss_slice, still, batch, still.trajectory(batch, parameters=True))


def test_crowd_is_each_task_alone_and_survives_a_file(learners, tasks):
    told = []
    crowd = measure_crowd(learners, tasks, 12, report=lambda done, of: told.append((done, of)))
    for name, maml in learners.items():
        alone = maml.trajectory(tasks.batch(11))
        torch.testing.assert_close(crowd[name].losses[11], alone.query_loss[0])
        assert crowd[name].losses.shape == (12, 6)
    assert told == [(0, 36), (10, 36), (12, 36), (22, 36), (24, 36), (34, 36)]
    read = read_crowd({"algorithms": {name: {"crowd": crowd_record(e)} for name, e in crowd.items()}})
    for part in ("losses", "accuracies", "support_losses"):
        torch.testing.assert_close(getattr(read["maml"], part), getattr(crowd["maml"], part), atol=1e-4, rtol=0)


def evaluation(losses, accuracies):
    return Evaluation(torch.tensor(losses), torch.tensor(accuracies), torch.tensor(losses))


def test_failures_are_found():
    maml = evaluation(
        [[2.0, 1.0], [2.0, 3.0], [2.0, 0.5], [2.0, 1.9]], [[0.2, right] for right in (0.6, 0.4, 1.0, 0.5)]
    )
    fomaml = evaluation(
        [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [1.0, 1.5]], [[0.2, right] for right in (0.2, 0.9, 0.9, 0.3)]
    )
    crowd = {"maml": maml, "fomaml": fomaml}
    assert worst_task(crowd) == 3  # as accurate as task 0, but more loss
    assert most_disputed_task(crowd) == 1
    assert most_overshooting_task(crowd) == 1
    assert most_overshooting_task({"fomaml": crowd["fomaml"]}) == 3
    assert "no learners" in refusal(worst_task, {})


def test_words_say_what_each_learner_does(trajectories):
    words = in_words(trajectories, 2)
    for title, trajectory in zip(("MAML", "FOMAML", "MAML++"), trajectories.values()):
        correct = int((trajectory.query_outputs[0, 2].argmax(-1) == torch.arange(3).repeat_interleave(5)).sum())
        assert f"{title} {correct} of 15 correct, loss {trajectory.query_loss[0, 2]:.2f}" in words


# The figures.


def test_predictions_mark_what_is_wrong(tasks, trajectories):
    batch, trajectory = tasks.batch(0), trajectories["maml"]
    red, green = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in (WRONG, CORRECT))
    for step in range(6):
        sheet = np.asarray(predictions_sheet(batch, {"maml": trajectory}, step))
        predicted = trajectory.query_outputs[0, step].argmax(-1)
        for place, correct in enumerate((predicted == batch.query_y[0]).tolist()):
            row, column = divmod(place, 5)
            bottom = sheet.shape[0] - ZOOM * (2 - row) * (CELL + CAPTION)
            left = sheet.shape[1] - ZOOM * (5 - column) * CELL - ZOOM * 2
            caption = sheet[bottom - ZOOM * CAPTION : bottom, left : left + ZOOM * CELL]
            assert (caption == red).all(-1).any() == (not correct) and (caption == green).all(-1).any() == correct
    shown = predictions_figure(batch, trajectories, 3).axes[0].images[0].get_array()
    assert shown.shape == np.asarray(predictions_sheet(batch, trajectories, 3)).shape


def test_steps_that_are_not_there_are_refused(tasks, trajectories):
    assert "at most 5" in refusal(predictions_sheet, tasks.batch(0), trajectories, 6)
    assert "at least 0" in refusal(progress_drawing(trajectories).at, -1)
    for nothing in (predictions_sheet, tasks.batch(0), {}, 0), (progress_drawing, {}), (landscape_drawing, {}):
        assert "at least one" in refusal(*nothing)


def test_progress_draws_this_task_and_the_crowd(learners, tasks, trajectories):
    crowd = measure_crowd({"maml": learners["maml"]}, tasks, 12)
    drawing = progress_drawing(trajectories, crowd)
    upper, lower = drawing.figure.axes
    for name, trajectory in trajectories.items():
        bold = [line for line in upper.lines if line.get_linewidth() > 2 and line.get_color() == COLOURS[name]]
        line = bold[0]
        np.testing.assert_allclose(line.get_ydata(), trajectory.query_loss[0])
    assert len(upper.collections[0].get_segments()) == 12  # one faint line for each task
    dashed = next(line for line in lower.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(dashed.get_ydata(), 100 * crowd["maml"].accuracies.mean(0), rtol=1e-5)
    drawing.at(4)
    assert [line.get_xdata().tolist() for line, _ in drawing.marks] == [[4]] * 6 + [[4, 4]] * 2


def drawings(learners, tasks, trajectories):
    slices = {name: loss_slice(learners[name], tasks.batch(0), trajectories[name], points=3) for name in learners}
    waves = {"maml": MAML(MLP(), loss=torch.nn.functional.mse_loss, inner_lr=0.01)}
    return progress_drawing(trajectories), landscape_drawing(slices), sinusoid_drawing(waves, [1.0, 2.0], [0.0, 1.0])


def test_a_frame_is_the_whole_figure(learners, tasks, trajectories):
    for drawing in drawings(learners, tasks, trajectories):
        frames = Frames(drawing.figure, [line for line, _ in drawing.marks])
        drawing.at(2)
        quick = pixels(frames.png())
        for line, _ in drawing.marks:
            line.set_animated(False)
        canvas = FigureCanvasAgg(drawing.figure)
        canvas.draw()
        whole = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        different = (abs(quick - whole).max(-1) > 40).mean()
        assert different < 0.004  # lines lie on top of the axes' frame and of each other in another order
        drawing.at(None)
        canvas.draw()
        assert (abs(quick - np.asarray(canvas.buffer_rgba())[..., :3]).max(-1) > 40).mean() > different


def test_sinusoid_figure_shows_the_fit():
    maml = MAML(MLP(), loss=torch.nn.functional.mse_loss, inner_lr=0.01)
    drawing = sinusoid_drawing({"maml": maml}, [-1.0, 0.5, 2.0], [0.3, 0.1, -1.0], wave=np.sin, steps=3)
    line, points = drawing.marks[0]
    assert points.shape == (4, 200, 2)
    task = TaskBatch(*(torch.tensor(v)[None, :, None] for v in ([-1.0, 0.5, 2.0], [0.3, 0.1, -1.0], [-5.0], [0.0])))
    np.testing.assert_allclose(points[3][0, 1], maml.trajectory(task, 3).query_outputs[0, 3, 0, 0], rtol=1e-4)
    np.testing.assert_allclose(drawing.figure.axes[0].lines[0].get_ydata(), np.sin(np.linspace(-5, 5, 200)), atol=1e-5)
    ringed = sinusoid_drawing({"maml": maml}, [-1.0, 0.5, 2.0], [0.3, 0.1, -1.0], chosen=1).figure.axes[0]
    ring = next(line for line in ringed.lines if line.get_markerfacecolor() == "none")
    np.testing.assert_allclose(ring.get_xydata(), [[0.5, 0.1]])
    assert "(2,) and (3,)" in refusal(sinusoid_drawing, {"maml": maml}, [1.0, 2.0], [1.0, 2.0, 3.0])


# The widgets. Setting a control's value runs the callbacks that the browser's message would run.


@pytest.mark.parametrize(
    "control, value",
    [
        ("step", 2), ("task", 3), ("seed", 1), ("ways", 2), ("shots", 2), ("script", "alphabet 3"), ("inner_steps", 3),
        ("inner_lr", 3.0),
    ],
)  # fmt: skip
def test_each_control_changes_the_images_and_back(explore, control, value):
    control = getattr(explore, control)
    before, old, words = images(explore), control.value, explore.status.value
    control.value = value
    changed = images(explore)
    assert all(a != b for a, b in zip(before, changed)) and explore.status.value != words
    assert all(len(np.unique(pixels(image))) > 10 for image in changed)
    control.value = old
    explore.step.value = 5  # fewer inner steps took it along
    assert images(explore) == before and explore.status.value == words
    assert explore.script.index == 0  # a selection that a browser can show


def test_algorithms_come_and_go(explore):
    before = images(explore)
    explore.algorithms["fomaml"].value = False
    assert all(a != b for a, b in zip(before, images(explore))) and "FOMAML" not in explore.words
    explore.algorithms["fomaml"].value = True
    assert images(explore) == before
    for box in explore.algorithms.values():
        box.value = False
    assert "tick at least one" in explore.status.value and 'role="alert"' in explore.status.value
    explore.worst.click()  # nothing to choose by, and no error
    explore.algorithms["maml"].value = True
    assert 'role="status"' in explore.status.value and "MAML" in explore.words


def test_images_say_in_words_what_they_show(explore):
    explore.step.value = 3
    for image in (explore.predictions, explore.progress, explore.landscape):
        assert image.tooltip.endswith(explore.words) and "step 3 of 5" in image.tooltip
        assert image.description == "" and bytes(image.value).startswith(b"\x89PNG")
    assert explore.words in explore.status.value and 'aria-live="polite"' in explore.status.value
    assert "A letter" in explore.letters.value


def wave_learner():
    return MAML(MLP(), loss=torch.nn.functional.mse_loss, inner_lr=0.01)


def test_every_control_has_a_name_and_none_says_null(explore):
    """A label, as that is what screen readers speak, or beside it a field that has one; the tooltip is never None."""
    sliders = {}
    for explorer in (explore, SinusoidExplorer({"maml": wave_learner()}), TrainingMonitor()):
        for widget in all_in(explorer):
            if isinstance(widget, (IntSlider, FloatSlider)):
                sliders[widget] = [w for w in all_in(explorer) if getattr(w, "tooltip", "") == widget.tooltip]
            elif isinstance(widget, ToggleButtons):
                assert widget.tooltip and all(widget.tooltips) and all(widget.options)
            elif not isinstance(widget, (HTML, Box, DescribedImage)):
                assert widget.description and widget.tooltip, widget
            assert isinstance(widget, (Box, DescribedImage)) or widget.tooltip is not None, widget
    assert len(sliders) == 7
    for slider, namesakes in sliders.items():
        field = next(widget for widget in namesakes if widget is not slider)
        assert field.description and field.value == slider.value
        slider.value = slider.max
        assert field.value == slider.max
        field.value = slider.min
        assert slider.value == slider.min


def test_the_number_beside_a_slider_keeps_its_bounds(explore):
    field = next(w for w in all_in(explore) if getattr(w, "description", "") == "Step")
    explore.inner_steps.value = 8
    field.value = 7
    assert explore.step.value == 7 and "step 7 of 8" in explore.words
    explore.inner_steps.value = 3
    assert (explore.step.value, field.value, field.max) == (3, 3, 3)


def test_an_image_is_sent_once_sharp_and_no_wider_than_it_says(explore, monkeypatch):
    sent, image = [], explore.landscape
    monkeypatch.setattr(image, "send_state", lambda keys: sent.append(set(keys)))
    explore.step.value = 1
    assert sent == [{"value", "tooltip"}]
    for image in (explore.landscape, explore.progress, explore.predictions):
        width = pixels(image.value).shape[1]
        assert image.layout.width == f"{width // 2}px" and width > 500
        assert image.layout.max_width == "100%" and image.layout.margin.split()[-1] == "0"


def test_an_alert_can_be_read_on_any_theme(explore):
    explore.say("no", role="alert")
    style = explore.status.value
    ink, paper = re.search(r"color:(\w+);background:(#\w+)", style).groups()
    light, dark = sorted((luminance(colour) for colour in (ink, paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 4.5


def luminance(colour):
    """As WCAG defines it."""
    parts = np.array(to_rgb(colour))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


def test_controls_act_where_the_front_end_asks(monkeypatch, noise, learners):
    """And not in the thread that made or last changed them, which may be the one that runs a long cell."""
    if not hasattr(BaseComm, "_reply_subshell_for"):
        pytest.skip("this version of ipykernel does as the front end asks by itself")
    monkeypatch.setattr("comm.create_comm", lambda **options: BaseComm(primary=False, **options))
    explorers = TrajectoryExplorer(learners, noise, ways=3, number=6), TrainingMonitor()
    for explorer in explorers:
        for widget in all_in(explorer):
            widget.comm._reply_subshell_id = None  # what ipykernel notes when a cell makes a widget
            assert widget.comm._reply_subshell_for({}, "a free thread") == "a free thread", widget


def test_what_is_looked_at_fits_a_small_screen(explore):
    """Curves and landscape come first; the table of predictions and everything together are one press away."""
    shown = lambda: [box.layout.display != "none" for box in (explore.charts, explore.sheet)]  # noqa: E731
    assert shown() == [True, False]
    for view, expected in zip(explore.view.options, ([True, False], [False, True], [True, True])):
        explore.view.value = view
        assert shown() == expected


def test_play_goes_through_the_steps_and_can_be_paused(explore, monkeypatch):
    monkeypatch.setattr(widgets, "SECONDS_A_STEP", 0.01)
    seen, ended, player = [], threading.Event(), explore.player.button
    explore.step.observe(lambda change: seen.append(change["new"]), "value")
    player.observe(lambda change: change["new"] == "Play" and ended.set(), "description")
    player.click()
    assert ended.wait(60) and seen == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(widgets, "SECONDS_A_STEP", 3600)
    ended.clear()
    player.click()
    assert player.description == "Pause"
    player.click()
    assert ended.wait(60) and explore.step.value == 0


def test_work_shows_while_it_is_done(explore, monkeypatch):
    seen, real = [], widgets.loss_slice
    monkeypatch.setattr(widgets, "loss_slice", lambda *a: (seen.append(explore.status.value), real(*a))[1])
    explore.task.value = 4
    assert len(seen) == 3 and all("Working" in status for status in seen) and "Working" not in explore.status.value
    explore.task.value = 0
    explore.step.value = 2
    assert len(seen) == 3  # known already: nothing is computed twice


def test_the_last_image_shows_the_last_state_whatever_the_order_of_events(explore):
    wanted = {}
    for step in range(6):
        explore.step.value = step
        wanted[step] = images(explore)
    with explore.step.hold_trait_notifications():  # the value moves on while an event still waits
        explore.step.value = 1
        explore.step.value = 4
        explore._update("a late event of another value")
        assert images(explore) == wanted[4]
    threads = [
        threading.Thread(target=lambda steps=steps: [setattr(explore.step, "value", step) for step in steps])
        for steps in ([0, 3, 1, 4, 2] * 4, [5, 1, 2, 0, 3] * 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert images(explore) == wanted[explore.step.value] and f"step {explore.step.value} of" in explore.words


def test_a_slow_image_never_covers_a_later_one(explore, monkeypatch):
    explore.step.value = 4
    wanted, real, begun = images(explore), widgets.predictions_sheet, threading.Event()

    def slow(task, trajectories, step, **keywords):
        if step == 1:
            begun.set()
            time.sleep(0.5)
        return real(task, trajectories, step, **keywords)

    monkeypatch.setattr(widgets, "predictions_sheet", slow)
    earlier = threading.Thread(target=lambda: setattr(explore.step, "value", 1))
    earlier.start()
    assert begun.wait(60)
    explore.step.value = 4
    earlier.join()
    assert images(explore) == wanted and "step 4 of" in explore.words


def test_errors_are_shown_and_reach_the_cell(explore, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("out of <ink>")

    monkeypatch.setattr(widgets, "predictions_sheet", broken)
    with pytest.raises(RuntimeError, match="ink"):
        explore.step.value = 2
    assert "did not work: out of &lt;ink&gt;" in explore.status.value and 'role="alert"' in explore.status.value
    monkeypatch.undo()
    explore.step.value = 3  # and it goes on
    assert "step 3 of" in explore.status.value


def test_buttons_measure_the_crowd_and_jump(explore, learners, noise):
    before = explore.progress.value
    explore.measure.click()
    explore.wait()
    assert explore.progress.value != before and "Working" not in explore.status.value
    assert explore.measuring.layout.display == "none"
    crowd = measure_crowd(learners, few_shot_tasks(noise, 3), 6)
    choices = (worst_task, most_disputed_task, most_overshooting_task)
    for button, choose in zip((explore.worst, explore.disputed, explore.overshooting), choices):
        button.click()
        explore.wait()
        assert explore.task.value == choose(crowd) and f"Task {choose(crowd)}," in explore.words
    given = TrajectoryExplorer(learners, noise, crowd=crowd, ways=3, number=6)
    given.task.value = explore.task.value
    assert given.progress.value == explore.progress.value


def test_measuring_can_be_cancelled_and_goes_on_where_it_was(explore, monkeypatch):
    """Meanwhile every control acts; learners that were measured are not measured again."""
    real, measured, begun, go_on = widgets.measure_crowd, [], threading.Event(), threading.Event()

    def slow(learners, tasks, number, steps, report):
        (name,) = learners
        if name == "fomaml" and not go_on.is_set():
            assert explore.measuring.layout.display == "flex"
            begun.set()
            assert go_on.wait(60)
        found = real(learners, tasks, number, steps, report)
        measured.append(name)
        return found

    monkeypatch.setattr(widgets, "measure_crowd", slow)
    task = explore.task.value
    explore.worst.click()
    assert begun.wait(60)
    explore.step.value = 2
    assert "step 2 of" in explore.words
    explore.cancel.click()
    go_on.set()
    explore.wait()
    assert measured == ["maml"] and explore.task.value == task and explore.measuring.layout.display == "none"
    explore.worst.click()
    explore.wait()
    assert measured == ["maml", "fomaml", "maml++"]
    explore.worst.click()  # at once: nothing is left to measure
    assert explore.task.value == worst_task({name: crowd for (_, name), crowd in explore._crowds.items()})


def test_measuring_ends_when_the_setting_changes(explore, monkeypatch):
    begun, go_on, real, task = threading.Event(), threading.Event(), widgets.measure_crowd, explore.task.value

    def slow(*arguments):
        begun.set()
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(widgets, "measure_crowd", slow)
    explore.worst.click()
    assert begun.wait(60)
    explore.seed.value = 9
    go_on.set()
    explore.wait()
    assert explore.task.value == task and not any(setting.seed == 9 for setting, _ in explore._crowds)


def test_explorer_refuses_what_it_cannot_show(learners, noise, tasks):
    assert "at least one" in refusal(TrajectoryExplorer, {}, noise)
    assert "classes" in refusal(TrajectoryExplorer, learners, noise.select(range(2), "few"), ways=3)
    assert "shots" in refusal(TrajectoryExplorer, learners, noise, ways=3, shots=0)
    crowd = measure_crowd(learners, tasks, 4)
    assert "4 tasks and 5 steps, but must have 6 and 5" in refusal(
        TrajectoryExplorer, learners, noise, crowd=crowd, ways=3, number=6
    )
    assert "at least one" in refusal(SinusoidExplorer, {}) and "points" in refusal(
        SinusoidExplorer, {"maml": 0}, points=0
    )


def test_a_step_of_the_slider_is_quick():
    """With the size of the course's networks and tasks; processor time, as other processes may share the machine."""
    images = torch.randint(0, 256, (40, 20, 28, 28), dtype=torch.uint8)
    characters = Characters("noise", images, ("a",) * 40, tuple(map(str, range(40))), frozenset())
    explore = TrajectoryExplorer({name: MAML(Conv4(5, 32), name) for name in NAMES}, characters)
    took = []
    for step in (0, 3, 1, 4, 2, 5, 0):
        began = time.thread_time()
        explore.step.value = step
        took.append(time.thread_time() - began)
    assert sorted(took)[3] < 0.15


def test_sinusoid_points_are_dragged():
    learners = {
        name: MAML(MLP(), name, inner_lr=0.01, loss=torch.nn.functional.mse_loss) for name in ("maml", "fomaml")
    }
    explore = SinusoidExplorer(learners, points=4)
    explore.y.value = old = 0.5  # the wave's own number has more digits than a slider
    before, words = explore.image.value, explore.status.value
    explore.y.value = 4.0
    assert explore.support_y[0] == 4.0 and explore.image.value != before and explore.status.value != words
    explore.y.value = old
    assert explore.image.value == before and explore.status.value == words
    points, drawn = (explore.support_x.copy(), explore.support_y.copy()), []
    explore.image.observe(drawn.append, "value")
    explore.point.value = 3
    assert len(drawn) == 1 and "Point 3 of 4" in explore.words  # the ring moves, once, and nothing else
    assert explore.x.value == pytest.approx(points[0][2], abs=1e-3)
    assert explore.y.value == pytest.approx(points[1][2], abs=1e-3)
    np.testing.assert_array_equal([explore.support_x, explore.support_y], points)
    explore.y.value += 0.0004  # as a front end rounds
    np.testing.assert_array_equal([explore.support_x, explore.support_y], points)
    explore.step.value = 0
    assert explore.image.value != before and explore.image.tooltip.endswith(explore.words)
    explore.step.value = 5
    explore.y.value, explore.amplitude.value = 5.5, 2.0
    np.testing.assert_allclose(explore.support_y, explore.wave(explore.support_x))


def tiny_training(noise, name="fomaml++"):
    torch.manual_seed(0)
    return MAML(Conv4(3, 4), name, backend="loop"), CharacterTasks(noise, ways=3, shots=1, queries=2, tasks_per_batch=2)


def test_watching_changes_nothing_and_costs_little(noise):
    plain, tasks = tiny_training(noise)
    expected = train(plain, tasks, 8, progress=False)
    watched, _ = tiny_training(noise)
    monitor = TrainingMonitor()
    before = monitor.image.value
    history = monitor.train(watched, tasks, 8)
    assert history.losses == expected.losses and history.finished
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), watched.state_dict().values()))
    assert monitor.image.value != before and "Done after 8 iterations" in monitor.status.value
    assert monitor.stop.disabled and monitor.image.tooltip.startswith("Training curves")
    assert [at for at, _ in monitor.learning_rates][0] == 0 and [at for at, _ in monitor.learning_rates][-1] == 8
    head = watched.meta_params().learning_rates["head.weight"].mean().item()
    assert monitor.learning_rates[-1][1]["head.weight"] == pytest.approx(head)
    figure = training_figure(history, learning_rates=monitor.learning_rates)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), history.losses)
    assert len(figure.axes) == 3 and "empty" in refusal(training_figure, type(history)())


def test_drawing_keeps_to_its_share_of_the_time(noise, monkeypatch):
    """With a clock of its own: an iteration takes 50 ms, a figure 20 ms."""
    maml, tasks = tiny_training(noise, "fomaml")
    monitor, now = TrainingMonitor(), [0.0]
    monkeypatch.setattr(widgets.time, "perf_counter", lambda: now[0])
    real_draw, real_gradients = monitor._draw, maml.meta_gradients
    monkeypatch.setattr(monitor, "_draw", lambda *a: (now.__setitem__(0, now[0] + 0.02), real_draw(*a))[1])
    slow = lambda *a, **k: (now.__setitem__(0, now[0] + 0.05), real_gradients(*a, **k))[1]  # noqa: E731
    monkeypatch.setattr(maml, "meta_gradients", slow)
    monitor.train(maml, tasks, 64)
    assert monitor.drawing_seconds == pytest.approx(2 * 0.02)  # after 1.33 and 2.67 of 3.2 seconds


def test_the_button_stops_training_and_keeps_what_was_learned(noise):
    maml, tasks = tiny_training(noise)
    monitor, before = TrainingMonitor(), {key: value.clone() for key, value in maml.state_dict().items()}
    timer = threading.Timer(0.5, monitor.stop.click)
    timer.start()
    history = monitor.train(maml, tasks, 10**6)
    assert 0 < len(history.losses) < 10**6 and not history.finished and "Stopped after" in monitor.status.value
    assert any(not torch.equal(before[key], value) for key, value in maml.state_dict().items())


def test_an_error_in_training_is_shown_and_raised(noise):
    maml, _ = tiny_training(noise)
    monitor = TrainingMonitor()
    with pytest.raises(InputError, match="expected at least one batch"):
        monitor.train(maml, [], 3)
    assert "Training ended" in monitor.status.value and 'role="alert"' in monitor.status.value


def test_monitor_follows_a_regression_too():
    maml = MAML(MLP(), "maml", inner_lr=0.01, loss=torch.nn.functional.mse_loss)
    monitor = TrainingMonitor()
    history = monitor.train(maml, SinusoidTasks(tasks_per_batch=2), 3)
    assert len(history.losses) == 3 and len(training_figure(history).axes) == 1


# The weights that come with the package.

PRETRAINED = sorted(FOLDER.glob("*-5w1s-*.npz"))  # the 20-way ones: tests/test_playground_draw.py


@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_pretrained_weights_score_what_is_stated(path):
    dataset, algorithm = path.stem.split("-5w1s-")
    record = read_json(FOLDER.parent.parent.parent / "results" / f"pretrained-{dataset}.json")
    if dataset != "glyphs":
        pytest.skip("needs Omniglot's files")
    stated = record["algorithms"][algorithm]["task_accuracies"][:30]
    test = Problem(dataset, validation=5).tasks("test", tasks_per_batch=10, seed=0)
    measured = evaluate(load_pretrained(algorithm, f"{dataset}-5w1s"), test, 30, only_last=True)
    # The same tasks, one by one: rounding on another machine may turn single queries (of 75), and not in every task.
    differences = [abs(a - b) for a, b in zip(measured.per_task, stated, strict=True)]
    assert sum(differences) / 30 < 0.01
    assert path.stat().st_size < 400_000
