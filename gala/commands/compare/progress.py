"""How far a grid of trainings has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from gala.experiments.grid import Grid
from gala.experiments.jobs import Job, TrainingJob
from gala.processes.output import is_terminal
from gala.runs.units import clock, short

WIDTH = 80
LINE_S = 600.0
"""Seconds between lines of progress in a log, where a terminal has one line that changes."""


class Progress:
    """One line on a terminal; in a log, what has ended, and a line every ten minutes."""

    def __init__(self, grid: Grid) -> None:
        done = grid.done()
        self._jobs = {cell.name: grid.training(cell) for cell in grid.cells if cell.name not in done}
        self._wanted = {cell.name: cell.config.steps for cell in grid.cells}
        self._total, self._in_place = len(grid.cells), is_terminal(sys.stdout)
        self._steps = {name: min(job.env_steps(), self._wanted[name]) for name, job in self._jobs.items()}
        self._ended, self._started, self._from = self._total - len(self._jobs), time.monotonic(), self._sum()
        self._next_line, self._trained = self._started + LINE_S, set[str]()

    def _sum(self) -> int:
        return sum(self._steps.values())

    def say(self, text: str) -> None:
        """A line that stays: something has ended."""
        self._ended += 1
        self._write(f"{self._ended:>3}/{self._total} {text}", stays=True)

    def tick(self, running: Sequence[Job]) -> None:
        trained = {job.name for job in running if isinstance(job, TrainingJob)}
        for name in trained | self._trained:  # of those that have ended since: their last records
            self._steps[name] = min(self._jobs[name].env_steps(), self._wanted[name])
        self._trained = trained
        now = time.monotonic()
        if self._in_place or now >= self._next_line:
            self._next_line = now + LINE_S
            self._write(self.line(running, now - self._started), stays=not self._in_place)

    def line(self, running: Sequence[Job], elapsed_s: float) -> str:
        """At most 80 columns."""
        wanted, steps = sum(self._wanted[name] for name in self._jobs), self._sum()
        rate = (steps - self._from) / elapsed_s if elapsed_s > 0 else 0.0
        eta = clock((wanted - steps) / rate if rate > 0 else None)
        names = ", ".join(job.name for job in running)
        text = f"{self._ended}/{self._total} done, {short(steps)}/{short(wanted)} env_steps, ETA {eta}: {names}"
        return text if len(text) < WIDTH else text[: WIDTH - 4] + "..."

    def _write(self, text: str, *, stays: bool) -> None:
        if self._in_place:
            print(f"\r\x1b[K{text}", end="\n" if stays else "", flush=True)
        elif stays:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the line that changes."""
        if self._in_place:
            print("\r\x1b[K", end="", flush=True)
