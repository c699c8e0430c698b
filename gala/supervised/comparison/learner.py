"""The body of one learner process: waits for jobs, trains them with its peers, and reports."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gala.config.supervised import SupervisedConfig
from gala.optim.update import NotFinite
from gala.processes.child import Send, run_child
from gala.supervised.comparison import build, collective
from gala.supervised.comparison.build import ComparisonJob
from gala.supervised.comparison.data import DataSet, unpack

SNAPSHOTS = 20
"""Parameters are copied at this many evenly spaced points of a training, from which their distance is computed."""


@dataclass(frozen=True)
class ComparisonSpec:
    """Everything that a spawned learner is told."""

    config: SupervisedConfig
    rank: int
    packed: tuple[Any, ...]
    """The data set without tensors, which would be sent as shared memory."""
    store_port: int


class Report(NamedTuple):
    """What one learner did in one job. d: number of parameters."""

    params: NDArray
    """[d] at the end, when no message was under way any more."""
    weight: float
    """Its PushSum weight then; all weights add up to the number of learners."""
    snapshots: NDArray
    """[SNAPSHOTS, d], at equal steps of progress."""
    iterations: int
    wall_s: float
    busy_s: float
    """Really spent in forward and backward passes."""
    late: int
    """Iterations whose passes took longer than they were to be stretched to."""
    bytes_sent: float


def main(spec: ComparisonSpec, pipe: Connection) -> None:
    """Entry point of the process."""

    def body(send: Send, commands: queue.SimpleQueue[Any]) -> None:
        torch.set_num_threads(1)
        data = unpack(spec.packed)
        send(("ready", None))
        commands.get()  # all have started: from here on, who does not answer in time is dead
        if spec.config.learners > 1:
            collective.join(spec.rank, spec.config.learners, spec.store_port, spec.config.wait_timeout_s)
        while (command := commands.get()) is not None:
            send(("done", train(spec.config, command[0], spec.rank, data, command[1])))

    run_child(pipe, body)


def train(config: SupervisedConfig, job: ComparisonJob, rank: int, data: DataSet, mailboxes: Any) -> Report:
    """One job, together with the peers; returns when all of them are done.

    Raises:
        FloatingPointError: the loss is not finite.
        TimeoutError: a peer did not answer.
    """
    learner, averager = build.make_learner(config, job, rank, data, mailboxes)
    group = build.make_collective(config)
    per_learner, lr = build.iterations(config, data), build.learning_rate(config)
    params = list(learner.model.parameters())
    snapshots: list[torch.Tensor] = []
    iterations, progress = 0, 0.0
    group.barrier()
    started = time.monotonic()
    while progress < 1.0:
        loss = learner.update(lr(progress)).item()
        if not np.isfinite(loss):
            raise NotFinite(f"the loss of {job.method} is {loss} in iteration {iterations}; lower optim.lr")
        iterations += 1
        progress = iterations / per_learner
        if averager is not None and not job.lock_step:  # they share one budget
            done = sum(averager.mailbox.progress(r) for r in range(config.learners))
            progress = done / (per_learner * config.learners)
        while len(snapshots) < int(min(progress, 1.0) * SNAPSHOTS + 1e-9):
            snapshots.append(flat(params))
    wall_s = time.monotonic() - started
    build.meet_and_absorb(averager, group)
    report = Report(
        flat(params).numpy(),
        1.0 if averager is None else averager.weight,
        torch.stack(snapshots).numpy(),
        iterations,
        wall_s,
        learner.busy_s,
        learner.late,
        0.0 if averager is None else averager.stats()["bytes_sent"],
    )
    if averager is not None:
        averager.close()
    return report


def flat(params: Sequence[torch.Tensor]) -> torch.Tensor:
    """All values in one vector, a copy; torch's own function refuses weights that lie channels last."""
    return torch.cat([p.detach().reshape(-1) for p in params])
