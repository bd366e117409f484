"""The tasks of a meta-batch shared among processes of this machine, without torchrun.

The processes are loky's, which sends them classes that were defined in a notebook, too. They live as long as the run.
For every meta-batch each gets the meta-parameters and its share of the tasks, and returns its meta-gradient.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager

import cloudpickle
import numpy as np
import psutil
import torch
from loky import ProcessPoolExecutor, process_executor
from loky.process_executor import BrokenProcessPool

from ..engine.trees import filled, leaves, tree_map
from ..errors import InputError
from ..learner import MAML, mean_gradient
from ..meta_params import MetaGradient
from ..tasks import TaskBatch

KNOWN = {torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}  # to NumPy


@contextmanager
def running(maml: MAML, processes: int):
    """The `Workers` of a run, which end with it, however it ends."""
    workers = Workers(maml, processes)
    try:
        yield workers
    finally:
        workers.end()


class Workers:
    """Processes that compute meta-gradients of this learner; each takes an equal part of PyTorch's threads.

    Args:
        maml: the learner, on the CPU.
        processes: how many.

    Raises:
        InputError: the model cannot be sent to another process.
    """

    def __init__(self, maml: MAML, processes: int):
        self.processes, self.threads = processes, max(torch.get_num_threads() // processes, 1)
        try:
            sent = cloudpickle.dumps(maml)
        except Exception as error:  # whatever a part of the model raises when it is asked for its contents
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"processes: the model cannot be sent to other processes ({reason}).") from error
        self.executor = ProcessPoolExecutor(
            processes, timeout=None, initializer=_begin, initargs=(sent, self.threads, os.getpid())
        )

    def mean_gradient(self, maml: MAML, batch: TaskBatch, backend: str, seed: int | None, epoch: int) -> MetaGradient:
        """As `learner.mean_gradient`, by all processes.

        Raises:
            InputError: a process ended, as one does that the system kills for its memory.
        """
        count = min(self.processes, len(batch.support_x))
        bounds = [len(batch.support_x) * number // count for number in range(count + 1)]
        state = maml.state_dict()
        state = pickle.dumps((sent(state), maml.model.training, [p.requires_grad for p in maml.parameters()]))
        futures = []
        for begin, end in zip(bounds, bounds[1:]):
            share, first = TaskBatch(*(x[begin:end] for x in batch)), None if seed is None else seed + begin
            futures.append(self.executor.submit(_share, state, sent(share), backend, first, epoch))
        try:
            shares = [received(future.result()) for future in futures]
        except BrokenProcessPool as error:
            raise InputError(
                f"One of the {self.processes} processes that share the tasks ended; memory may have run out: "
                "use fewer processes or tasks."
            ) from error
        weights = [(end - begin) / len(batch.support_x) for begin, end in zip(bounds, bounds[1:])]
        scored = shares[0].accuracy is not None
        parts = [leaves(share if scored else share._replace(accuracy=share.loss)) for share in shares]
        mean = torch._foreach_mul(parts[0], weights[0])
        for weight, part in zip(weights[1:], parts[1:]):
            torch._foreach_add_(mean, part, alpha=weight)
        mean = filled(shares[0] if scored else shares[0]._replace(accuracy=shares[0].loss), mean)
        return mean if scored else mean._replace(accuracy=None)

    def end(self) -> None:
        """Stop the processes, also amid their work."""
        self.executor.shutdown(wait=True, kill_workers=True)


def sent(tree):
    """The tree with arrays of NumPy for tensors, which are sent many times as fast; of types that it has not, as is."""
    return tree_map(lambda x: x.detach().numpy() if isinstance(x, torch.Tensor) and x.dtype in KNOWN else x, tree)


def received(tree):
    """The tree of tensors that was `sent`."""
    return tree_map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, tree)


# In the processes.

_learner: MAML | None = None


def _begin(sent: bytes, threads: int, first: int) -> None:
    global _learner
    # loky starts a process anew that holds more memory than at first, taking what it keeps on purpose
    # (`backends.keep_freed_memory`) for a leak.
    process_executor._MAX_MEMORY_LEAK_SIZE = float("inf")
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # these reach all processes; the first one decides when to stop
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(first,), daemon=True).start()
    torch.set_num_threads(threads)
    _learner = cloudpickle.loads(sent)


def _end_with(process: int) -> None:
    """Whoever ends the first process without a word ends this one too."""
    while psutil.pid_exists(process):
        time.sleep(1)
    os._exit(1)


@torch.enable_grad()
def _share(state: bytes, batch: TaskBatch, backend: str, seed: int | None, epoch: int) -> MetaGradient:
    values, training, trainable = pickle.loads(state)
    _learner.load_state_dict(received(values))
    _learner.model.train(training)
    for parameter, wanted in zip(_learner.parameters(), trainable):
        parameter.requires_grad_(wanted)
    return sent(mean_gradient(_learner, received(batch), backend, seed, epoch))
