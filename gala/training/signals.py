"""The signals that ask a training to end: Ctrl-C, and what schedulers and closed terminals send."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from gala.processes.ending import handled_by

_AT_ONCE_S = 0.5


class EndRequest:
    """What has been asked for so far: the first of ``ENDING_SIGNALS`` asks for an end in order, with a checkpoint.

    Ctrl-C after that kills, unless it comes with the first: nobody has read the message then, and a wrapper may have
    handed one key on twice. The others, repeated, change nothing: a terminal that closes may send two, and a scheduler
    sends a warning first.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first one that came."""
        self.kill = False
        self._heard_s = 0.0

    @property
    def message(self) -> str:
        name = "Ctrl-C" if self.signal == signal.SIGINT else self.signal.name if self.signal else ""
        return f"{name}: saving a checkpoint; {'once more' if name == 'Ctrl-C' else 'Ctrl-C'} to kill"

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Inside, the signals are heard; a Ctrl-C that kills raises KeyboardInterrupt.

        Signals are the main thread's: in a training that another thread has started, they are that one's.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with handled_by(self._on_signal):
            yield

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._heard_s = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() > self._heard_s + _AT_ONCE_S:
            self.kill = True
            raise KeyboardInterrupt
