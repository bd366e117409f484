"""The outer loop: Adam on the meta-gradients, with a progress bar, checkpoints, and a way to stop and go on.

A checkpoint is one file that holds everything: meta-parameters, Adam's state, the iteration (which is also the
position in the tasks and in the schedule), the random state and the history. On a CPU, a run that was stopped and
resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import math
import operator
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from ..engine.choice import Choice
from ..engine.inspection import normalisation_parameters
from ..errors import InputError, check_number
from ..evaluation import evaluate
from ..learner import MAML, learner
from ..records import only_writer
from ..settings import Settings
from ..tasks import TaskBatch, is_family
from . import steppers
from .checkpoints import (
    CHECKPOINT_FORMAT,
    check_plain,
    check_writable,
    load_checkpoint,
    load_parameters,
    save_atomically,
)
from .distributed import LostRank, Ranks

MOST_PROCESSES = 1024
LARGEST = 10**9  # iterations; more would take decades
FETCH_EVERY_ON_GPU = 20  # reading a loss makes the CPU wait for the GPU, so losses are read in groups


@dataclass
class History:
    """What happened in training, by iteration.

    Attributes:
        losses: the meta-loss (mean over the batch's tasks) of each iteration.
        accuracies: the query accuracy after adaptation, in [0, 1]; empty for regression.
        validation: (iterations done, score) of each validation; the score is the accuracy, or minus the loss for
            regression.
        seconds: time spent in iterations, without validation and saving.
        finished: whether all iterations were done; False after Ctrl-C.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


def train(
    maml: MAML,
    tasks,
    iterations: int,
    *,
    epochs: int = 100,
    validation=None,
    validation_tasks: int = 100,
    validation_steps: int | None = None,
    validate_every: int | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 100,
    resume: bool = False,
    config: dict | None = None,
    each_iteration: Callable[[History], bool | None] | None = None,
    progress: bool = True,
    processes: int = 1,
    ranks: Ranks | None = None,
    capture: bool | None = None,
) -> History:
    """Meta-train in place.

    Args:
        maml: what to train; its settings say how.
        tasks: one of this package's task families, or any iterable (such as a DataLoader) of batches of four tensors
            with a leading task dimension; it is begun again when it ends.
        iterations: meta-batches in all, those of a resumed run included.
        epochs: into how many epochs the iterations are divided, for the settings that change by epoch.
        validation: a task family to measure on while training; it decides nothing here.
        validation_tasks: how many of its tasks.
        validation_steps: adaptation steps in validation; default the K that is trained.
        validate_every: iterations between validations; default a tenth of the run.
        checkpoint: file to save to, every `save_every` iterations, at the end, on Ctrl-C, and when a loader, a
            validation or `each_iteration` raises.
        resume: go on from `checkpoint` if it exists. Batches already seen are skipped; a loader that shuffles by itself
            does not come back to the same order.
        config: plain values to keep in the checkpoint for whoever loads it.
        each_iteration: called with the history after each iteration (and its validation, before it is saved); when it
            returns True, training stops there as on Ctrl-C. On a GPU the last few losses may not have been read yet.
        progress: whether to show a progress bar.
        processes: how many processes of this machine share the tasks of each meta-batch (`workers`), on a CPU only. The
            numbers are those of one process within rounding, those that a model draws at random included.
        ranks: the processes to share the tasks with that torchrun started (`distributed.joined`); default none. All
            get the same meta-parameters, those of one process within rounding. Only rank 0 validates, calls
            `each_iteration`, prints, and reads and writes the checkpoint. Stopping takes an iteration more.
        capture: whether to record whole steps as a CUDA graph (`capture`): default where that is possible; on a GPU
            where it is not, the reason is printed. True insists, False takes one operation after the other.

    Ctrl-C, SIGTERM and SIGHUP end training after the iteration under way, keep what was learned and say how to go on;
    a second one stops at once.

    Raises:
        InputError: a number is not allowed, a batch does not fit or is not finite, the checkpoint is unreadable, of
            other settings, in use by another process or cannot be written, or the loss or a meta-parameter stops being
            finite (the message names the iteration);
            with several ranks, the tasks are no task family, or a batch has fewer tasks than there are ranks.
        LostRank: another rank is gone.
    """
    with _noted_signals() as signals:
        # The first optimizer would import this; a Ctrl-C that left it half imported would spoil the whole process.
        import torch._dynamo  # noqa: F401

        signals.all_is_imported()
        for bound in ({"at_least": 1}, {"at_most": LARGEST}):
            check_number("iterations", iterations, integer=True, **bound)
        iterations = int(iterations)  # a checkpoint takes no numpy numbers
        validate_every = max(iterations // 10, 1) if validate_every is None else validate_every
        ranks = Ranks() if ranks is None else ranks
        _check_arguments(
            tasks, ranks, resume, checkpoint, epochs=epochs, validation_tasks=validation_tasks,
            save_every=save_every, validate_every=validate_every,
        )  # fmt: skip
        if ranks.rank > 0:
            validation, each_iteration, progress = None, None, False
        run = _Run(maml, iterations, checkpoint, config, ranks)
        with run.alone(), _shared(maml, processes) as workers:
            recording = steppers.can_record(maml, tasks, ranks, capture)
            optimizer = run.optimizer = steppers.adam(maml, capturable=recording)
            run.resume(resume)
            if recording:
                stepper = steppers.RecordedStepper(maml, optimizer, tasks)
            else:
                stepper = steppers.EagerStepper(maml, optimizer, tasks, ranks, start=run.done, workers=workers)
            bar = tqdm(
                total=iterations, initial=run.done, disable=not progress, leave=False, desc=maml.settings.name,
                unit="batch",
            )  # fmt: skip
            with bar, run.saved_if_something_fails():
                while run.done < iterations:
                    began = time.perf_counter()
                    stepper = stepper.prepared(epoch=run.done * epochs // iterations, iteration=run.done)
                    step = stepper.step(outer_lr_at(maml, run.done, iterations))
                    run.note(step, began)
                    _show(bar, run.history, step.number_of_tasks)
                    if validation is not None and (run.done % validate_every == 0 or run.done == iterations):
                        run.check_finite()
                        measured = evaluate(maml, validation, validation_tasks, validation_steps, only_last=True)
                        run.history.validation.append((run.done, measured.score))
                    stop = each_iteration is not None and each_iteration(run.history)
                    if run.done % save_every == 0:
                        run.save()
                    if ranks.stop(stop or signals.heard()):
                        break
            run.history.finished = run.done == iterations
            run.save()
    if not run.history.finished and ranks.rank == 0:
        how = f"resume from {run.checkpoint}" if run.checkpoint else "name a checkpoint file to be able to resume"
        tqdm.write(f"Stopped after {run.done} of {iterations} iterations; what was learned is kept; {how}.")
    return run.history


def train_maml(
    model: nn.Module,
    task_dataloader,
    inner_lr: float = 0.1,
    outer_lr: float = 0.001,
    inner_steps: int = 5,
    first_order: bool = False,
    plus_plus: bool = False,
    iterations: int | None = None,
    loss=nn.functional.cross_entropy,
    progress: bool = True,
) -> tuple[nn.Module, MAML, list[float]]:
    """Meta-train a model with MAML, FOMAML, MAML++ or FOMAML++: just flip the flags.

    Args:
        model: any module; trained in place. With `plus_plus`, its normalisation layers get gains and biases by step,
            which live in the returned `maml`: adapt with `maml.adapt`.
        task_dataloader: a task family of this package, or any iterable of (support_x, support_y, query_x, query_y)
            with a leading task dimension.
        inner_lr, inner_steps: α (under a mean loss) and K.
        outer_lr: Adam's learning rate; that of the learned ones is the recipe's share of `inner_lr`.
        first_order: hold the inner gradients constant (FOMAML).
        plus_plus: annealed multi-step loss, a learned rate for each tensor and step, normalisation by step if the
            model has it, cosine annealing of the outer rate.
        iterations: meta-batches; default one pass over a DataLoader, or 50 of an endless family.
        loss: (outputs, targets) -> mean over the examples.
        progress: whether to show a progress bar.

    Returns:
        (model, maml, losses): the model, its meta-learner, and the meta-loss of each iteration.

    Raises:
        InputError: as `MAML` and `train`.
    """
    name = ("fo" if first_order else "") + "maml" + ("++" if plus_plus else "")
    changes = dict(inner_lr=inner_lr, outer_lr=outer_lr, inner_steps=inner_steps)
    if plus_plus and not normalisation_parameters(model):
        changes["per_step_norm"] = False
    maml = learner(model, name, loss=loss, **changes)
    if iterations is None:
        iterations = operator.length_hint(task_dataloader, 50)  # not every DataLoader has a length
    history = train(maml, task_dataloader, iterations, progress=progress)
    return model, maml, history.losses


def _shared(maml: MAML, processes: int):
    """A context with the processes that share the tasks; None in it where one does it all.

    Raises:
        InputError: the number is not allowed, or the model is not on the CPU or cannot be sent to another process.
    """
    check_number("processes", processes, at_least=1, integer=True)
    check_number("processes", processes, at_most=MOST_PROCESSES, integer=True)
    if processes == 1:
        return nullcontext()
    device = next(maml.parameters()).device
    if device.type != "cpu":
        raise InputError(f"processes: expected 1 for a model on the {device.type}, got {processes}: they share a CPU.")
    from .workers import running  # imported by whoever wants several processes alone

    return running(maml, int(processes))


def _check_arguments(tasks, ranks: Ranks, resume: bool, checkpoint, **numbers) -> None:
    for name, number in numbers.items():
        check_number(name, number, at_least=1, integer=True)
    if resume and checkpoint is None:
        raise InputError("resume is True, but no checkpoint file was given to resume from.")
    if ranks.size > 1 and not is_family(tasks):
        raise InputError(
            f"The tasks are of type {type(tasks).__name__}, but several processes need a task family, with a method "
            "batch(index): a loader that shuffles would give each process other tasks."
        )


def outer_lr_at(maml: MAML, iteration: int, iterations: int) -> float:
    """Adam's learning rate at an iteration: constant, or along a cosine from `outer_lr` to a hundredth of it (CA)."""
    highest = maml.settings.outer_lr
    if not maml.settings.cosine:
        return highest
    lowest = highest / 100
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * iteration / iterations)) / 2


class _Run:
    """The history and the checkpoint file of a run."""

    def __init__(self, maml: MAML, iterations: int, checkpoint, config, ranks: Ranks):
        self.maml, self.iterations, self.config, self.ranks = maml, iterations, config or {}, ranks
        self.optimizer, self.history, self.done, self.unread = None, History(), 0, []
        self.on_cpu = next(maml.parameters()).device.type == "cpu"
        self.checkpoint, self.saved = None if checkpoint is None else Path(checkpoint), False
        self.random_state, self.done_when_saved = None, 0
        if self.checkpoint is not None and ranks.rank == 0:
            check_writable(self.checkpoint)
            check_plain(self.config)

    def alone(self):
        """A context in which no other process trains into the same checkpoint."""
        if self.checkpoint is None or self.ranks.rank > 0:
            return nullcontext()
        return only_writer(self.checkpoint)

    def note(self, step: steppers.Step, began: float) -> None:
        """An iteration is done that began at this time of `time.perf_counter`."""
        self.unread.append((step.loss, step.accuracy))
        if self.on_cpu or len(self.unread) == FETCH_EVERY_ON_GPU:
            self._read_losses(step.batch if self.on_cpu else None)
        self.done += 1
        self.history.seconds += time.perf_counter() - began  # only now: reading losses is what waits for a GPU
        self.random_state = torch.get_rng_state()

    def _read_losses(self, batch: TaskBatch | None = None) -> None:
        for loss, accuracy in self.unread:
            if not math.isfinite(loss.item()):
                iteration = len(self.history.losses) + 1
                self._raise_if_data_is_bad(iteration, batch)
                self._raise_diverged(iteration, f"loss is {loss.item()}")
            self.history.losses.append(loss.item())
            if accuracy is not None:
                self.history.accuracies.append(accuracy.item())
        self.unread = []

    def _raise_if_data_is_bad(self, iteration: int, batch: TaskBatch | None) -> None:
        for name, part in zip(TaskBatch._fields, batch or ()):
            if not part.isfinite().all():
                raise _Unusable(
                    f"The data: expected finite numbers, got nan or inf in {name} of the batch of iteration "
                    f"{iteration}.{self._kept()}"
                )

    def _raise_diverged(self, iteration: int, what: str):
        settings = self.maml.settings
        raise _Unusable(
            f"Training diverged: the {what} at iteration {iteration}. Try a smaller inner_lr (now {settings.inner_lr}) "
            f"or outer_lr (now {settings.outer_lr}).{self._kept()}"
        )

    def _kept(self) -> str:
        return f" The last good checkpoint is {self.checkpoint}." if self.saved else ""

    @contextmanager
    def saved_if_something_fails(self):
        """Whatever a loader, a validation or a callback raises, the iterations before it are kept."""
        try:
            yield
        except (_Unusable, LostRank):
            raise  # there is nothing good to keep, or no telling what the others have
        except Exception:
            if self.done > self.done_when_saved:
                with suppress(InputError):  # the first error is the one to hear of
                    self.save(self.random_state)  # what failed may have drawn numbers
            raise

    def check_finite(self) -> None:
        """Raise `InputError` if training has left a meta-parameter that is not finite."""
        unbounded = [name for name, p in self.maml.named_parameters() if not torch.isfinite(p).all()]
        if unbounded:
            self._raise_diverged(self.done, f"meta-parameter {unbounded[0].removeprefix('model.')} is not finite")

    def save(self, random_state: torch.Tensor | None = None) -> None:
        """Write the checkpoint; a state with a value that is not finite never replaces a good one."""
        self._read_losses()
        self.check_finite()
        if self.checkpoint is None:
            return
        state = {
            "format": CHECKPOINT_FORMAT,
            "settings": self.maml.settings.to_record(),
            "config": self.config,
            "maml": self.maml.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "backends": {work: choice.to_record() for work, choice in self.maml.choices.items()},
            "done": self.done,
            "iterations": self.iterations,
            "random_state": torch.get_rng_state() if random_state is None else random_state,
            "history": asdict(self.history),
        }
        if self.ranks.rank == 0:
            save_atomically(state, self.checkpoint)
        self.saved, self.done_when_saved = True, self.done

    def resume(self, wanted: bool) -> None:
        """Go on from the checkpoint if that is wanted and there is one; all ranks begin with the same."""
        read = lambda: load_checkpoint(self.checkpoint) if wanted and self.checkpoint.exists() else None  # noqa: E731
        state = self.ranks.from_first(read)
        if state is not None:
            self._restore(state)
        self.ranks.same_everywhere(self.maml.state_dict().values())

    def _restore(self, state: dict) -> None:
        mine, theirs = self.maml.settings.to_record(), Settings.from_record(state["settings"]).to_record()
        different = [name for name in mine if mine[name] != theirs[name]]
        if different:
            name = different[0]
            raise InputError(
                f"{self.checkpoint} was trained with {name}={theirs[name]!r}, but now {name} is {mine[name]!r}: "
                "resume with the same settings, or train to another file."
            )
        if state["done"] > self.iterations:
            raise InputError(
                f"iterations: expected at least {state['done']}, which {self.checkpoint} has done, "
                f"got {self.iterations}."
            )
        load_parameters(self.maml, state, self.checkpoint)
        try:
            steppers.load_adam(self.optimizer, state["optimizer"])
            torch.set_rng_state(state["random_state"])
            self.history = History(**state["history"])
            chosen = state.get("backends", {})  # checkpoints of the first edition have none
            self.maml.choices |= {work: Choice(**record) for work, record in chosen.items()}
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{self.checkpoint} is not a whole checkpoint ({what}).") from None
        self.done = self.done_when_saved = state["done"]
        self.saved, self.history.finished = True, False
        if state["iterations"] != self.iterations and self.ranks.rank == 0:
            tqdm.write(
                f"{self.checkpoint} was a run of {state['iterations']} iterations, now of {self.iterations}: "
                "schedules follow the new length."
            )


def _show(bar, history: History, tasks: int) -> None:
    shown = {"loss": f"{history.losses[-1]:.3f}"} if history.losses else {}
    shown |= {"accuracy": f"{history.accuracies[-1]:.1%}"} if history.accuracies else {}
    rate = bar.format_dict["rate"]
    shown |= {"tasks/s": f"{rate * tasks:.0f}"} if rate else {}
    bar.set_postfix(shown, refresh=False)
    bar.update()


class _Unusable(InputError):
    """The numbers have gone bad, so that what is there now is not worth saving."""


class _Signals:
    """Whether Ctrl-C, SIGTERM or SIGHUP came. The first is only noted; a second does what it would have done before."""

    def __init__(self):
        self._heard, self._before, self._may_raise = threading.Event(), {}, False
        self.heard = self._heard.is_set

    def listen(self) -> None:
        """Begin to; only the main thread can. Whoever ignores or handles SIGTERM and SIGHUP goes on doing so."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and (name == "SIGINT" or signal.getsignal(number) is signal.SIG_DFL):
                self._before[number] = signal.signal(number, self._note)

    def all_is_imported(self) -> None:
        """From now on a second signal may stop at once."""
        self._may_raise = True
        if self.heard():
            self.restore()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self._heard.set()
        if self._may_raise:
            self.restore()


@contextmanager
def _noted_signals():
    signals = _Signals()
    try:
        signals.listen()
        yield signals
    finally:
        signals.restore()
