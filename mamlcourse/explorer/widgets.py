"""Widgets to look at adaptation with: thin shells around the figures of `figures`."""

from __future__ import annotations

import contextvars
import html
import math
import threading
import time
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from torch.nn.functional import cross_entropy

from ..data import Characters
from ..errors import InputError, check_number
from ..styles import title_of
from ..training import History, train
from .base import DescribedImage, Explorer, button, careful, number, row, slider_with_number, text
from .figures import (
    LETTERS,
    SHARPNESS,
    ZOOM,
    Frames,
    TrainingCurves,
    encode,
    landscape_drawing,
    predictions_sheet,
    progress_drawing,
    sinusoid_drawing,
)
from .landscape import (
    CROWD,
    few_shot_tasks,
    in_words,
    loss_slice,
    measure_crowd,
    most_disputed_task,
    most_overshooting_task,
    with_inner_lr_times,
    worst_task,
)

ALL_SCRIPTS = "all scripts"
LR_FACTORS = (("× 0.1", 0.1), ("× 0.3", 0.3), ("as trained", 1.0), ("× 3", 3.0), ("× 10", 10.0))
VIEWS = ("curves and landscape", "predictions", "everything")
FINEST = 0.001  # of the places of a wave's points
SECONDS_A_STEP = 0.7  # while steps are played


def in_background(work, *arguments) -> threading.Thread:
    """Start work in a thread of its own; what it changes in widgets is sent as if by the caller."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work, *arguments), daemon=True)
    thread.start()
    return thread


class Player:
    """A button that counts a slider up, step by step; from the beginning if it stands at the end."""

    def __init__(self, slider):
        self.slider, self._stop = slider, None
        self.button = button("Play", "Play the steps", icon="play")
        self.button.on_click(self._toggle)

    def _toggle(self, _):
        if self._stop is not None:
            self._stop.set()
            return
        self._stop = threading.Event()
        self.button.description, self.button.icon = "Pause", "pause"
        in_background(self._play, self._stop)

    def _play(self, stop):
        try:
            if self.slider.value == self.slider.max:
                self.slider.value = self.slider.min
            while not stop.wait(SECONDS_A_STEP) and self.slider.value < self.slider.max:
                self.slider.value += 1
        finally:
            self._stop = None
            self.button.description, self.button.icon = "Play", "play"


class Cancelled(Exception):
    """The person does not want to wait any longer."""


class Setting(NamedTuple):
    """All that a task and its adaptation depend on, but the task's number and the learner."""

    seed: int
    ways: int
    shots: int
    script: str
    inner_steps: int
    inner_lr: float


