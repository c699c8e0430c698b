"""The weight that a learner publishes where some of its mass lies between the learner and its boxes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gala.gossip.message import Message, Roster, unit_of
from gala.gossip.push_sum import in_unit


class Account:
    """The inner roster, to which a learner's weight is published with what lies between it and its boxes: that dies
    with it too, and without it the mean weight, the floor and the cap that follow from it would be too low.

    Boxes in shared memory change the published weight themselves when something is put or taken. A put that comes after
    the learner has published its weight without the message would take it away a second time: so every put and take on
    them goes through here, in whatever thread.

    Args:
        between: the messages that lie there.
        lock: guards them too, and may be entered again by the thread that holds it.
    """

    def __init__(
        self,
        inner: Roster,
        between: Callable[[], Iterable[Message]],
        lock: contextlib.AbstractContextManager[Any] | None = None,
    ) -> None:
        self._inner, self._between = inner, between
        self._lock = lock or threading.RLock()
        self._own: float | None = None  # nothing was published yet: what the table says is not ours to change
        self._unit = 0
        self.copies = False
        """Whether what is sent are copies, which have no mass."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def publish(self, weight: float, unit: int = 0) -> None:
        with self._lock:
            self._own, self._unit = weight, unit
            self._publish()

    @contextlib.contextmanager
    def moving(self, sent: Message | None = None) -> Iterator[None]:
        """Around a move of mass: what the learner has ``sent`` is no longer its own after it; all else moves between
        what lies there and the boxes."""
        with self._lock:
            yield
            if sent is not None:
                self._add(sent, -1.0)
            self._publish()

    def take(self, take: Callable[[], Message | None]) -> Message | None:
        """What ``take`` finds: it is the learner's own now."""
        with self._lock:
            message = take()
            if message is not None:
                self._add(message, 1.0)
                self._publish()
            return message

    def _add(self, message: Message, sign: float) -> None:
        if self._own is not None and not self.copies:
            self._own += sign * self._weight(message)

    def _publish(self) -> None:
        if self._own is not None:
            between = 0.0 if self.copies else sum(self._weight(message) for message in self._between())
            self._inner.publish(self._own + between, self._unit)

    def _weight(self, message: Message) -> float:
        return in_unit(message.weight, unit_of(message.sent_at), self._unit)
