"""JSON lines that a benchmark adds to one by one: a run that was cut off goes on from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gala.bench.machine import machine_facts
from gala.files.whole import write_atomically

Row = dict[str, Any]


class KeptRows:
    """The rows of ``path`` that have all of ``keys``, which tell them apart. Others may add to the file meanwhile."""

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self._keys = path, keys
        self.rows = self._read()

    def lacks(self, *values: Any) -> bool:
        """Whether no row has these values of ``keys``."""
        return all([row[key] for key in self._keys] != list(values) for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep it on disk too, and print what is no list."""
        self.rows.append(row)
        print({key: value for key, value in row.items() if not isinstance(value, list)}, flush=True)
        self._write(())

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
        self._write([*found, {"machine": machine_facts()}])

    def _read(self) -> list[Row]:
        known = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []
        return [row for row in known if all(key in row for key in self._keys)]

    def _write(self, after: Iterable[Row]) -> None:
        """What another process has written since is kept, its rows after ours."""
        self.rows += [row for row in self._read() if self.lacks(*(row[key] for key in self._keys))]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in [*self.rows, *after]).encode())
