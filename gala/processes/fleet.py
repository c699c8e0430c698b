"""The child processes of one machine: starts them, hears them, tells them, and ends them with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

from gala.processes.addresses import LOOPBACK
from gala.processes.child import enter_child
from gala.processes.frames import FrameReader
from gala.processes.start import (
    ending_signals_blocked,
    kill_forkserver,
    start_method,
    wake_helpers,
    without_main,
)
from gala.processes.watcher import Watcher, kill_group

_GRACE_S = 3.0


class ChildSpec(Protocol):
    """Everything that a child is told when it starts."""

    @property
    def rank(self) -> int: ...


class Event(NamedTuple):
    """Something that a child said, or its end."""

    rank: int
    kind: str
    """What the child sends, ``error`` with a ``Failure``, or ``died``, after which no more comes from it."""
    body: Any = None
    """died: how, in words that follow "learner 2 ..."."""


class Fleet(Protocol):
    """Where children run. One implementation is here, for the processes of one machine."""

    host: str
    """The parent's address, as children reach it."""

    def spawn(self, spec: Any) -> None:
        """Start a child; its rank must be free."""
        ...

    def room(self) -> int | None:
        """How many more children can start at once; None where nothing limits them."""
        ...

    def events(self, timeout_s: float) -> list[Event]:
        """What has happened, in order for each child; waits up to ``timeout_s`` for something."""
        ...

    def tell(self, rank: int, command: Any) -> None:
        """Send a command; nothing happens if the child is gone."""
        ...

    def end(self, rank: int) -> None:
        """Kill one child, with all that it has started; its death is then an event like any other."""
        ...

    def join(self, timeout_s: float) -> None:
        """Wait until all have ended, or the time is over."""
        ...

    def kill(self) -> None:
        """No child survives this, and no process that a child has started."""
        ...


class ProcessFleet:
    """Processes that run ``target(spec, pipe)``, which calls ``run_child``: each leads a process group.

    Args:
        target: a function of a module; that module is imported once for all children.
    """

    def __init__(self, target: Callable[[Any, Connection], None]) -> None:
        self.host = LOOPBACK
        self._target = target
        self._context: Any = start_method(target.__module__)
        with ending_signals_blocked():
            self._watcher = Watcher()
        self._processes: dict[int, BaseProcess] = {}
        self._pipes: dict[int, Connection] = {}
        self._readers: dict[int, FrameReader] = {}
        self._last_words: dict[int, Connection] = {}
        self._crash_told = False

    def room(self) -> int | None:
        return None

    def spawn(self, spec: ChildSpec) -> None:
        ours, theirs = self._context.Pipe()
        last_words, crash_pipe = self._context.Pipe(duplex=False)
        args = self._target, spec, theirs, crash_pipe
        process = self._context.Process(target=enter_child, args=args, name=f"gala learner {spec.rank}")
        wake_helpers()
        with ending_signals_blocked(), without_main():
            process.start()
        theirs.close()
        crash_pipe.close()
        assert process.pid is not None
        self._watcher.watch(process.pid)
        self._processes[spec.rank], self._pipes[spec.rank], self._last_words[spec.rank] = process, ours, last_words
        self._readers[spec.rank] = FrameReader(ours)

    def events(self, timeout_s: float) -> list[Event]:
        ends = time.monotonic() + timeout_s
        while not (events := self._hear(max(ends - time.monotonic(), 0.0))) and time.monotonic() < ends:
            pass  # a part of a message has come
        return events

    def _hear(self, timeout_s: float) -> list[Event]:
        pipes, processes = dict(self._pipes), dict(self._processes)
        ready = wait([*pipes.values(), *(p.sentinel for p in processes.values())], timeout=timeout_s)
        events: list[Event] = []
        for rank, pipe in pipes.items():
            ended = processes[rank].sentinel in ready
            if pipe in ready or ended:  # its last words, if it had any, say more than its exit code
                said, open_ = self._readers[rank].read()
                events += [Event(rank, kind, body) for kind, body in said]
                if ended or not open_:
                    events.append(Event(rank, "died", self._bury(rank)))
        return events

    def tell(self, rank: int, command: Any) -> None:
        with contextlib.suppress(BrokenPipeError, KeyError):  # its end is noticed by its sentinel
            self._pipes[rank].send(command)

    def end(self, rank: int) -> None:
        if rank in self._processes:
            _kill_group(self._processes[rank])

    def pids(self) -> list[int]:
        """The children that live; each leads a process group."""
        return [process.pid for process in self._processes.values() if process.pid is not None]

    def join(self, timeout_s: float) -> None:
        wake_helpers()
        left = [process.sentinel for process in self._processes.values()]
        while left and (ended := wait(left, timeout=timeout_s)):
            left = [sentinel for sentinel in left if sentinel not in ended]

    def kill(self) -> None:
        for process in self._processes.values():
            _kill_group(process)
        wake_helpers()
        ends = time.monotonic() + _GRACE_S
        for process in self._processes.values():
            process.join(max(ends - time.monotonic(), 0.0))
        if any(process.exitcode is None for process in self._processes.values()):
            kill_forkserver()  # otherwise the end of this program would wait for them
        self._watcher.close()

    def _bury(self, rank: int) -> str:
        process = self._processes.pop(rank)
        self._pipes.pop(rank).close()
        self._readers.pop(rank).close()
        wake_helpers()  # the forkserver tells of its exit status
        process.join(_GRACE_S)  # its pipe closes a moment before that is there
        _kill_group(process)  # simulators that it has left behind
        assert process.pid is not None
        self._watcher.release(process.pid)
        self._tell_first_crash(self._last_words.pop(rank))
        code = process.exitcode
        return f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with {code}"

    def _tell_first_crash(self, last_words: Connection) -> None:
        """Where Python stood in the first child that crashed in C code; those of several, each told by itself, would be
        mixed letter by letter."""
        text = b""
        with last_words, contextlib.suppress(OSError):
            while last_words.poll() and (part := os.read(last_words.fileno(), 1 << 16)):
                text += part
        if text and not self._crash_told and sys.stderr is not None:
            self._crash_told = True
            sys.stderr.write(text.decode(errors="replace"))
            sys.stderr.flush()


def _kill_group(process: BaseProcess) -> None:
    assert process.pid is not None
    kill_group(process.pid)
    if process.is_alive():
        process.kill()
