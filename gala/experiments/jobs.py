"""Many ``gala`` processes, a few at a time: trainings, and what is done with each when it has ended.

What is finished is not done again, and a training that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from gala.build.auto import fitted_config
from gala.experiments.rows import differing, settings_of
from gala.files.plain_yaml import shortened
from gala.processes.resources import available_cores
from gala.processes.start import ending_signals_blocked, interpreter
from gala.processes.watcher import Watcher, kill_group
from gala.runs.checkpoints import NO_CHECKPOINT
from gala.runs.run_dir import RunDir

_QUIET = ("log.panel=off", "log.tensorboard=false")
_POLL_S, _TICK_S = 0.05, 1.0
_STARTED = "$ python "
_FAILED, _ADVICE = "the run has ended.", "The last checkpoint is kept"
"""How the line ends after which ``gala train`` says why, and how the one begins that comes last."""


class Job(Protocol):
    """One process of Python."""

    @property
    def name(self) -> str: ...
    @property
    def log(self) -> Path:
        """Where its output goes."""
        ...

    @property
    def finished(self) -> bool: ...
    def argv(self) -> list[str]:
        """What follows ``python`` on the command line."""
        ...


class TrainingJob(NamedTuple):
    """One training run: its directory and its settings."""

    run: Path
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def log(self) -> Path:
        """Hidden, so that ``runs/*`` is runs alone."""
        return self.run.with_name(f".{self.run.name}.log")

    @property
    def finished(self) -> bool:
        """Whether its last checkpoint is of the last env_step. An interrupted run has a summary too."""
        if not (self.run / "config.yaml").is_file():
            return False
        run = RunDir.open(self.run)
        if "latest" not in run.checkpoints.names():
            return False
        with contextlib.suppress(ValueError):
            if run.read_summary()["status"] == "finished":
                return True
        return bool(run.checkpoint_meta("latest")["env_steps"] >= run.config.steps)

    def argv(self) -> list[str]:
        """Code that a run names is trusted here: whoever trains it has typed the same settings, and compared them by
        ``differing``. Where the code lies may have changed since, with the folder that holds code and runs."""
        if (self.run / "config.yaml").is_file():
            return ["-m", "gala", "resume", str(self.run), "trust=true"]
        return ["-m", "gala", "train", *_QUIET, *self.words, f"run={self.run}", "overwrite=true"]

    def parts(self) -> int:
        """In how many it was trained: one, unless it was cut off. What was cut off before its run was there, or before
        its first checkpoint, is none."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        parts = 0
        for line in lines:
            if line.startswith(_STARTED):
                parts = 1 if line.startswith(f"{_STARTED}-m gala train ") else parts + 1
            elif line.endswith(NO_CHECKPOINT):
                parts = 1
        return parts

    def env_steps(self) -> int:
        """How far it has come, by its records."""
        path = self.run / "metrics.jsonl"
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2**16))
            return int(json.loads(file.read().split(b"\n")[-2])["global_step"])
        return 0


@dataclass
class _Running:
    job: Job
    then: list[Job]
    process: subprocess.Popen[bytes]
    started: float
    cores: frozenset[int]
    unwanted: bool = False


def check_settings(jobs: Sequence[TrainingJob]) -> int:
    """How many of the jobs are finished. Raises ValueError if a run that is there has other settings than its job."""
    for job in jobs:
        if (job.run / "config.yaml").is_file():
            mine, found = settings_of(fitted_config(job.words)), settings_of(RunDir.open(job.run).config)
            if odd := [key for key in differing(found, mine) if mine.get(key) != "auto"]:
                told = f"{odd[0]}={found.get(odd[0])}, not {mine[odd[0]]}"
                raise ValueError(f"{job.run} was trained with {told}; give those settings, or another out=")
    return sum(job.finished for job in jobs)


def train_all(jobs: Sequence[TrainingJob], parallel: int, say: Callable[[str], None]) -> float:
    """Trains what is not finished yet, ``parallel`` runs at a time. Returns the longest training in seconds (0: none).

    Raises:
        RuntimeError: a training failed; its own last lines are the message, and the others are ended.
    """
    waiting, ended, longest = len([job for job in jobs if not job.finished]), 0, 0.0

    def told(job: Job, seconds: float) -> None:
        nonlocal ended, longest
        ended, longest = ended + 1, max(longest, seconds)
        say(f"trained {len(jobs) - waiting + ended} of {len(jobs)}: {job.name}")

    run_all([[job] for job in jobs], max(1, min(parallel, waiting)), told)
    return longest


def run_all(
    chains: Iterable[Sequence[Job]],
    parallel: int,
    ended: Callable[[Job, float], None],
    *,
    pinned: bool = False,
    tick: Callable[[Sequence[Job]], Sequence[Job] | None] = lambda running: None,
    failed: Callable[[Job, str], None] | None = None,
) -> None:
    """Runs the jobs of each chain in order, ``parallel`` chains at a time. Those that are finished are left out.

    Args:
        chains: the next one is asked for when there is room for it.
        ended: called with a job and its seconds when it is done.
        pinned: each chain that runs has an equal share of the cores to itself, where the system can do that (Linux).
        tick: called about once a second with the jobs that run; those that it returns are asked to end, and are then
            done whatever their exit status.
        failed: called with a job that has failed and a message, instead of ending all.

    Whatever ends this function ends the jobs, trainings in order, with a checkpoint; so does the end of this process,
    by force if need be.

    Raises:
        RuntimeError: a job failed; its own last lines are the message.
    """
    waiting = (chain for chain in ([job for job in chain if not job.finished] for chain in chains) if chain)
    free = _core_shares(parallel) if pinned else [frozenset[int]()] * parallel
    running: list[_Running] = []
    with ending_signals_blocked():
        watcher = Watcher()
    next_tick = 0.0
    try:
        while True:
            while free and (chain := next(waiting, None)):
                running.append(_start(chain[0], chain[1:], free.pop(), parallel, watcher))
            if not running:
                return
            time.sleep(_POLL_S)
            if time.monotonic() >= next_tick:
                unwanted = tick([one.job for one in running]) or ()
                for one in [one for one in running if one.job in unwanted]:
                    one.process.send_signal(signal.SIGTERM)
                    one.unwanted = True
                next_tick = time.monotonic() + _TICK_S
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                watcher.release(one.process.pid)
                is_done = one.unwanted or not one.process.returncode
                if is_done:
                    ended(one.job, time.monotonic() - one.started)
                else:
                    _report_failure(one, failed)
                if is_done and one.then:
                    running.append(_start(one.then[0], one.then[1:], one.cores, parallel, watcher))
                else:
                    free.append(one.cores)
    finally:
        _end(running)
        watcher.close()


def why(message: str) -> str:
    """The reason in what ``run_all`` has told of a failed job, in one line: what a training says first when it has
    failed, before any traceback, or else the last line."""
    of_this_start = message.rpartition(f"\n{_STARTED}")[2]  # an earlier part may have ended with words of its own
    told = [line.strip() for line in of_this_start.splitlines()[1:] if line.strip()]
    told = [line for line in told if not line.startswith(_ADVICE)]
    first = [after for line, after in itertools.pairwise(told) if line.endswith(_FAILED)]
    return shortened([*told, *first][-1].removesuffix(f"; {_FAILED}")) if told else "it said nothing"


def _report_failure(one: _Running, failed: Callable[[Job, str], None] | None) -> None:
    message = f"{one.job.name} failed: python {' '.join(one.job.argv())}\n{_tail(one.job)}"
    if one.process.returncode < 0:  # it could not say so itself
        message += f"\nit was killed by {signal.Signals(-one.process.returncode).name}"
    if failed is None:
        raise RuntimeError(message)
    failed(one.job, message)


def _end(running: Sequence[_Running]) -> None:
    """In order, or at once where that is interrupted in its turn."""
    try:
        for one in running:
            one.process.send_signal(signal.SIGTERM)
            one.process.send_signal(signal.SIGCONT)  # one that is stopped would not hear of it
        for one in running:
            one.process.wait()
    except BaseException:
        for one in running:
            kill_group(one.process.pid)
            one.process.wait()
        raise


def _core_shares(parallel: int) -> list[frozenset[int]]:
    """As many sets of cores, of equal size and disjoint; empty ones, which pin nothing, where cores are too few or one
    job at a time may have them all."""
    each = available_cores() // parallel
    if parallel == 1 or not each or not hasattr(os, "sched_getaffinity"):
        return [frozenset[int]()] * parallel
    cores = sorted(os.sched_getaffinity(0))
    return [frozenset(cores[i * each : (i + 1) * each]) for i in range(parallel)]


def _start(job: Job, then: list[Job], cores: frozenset[int], parallel: int, watcher: Watcher) -> _Running:
    """Told by ``OMP_NUM_THREADS``, unless that is set, how many threads are its share of the cores."""
    environment = {"OMP_NUM_THREADS": str(max(1, available_cores() // parallel)), **os.environ}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log.write(f"{_STARTED}{' '.join(job.argv())}\n".encode())
        log.flush()
        command = [*interpreter(), *job.argv()]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    watcher.watch(process.pid)
    if cores:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.sched_setaffinity(process.pid, cores)
    return _Running(job, then, process, time.monotonic(), cores)


def _tail(job: Job) -> str:
    return os.linesep.join(job.log.read_text(errors="replace").splitlines()[-15:])
