"""A training that runs for ever and can be frozen, so that several can take turns on one machine."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil

from gala.bench.energy import counters, joules
from gala.build.envs import probe_spaces
from gala.build.gossip import open_store
from gala.config.schema import Config
from gala.processes.addresses import Address
from gala.processes.fleet import ProcessFleet
from gala.processes.resources import available_cores
from gala.runs.run_dir import RunDir
from gala.training import supervisor
from gala.training.board import UPDATES
from gala.training.protocol import LearnerSpec
from gala.training.telemetry import STAGES

START_S = 180.0
"""How long the learners may take to their first updates."""
SILENT_S = 120.0
"""A job in its turn that makes no update for so long has failed."""
_POLL_S, _FOR_EVER = 0.01, 10**15
_WARM_UP_UPDATES = 3


class BenchFailed(RuntimeError):
    """A learner failed; the text is its first traceback."""


@dataclass
class Block:
    """What one turn of a job has shown. Shares are of the learners' wall time, ``cpu`` of all cores' time."""

    env_steps_per_s: float
    updates_per_s: list[float]
    """Updates per second of each learner."""
    cpu: float
    memory_gib: float
    """Proportional set size of the learners and of what they started, and of their parent."""
    joules: float | None
    seconds: float
    shares: dict[str, float] = field(default_factory=dict)
    message_age: float | None = None


class BenchJob:
    """The learners of ``config``, started and warmed up, then frozen. ``measure`` gives them a turn.

    Raises:
        BenchFailed: a learner failed or made no updates.
    """

    def __init__(self, config: Config) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gala-bench-")
        self.config = config = for_ever(config, self._folder.name)
        spaces = probe_spaces(config)
        self.frames_per_step = spaces.frames_per_step
        run_dir = RunDir.create(config, [], overwrite=False)
        self._board, self._mailboxes, fleet = supervisor.open_run(config, run_dir, spaces)
        assert isinstance(fleet, ProcessFleet)
        self._fleet = fleet
        self._store = open_store(config)
        self._metrics: list[tuple[float, dict[str, Any]]] = []
        self._energy = counters()
        handle = self._mailboxes.handle if self._mailboxes else None
        store = Address(port=self._store.port if self._store else 0)
        started = time.monotonic()
        for rank in range(config.learners):
            self._fleet.spawn(LearnerSpec(config, rank, str(run_dir.path), self._board.handle, handle, store))
        try:
            self._until(self._board.progress[:, UPDATES].any, started)
            self.first_update_s = time.monotonic() - started
            learners = self._board.progress[: config.learners]
            self._until(lambda: bool((learners[:, UPDATES] >= _WARM_UP_UPDATES).all()), started)
        except BaseException:
            self.close()
            raise
        self.freeze()

    def measure(self, seconds: float, settle_s: float = 1.0) -> Block:
        """Thaw, let the caches settle, measure from update to update, and freeze again."""
        self.thaw()
        try:
            return self._measure(seconds, settle_s)
        finally:
            self.freeze()

    def _measure(self, seconds: float, settle_s: float) -> Block:
        self._wait(settle_s)
        self._metrics.clear()
        cpu, energy, began = self._cpu_s(), joules(self._energy), time.monotonic()
        first, last = self._watch(seconds)
        took = time.monotonic() - began
        after = joules(self._energy)
        spans = np.array([b[0] - a[0] for a, b in zip(first, last, strict=True)])
        block = Block(
            env_steps_per_s=float(sum((b[1] - a[1]) / s for a, b, s in zip(first, last, spans, strict=True))),
            updates_per_s=[(b[2] - a[2]) / s for a, b, s in zip(first, last, spans, strict=True)],
            cpu=(self._cpu_s() - cpu) / (took * available_cores()),
            memory_gib=self._memory_gib(),
            joules=None if after is None or energy is None else after - energy,
            seconds=took,
        )
        whole = [record for at, record in self._metrics if at - record["interval_s"] >= began]
        total_s = sum(record["interval_s"] for record in whole)
        if total_s:
            block.shares = {s: sum(record[f"{s}_s"] for record in whole) / total_s for s in STAGES}
            block.shares["other"] = max(0.0, 1.0 - sum(block.shares.values()))
        ages = [record["gossip/message_age_mean"] for record in whole if "gossip/message_age_mean" in record]
        block.message_age = float(np.mean(ages)) if ages else None
        return block

    def _watch(self, seconds: float) -> tuple[list[Any], list[Any]]:
        """(time, env_steps, updates) of each learner at its first and its last update within the turn, which lasts
        longer if some learner has made fewer than two."""
        progress = self._board.progress[: self.config.learners]
        before, end = progress.copy(), time.monotonic() + seconds
        first: list[Any] = [None] * len(progress)
        last: list[Any] = [None] * len(progress)
        while (now := time.monotonic()) < end or (_too_few(first, last) and now < end + SILENT_S):
            for rank in np.flatnonzero(progress[:, UPDATES] != before[:, UPDATES]):
                before[rank] = progress[rank]
                last[rank] = (now, *before[rank].tolist())
                first[rank] = first[rank] or last[rank]
            self._wait(_POLL_S)
        if too_few := _too_few(first, last):
            raise BenchFailed(f"learner {too_few[0]} made fewer than two updates in {seconds + SILENT_S:g} s")
        return first, last

    def freeze(self) -> None:
        """Stop all learners and what they started; they notice nothing but that the clock has moved."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End the learners and remove what they have written."""
        self._fleet.kill()
        self._board.close()
        if self._mailboxes:
            self._mailboxes.close()
        self._folder.cleanup()

    def _until(self, reached: Any, started: float) -> None:
        while not reached():
            if time.monotonic() > started + START_S:
                raise BenchFailed(f"the learners made no updates in {START_S:g} s")
            self._wait(_POLL_S)

    def _wait(self, seconds: float) -> None:
        """Listen to the learners for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for event in self._fleet.events(left):
                if event.kind == "metrics":
                    self._metrics.append((time.monotonic(), event.body))
                elif event.kind == "error":
                    raise BenchFailed(f"learner {event.rank} failed\n{event.body.traceback}")
                elif event.kind == "died":
                    raise BenchFailed(f"learner {event.rank} {event.body}")

    def _signal(self, number: int) -> None:
        for pid in self._fleet.pids():  # each leads a process group, with its simulators in it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)

    def _processes(self) -> list[psutil.Process]:
        processes = []
        for pid in self._fleet.pids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                processes += [process, *process.children(recursive=True)]
        return processes

    def _cpu_s(self) -> float:
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _memory_gib(self) -> float:
        total = 0
        for process in [*self._processes(), psutil.Process()]:
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.uss)
        return total / 2**30


def _too_few(first: list[Any], last: list[Any]) -> list[int]:
    """Learners whose rate cannot be told yet: it is counted from one update to a later one."""
    return [rank for rank, pair in enumerate(zip(first, last, strict=True)) if pair[0] is None or pair[0] == pair[1]]


def for_ever(config: Config, folder: str) -> Config:
    """``config`` as a job that never finishes, minds no pause, logs each second, and writes nothing but records."""
    return replace(
        config,
        steps=_FOR_EVER,
        run=f"{folder}/run",
        env=replace(config.env, watchdog_s=1e6),
        gossip=replace(config.gossip, silent_after_s=1e6, wait_timeout_s=2e6),
        log=replace(config.log, interval_s=1.0, tensorboard=False, panel="off"),
    )
