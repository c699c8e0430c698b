"""Standard output and standard error that cannot end what writes to them."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


def printable(text: str, kept: str = "") -> str:
    """``text`` with all that would end a line or move a terminal's cursor written out, but for the characters in
    ``kept``: words, files and what an environment raises are quoted in it."""
    return "".join(c if c in kept or (ord(c) >= 32 and not 127 <= ord(c) < 160) else ascii(c)[1:-1] for c in text)


class ForgivingStream:
    """A text stream that nobody may be reading: of a closed pipe, a terminal that is gone, a full disk.

    What the stream's encoding lacks becomes a question mark. After the first error it says nothing more, and its
    descriptor leads to the null device, so that nothing that writes to it later, C code and the interpreter's own last
    flush included, meets the error again.

    Args:
        stream: None, as ``sys.stdout`` is where descriptor 1 is closed, swallows everything.
        tells: the first error is raised, too, and kept as ``failure``; None if there was none.
    """

    def __init__(self, stream: Any, tells: bool = False) -> None:
        self._stream, self._broken = _Nobody() if stream is None else stream, False
        self.tells = tells
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """The length of ``text``, whatever became of it."""
        try:
            if not self._broken:
                self._write(text)
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it
            self._give_up(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            if not self._broken:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))

    def _give_up(self, error: OSError | ValueError) -> None:
        self._broken = True
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
        if self.tells and isinstance(error, OSError):
            self.failure = error
            raise error


class _Nobody:
    """A stream that is not there: no terminal, any text is fine."""

    encoding, errors, closed = "utf-8", "strict", False

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise io.UnsupportedOperation("there is no descriptor")


def is_terminal(stream: Any) -> bool:
    """Whether a person may see at once what is written to ``stream``; False of None and of one that is closed."""
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        return False


def open_standard_descriptors() -> None:
    """Descriptors 0 to 2 that are closed lead to the null device from now on: else the next files that are opened, a
    run's own among them, would get these numbers, and with them what C code and children print."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(null, True)


def tell_of_crashes(descriptor: int | None = None) -> None:
    """A crash in C code, of a simulator say, then tells where Python stood, before the process ends by its signal: on
    ``descriptor``, or on standard error."""
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # standard error may be no file
            faulthandler.enable(sys.stderr if descriptor is None else descriptor)


@contextlib.contextmanager
def forgiving_output(tells: bool = False) -> Iterator[ForgivingStream]:
    """Inside, ``sys.stdout`` and ``sys.stderr`` are ``ForgivingStream``s; yields the first, which tells of its first
    error if that is wanted. Another ``forgiving_output`` inside forgives that, too."""
    before = sys.stdout, sys.stderr
    out, err = ForgivingStream(before[0], tells), ForgivingStream(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.tells = False  # too late: something else ends already
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
