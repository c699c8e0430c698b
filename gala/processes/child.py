"""The shell of a child process: it listens to its parent, says how it failed, and outlives neither."""

from __future__ import annotations

import functools
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

from gala.processes.frames import write_frame
from gala.processes.output import ForgivingStream, tell_of_crashes
from gala.processes.start import forget_safe_path

TRACEBACK = "GALA_TRACEBACK"
"""Set in the environment, children tell where each error came from: `--traceback` of the command line."""
Send = Callable[[tuple[str, Any]], None]
"""Tells the parent (kind, body): one ``gala.processes.fleet.Event``."""


class Exit(Exception):
    """The parent has told this child to end."""


class Failure(NamedTuple):
    """The body of the event ``error``."""

    time_ns: int
    """``time.monotonic_ns``: of several children that fail, the first one is the cause."""
    traceback: str
    """Or the text alone of an exception whose ``says_all`` says that it is all that a user needs."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """``error``, which was caught just now. With ``TRACEBACK`` in the environment, always in full."""
        whole = os.environ.get(TRACEBACK) or not getattr(error, "says_all", False)
        return cls(time.monotonic_ns(), "".join(traceback.format_exception(error)) if whole else str(error))


def enter_child(target: Callable[[Any, Connection], None], spec: Any, pipe: Connection, crash_pipe: Connection) -> None:
    """Run ``target(spec, pipe)``, which calls ``run_child``; a crash in C code tells ``crash_pipe`` about it."""
    os.set_blocking(crash_pipe.fileno(), False)  # who crashes waits for no reader
    tell_of_crashes(crash_pipe.fileno())
    target(spec, pipe)


def run_child(pipe: Connection, body: Callable[[Send, queue.SimpleQueue[Any]], None]) -> NoReturn:
    """Run ``body(send, commands)`` and end this process: status 0, or 1 after an exception, which the parent is sent.

    ``commands`` holds what the parent has told, in order; ``Exit`` raised by ``body`` is an orderly end. The child
    leads a process group of its own, so that the parent can end it with all that it has started, and so that it ends
    itself with all of that when the parent is gone.
    """
    os.setpgid(0, 0)
    forget_safe_path()
    sys.stdout, sys.stderr = (ForgivingStream(stream) for stream in (sys.stdout, sys.stderr))
    commands: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, commands), daemon=True).start()
    status = 0
    send = functools.partial(write_frame, pipe)
    try:
        body(send, commands)
    except Exit:
        pass
    except BaseException as error:
        send(("error", Failure.of(error)))
        status = 1
    # Simulator and communication threads may be stuck in C++: a plain return would wait for them.
    os._exit(status)


def _listen(pipe: Connection, commands: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            commands.put(pipe.recv())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)  # the parent is gone: leave no orphan, not even a simulator's process
