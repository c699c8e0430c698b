"""The parent's side: starts the learners once, gives them one job after the other, and ends them all."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

from gala.config.supervised import SupervisedConfig
from gala.supervised.comparison import build
from gala.supervised.comparison.build import Job
from gala.supervised.comparison.digits import Digits
from gala.supervised.comparison.learner import LearnerSpec, Report, main

START_TIMEOUT_S = 300.0
_GRACE_S = 0.3
_END_S = 3.0


class LearnerFailed(RuntimeError):
    """The first failure among the learners; its text is all that the user is shown."""


class Team:
    """One process per learner, for a whole comparison: starting them takes longer than training. A context manager;
    at its end no learner is left, whatever happened."""

    def __init__(self, config: SupervisedConfig, data: Digits) -> None:
        self.config, self.data = config, data
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []

    def __enter__(self) -> Team:
        try:
            self._start()
            self._gather("ready", time.monotonic() + START_TIMEOUT_S)
            self._tell("join")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(_END_S)

    def run(self, job: Job) -> list[Report]:
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

    def _start(self) -> None:
        # OpenMP threads that spin while they wait take the cores from the other learners.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = mp.get_context("spawn")
        resource_tracker.ensure_running()  # now, because it unblocks SIGINT when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is the parent's to handle
        try:
            for rank in range(self.config.learners):
                ours, theirs = context.Pipe()
                spec = LearnerSpec(self.config, rank, tuple(x.numpy() for x in self.data), self._store.port)
                process = context.Process(target=main, args=(spec, theirs), name=f"gala learner {rank}", daemon=True)
                process.start()
                theirs.close()
                self.processes.append(process)
                self.pipes.append(ours)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _tell(self, command: Any) -> None:
        for pipe in self.pipes:
            with contextlib.suppress(BrokenPipeError):  # its death is noticed by its sentinel
                pipe.send(command)

    def _gather(self, kind: str, deadline: float | None) -> list[Any]:
        """One answer of ``kind`` from each learner. From the first one on, the others have ``wait_timeout_s``."""
        answers: dict[int, Any] = {}
        while len(answers) < len(self.pipes):
            pending = [pipe for rank, pipe in enumerate(self.pipes) if rank not in answers]
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait([*pending, *(p.sentinel for p in self.processes)], timeout)
            if not ready:
                silent = ", ".join(str(rank) for rank in range(len(self.pipes)) if rank not in answers)
                raise LearnerFailed(f"no answer from learner {silent} in time; the run has ended.")
            if any(process.sentinel in ready for process in self.processes):
                self._fail()
            for rank, pipe in enumerate(self.pipes):
                if pipe in ready:
                    answer = self._receive(rank)
                    if answer is None or answer[0] == "error":
                        self._fail([] if answer is None else [(rank, answer[1])])
                    assert answer is not None and answer[0] == kind
                    answers[rank] = answer[1]
            if kind == "done" and answers and deadline is None:
                slowest_s = max(build.compute_s(self.config, rank) for rank in range(self.config.learners))
                deadline = time.monotonic() + self.config.wait_timeout_s + slowest_s
        return [answers[rank] for rank in range(len(self.pipes))]

    def _receive(self, rank: int) -> tuple[str, Any] | None:
        try:
            return self.pipes[rank].recv()
        except (EOFError, OSError):
            return None

    def _fail(self, heard: list[tuple[int, tuple[int, str]]] | None = None) -> None:
        """Raises LearnerFailed with the cause: the death by a signal if there is one, else the earliest error. Others
        may have failed in consequence, in an all-reduce without that peer, say."""
        errors = list(heard or [])
        time.sleep(_GRACE_S)
        for rank, pipe in enumerate(self.pipes):
            with contextlib.suppress(EOFError, OSError):
                while pipe.poll():
                    kind, body = pipe.recv()
                    if kind == "error":
                        errors.append((rank, body))
        for rank, process in enumerate(self.processes):
            if process.exitcode is not None and process.exitcode < 0:
                name = signal.Signals(-process.exitcode).name
                raise LearnerFailed(f"learner {rank} was killed by {name}; the run has ended.")
        if errors:
            rank, (_, text) = min(errors, key=lambda error: error[1][0])
            raise LearnerFailed(f"learner {rank} failed; the run has ended.\n{text.rstrip()}")
        codes = {rank: p.exitcode for rank, p in enumerate(self.processes) if p.exitcode is not None}
        raise LearnerFailed(f"learner(s) exited: {codes} (rank: status); the run has ended.")