class TrajectoryExplorer(Explorer):
    """Compare learners on the same task: predictions, loss and accuracy by step, and the way through weight space.

    Every control is an attribute (`step`, `task`, `seed`, `ways`, `shots`, `script`, `inner_steps`, `inner_lr`,
    `algorithms` by name, `view`, and the buttons `worst`, `disputed`, `overshooting`, `measure` and `cancel`): set its
    `value`, or call a button's `click()`, to do from code what a hand does. What is not yet measured is measured in the
    background: `wait()` returns when it is done.

    Args:
        learners: {recipe's name: `MAML`} for one number of ways and shots.
        characters: the classes that tasks are sampled from; not those that were trained on.
        crowd: {recipe's name: `Evaluation`} of tasks 0, 1, ... to see one task against, as `measure_crowd` makes it
            from `few_shot_tasks(characters, ways, shots)`; without it they are measured when they are asked for.
        ways, shots: what the learners were trained for; `ways` is also the most that can be chosen.
        number: how many tasks there are to choose from.

    Raises:
        InputError: there is no learner, a number is not allowed, or the crowd is of other steps or tasks.
    """

    def __init__(self, learners: dict, characters: Characters, crowd=None, ways: int = 5, shots: int = 1, number=CROWD):
        if not learners:
            raise InputError("There is no learner to explore: give at least one.")
        check_number("ways", ways, at_least=2, at_most=len(LETTERS), integer=True)
        check_number("shots", shots, at_least=1, at_most=5, integer=True)
        check_number("number", number, at_least=1, integer=True)
        super().__init__()
        self.learners, self.characters, self.number = dict(learners), characters, number
        steps = next(iter(learners.values())).settings.inner_steps
        few_shot_tasks(characters, ways, shots)  # says what is wrong with them, if anything is
        self._worker = self._stop = self._measured_for = None  # of a measurement under way
        self._make_controls(steps, ways, shots)
        self._runs, self._crowds, self._frames, self._drawn, self.words = {}, {}, {}, None, ""
        for name, evaluation in (crowd or {}).items():
            if evaluation.losses.shape != (number, steps + 1):
                raise InputError(
                    f"The crowd of {name} has {evaluation.losses.shape[0]} tasks and {evaluation.losses.shape[1] - 1} "
                    f"steps, but must have {number} and {steps}."
                )
            self._crowds[self._setting(), name] = evaluation
        self._observe()
        self._update()

    def _make_controls(self, steps, ways, shots):
        self.step, step = slider_with_number(steps, 0, steps, "Step", "Adaptation steps taken")
        self.player = Player(self.step)
        self.algorithms = {
            name: widgets.Checkbox(
                place < 3, description=title_of(name), tooltip=f"Show {title_of(name)}", indent=False,
                layout={"width": "auto", "margin": "2px 12px 2px 2px"},
            )
            for place, name in enumerate(self.learners)
        }  # fmt: skip
        self.task = number(0, 0, self.number - 1, "Task", f"One of {self.number} tasks")
        self.seed = number(0, 0, 10**9, "Seed", "Which sequence of tasks")
        self.ways = number(ways, 2, ways, "Ways", "Classes of a task")
        self.shots = number(shots, 1, 5, "Shots", "Support examples of each class")
        self.inner_steps = number(steps, 1, max(10, steps), "Inner steps", "Adaptation steps in all")
        dropdown = dict(layout={"width": "auto", "margin": "2px 10px 2px 2px"}, style={"description_width": "initial"})
        scripts = sorted(s for s in set(self.characters.alphabets) if self.characters.alphabets.count(s) >= ways)
        self.script = widgets.Dropdown(
            options=[ALL_SCRIPTS, *scripts], description="Script", tooltip="Take letters of one script", **dropdown
        )
        self.inner_lr = widgets.Dropdown(
            options=LR_FACTORS, value=1.0, description="Inner LR", tooltip="Times the inner learning rates", **dropdown
        )
        self.worst = button("Worst task", "The task with the lowest accuracy after the last step")
        self.disputed = button("Most disputed task", "The task on which the learners lie furthest apart")
        self.overshooting = button("Worst overshoot", "The task on which a loss climbs most")
        self.measure = button(f"Measure {self.number} tasks", "See the task against others")
        self.cancel = button("Cancel", "Stop measuring", icon="stop")
        self.measured = text()
        self.measuring = row(self.cancel, self.measured)
        self.view = widgets.ToggleButtons(
            options=VIEWS, tooltips=[f"Show {view}" for view in VIEWS], tooltip="What to show",
            style={"button_width": "auto"},
        )  # fmt: skip
        self.predictions = DescribedImage()
        self.progress = DescribedImage(flex="39 1 0", min_width="260px")  # the two share a row if there is room
        self.landscape = DescribedImage(flex="61 1 0", min_width="400px")
        self.letters = text()
        self.sheet = widgets.VBox([self.predictions, self.letters])
        self.charts = row(self.progress, self.landscape)
        self.children = [
            row(self.player.button, step, *self.algorithms.values()),
            row(self.task, self.seed, self.script, self.worst, self.disputed, self.overshooting),
            row(self.ways, self.shots, self.inner_steps, self.inner_lr, self.measure),
            self.measuring,
            self.view,
            self.status,
            self.sheet,
            self.charts,
        ]
        self._show_view()
        self._give_up()

    def _observe(self):
        widgets.dlink((self.inner_steps, "value"), (self.step, "max"))
        for control in (
            self.step, self.task, self.seed, self.ways, self.shots, self.script, self.inner_steps, self.inner_lr,
            *self.algorithms.values(),
        ):  # fmt: skip
            control.observe(self._update, "value")
        self.view.observe(self._show_view, "value")
        self.measure.on_click(self._measure)
        self.worst.on_click(self._to_worst)
        self.disputed.on_click(self._to_disputed)
        self.overshooting.on_click(self._to_overshooting)
        self.cancel.on_click(lambda _: self._give_up())

    def _show_view(self, change=None):
        for box, views in ((self.charts, (VIEWS[0], VIEWS[2])), (self.sheet, VIEWS[1:])):
            box.layout.display = "flex" if self.view.value in views else "none"

    # What is asked for, and what was computed already.

    def _setting(self) -> Setting:
        return Setting(*(getattr(self, name).value for name in Setting._fields))

    def _chosen(self) -> list[str]:
        return [name for name, box in self.algorithms.items() if box.value]

    def _tasks(self, setting):
        script = None if setting.script == ALL_SCRIPTS else setting.script
        return few_shot_tasks(self.characters, setting.ways, setting.shots, setting.seed, script)

    def _run(self, name, setting, batch):
        """What one learner does with the task: (trajectory, slice)."""
        maml = with_inner_lr_times(setting.inner_lr, self.learners[name])
        trajectory = maml.trajectory(batch, setting.inner_steps, parameters=True)
        return trajectory._replace(parameters=None), loss_slice(maml, batch, trajectory)

    # Measuring many tasks takes a minute. It is done in the background, so that every control goes on working.

    def _with_crowd(self, then) -> None:
        """Call `then` with {recipe's name: `Evaluation`} of all tasks under the present setting.

        At once, if they were measured before; otherwise when they have been, unless the person gives up or changes the
        setting meanwhile.
        """
        self._give_up()
        setting, names = self._setting(), self._chosen()
        missing = [name for name in names if (setting, name) not in self._crowds]
        if not missing:
            then({name: self._crowds[setting, name] for name in names} if names else {})
            return
        self._stop, self._measured_for = threading.Event(), setting
        self.measured.value, self.measuring.layout.display = "Measuring ...", "flex"
        self._worker = in_background(self._measure_crowds, setting, names, missing, then, self._stop)

    def _measure_crowds(self, setting, names, missing, then, stop) -> None:
        before, of = 0, len(missing) * self.number

        def report(done, _):
            if stop.is_set():
                raise Cancelled
            self.measured.value = f"Measured {before + done} of {of} adaptations."

        try:
            for name in missing:
                maml = with_inner_lr_times(setting.inner_lr, self.learners[name])
                crowd = measure_crowd({name: maml}, self._tasks(setting), self.number, setting.inner_steps, report)
                self._crowds |= {(setting, name): crowd[name]}  # kept, even if the next one is not waited for
                before += self.number
            with self._lock:
                if not stop.is_set():
                    then({name: self._crowds[setting, name] for name in names})
        except Cancelled:
            pass
        except Exception as error:
            self.say(f"This did not work: {error}", role="alert")
            raise
        finally:
            if self._stop is stop:  # and neither given up nor followed by another measurement
                self._give_up()

    def _give_up(self) -> None:
        """End the measuring under way, if any. Its thread ends with the tasks that it is at."""
        self.measuring.layout.display = "none"
        if (stop := self._stop) is not None:
            stop.set()
            self._stop = None

    def wait(self) -> None:
        """Return when what is measured in the background is done, or given up: for code that presses buttons."""
        if self._worker is not None:
            self._worker.join()

    # Callbacks.

    @careful
    def _update(self):
        """Draw the state that the controls are in."""
        if self._stop is not None and self._setting() != self._measured_for:
            self._give_up()
        names = self._chosen()
        if not names:  # not an error, but nothing to draw: the figures stay as they are
            self.say("No algorithm is chosen: tick at least one.", role="alert")
            return
        # Read once: from here on a control may be moved by another thread, whose own event comes after this one.
        setting, number = self._setting(), self.task.value
        step, task = min(self.step.value, setting.inner_steps), (setting, number)
        crowd = {name: self._crowds[setting, name] for name in names if (setting, name) in self._crowds}
        state = (task, tuple(names), tuple(crowd), step)
        if state == self._drawn:
            self.say(self.words)
            return
        tasks = self._tasks(setting)
        batch = tasks.batch(number)
        if any((task, name) not in self._runs for name in names):
            self.say_busy("adapting to the task")
            for name in names:
                _remember(self._runs, (task, name), lambda name=name: self._run(name, setting, batch), 64)
        runs = {name: self._runs[task, name] for name in names}
        trajectories = {name: trajectory for name, (trajectory, _) in runs.items()}

        def draw():
            drawings = progress_drawing(trajectories, crowd), landscape_drawing({n: s for n, (_, s) in runs.items()})
            return [(drawing, Frames(drawing.figure, [line for line, _ in drawing.marks])) for drawing in drawings]

        words = self.words = f"Task {number}, step {step} of {setting.inner_steps}. {in_words(trajectories, step)}."
        (progress, progress_frames), (landscape, landscape_frames) = _remember(self._frames, state[:-1], draw, 8)
        progress.at(step), landscape.at(step)
        sheet = predictions_sheet(batch, trajectories, step, zoom=ZOOM * SHARPNESS)
        self.predictions.show(encode(sheet), f"Support set and queries with predictions. {words}")
        self.progress.show(progress_frames.png(), f"Query loss and accuracy by step. {words}")
        self.landscape.show(landscape_frames.png(), f"Loss landscape around each path. {words}")
        classes = tasks.sample(number)[0][0].tolist()
        names = (f"{letter} {tasks.characters.names[c].lower()}" for letter, c in zip(LETTERS, classes))
        self.letters.value = html.escape("; ".join(names))
        self.say(words)
        self._drawn = state

    @careful
    def _measure(self):
        self._with_crowd(lambda crowd: self._update())

    @careful
    def _to_worst(self):
        self._jump(worst_task)

    @careful
    def _to_disputed(self):
        self._jump(most_disputed_task)

    @careful
    def _to_overshooting(self):
        self._jump(most_overshooting_task)

    def _jump(self, choose):
        def jump(crowd):
            if crowd:
                self.task.value = choose(crowd)
            self._update()  # the task may have been this one already

        self._with_crowd(jump)


