"""A link with latency: what a learner puts becomes visible to its peers only some time later."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from gala.gossip.message import Mailbox, Message, Roster, check_numel, total_mass
from gala.gossip.transport.account import Account

_RETRY_S = 1e-3


class _Event(NamedTuple):
    due_s: float
    """``time.monotonic`` at which the peers may see it."""
    deliver: Callable[[], bool]
    dst: int = -1
    message: Message | None = None


class DelayedMailbox:
    """Wraps an endpoint so that everything its peers can see of this rank reaches them ``latency_s`` later.

    Messages, the update count and the end of the rank go through one queue in their order, as through a cable: a peer
    that waits for a message (tau=0) must not learn from the update count that the message should be there already.
    The sender never waits. Mass is conserved: it is in the queue, in the box, or with a learner. What is in the queue
    counts in the weight that this rank publishes. Latency only, no bandwidth: a message of any size takes the same
    time. Message ages are what the receiver can know, so updates that are still under way do not count in them.

    A thread delivers; one endpoint, one thread.

    Raises (from the next call after a failure to deliver):
        RuntimeError: the queue could not be delivered; the cause is chained.
    """

    def __init__(self, inner: Mailbox, latency_s: float) -> None:
        if not latency_s > 0.0:
            raise ValueError(f"latency_s must be positive, not {latency_s}; without latency use the mailbox itself")
        self.numel, self.message_bytes = inner.numel, inner.message_bytes
        self.dtype = getattr(inner, "dtype", None)
        self._inner, self._latency_s = inner, latency_s
        self._queue: deque[_Event] = deque()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closed = False
        self._account = Account(inner.roster, self._under_way, self._changed)
        threading.Thread(target=self._deliver_all, daemon=True, name="gala link").start()

    @property
    def roster(self) -> Roster:
        """Who takes part is known at once, as if by another channel."""
        return self._account

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        check_numel(numerator, self.numel)
        message = Message(numerator.detach().clone(), weight, sent_at, 1)
        self._account.copies = replace
        with self._account.moving(sent=message):
            self._send(lambda: self._inner.put(dst, message.numerator, weight, sent_at, replace), dst, message)
        return True

    def advance(self, updates: int) -> None:
        self._send(lambda: _done(lambda: self._inner.advance(updates)))

    def rest(self, resting: bool) -> None:
        self._send(lambda: _done(lambda: self._inner.rest(resting)))

    def take(self, src: int) -> Message | None:
        return self._account.take(lambda: self._inner.take(src))

    def take_back(self, dst: int) -> Message | None:
        """What has arrived in the box towards ``dst``; what is under way can be taken back once it is there."""
        return self._account.take(lambda: self._inner.take_back(dst))

    def senders(self) -> Sequence[int]:
        return self._inner.senders()

    def waiting(self, src: int, dst: int) -> int:
        """Puts that were not taken yet; as this rank sees it: its own puts that are under way included."""
        with self._changed:
            return self._inner.waiting(src, dst) + sum(event.dst == dst for event in self._queue)

    def unread_weight(self, dst: int) -> float:
        return self._inner.unread_weight(dst)

    def agree(self, fingerprint: int) -> None:
        self._inner.agree(fingerprint)

    def progress(self, rank: int) -> int:
        return self._inner.progress(rank)

    def finished(self, rank: int) -> bool:
        return self._inner.finished(rank)

    def lost_weight(self) -> float:
        return self._inner.lost_weight()

    def in_flight(self) -> tuple[Tensor, float]:
        """The mass under way from this rank: (sum of numerators [d] in float64, sum of weights). It is in no box."""
        with self._changed:
            return total_mass(self._under_way(), self.numel)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was sent has arrived.

        Raises:
            TimeoutError: it has not within ``timeout_s`` and the latency: a peer holds its box, stopped perhaps.
        """
        with self._changed:
            arrived = self._changed.wait_for(lambda: not self._queue or self._failure, timeout_s + self._latency_s)
        self._check()
        if not arrived:
            raise TimeoutError(f"messages could not be delivered for {timeout_s:g} s: a receiver holds its box")

    def close(self) -> None:
        """Deliver what is under way, then close the endpoint. May be called twice."""
        if not self._closed:
            self.flush()
            self._inner.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _under_way(self) -> list[Message]:
        return [event.message for event in self._queue if event.message]

    def _send(self, deliver: Callable[[], bool], dst: int = -1, message: Message | None = None) -> None:
        self._check()
        with self._changed:
            self._queue.append(_Event(time.monotonic() + self._latency_s, deliver, dst, message))
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("a message could not be delivered") from self._failure

    def _deliver_all(self) -> None:
        try:
            while self._deliver_next():
                pass
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _deliver_next(self) -> bool:
        """Waits for the head of the queue and delivers it, in one step for all who look at the queue."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return False
            wait_s = self._queue[0].due_s - time.monotonic()
            if wait_s <= 0.0:
                with self._account.moving():
                    arrived = self._queue[0].deliver()
                    if arrived:
                        self._queue.popleft()
                if arrived:
                    self._changed.notify_all()
                    return True
                wait_s = _RETRY_S
        time.sleep(wait_s)
        return True


def _done(action: Callable[[], None]) -> bool:
    action()
    return True
