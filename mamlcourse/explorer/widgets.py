"""Widgets to look at adaptation with: thin shells around the figures of `figures`.

A figure reaches the browser as PNG in an `ipywidgets.Image`, which works in every front end. While a slider is
dragged, front ends send its latest value as soon as the one before was handled. Each event is handled from
beginning to end under a lock, and draws the state that the controls are in *then*: the last figure shows the last
state, in whatever order events arrive.
"""

from __future__ import annotations

import functools
import html
import math
import threading
import time
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from torch.nn.functional import cross_entropy
from traitlets import Unicode

from ..data import Characters
from ..errors import InputError, check_number
from ..styles import title_of
from ..training import History, train
from .figures import (
    LETTERS,
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


class DescribedImage(widgets.Image):
    """A PNG image with a text for those who cannot see it.

    ipywidgets has no `alt`; its front end puts the tooltip on the element as its accessible name, but only for widgets
    with a (here empty) description.
    """

    description = Unicode("").tag(sync=True)

    def __init__(self, **keywords):
        super().__init__(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"), **keywords)

    def show(self, png: bytes, alt: str) -> None:
        self.value, self.tooltip = png, alt


class _Explorer(widgets.VBox):
    """What the widgets share: a line of text that says what is shown, and callbacks whose errors are seen."""

    def __init__(self):
        self._lock = threading.RLock()  # JupyterLab runs callbacks in a thread of their own, next to the cells'
        self.status = widgets.HTML()
        super().__init__()

    def say(self, text: str, role: str = "status") -> None:
        """Show a line of text; screen readers speak it when it changes."""
        colour = {"alert": "#9E1B1B"}.get(role, "inherit")
        live = "assertive" if role == "alert" else "polite"
        self.status.value = (
            f'<div role="{role}" aria-live="{live}" style="color:{colour};line-height:1.4">{html.escape(text)}</div>'
        )

    def say_busy(self, text: str) -> None:
        """Show that something takes a moment. The controls stay enabled: disabling takes the keyboard's focus away."""
        self.say(f"⏳ Working: {text} ...")

    def __repr__(self):
        return f"{type(self).__name__}: needs a running kernel; the figures of this notebook show the same at rest."


def _careful(callback):
    """One callback at a time. An error is shown where the person looks, and goes on to the cell or the log."""

    @functools.wraps(callback)
    def guarded(self, *arguments):
        with self._lock:
            try:
                return callback(self)
            except Exception as error:
                self.say(f"This did not work: {error}", role="alert")
                raise

    return guarded


class Setting(NamedTuple):
    """All that a task and its adaptation depend on, but the task's number and the learner."""

    seed: int
    ways: int
    shots: int
    script: str
    inner_steps: int
    inner_lr: float


class TrajectoryExplorer(_Explorer):
    """Compare learners on the same task: predictions, loss and accuracy by step, and the way through weight space.

    Every control is an attribute (`step`, `task`, `seed`, `ways`, `shots`, `script`, `inner_steps`, `inner_lr`,
    `algorithms` by name, and the buttons `worst`, `disputed`, `overshooting` and `measure`): set its `value`, or call a
    button's `click()`, to do from code what a hand does.

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
        slider = functools.partial(widgets.IntSlider, layout={"width": "290px"})
        self.step = slider(steps, 0, steps, description="Step", tooltip="Adaptation steps taken")
        self.play = widgets.Play(value=steps, min=0, max=steps, interval=700, tooltip="Play the steps")
        self.task = slider(0, 0, self.number - 1, description="Task", continuous_update=False)
        self.seed = widgets.BoundedIntText(
            0, 0, 10**9, description="Seed", tooltip="Which sequence of tasks", layout={"width": "180px"}
        )
        self.ways = slider(ways, 2, ways, description="Ways", continuous_update=False)
        self.shots = slider(shots, 1, 5, description="Shots", continuous_update=False)
        scripts = sorted(s for s in set(self.characters.alphabets) if self.characters.alphabets.count(s) >= ways)
        self.script = widgets.Dropdown(options=[ALL_SCRIPTS, *scripts], description="Script")
        self.inner_steps = slider(steps, 1, max(10, steps), description="Inner steps", continuous_update=False)
        self.inner_lr = widgets.SelectionSlider(
            options=LR_FACTORS, value=1.0, description="Inner LR", continuous_update=False, layout={"width": "290px"}
        )
        self.algorithms = {
            name: widgets.Checkbox(place < 3, description=title_of(name), indent=False, layout={"width": "110px"})
            for place, name in enumerate(self.learners)
        }
        button = functools.partial(widgets.Button, layout={"width": "auto"})
        self.worst = button(description="Worst task")
        self.disputed = button(description="Most disputed task")
        self.overshooting = button(description="Worst overshoot")
        self.measure = button(description=f"Measure {self.number} tasks")
        self.predictions, self.progress, self.landscape = DescribedImage(), DescribedImage(), DescribedImage()
        self.letters = widgets.HTML()
        rows = (
            [self.play, self.step, *self.algorithms.values()],
            [self.task, self.seed, self.worst, self.disputed, self.overshooting],
            [self.ways, self.shots, self.script],
            [self.inner_steps, self.inner_lr, self.measure],
        )
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        boxes = [widgets.HBox(row, layout=wrap) for row in rows]
        below = widgets.HBox([self.progress, self.landscape], layout=wrap)
        self.children = [*boxes, self.status, self.predictions, self.letters, below]

    def _observe(self):
        widgets.jslink((self.play, "value"), (self.step, "value"))
        for bound in (self.step, self.play):
            widgets.dlink((self.inner_steps, "value"), (bound, "max"))
        for control in (
            self.step, self.task, self.seed, self.ways, self.shots, self.script, self.inner_steps, self.inner_lr,
            *self.algorithms.values(),
        ):  # fmt: skip
            control.observe(self._update, "value")
        self.measure.on_click(self._measure)
        self.worst.on_click(self._to_worst)
        self.disputed.on_click(self._to_disputed)
        self.overshooting.on_click(self._to_overshooting)

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

    def _crowd(self, names) -> dict:
        """{recipe's name: `Evaluation`} of all tasks under the present setting; measured where it is not yet known."""
        setting = self._setting()
        missing = [name for name in names if (setting, name) not in self._crowds]
        if missing:
            mamls = {name: with_inner_lr_times(setting.inner_lr, self.learners[name]) for name in missing}
            report = lambda done, of: self.say_busy(f"measured {done} of {of} adaptations")  # noqa: E731
            measured = measure_crowd(mamls, self._tasks(setting), self.number, setting.inner_steps, report)
            self._crowds |= {(setting, name): evaluation for name, evaluation in measured.items()}
        return {name: self._crowds[setting, name] for name in names}

    # Callbacks.

    @_careful
    def _update(self):
        """Draw the state that the controls are in."""
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
        sheet = predictions_sheet(batch, trajectories, step)
        self.predictions.show(encode(sheet), f"Support set and queries with predictions. {words}")
        self.progress.show(progress_frames.png(), f"Query loss and accuracy by step. {words}")
        self.landscape.show(landscape_frames.png(), f"Loss landscape around each path. {words}")
        classes = tasks.sample(number)[0][0].tolist()
        names = (f"{letter} {tasks.characters.names[c].lower()}" for letter, c in zip(LETTERS, classes))
        self.letters.value = html.escape("; ".join(names))
        self.say(words)
        self._drawn = state

    @_careful
    def _measure(self):
        self._crowd(self._chosen())
        self._update()

    @_careful
    def _to_worst(self):
        self._jump(worst_task)

    @_careful
    def _to_disputed(self):
        self._jump(most_disputed_task)

    @_careful
    def _to_overshooting(self):
        self._jump(most_overshooting_task)

    def _jump(self, choose):
        if self._chosen():
            self.task.value = choose(self._crowd(self._chosen()))
        self._update()  # the task may have been this one already


def _remember(cache, key, make, most):
    """The cache's value for the key, made if need be; the oldest goes when there are more than `most`."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > most:
            cache.pop(next(iter(cache)))
    return cache[key]


class SinusoidExplorer(_Explorer):
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
        slider = functools.partial(widgets.FloatSlider, step=0.05, layout={"width": "290px"})
        integer = functools.partial(widgets.IntSlider, layout={"width": "290px"})
        self.step = integer(min(trained, steps), 0, steps, description="Step", tooltip="Adaptation steps taken")
        self.play = widgets.Play(value=self.step.value, max=steps, interval=700, tooltip="Play the steps")
        self.amplitude = slider(3.0, min=0.1, max=5.0, description="Amplitude")
        self.phase = slider(1.0, min=0.0, max=math.pi, description="Phase", tooltip="Phase in radians")
        self.point = integer(1, 1, points, description="Point", tooltip="Which support point to drag")
        self.x = slider(self.support_x[0], min=-5.0, max=5.0, description="its x")
        self.y = slider(0.0, min=-6.0, max=6.0, description="its y")
        self.image = DescribedImage()
        rows = ([self.play, self.step], [self.amplitude, self.phase], [self.point, self.x, self.y])
        boxes = [widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        self.children = [*boxes, self.status, self.image]
        widgets.jslink((self.play, "value"), (self.step, "value"))
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

    @_careful
    def _new_wave(self):
        self.support_y = self.wave(self.support_x)
        self._choose_point()
        self._update()

    @_careful
    def _choose_point(self):
        self._moving = True
        try:
            chosen = self.point.value - 1
            self.x.value, self.y.value = self.support_x[chosen], self.support_y[chosen]
        finally:
            self._moving = False

    @_careful
    def _drag(self):
        if not self._moving:
            chosen = self.point.value - 1
            self.support_x[chosen], self.support_y[chosen] = self.x.value, self.y.value
            self._update()

    @_careful
    def _update(self):
        state = (*self.support_x, *self.support_y, self.amplitude.value, self.phase.value)
        if state != self._drawn:
            drawing = sinusoid_drawing(self.learners, self.support_x, self.support_y, self.wave, self.step.max)
            self._drawn, self._frames = state, (drawing, Frames(drawing.figure, [line for line, _ in drawing.marks]))
        drawing, frames = self._frames
        drawing.at(self.step.value)
        fits = {name: points[self.step.value] for name, (_, points) in zip(self.learners, drawing.marks)}
        off = {name: np.square(fit[:, 1] - self.wave(fit[:, 0])).mean() for name, fit in fits.items()}
        distances = "; ".join(f"{title_of(name)} {value:.2f}" for name, value in off.items())
        self.words = f"Step {self.step.value}. Mean squared distance from the wave: {distances}."
        self.image.show(frames.png(), f"Curves that learners fit to {len(self.support_x)} points. {self.words}")
        self.say(self.words)


class TrainingMonitor(_Explorer):
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
        self.stop = widgets.Button(description="Stop", icon="stop", tooltip="Stop training and keep what was learned")
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
        # A click comes while this cell keeps the kernel's main thread. ipykernel 7.4 notes which thread made a button
        # and delivers there, after the cell; without its note the click goes to the thread the front end asks for.
        getattr(self.stop.comm, "__dict__", {}).pop("_reply_subshell_id", None)
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
