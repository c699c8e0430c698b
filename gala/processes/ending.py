"""Signals that ask a program to end: who handles them, and the first as an exception that unwinds what was begun."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from gala.processes.start import ENDING_SIGNALS


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, ``ENDING_SIGNALS`` are the handler's; one that is ignored stays so (``nohup``), but for Ctrl-C."""
    heard = [s for s in ENDING_SIGNALS if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


class Ended(Exception):
    """A signal has asked for an end in order."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Inside, the first of ``ENDING_SIGNALS`` raises ``Ended``; Ctrl-C after it raises KeyboardInterrupt, to kill."""
    came: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise Ended(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt

    with handled_by(hear):
        yield
