"""metrics.jsonl: a record a line, kept within bounds however long the run is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gala.files.plain_yaml import parse_json
from gala.files.whole import append_whole, write_atomically
from gala.runs import thinning


class MetricsFile:
    """One process appends; any may read, also while older records are thinned out, which replaces the file.

    ``most``: with so many records, half are kept (``gala.runs.thinning.kept``); 0 keeps all.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self._unwritten: list[str] = []
        self._count: int | None = None  # records in the file; None: not counted yet

    def append(self, record: dict[str, Any]) -> None:
        """Raises OSError where it cannot be written; it is then kept, and written with the next."""
        self._unwritten.append(json.dumps(record, allow_nan=False) + "\n")
        append_whole(self.path, "".join(self._unwritten).encode())
        self._count = len(self.read()) if self._count is None else self._count + len(self._unwritten)
        self._unwritten.clear()
        if 0 < self.most <= self._count:
            records = self.read()
            chosen = thinning.kept([record["global_step"] for record in records], self.most // 2)
            self.replace([records[i] for i in chosen])

    def read(self) -> list[dict[str, Any]]:
        """All records. A line that is none, because a kill cut it short or the disk lost it, is left out."""
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else ()
        return [record for line in lines if (record := record_of(line)) is not None]

    def replace(self, records: Sequence[dict[str, Any]]) -> None:
        """These records in place of all that there are, at once."""
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in records).encode())
        self._count = len(records)


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record in a line of metrics.jsonl; None of a line that is none."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("global_step"), int) else None
