"""The parent's side: starts the learners once, gives them one job after the other, and ends them all."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist

from gala.config.supervised import SupervisedConfig
from gala.processes.addresses import listening_socket
from gala.processes.failure import first_failure, has_failed
from gala.processes.fleet import ProcessFleet
from gala.supervised.comparison import build
from gala.supervised.comparison.build import ComparisonJob
from gala.supervised.comparison.data import DataSet, pack
from gala.supervised.comparison.learner import ComparisonSpec, Report, main

START_TIMEOUT_S = 300.0
_POLL_S = 3600.0


class LearnerFailed(RuntimeError):
    """The first failure among the learners; its text is all that the user is shown."""


def _open_store() -> dist.TCPStore:
    """The rendezvous of the learners, on loopback."""
    door = listening_socket()
    port = door.getsockname()[1]
    return dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())


class Team:
    """One process per learner, for a whole comparison: starting them takes longer than training. A context manager;
    at its end no learner is left, whatever happened."""

    def __init__(self, config: SupervisedConfig, data: DataSet) -> None:
        self.config, self.data = config, data
        self.fleet = ProcessFleet(main)

    def __enter__(self) -> Team:
        try:
            self._store = _open_store()
            packed = pack(self.data)
            for rank in range(self.config.learners):
                self.fleet.spawn(ComparisonSpec(self.config, rank, packed, self._store.port))
            self._gather("ready", time.monotonic() + START_TIMEOUT_S)
            self._tell("join")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.kill()

    def run(self, job: ComparisonJob) -> list[Report]:
        """Train one job; the reports of all learners by rank.

        Raises:
            LearnerFailed: a learner raised, died, or did not come to its end with the others.
        """
        mailboxes = build.make_mailboxes(self.config, job.method)
        try:
            self._tell((job, mailboxes.handle if mailboxes else None))
            return self._gather("done", None)
        finally:
            if mailboxes:
                mailboxes.close()

    def _tell(self, command: Any) -> None:
        for rank in range(self.config.learners):
            self.fleet.tell(rank, command)

    def _gather(self, kind: str, deadline: float | None) -> list[Any]:
        """One answer of ``kind`` from each learner. From the first one on, the others have ``wait_timeout_s``."""
        answers: dict[int, Any] = {}
        while len(answers) < self.config.learners:
            events = self.fleet.events(_POLL_S if deadline is None else max(0.0, deadline - time.monotonic()))
            if not events and deadline is not None:
                silent = ", ".join(str(rank) for rank in range(self.config.learners) if rank not in answers)
                raise LearnerFailed(f"no answer from learner {silent} in time; the run has ended.")
            if has_failed(events):
                raise LearnerFailed(first_failure(self.fleet, events))
            for event in events:
                assert event.kind == kind
                answers[event.rank] = event.body
            if kind == "done" and answers and deadline is None:
                slowest_s = max(build.compute_s(self.config, rank) for rank in range(self.config.learners))
                deadline = time.monotonic() + self.config.wait_timeout_s + slowest_s
        return [answers[rank] for rank in range(self.config.learners)]
