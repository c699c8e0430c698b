"""One writer at a time for a run directory: a lock that the kernel releases when its holder ends, however it does."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import time
from pathlib import Path
from typing import IO

LOCK = ".lock"
_HOLDER = re.compile(r"process (\d+) on (.+) since ")
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def lock(folder: Path) -> IO[str]:
    """Lock ``folder`` until the returned file is closed, or this process has ended.

    Raises:
        ValueError: another process writes there; or nothing can be written there.
    """
    try:
        file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644), "r+")
    except OSError as error:
        raise ValueError(f"{folder}: nothing can be written there ({error.strerror}); copy it elsewhere") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read().strip() or "another process"
        file.close()
        raise ValueError(f"{folder} is written to by {holder}; end that one first") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # where there are no locks, one trains without
            file.close()
            raise ValueError(f"{folder}: it cannot be locked ({error.strerror})") from None
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
    except OSError as error:
        file.close()
        raise ValueError(f"{folder}: nothing can be written there ({error.strerror}); make room first") from None
    return file


def is_held(folder: Path) -> bool | None:
    """Whether a process trains in ``folder``, told without touching the lock, which would be in the way of one that is
    about to; None where it cannot be told: the last that trained there did so on another machine."""
    try:
        told = _HOLDER.match((folder / LOCK).read_text())
    except (OSError, ValueError):
        return False
    if told is None:
        return False
    if told[2] != platform.node():
        return None
    return _has_open(int(told[1]), folder / LOCK)


def _has_open(pid: int, path: Path) -> bool:
    """Whether that process lives and has the file open: another may have its number by now."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        open_files = [os.stat(entry) for entry in descriptors.iterdir() if os.path.exists(entry)]
        wanted = path.stat()
    except OSError:  # no such folder on this system, or none that may be read
        return True
    return any((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) for found in open_files)
