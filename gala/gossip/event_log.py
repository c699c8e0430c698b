"""The events of one learner, collected for the certificate."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from gala.gossip.averager import GossipAverager
from gala.gossip.evidence.events import MixEvent
from gala.gossip.pending_lines import PendingLines


class EventLog:
    """Collects the events of one learner, which costs three passes over the parameters per exchange."""

    def __init__(self, averager: GossipAverager, folder: Path | None) -> None:
        """``folder``: for a file of them, or None."""
        self._averager, self._events = averager, list[MixEvent]()
        self._folder, self._lines = folder, PendingLines()
        self._first_update: int | None = None
        self._path: Path | None = None
        averager.on_event = self._hear

    def mark(self, number: int) -> None:
        """The parameters of this moment are published under ``number``."""
        if self._first_update is None:
            self._first_update = self._averager.updates
        self._averager.mark(number)

    def _hear(self, event: MixEvent) -> None:
        if self._first_update is None:  # the first exchange is that of the last of ``every`` updates
            self._first_update = max(self._averager.updates - self._averager.every, 0)
        self._events.append(event)

    def take(self) -> list[tuple]:
        """What has happened since the last call, as plain tuples."""
        events = [tuple(event) for event in self._events]
        self._events.clear()
        if self._folder is not None:
            for event in events:
                self._lines.add(json.dumps(event))
            self.write()
        return events

    def write(self) -> str:
        """Append what was taken to a file in the folder, if there is one; says in words why it cannot now, or nothing.

        It holds one JSON list per event, and is named after the rank and the updates that were done when this process
        began; where an earlier process began there too, and was killed before the next checkpoint, the name has the
        number of this part."""
        if self._folder is None:
            return ""
        if self._path is None:
            name = f"learner{self._averager.rank}-from{self._first_update or 0}"
            part = next(i for i in itertools.count(1) if not (self._folder / _file(name, i)).exists())
            self._path = self._folder / _file(name, part)
        return self._lines.write(self._path)


def _file(name: str, part: int) -> str:
    return f"{name}.jsonl" if part == 1 else f"{name}-part{part}.jsonl"
