"""A line on a terminal while a command does something long that says nothing itself."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from gala.processes.output import is_terminal
from gala.training.panel import clock

_EVERY_S, _COLUMNS = 1.0, 79
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Inside, standard error shows ``text`` and the time since the beginning, if it is a terminal; nothing stays.

    Yields a function that sets another text: how far it is.
    """
    current = [text]
    if not is_terminal(sys.stderr):
        yield lambda text: current.__setitem__(0, text)
        return
    done, started = threading.Event(), time.monotonic()

    def show() -> None:
        while not done.wait(_EVERY_S):
            line = f"{current[0]} ({clock(time.monotonic() - started)})"
            print(f"{_CLEAR}{line[:_COLUMNS]}", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield lambda text: current.__setitem__(0, text)
    finally:
        done.set()
        thread.join()
        print(_CLEAR, end="", file=sys.stderr, flush=True)
