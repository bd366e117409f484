"""Training by several processes: torchrun starts them, and each computes some of the tasks of every meta-batch.

Every process ("rank") holds the same model, builds the same meta-batch and takes its slice of it. Batch i is a function
of the seed and i alone, so nothing has to be sent but the gradients, and a run that is resumed on another number of
ranks sees the same tasks. Rank 0 alone prints, validates and writes checkpoints. `benchmarks/MANY_PROCESSES.md` says
how to start it and what it costs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from ..engine.backends import BACKENDS
from ..errors import InputError
from ..meta_params import MetaGradient, MetaParams
from ..tasks import TaskBatch

# A process that dies is noticed at once; this is for machines that fall silent. It must be longer than a validation,
# in which the others wait for rank 0.
LONGEST_WAIT = timedelta(minutes=10)
SET_BY_TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


class LostRank(RuntimeError):
    """Another process is gone, so that this one cannot go on."""


class Ranks:
    """The processes that train together, seen by one of them; `Ranks()` is a process alone, which sends nothing.

    Attributes:
        rank: this one's number, from 0.
        size: how many there are.
        backend: the one that rank 0 computes with, as the others must for the same numbers; None for a process alone,
            and while it is not chosen.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size, self.backend = rank, size, None
        self._wish = self._all_stop = self._terminated = False

    def device(self, chosen: torch.device) -> torch.device:
        """Where this rank computes: on a machine with GPUs, on its own of them.

        Raises:
            InputError: the machine has fewer GPUs than processes.
        """
        if self.size == 1 or chosen.type != "cuda":
            return chosen
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise InputError(
                f"This machine has more than {number} processes for its {there} GPUs, but each process needs its own: "
                f"set --nproc-per-node to at most {there}, or use --device cpu."
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def slice(self, batch: TaskBatch) -> TaskBatch:
        """This rank's tasks of a meta-batch, in one piece; the ranks' numbers of tasks differ by one at most.

        Raises:
            InputError: there are fewer tasks than ranks.
        """
        tasks = len(batch[0])
        if tasks < self.size:
            raise InputError(
                f"tasks_per_batch: expected at least {self.size}, so that each of the {self.size} processes has a "
                f"task, got {tasks}."
            )
        end = tasks * (self.rank + 1) // self.size
        return TaskBatch(*(part[self.first(batch) : end] for part in batch))

    def first(self, batch: TaskBatch) -> int:
        """The number of this rank's first task."""
        return len(batch[0]) * self.rank // self.size

    def average(self, mine: MetaGradient, weight: float, backend: str = "auto") -> MetaGradient:
        """The mean over the whole meta-batch, from each rank's mean over its own tasks.

        All of it travels, with the wish to stop and the backend of rank 0, in one all-reduce of one flat buffer of the
        parameters' type (the widest where they differ).

        Args:
            mine: this rank's.
            weight: this rank's share of the tasks; the ranks' weights sum to 1.
            backend: what computed this.

        Raises:
            LostRank: another rank is gone.
        """
        if self.size == 1:
            return mine
        number = BACKENDS.index(backend) if self.rank == 0 else 0
        words = mine.loss.new_tensor([number / weight, float(self._wish or self._terminated)])
        scores = [] if mine.accuracy is None else [mine.accuracy]
        parts = [*mine.gradients.tensors(), mine.loss, *scores, words]
        buffer = torch.cat([part.reshape(-1) for part in parts]) * weight
        with self._noticing_deaths():
            dist.all_reduce(buffer)
            number, wishes = buffer[-2:].tolist()  # on a GPU this waits, so a failure shows here and not later
        self._all_stop, chosen = wishes > 0, BACKENDS[round(number)]
        self.backend = None if chosen == "auto" else chosen
        pieces = buffer.split([part.numel() for part in parts])
        means = iter([piece.view_as(part).to(part.dtype) for piece, part in zip(pieces, parts)])
        gradients = MetaParams(*({name: next(means) for name in part} for part in mine.gradients))
        return MetaGradient(next(means), None if mine.accuracy is None else next(means), gradients)

    def stop(self, wish: bool) -> bool:
        """Whether training ends after this iteration. Several ranks hear of a wish with the next iteration's
        gradients, and all stop after that one."""
        self._wish = wish
        return self._all_stop or (self.size == 1 and wish)

    def from_first(self, make: Callable):
        """What `make()` returns on rank 0, on every rank; the others do not call it.

        Raises:
            LostRank: another rank is gone.
        """
        if self.size == 1:
            return make()
        box = [make() if self.rank == 0 else None]
        with self._noticing_deaths():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def same_everywhere(self, tensors) -> None:
        """Overwrite tensors with those of rank 0."""
        for tensor in tensors if self.size > 1 else ():
            with self._noticing_deaths():
                dist.broadcast(tensor.detach(), src=0)

    def note_termination(self, number, frame) -> None:
        """A signal handler: all stop after the next iteration."""
        self._terminated = True

    @contextmanager
    def _noticing_deaths(self):
        try:
            yield
        except RuntimeError as error:
            why = str(error).split("] ", 1)[-1].split(". ")[0]  # gloo begins with a source file and ends with advice
            raise LostRank(
                f"Rank {self.rank} of {self.size} noticed that another rank is gone or silent ({why}): what was saved "
                "is in the checkpoint, so go on with the same command and --resume."
            ) from error


@contextmanager
def joined():
    """The `Ranks` that torchrun started this process with; one alone without torchrun, or with one process.

    An `InputError` in any of several processes, or the death of one, ends all of them (`SystemExit`), and one of them
    says why in one sentence. SIGTERM, which torchrun sends when another process ended, stops training as Ctrl-C does.
    """
    if not SET_BY_TORCHRUN <= os.environ.keys() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    store, rank, size = next(dist.rendezvous("env://", timeout=LONGEST_WAIT))
    ranks = Ranks(rank, size)
    before = signal.signal(signal.SIGTERM, ranks.note_termination)
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with ranks._noticing_deaths():
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)
        yield ranks
        ranks.from_first(lambda: None)  # the others wait here until rank 0 has saved and said everything
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)
        return
    except InputError as error:
        code, said = 2, f"mamlcourse: {error}"
    except LostRank as error:
        code, said = 1, f"mamlcourse: {error}"
    except KeyboardInterrupt:
        code, said = 130, "mamlcourse: stopped."
    _say_once(store, said if rank == 0 else f"\n{said}")  # the line may hold the progress bar of rank 0
    raise SystemExit(code)


def _say_once(store, sentence: str) -> None:
    """Print the sentence unless another process said something; return when it is said.

    The store belongs to torchrun, which outlives its processes. Whoever leaves first has torchrun end the others, so
    those who say nothing wait for the one who does.
    """
    with suppress(RuntimeError):  # the store is gone where its machine is
        if store.add("mamlcourse/says", 1) > 1:
            store.wait(["mamlcourse/said"], timedelta(seconds=10))
            return
    sys.stderr.write(f"{sentence}\n")  # in one piece, so that no other process writes into it
    sys.stderr.flush()
    with suppress(RuntimeError):
        store.set("mamlcourse/said", "")
