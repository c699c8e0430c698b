"""The user's callbacks of a run: called in the user's own thread, while another one supervises the learners.

So nothing waits for a callback, however long it takes: learners are heard and told, records are written and checkpoints
are taken meanwhile. What it has not been told yet waits in a queue, in order and complete. Once the run is closed
that has a limit: one that never returns must not keep the process for ever.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
OnRecord = Callable[[dict[str, Any]], object]
OnCheckpoint = Callable[[Path], object]

PATIENCE_S = 10.0
"""How long the callbacks may take for what is still queued once the run has ended and is closed."""
HURRIED_S = 1.0
"""The same where somebody waits for the end: long enough for those that keep up to be told the last checkpoint."""
_POLL_S = 0.1
_INTERRUPT = signal.SIGURG
"""Interrupts a callback that waits; nobody sends it else, and it does nothing where it is not expected."""


class _Abandoned(BaseException):
    """Raised in a callback whose time is over."""


class Callbacks:
    """What the supervisor tells (``on_record``, ``on_checkpoint``), and what the user's functions answer.

    A function that returns False asks for the end of the run, and so does one that raises; ``end_wanted`` then says who
    did, in words. After False that function is not called again; after an exception none is.
    """

    def __init__(self, on_record: OnRecord | None = None, on_checkpoint: OnCheckpoint | None = None) -> None:
        self._on_record, self._on_checkpoint = on_record, on_checkpoint
        self._queue: queue.SimpleQueue[tuple[str, Callable[[Any], object], Any] | None] = queue.SimpleQueue()
        self._done: set[str] = set()
        self._error: BaseException | None = None
        self._busy = ""  # the name of the function that runs
        self._time_is_over = False
        self._all_told = threading.Event()
        self.end_wanted = ""

    def on_record(self, record: dict[str, Any]) -> None:
        """A line of metrics.jsonl; the function gets a copy."""
        if self._on_record is not None:
            self._queue.put(("on_record", self._on_record, copy.deepcopy(record)))

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint that is complete, by its most lasting name."""
        if self._on_checkpoint is not None:
            self._queue.put(("on_checkpoint", self._on_checkpoint, path))

    def call_beside(self, supervise: Callable[[], T], hurried: Callable[[], object] = lambda: False) -> T:
        """``supervise()``, in a thread of its own if there are callbacks, which are called here.

        When it has returned, they have ``PATIENCE_S`` for what is still queued, ``HURRIED_S`` once ``hurried()``. Then
        a line on standard error says what was not handed to whom, and a function that still runs is interrupted; in
        another thread than the main one that cannot be done, and it is waited for.

        Returns and raises what ``supervise`` does; what a callback raises is kept for ``raise_error``.
        """
        if self._on_record is None and self._on_checkpoint is None:
            return supervise()

        def supervise_and_wait() -> T:
            try:
                return supervise()
            finally:
                self._queue.put(None)
                self._wait(hurried)

        is_main = threading.current_thread() is threading.main_thread()
        with self._interruptible(is_main), ThreadPoolExecutor(1, thread_name_prefix="gala supervisor") as threads:
            result = threads.submit(supervise_and_wait)
            try:
                while (told := self._queue.get()) is not None:
                    self._call(*told)
            except KeyboardInterrupt as error:  # a callback's own, or the one that kills the run
                self._error = self._error or error
                self.end_wanted = self.end_wanted or "KeyboardInterrupt"
            finally:
                self._all_told.set()
            return result.result()

    def raise_error(self, killed: bool = False) -> None:
        """Raise what a callback has raised, with its own traceback; no KeyboardInterrupt if that has ``killed`` the
        run."""
        if self._error is not None and not (killed and isinstance(self._error, KeyboardInterrupt)):
            raise self._error

    def _call(self, name: str, function: Callable[[Any], object], argument: Any) -> None:
        if not self._is_wanted(name):
            return
        try:
            self._busy = name
            answer = function(argument)
            self._busy = ""
        except (_Abandoned, KeyboardInterrupt) as end:
            if isinstance(end, KeyboardInterrupt):
                raise
        except BaseException as error:  # sys.exit() too: the run ends in order first
            self._error = error
            self.end_wanted = f"{name} has raised {type(error).__name__}"
        else:
            if isinstance(answer, bool | np.bool_) and not answer:
                self._done.add(name)
                self.end_wanted = f"{name} has returned False"
        finally:
            self._busy = ""

    def _is_wanted(self, name: str) -> bool:
        return self._error is None and name not in self._done

    def _wait(self, hurried: Callable[[], object]) -> None:
        """Until all were told, or the time for it is over, which ends the telling."""
        ended = time.monotonic()
        while not self._all_told.wait(_POLL_S):
            if time.monotonic() > ended + (HURRIED_S if hurried() else PATIENCE_S):
                break
        else:
            return
        busy, left = self._busy, Counter[str]()
        with contextlib.suppress(queue.Empty):
            while True:
                left.update(name for name, *_ in filter(None, [self._queue.get_nowait()]))
        self._queue.put(None)
        for name, things in (("on_record", "records"), ("on_checkpoint", "checkpoints")):
            if name == busy or (left[name] and self._is_wanted(name)):
                print(f"warning: {name} took too long; {things} not handed to it: {left[name]}", file=sys.stderr)
        self._time_is_over = True

    @contextlib.contextmanager
    def _interruptible(self, is_main: bool) -> Iterator[None]:
        """Inside, a callback whose time is over is interrupted, if this is the main thread, as signals are its."""
        if not is_main:
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._time_is_over and self._busy:
                raise _Abandoned

        def interrupt() -> None:
            main = threading.main_thread().ident
            assert main is not None
            while not self._all_told.wait(_POLL_S):  # again: it may have caught the first
                if self._time_is_over:
                    signal.pthread_kill(main, _INTERRUPT)

        previous = signal.signal(_INTERRUPT, on_signal)
        threading.Thread(target=interrupt, daemon=True, name="gala callbacks").start()
        try:
            yield
        finally:
            signal.signal(_INTERRUPT, previous if previous is not None else signal.SIG_DFL)
