"""Lines for a file that grows, also where the disk is full for a while."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gala.files.whole import append_whole


class PendingLines:
    """What cannot be written is kept, and written with what comes next."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._lines = list(lines)

    def add(self, line: str) -> None:
        """``line`` without its end."""
        self._lines.append(line)

    def write(self, path: Path) -> str:
        """Append all of them to ``path``, or none; says in words why not, or nothing."""
        try:
            path.parent.mkdir(exist_ok=True)
            append_whole(path, "".join(f"{line}\n" for line in self._lines).encode())
        except OSError as error:
            return f"{path} cannot be written: {error.strerror}"
        self._lines.clear()
        return ""
