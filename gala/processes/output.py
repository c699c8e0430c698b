"""Standard output and standard error that cannot end what writes to them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class ForgivingStream:
    """A text stream that nobody may be reading: of a closed pipe, a terminal that is gone, a full disk.

    What the stream's encoding lacks becomes a question mark. After the first error it says nothing more, and its
    descriptor leads to the null device, so that nothing that writes to it later, C code and the interpreter's own last
    flush included, meets the error again.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._broken = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """The length of ``text``, whatever became of it."""
        try:
            if not self._broken:
                self._write(text)
        except (OSError, ValueError):  # ValueError: somebody has closed it
            self._give_up()
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            if not self._broken:
                self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))

    def _give_up(self) -> None:
        self._broken = True
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


@contextlib.contextmanager
def forgiving_output() -> Iterator[None]:
    """Inside, ``sys.stdout`` and ``sys.stderr`` are ``ForgivingStream``s."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (None if stream is None else ForgivingStream(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
