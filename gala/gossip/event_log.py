"""The events of one learner, collected for the certificate."""

from __future__ import annotations

import json
from pathlib import Path

from gala.gossip.averager import GossipAverager
from gala.gossip.evidence.events import MixEvent


class EventLog:
    """Collects the events of one learner, which costs three passes over the parameters per exchange."""

    def __init__(self, averager: GossipAverager) -> None:
        self._averager, self._events = averager, list[MixEvent]()
        self._name = ""
        averager.on_event = self._events.append

    def mark(self, number: int) -> None:
        """The parameters of this moment are published under ``number``."""
        self._averager.mark(number)

    def flush(self, folder: Path) -> list[tuple]:
        """What has happened since the last call, as plain tuples; it is also appended to a file in ``folder``, one JSON
        list per event, named after the rank and the update at which this process began."""
        events = [tuple(event) for event in self._events]
        self._events.clear()
        if not self._name:
            first = self._averager.updates - sum(event[0] == "update" for event in events)
            self._name = f"learner{self._averager.rank}-from{max(first, 0)}.jsonl"
        folder.mkdir(exist_ok=True)
        with (folder / self._name).open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)
        return events
