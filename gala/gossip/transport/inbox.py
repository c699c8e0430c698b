"""The boxes towards one learner, in its own process: envelopes are added up as they arrive, each at most once.

A carrier that can ask the sender first (``hold``, then ``release``) lets nobody read an envelope that its sender could
still take back. One that cannot calls ``deliver`` at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gala.gossip.message import Message, updates_of


class Envelope(NamedTuple):
    """One ``put`` on its way."""

    src: int
    epoch: int
    """Which life of the sender: a rank that starts again numbers its envelopes anew."""
    number: int
    """1, 2, ... for each receiver. A envelope that is sent again keeps its number."""
    numerator: NDArray
    """float32 [d]; may be read-only on arrival, where it lies in Ray's shared memory."""
    weight: float
    sent_at: int
    replace: bool


@dataclass
class _Seen:
    """Which envelopes of one sender's life have arrived: all up to ``newest`` but those ``missing``.

    What its sender took back stays missing for good, so memory grows by one range for each of those, and not by one
    number for each envelope that comes after."""

    newest: int = 0
    missing: list[range] = field(default_factory=list)

    def has(self, number: int) -> bool:
        return number <= self.newest and not any(number in gap for gap in self.missing)

    def add(self, number: int) -> bool:
        """False if it was here before."""
        if self.has(number):
            return False
        if number > self.newest:
            late = range(self.newest + 1, number)
            self.newest = number
        else:
            place = next(k for k, gap in enumerate(self.missing) if number in gap)
            gap = self.missing.pop(place)
            late = range(gap.start, number)
            if number + 1 < gap.stop:
                self.missing.append(range(number + 1, gap.stop))
        if late:
            self.missing.append(late)
        return True


class Inbox:
    """Envelopes come from the carrier's thread, ``take`` from the learner's: one lock, held for one addition."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[int, tuple[Message, Envelope]] = {}  # the sum, and the newest envelope in it
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._newest: dict[tuple[int, int], int] = {}
        self._progress: dict[int, int] = {}
        self._held: dict[int, dict[int, Envelope]] = {}  # by sender and number
        self._barred: dict[int, int] = {}  # the last life of a sender of which nothing is taken any more
        self._refuses = self._closed = False

    def deliver(self, envelope: Envelope) -> bool:
        """False if the learner reads no more: the mass is the sender's again. True also for a envelope that was
        delivered before, and is not added twice."""
        life = (envelope.src, envelope.epoch)
        with self._lock:
            seen = self._seen.setdefault(life, _Seen())
            if self._closed or envelope.epoch <= self._barred.get(envelope.src, 0):
                return seen.has(envelope.number)
            if seen.add(envelope.number):
                overtaken = envelope.replace and envelope.number < self._newest.get(life, 0)
                self._newest[life] = max(envelope.number, self._newest.get(life, 0))
                self._progress[envelope.src] = updates_of(envelope.sent_at)
                if not overtaken:
                    self._boxes[envelope.src] = _added(self._boxes.get(envelope.src), envelope)
            return True

    def bar(self, src: int, epoch: int) -> None:
        """``src`` was declared lost, and its weight written off: what still arrives from that life, or an earlier one,
        goes back to it. Mass that is in no book would move everybody's average, for good."""
        with self._lock:
            self._barred[src] = max(epoch, self._barred.get(src, 0))

    def hold(self, envelope: Envelope) -> bool:
        """Keep one that is still its sender's. False if the learner reads no more."""
        with self._lock:
            if not self._refuses:
                self._held.setdefault(envelope.src, {})[envelope.number] = envelope
            return not self._refuses

    def release(self, src: int, number: int) -> None:
        """The sender has given up what is held under ``number``: deliver it."""
        envelope = self._held[src][number]
        self.deliver(envelope)
        with self._lock:  # only now, so that it is counted all the time
            del self._held[src][number]

    def discard(self, src: int) -> None:
        """``src`` is gone: what it had not given up was its own."""
        with self._lock:
            self._held.pop(src, None)

    def holds_any(self) -> bool:
        with self._lock:
            return any(self._held.values())

    def refuse(self) -> None:
        """Hold no more; what is held may still be released."""
        with self._lock:
            self._refuses = True

    def take(self, src: int) -> tuple[Message, Envelope] | None:
        """Empty the box from ``src``: the sum, and the newest envelope in it."""
        with self._lock:
            return self._boxes.pop(src, None)

    def senders(self) -> list[int]:
        """Ranks whose boxes hold something."""
        with self._lock:
            return sorted(self._boxes)

    def count(self, src: int) -> int:
        """Envelopes in the box from ``src``, and held ones on their way into it."""
        with self._lock:
            return len(self._held.get(src, ())) + (self._boxes[src][0].count if src in self._boxes else 0)

    def weight(self) -> float:
        """What would be lost with this process, besides the learner's own weight."""
        with self._lock:
            return sum(message.weight for message, _ in self._boxes.values())

    def progress(self, src: int) -> int:
        """The update count that came with the newest envelope from ``src``."""
        return self._progress.get(src, 0)

    def close(self) -> list[Message]:
        """Accept no more; returns what nobody has taken. Copies carry no mass and are dropped."""
        with self._lock:
            self._refuses = self._closed = True
            left = [message for message, newest in self._boxes.values() if not newest.replace]
            self._boxes.clear()
            return left


def _added(old: tuple[Message, Envelope] | None, envelope: Envelope) -> tuple[Message, Envelope]:
    if old is None or envelope.replace:
        return Message(torch.from_numpy(envelope.numerator.copy()), envelope.weight, envelope.sent_at, 1), _stub(
            envelope
        )
    message, newest = old
    mine = message.numerator.numpy()
    np.add(mine, envelope.numerator, out=mine)
    newest = max(newest, _stub(envelope), key=lambda x: (x.epoch, x.number))
    total = Message(message.numerator, message.weight + envelope.weight, newest.sent_at, message.count + 1)
    return total, newest


def _stub(envelope: Envelope) -> Envelope:
    """Without its numbers, which would keep their place in the carrier's memory."""
    return envelope._replace(numerator=np.empty(0, np.float32))
