"""JSON lines that a benchmark adds to one by one: a run that was cut off goes on from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gala.bench.machine import machine_facts

Row = dict[str, Any]


class KeptRows:
    """The rows of ``path`` that have all of ``keys``, which tell them apart."""

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self._keys = path, keys
        known = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        self.rows: list[Row] = [row for row in known if all(key in row for key in keys)]

    def lacks(self, *values: Any) -> bool:
        """Whether no row has these values of ``keys``."""
        return all([row[key] for key in self._keys] != list(values) for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep it on disk too, and print what is no list."""
        self.rows.append(row)
        print({key: value for key, value in row.items() if not isinstance(value, list)}, flush=True)
        self._write(self.rows)

    def add_new(self, rows: Iterable[Row]) -> None:
        """``add`` those whose values of ``keys`` no row has."""
        for row in rows:
            if self.lacks(*(row[key] for key in self._keys)):
                self.add(row)

    def conclude(self, findings: Iterable[Row]) -> None:
        """The findings after the rows, and the machine; printed."""
        found = list(findings)
        for finding in found:
            print(finding)
        self._write([*self.rows, *found, {"machine": machine_facts()}])

    def _write(self, rows: Iterable[Row]) -> None:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
