"""What was typed to begin a run, as its directory keeps it."""

from __future__ import annotations

from pathlib import Path

COMMAND = "command.txt"


def read_command(run: Path) -> str:
    """The command of the directory ``run``, in UTF-8 whatever the locale is; empty if it keeps none."""
    path = run / COMMAND
    return path.read_text("utf-8", "replace").strip() if path.is_file() else ""
