"""Memory that processes share and that cannot be left behind."""

from __future__ import annotations

import os
import sys
import tempfile


def anonymous_memory(name: str, size: int) -> tuple[int, str]:
    """``size`` zero bytes without a name in the file system: (descriptor, path by which other processes open it).

    The path is good while the caller keeps the descriptor. Where there is no memfd it is a temporary file, which the
    caller removes.
    """
    if sys.platform == "linux":
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        path = f"/proc/{os.getpid()}/fd/{fd}"
    else:
        fd, path = tempfile.mkstemp(prefix=f"{name}-")
    os.ftruncate(fd, size)
    return fd, path
