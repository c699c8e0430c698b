"""``log.video_every``: films of the greedy policy while it learns, by a process of their own at the lowest priority.

No learner waits: a film is played from a checkpoint that is on disk anyway, with a simulator of its own, in one thread,
and what it takes of the learners' processor time is what the lowest priority gets. One at a time; where the next is due
before the last is done, it waits for a later checkpoint.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from gala.config.schema import Config
from gala.processes.child import Send, run_child
from gala.processes.fleet import ProcessFleet
from gala.runs.run_dir import RunDir

FOLDER = "films"
PATIENCE_S = 60.0
"""How long the end of a run waits for its last film."""
_SEED = 3000
_LOWEST = 19


class FilmSpec(NamedTuple):
    """What the process is told."""

    run_path: str
    path: str
    rank: int = 0


def main(spec: FilmSpec, pipe: Connection) -> None:
    """Entry point of the process: one film of the newest checkpoint."""

    def body(send: Send, commands: queue.SimpleQueue[Any]) -> None:
        os.nice(_LOWEST)
        import torch

        from gala.evaluation.film import film_checkpoint

        torch.set_num_threads(1)
        film_checkpoint(RunDir.open(spec.run_path), "latest", Path(spec.path), seed=_SEED)

    run_child(pipe, body)


def check_filming(config: Config) -> None:
    """Raises ValueError, before anything starts, where films are wanted and none can be made here."""
    if config.log.video_every:
        from gala.evaluation.film import check_drawable, check_encoder

        try:
            check_encoder()
            check_drawable(config)
        except ValueError as error:
            raise ValueError(f"log.video_every={config.log.video_every}: {error}") from None


class Filming:
    """Starts a film when one is due. ``message`` is told, once, that they fail; then no more are made."""

    def __init__(self, config: Config, run_dir: RunDir, message: Callable[[str], None]) -> None:
        self._every, self._run_dir, self._message = config.log.video_every, run_dir, message
        self._due = -1  # env_steps of the checkpoint that is to be filmed
        self._next = 0
        self._fleet: ProcessFleet | None = None

    def on_checkpoint(self) -> None:
        """There is a new one. Learners stand still meanwhile: nothing is started yet."""
        if self._every:
            steps = int(self._run_dir.checkpoint_meta("latest")["env_steps"])
            if steps >= self._next:
                self._due = steps

    def advance(self) -> None:
        """Hear the film that is being made; start the one that is due."""
        if self._fleet is not None:
            self._hear(0.0)
        if self._fleet is None and self._due >= 0 and self._every:
            folder = self._run_dir.path / FOLDER
            folder.mkdir(exist_ok=True)
            self._fleet = ProcessFleet(main)
            self._fleet.spawn(FilmSpec(str(self._run_dir.path), str(folder / f"step{self._due}.mp4")))
            self._next, self._due = (self._due // self._every + 1) * self._every, -1

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Make the film that is due, the last policy's, and end; what takes longer is given up. Without patience none
        is begun. May be called twice."""
        deadline = time.monotonic() + patience_s
        if patience_s > 0:
            self.advance()
        if self._fleet is not None and patience_s > 0:
            self._message("a film of the last policy is being made")
        while self._fleet is not None and (left := deadline - time.monotonic()) > 0:
            self._hear(left)
            self.advance()
        if self._fleet is not None:
            self._end()
            if patience_s > 0:
                self._message(f"it took longer than {patience_s:.0f} s: there is no film of the last policy")
        self._every = 0

    def _hear(self, timeout_s: float) -> None:
        assert self._fleet is not None
        for event in self._fleet.events(timeout_s):
            if event.kind == "error":
                why = event.body.traceback.strip().splitlines()[-1]
                self._message(f"warning: no film could be made, and no more are tried: {why}")
                self._every = 0
            elif event.kind == "died":
                self._end()
                return

    def _end(self) -> None:
        if self._fleet is not None:
            self._fleet.kill()
            self._fleet = None
