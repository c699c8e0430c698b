"""Many ``gala train`` runs, a few at a time, each in processes of its own; what is finished is not trained again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gala.runs.checkpoints import Checkpoints

_QUIET = ("log.panel=off", "log.tensorboard=false", "overwrite=true")


class TrainingJob(NamedTuple):
    """One training run: its directory and its settings."""

    run: Path
    words: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """``gala train`` writes the summary last."""
        return (self.run / "summary.json").is_file() and "latest" in Checkpoints(self.run / "checkpoints").names()


def train_all(jobs: Sequence[TrainingJob], parallel: int, say: Callable[[str], None]) -> float:
    """Trains what is not finished yet, ``parallel`` runs at a time. Returns the longest training in seconds (0: none).

    Raises:
        RuntimeError: a training failed; its own last lines are the message, and the others are ended.
    """
    waiting = [job for job in jobs if not job.finished]
    running: dict[TrainingJob, tuple[subprocess.Popen[bytes], float]] = {}
    total, longest = len(jobs), 0.0
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting.pop(0)
                running[job] = (_start(job), time.monotonic())
            time.sleep(0.05)
            for job, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode:
                    raise RuntimeError(f"gala train {' '.join(job.words)} failed:\n{_tail(job)}")
                longest = max(longest, time.monotonic() - started)
                say(f"trained {total - len(waiting) - len(running)} of {total}: {job.run.name}")
    finally:
        for process, _ in running.values():
            process.terminate()
            process.wait()
    return longest


def _start(job: TrainingJob) -> subprocess.Popen[bytes]:
    job.run.parent.mkdir(parents=True, exist_ok=True)
    words = [*job.words, f"run={job.run}", *_QUIET]
    with _log(job).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gala", "train", *words], stdout=log, stderr=log, start_new_session=True
        )


def _log(job: TrainingJob) -> Path:
    return job.run.with_suffix(".log")


def _tail(job: TrainingJob) -> str:
    return os.linesep.join(_log(job).read_text(errors="replace").splitlines()[-15:])
