"""Memory that processes share and that cannot be left behind."""

from __future__ import annotations

import errno
import os
import sys
import tempfile

_REMEDIES = {
    errno.EFBIG: "raise the limit of the size of files, `ulimit -f unlimited`",
    errno.EMFILE: "raise the limit of open files, `ulimit -n 4096`",
}


def anonymous_memory(name: str, size: int) -> tuple[int, str]:
    """``size`` zero bytes without a name in the file system: (descriptor, path by which other processes open it).

    The path is good while the caller keeps the descriptor. Where there is no memfd it is a temporary file, which the
    caller removes.

    Raises:
        ValueError: there is no such memory, or a limit of this process forbids it; the line says which to raise.
    """
    fd, path = -1, ""
    try:
        if sys.platform == "linux":
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
        else:
            fd, path = tempfile.mkstemp(prefix=f"{name}-")
        os.ftruncate(fd, size)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if path:
            os.unlink(path)
        remedy = _REMEDIES.get(error.errno or 0, "make room")
        raise ValueError(f"{size / 2**20:.3g} MiB of memory for {name}: {error.strerror}; {remedy}") from error
    return fd, path or f"/proc/{os.getpid()}/fd/{fd}"
