"""A run as it grows, read from outside: new records of metrics.jsonl, and whether it still trains. Never writes."""

from __future__ import annotations

import os
from typing import Any, Literal

from gala.runs.lock import is_held
from gala.runs.metrics_file import record_of
from gala.runs.run_dir import RunDir

State = Literal["training", "ended", "gone", "elsewhere"]
"""ended: it has closed with a summary. gone: its process has not, and is no more. elsewhere: on another machine, where
nobody here can look."""


_CLOSING = {"status", "env_steps", "frames", "updates", "wall_s", "env_steps_per_s", "return_mean", "learners"}


class Follower:
    """Reads each record once, as it is completed; from the start again where the file was replaced, as ``gala resume``
    does when it drops what was newer than its checkpoint."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._path = run_dir.path / "metrics.jsonl"
        self._file = (0, 0)
        self._offset = 0

    def new_records(self) -> list[dict[str, Any]]:
        """The records since the last call, in their order. A line that is not whole yet waits for its end."""
        try:
            with self._path.open("rb") as file:
                data = self._read(file)
        except OSError:
            return []
        whole, _, _ = data.rpartition(b"\n")
        self._offset += len(whole) + 1 if whole or data.startswith(b"\n") else 0
        return [record for line in whole.split(b"\n") if (record := record_of(line)) is not None]

    def _read(self, file: Any) -> bytes:
        now = os.fstat(file.fileno())
        if (now.st_dev, now.st_ino) != self._file or now.st_size < self._offset:
            self._file, self._offset = (now.st_dev, now.st_ino), 0
        file.seek(self._offset)
        data: bytes = file.read()
        return data

    def state(self) -> State:
        """Where the run stands now."""
        held = is_held(self.run_dir.path)
        if held:
            return "training"
        if self.summary() is not None and (held is False or self._summary_is_last()):
            return "ended"
        return "gone" if held is False else "elsewhere"

    def _summary_is_last(self) -> bool:
        """Whether nothing was logged after the summary: a resume by version 0.1.0 left that of the first part."""
        try:
            return (self.run_dir.path / "summary.json").stat().st_mtime >= self._path.stat().st_mtime
        except OSError:
            return True

    def summary(self) -> dict[str, Any] | None:
        """What the run has closed with; None before, and of a file that is no summary."""
        try:
            summary = self.run_dir.read_summary()
        except ValueError:
            return None
        return summary if summary.keys() >= _CLOSING else None
