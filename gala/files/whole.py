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


def cut_torn_line(path: Path) -> None:
    """Cut what follows the last newline of a file of lines: a line that a crash or a full disk has left unfinished, to
    which the next one would be glued. None may write to it meanwhile. Nothing is done where there is no file."""
    if not path.is_file():
        return
    data = path.read_bytes()
    if (whole := data.rfind(b"\n") + 1) < len(data):
        os.truncate(path, whole)


def fsync_folder(folder: Path) -> None:
    """Its names are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
