"""Files that hold the old bytes or the new ones, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path``: temporary name, fsync, rename. After a crash it holds the old bytes or the new ones; after an
    error, which is raised, the old ones, and the temporary file is gone."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise
    fsync_folder(path.parent)


def _remove(path: Path) -> None:
    """What is gone, or cannot be reached any more, needs no removing."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def append_whole(path: Path, data: bytes) -> None:
    """Append ``data`` to the file, or nothing of it. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        before, left = file.tell(), memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)
            raise


def fsync_folder(folder: Path) -> None:
    """Its names are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
