"""The user's callbacks of a run: called in the user's own thread, while another one supervises the learners.

So nothing waits for a callback, however long it takes: learners are heard and told, records are written and checkpoints
are taken meanwhile. What it has not been told yet waits in a queue, in order and complete.
"""

from __future__ import annotations

import copy
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
OnRecord = Callable[[dict[str, Any]], object]
OnCheckpoint = Callable[[Path], object]


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
        self.end_wanted = ""

    def on_record(self, record: dict[str, Any]) -> None:
        """A line of metrics.jsonl; the function gets a copy."""
        if self._on_record is not None:
            self._queue.put(("on_record", self._on_record, copy.deepcopy(record)))

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint that is complete, by its most lasting name."""
        if self._on_checkpoint is not None:
            self._queue.put(("on_checkpoint", self._on_checkpoint, path))

    def call_beside(self, supervise: Callable[[], T]) -> T:
        """``supervise()``, in a thread of its own if there are callbacks, which are called here until all were told.

        Returns and raises what ``supervise`` does; what a callback raises is kept for ``raise_error``.
        """
        if self._on_record is None and self._on_checkpoint is None:
            return supervise()
        with ThreadPoolExecutor(1, thread_name_prefix="gala supervisor") as threads:
            result = threads.submit(supervise)
            result.add_done_callback(lambda _: self._queue.put(None))
            while (told := self._queue.get()) is not None:
                self._call(*told)
            return result.result()

    def raise_error(self) -> None:
        """Raise what a callback has raised, with its own traceback."""
        if self._error is not None:
            raise self._error

    def _call(self, name: str, function: Callable[[Any], object], argument: Any) -> None:
        if self._error is not None or name in self._done:
            return
        try:
            answer = function(argument)
        except Exception as error:
            self._error = error
            self.end_wanted = f"{name} has raised {type(error).__name__}"
        else:
            if isinstance(answer, bool | np.bool_) and not answer:
                self._done.add(name)
                self.end_wanted = f"{name} has returned False"
