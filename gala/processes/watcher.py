"""A process that ends the children of another one when that is gone, whatever state they are in.

Children listen for the end of their parent themselves, in a thread. One that is stopped, or in C code that holds the
interpreter's lock, cannot. The kernel's parent-death signal would reach it, but not the simulators that it has started.
This file is run by itself, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

_GRACE_S = 3.0


def kill_group(pid: int) -> None:
    """End the process group that ``pid`` leads, and ``pid`` if it leads none yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
            return


class Watcher:
    """The parent's side: ``watch`` and ``release`` say which groups are to end with this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def watch(self, pid: int) -> None:
        self._say(f"+{pid}")

    def release(self, pid: int) -> None:
        self._say(f"-{pid}")

    def close(self) -> None:
        """All that is still watched ends now. May be called twice."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.send_signal(signal.SIGCONT)  # one that is stopped would not read that
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it was killed: the children's own ears are left
            print(line, file=self._process.stdin, flush=True)


def main() -> None:
    """Reads +PID and -PID until there is no more to read, which is when the parent has ended."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for pid in groups:
        kill_group(pid)


if __name__ == "__main__":
    main()
