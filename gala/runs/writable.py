"""Can results be written where they are to go? Asked before the work, which may take hours."""

from __future__ import annotations

import tempfile
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make ``folder``, if it is not there, and try it. Raises ValueError, in one line: nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: nothing can be written there ({error.strerror}); name another folder") from None