def _remember(cache, key, make, most):
    """The cache's value for the key, made if need be; the oldest goes when there are more than `most`."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > most:
            cache.pop(next(iter(cache)))
    return cache[key]


class SinusoidExplorer(Explorer):
    """Drag the points of a wave and watch learners fit them, step by step.

    Controls are attributes: `step`, `amplitude` and `phase` (a new wave, with its points on it), `point` (which one to
    drag), `x` and `y` (where it is; it need not stay on the wave).

    Args:
        learners: {recipe's name: `MAML`} of sinusoid networks.
        points: support points.
        steps: most adaptation steps; default twice the K of the first learner.

    Raises:
        InputError: there is no learner, or a number is not allowed.
    """

    def __init__(self, learners: dict, points: int = 5, steps: int | None = None):
        if not learners:
            raise InputError("There is no learner to explore: give at least one.")
        check_number("points", points, at_least=1, at_most=50, integer=True)
        trained = next(iter(learners.values())).settings.inner_steps
        steps = 2 * trained if steps is None else steps
        check_number("steps", steps, at_least=1, integer=True)
        super().__init__()
        self.learners, self.support_x = dict(learners), np.linspace(-4.5, 4.5, points)
        self.step, step = slider_with_number(min(trained, steps), 0, steps, "Step", "Adaptation steps taken")
        self.player = Player(self.step)
        self.amplitude, amplitude = slider_with_number(3.0, 0.1, 5.0, "Amplitude", step=0.05)
        self.phase, phase = slider_with_number(1.0, 0.0, math.pi, "Phase", "Phase in radians", step=0.05)
        self.point, point = slider_with_number(1, 1, points, "Point", "Which support point to drag, ringed")
        self.x, x = slider_with_number(float(self.support_x[0]), -5.0, 5.0, "Its x", "", 0.05, FINEST)
        self.y, y = slider_with_number(0.0, -6.0, 6.0, "Its y", "", 0.05, FINEST)
        self.image = DescribedImage()
        self.children = [
            row(self.player.button, step), row(amplitude, phase), row(point, x, y), self.status, self.image,
        ]  # fmt: skip
        self._moving = False  # while the sliders follow a point, they do not drag it
        self._drawn = self._frames = None
        self._new_wave()
        for control, callback in (
            (self.amplitude, self._new_wave), (self.phase, self._new_wave), (self.point, self._choose_point),
            (self.x, self._drag), (self.y, self._drag), (self.step, self._update),
        ):  # fmt: skip
            control.observe(callback, "value")

    def wave(self, x):
        """The wave that the points came from."""
        return self.amplitude.value * np.sin(x - self.phase.value)

    @careful
    def _new_wave(self):
        self.support_y = self.wave(self.support_x)
        self._choose_point()

    @careful
    def _choose_point(self):
        self._moving = True
        try:
            chosen = self.point.value - 1
            self.x.value, self.y.value = (round(float(v[chosen]), 3) for v in (self.support_x, self.support_y))
        finally:
            self._moving = False
        self._update()

    @careful
    def _drag(self):
        if self._moving:
            return
        chosen, moved = self.point.value - 1, False
        for values, slider in ((self.support_x, self.x), (self.support_y, self.y)):
            if abs(values[chosen] - slider.value) > FINEST:  # less is a front end's rounding
                values[chosen], moved = slider.value, True
        if moved:
            self._update()

    @careful
    def _update(self):
        chosen = self.point.value - 1
        state = (*self.support_x, *self.support_y, self.amplitude.value, self.phase.value, chosen)
        if state != self._drawn:
            drawing = sinusoid_drawing(
                self.learners, self.support_x, self.support_y, self.wave, self.step.max, chosen=chosen
            )
            self._drawn, self._frames = state, (drawing, Frames(drawing.figure, [line for line, _ in drawing.marks]))
        drawing, frames = self._frames
        drawing.at(self.step.value)
        fits = {name: points[self.step.value] for name, (_, points) in zip(self.learners, drawing.marks)}
        off = {name: np.square(fit[:, 1] - self.wave(fit[:, 0])).mean() for name, fit in fits.items()}
        distances = "; ".join(f"{title_of(name)} {value:.2f}" for name, value in off.items())
        x, y = self.support_x[chosen], self.support_y[chosen]
        place = f"Point {chosen + 1} of {len(self.support_x)} at ({x:.2f}, {y:.2f})"
        self.words = f"Step {self.step.value}. Mean squared distance from the wave: {distances}. {place}."
        self.image.show(frames.png(), f"Curves that learners fit to {len(self.support_x)} points. {self.words}")
        self.say(self.words)


class TrainingMonitor(Explorer):
    """Live curves of a training run, and a button that stops it and keeps what was learned.

    `monitor.train(maml, tasks, iterations, ...)` shows itself, trains as `mamlcourse.train` does, and returns its
    history. Figures are drawn only as often as 1.5% of the time allows.

    The button needs a front end that delivers clicks while a cell runs (JupyterLab 4.4 and later with ipykernel 7);
    elsewhere the front end's own "interrupt" does the same.

    Attributes:
        history: of the run so far.
        learning_rates: (iteration, {name: mean learned learning rate of the tensor}), one for each figure drawn.
        drawing_seconds: time spent on drawing while training.
    """

    SHARE = 0.015

    def __init__(self):
        super().__init__()
        self.stop = button("Stop", "Stop training and keep what was learned", icon="stop")
        self.stop.on_click(lambda button: self._stopped.set())
        self.image = DescribedImage()
        self.children = [widgets.HBox([self.stop, self.status]), self.image]
        self.history, self.drawing_seconds = History(), 0.0
        self._stopped = threading.Event()

    def train(self, maml, tasks, iterations: int, **keywords) -> History:
        """As `mamlcourse.train`, watched.

        Raises:
            InputError: as `mamlcourse.train`.
        """
        self._stopped.clear()
        self.stop.disabled = False
        self.history, self.learning_rates, self.drawing_seconds = History(), [], 0.0
        tensors = [name for name in maml.adapted_names if name.endswith("weight")]
        tensors = [] if maml.settings.learned_lr == "none" else tensors
        self._curves = TrainingCurves(iterations, maml.loss is cross_entropy, tensors)
        words = f"{title_of(maml.settings.name)} begins to train"
        self._draw(maml, self.history, words)  # with the axes, which later figures keep
        display(self)
        began = time.perf_counter()
        self._draw(maml, self.history, words)
        cost = time.perf_counter() - began  # of the next figure, if it takes as long as the last
        began = time.perf_counter()

        def look(history):
            nonlocal cost
            now = time.perf_counter()
            if self.drawing_seconds + cost <= self.SHARE * (now - began):
                self._draw(maml, history, f"Iteration {len(history.losses)} of {iterations}")
                cost = time.perf_counter() - now
                self.drawing_seconds += cost
            return self._stopped.is_set()

        try:
            self.history = train(maml, tasks, iterations, each_iteration=look, **{"progress": False} | keywords)
        except Exception as error:
            self.say(f"Training ended: {error}", role="alert")
            raise
        finally:
            self.stop.disabled = True
        done = len(self.history.losses)
        self._draw(maml, self.history, f"{'Done' if self.history.finished else 'Stopped'} after {done} iterations")
        return self.history

    def _draw(self, maml, history, words) -> None:
        learned = maml.meta_params().learning_rates
        means = {name: learned[name].detach().mean().item() for name in self._curves.tensors}
        if not self.learning_rates or self.learning_rates[-1][0] < len(history.losses):
            self.learning_rates.append((len(history.losses), means))
        for what, values in (("loss", history.losses), ("accuracy", history.accuracies)):
            words += f", {what} {np.mean(values[-20:]):.2f}" if values else ""
        self.image.show(self._curves.png(history, self.learning_rates), f"Training curves. {words}.")
        self.say(f"{words}.")
