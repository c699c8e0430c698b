"""A grid of trainings on disk: algorithms x seeds, each trained, judged and kept as a row; cut off, it goes on.

OUT/results.jsonl  OUT/runs/NAME/  OUT/judged/NAME.json  OUT/power/NAME.json
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gala.config.schema import Config
from gala.experiments.jobs import Job, TrainingJob, run_all, why
from gala.experiments.judging import JudgingJob
from gala.experiments.rows import (
    ROWS,
    Row,
    differing,
    finished,
    make_failed_row,
    make_row,
    read_rows,
    settings_of,
    write_rows,
)
from gala.files.whole import write_atomically
from gala.runs.run_dir import RunDir


@dataclass(frozen=True)
class Cell:
    """One training of the grid: its settings, as words and resolved."""

    group: str
    seed: int
    words: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        return f"{self.group}-s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """How the trainings are run and judged."""

    out: Path
    episodes: int
    mode: str
    at_once: int
    cores_each: int
    facts: Mapping[str, Any]
    """What the rows say of the machine."""
    read_joules: Callable[[], float | None] = lambda: None
    """Counters of the whole machine, of which only differences mean something; None where there are none."""

    @property
    def results(self) -> Path:
        return self.out / ROWS

    def rows(self) -> list[Row]:
        return read_rows(self.results) if self.results.is_file() else []


class Grid:
    """The cells, and what of them is done."""

    def __init__(self, cells: Sequence[Cell], plan: Plan) -> None:
        self.cells, self.plan = cells, plan

    def check(self) -> None:
        """Raises ValueError if ``out`` holds trainings of other settings under the names of these."""
        known, done = {row["name"]: row for row in self.plan.rows()}, self.done()
        for cell in self.cells:
            mine, job = settings_of(cell.config), self.training(cell)
            there = [known[cell.name]["settings"]] if cell.name in known else []
            if cell.name not in done and (job.run / "config.yaml").is_file():  # it may be resumed, with what it names
                there.append(settings_of(RunDir.open(job.run).config))
            for found in there:
                if odds := differing(found, mine):
                    told = f"{cell.name} with {odds[0]}={found.get(odds[0])}, not {mine.get(odds[0])}"
                    raise ValueError(f"{self.plan.out} holds {told}; choose another out=DIRECTORY")

    def training(self, cell: Cell) -> TrainingJob:
        return TrainingJob(self.plan.out / "runs" / cell.name, (*cell.words, f"seed={cell.seed}"))

    def judging(self, cell: Cell) -> JudgingJob:
        run = self.training(cell).run
        return JudgingJob(run, self.plan.out / "judged" / f"{cell.name}.json", self.plan.episodes, self.plan.mode)

    def done(self) -> set[str]:
        """Names of the cells that have a row, judged as this plan wants it."""
        wanted = [self.plan.episodes, self.plan.mode]
        return {row["name"] for row in self.plan.rows() if row.get("judged") == wanted}

    def rows(self) -> list[Row]:
        """Those of the cells, in their order; of what has failed too."""
        known = {row["name"]: row for row in self.plan.rows()}
        return [known[cell.name] for cell in self.cells if cell.name in known]

    def run(self, say: Callable[[str], None], tick: Callable[[Sequence[Job]], None]) -> dict[str, str]:
        """Trains and judges what is not done; seed by seed, so that a grid that is cut off has whole seeds.

        One that fails has a row that says so, and the others go on. What has failed before is tried again, last: one
        that diverges will do so again.

        Returns name -> reason of what has failed.
        """
        for folder in ("runs", "judged"):
            (self.plan.out / folder).mkdir(parents=True, exist_ok=True)
        by_name = {cell.name: cell for cell in self.cells}
        done, meter = self.done(), PowerMeter(self.plan.out / "power", self.plan.read_joules)
        failures: dict[str, str] = {}

        def ended(job: Job, seconds: float) -> None:
            if isinstance(job, JudgingJob):
                cell = by_name[job.run.name]
                self.keep(cell)
                say(f"{cell.name}: {self._result(cell)}")

        def failed(job: Job, message: str) -> None:
            assert isinstance(job, TrainingJob | JudgingJob)
            cell, of_judging = by_name[job.run.name], "judging: " * isinstance(job, JudgingJob)
            failures[cell.name] = of_judging + why(message)
            self.keep_failure(cell, failures[cell.name])
            say(f"{cell.name} failed, see {job.log}")

        def each_second(running: Sequence[Job]) -> None:
            meter.tick(running)
            tick(running)

        failed_before = {row["name"] for row in self.plan.rows() if "failed" in row}
        left = sorted((c for c in self.cells if c.name not in done), key=lambda cell: cell.name in failed_before)
        chains = [(self.training(cell), self.judging(cell)) for cell in left]
        run_all(chains, self.plan.at_once, ended, pinned=True, tick=each_second, failed=failed)
        return failures

    def recover(self) -> None:
        """Writes the rows of cells that were judged, and then cut off."""
        done = self.done()
        for cell in self.cells:
            if cell.name not in done and self.training(cell).finished and self.judging(cell).finished:
                self.keep(cell)

    def keep(self, cell: Cell) -> None:
        """Writes the row of a cell that is trained and judged, in the place of an older one."""
        run = RunDir.open(self.training(cell).run)
        power = PowerMeter(self.plan.out / "power", self.plan.read_joules)
        row = make_row(run, cell.group, self.judging(cell).read(), power.watts(cell.name))
        shared = {"cores_each": self.plan.cores_each, "at_once": self.plan.at_once}
        row |= {
            "parts": self.training(cell).parts(),
            "judged": [self.plan.episodes, self.plan.mode],
            "machine": {**self.plan.facts, **shared},
        }
        self._put(row)

    def keep_failure(self, cell: Cell, reason: str) -> None:
        """Writes the row of a cell that has failed; one that has been judged before, otherwise, keeps its row."""
        if cell.name not in {row["name"] for row in finished(self.plan.rows())}:
            self._put(make_failed_row(self.training(cell).run, cell.config, cell.group, reason))

    def _put(self, row: Row) -> None:
        write_rows(self.plan.results, [*(r for r in self.plan.rows() if r["name"] != row["name"]), row])

    def _result(self, cell: Cell) -> str:
        row = next(row for row in self.plan.rows() if row["name"] == cell.name)
        scores = ", ".join(f"{mode} {score:.2f}" for mode, score in row["evaluation"]["score"].items())
        took = "" if row["seconds"] is None else f" in {row['seconds']:,.0f} s"  # its records may be gone
        return f"{scores}; {row['env_steps']:,} env_steps{took}"


class PowerMeter:
    """The mean power of the machine while one training had it alone, in watts; kept on disk, so that a training that
    was cut off is measured in both of its parts."""

    def __init__(self, folder: Path, read_joules: Callable[[], float | None]) -> None:
        self._folder, self._read = folder, read_joules
        self._last: tuple[Job, float, float] | None = None

    def tick(self, running: Sequence[Job]) -> None:
        """Call about once a second; counters of processors start over after some minutes."""
        joules, now = self._read(), time.monotonic()
        alone = running[0] if len(running) == 1 and isinstance(running[0], TrainingJob) else None
        if joules is None or alone is None:
            self._last = None
            return
        if self._last is not None and self._last[0] == alone:
            spent, seconds = self._sums(alone.name)
            sums = {"joules": spent + joules - self._last[1], "seconds": seconds + now - self._last[2]}
            self._folder.mkdir(exist_ok=True)
            write_atomically(self._folder / f"{alone.name}.json", json.dumps(sums).encode())
        self._last = alone, joules, now

    def watts(self, name: str) -> float | None:
        """None where nothing was measured."""
        joules, seconds = self._sums(name)
        return joules / seconds if seconds else None

    def _sums(self, name: str) -> tuple[float, float]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            sums = json.loads((self._folder / f"{name}.json").read_text())
            return float(sums["joules"]), float(sums["seconds"])
        return 0.0, 0.0
