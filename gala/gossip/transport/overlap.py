"""The exchange beside the learner: a thread fills and empties boxes while the next rollout is collected."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from torch import Tensor

from gala.gossip.message import Mailbox, Message, Roster
from gala.gossip.transport.account import Account

_FLUSH_TRIES = 20  # a box that a stopped peer holds must not hang a learner that comes to rest


class Overlapped:
    """A Mailbox whose puts and takes on ``inner`` happen in a thread, after the learner has gone on.

    What is sent is a copy made at once, at the parameters that the update left behind. What arrives waits here until
    the learner's next exchange. So the parameters change where they always do, between an update and the next rollout:
    never under the acting policy, and never between a rollout and the gradient that is computed from it. The price is
    freshness: a message is absorbed one exchange later than it could be (SGP's overlap with tau = 1), and one more
    vector per out-peer. Mass is conserved: a message is in the copy, in the box, or in what has arrived.

    One round of the thread, begun by ``advance``: deliver all copies, then fetch what waits. The learner's next put
    waits for its end, so rounds never pile up; it is over long before, if it takes less than a rollout. A copy whose
    box stayed locked is tried again in the next round, and until then ``put`` to that peer answers False.
    """

    def __init__(self, inner: Mailbox, rank: int) -> None:
        self._rank = rank
        self._inner, self.numel, self.message_bytes = inner, inner.numel, inner.message_bytes
        self.dtype = getattr(inner, "dtype", None)
        self._outgoing: dict[int, tuple[Message, bool]] = {}  # by destination; the flag is ``replace``
        self._fetched: dict[int, Message] = {}  # by source; of both, the thread's while it has its turn
        self._ready: dict[int, Message] = {}  # what an earlier round has fetched
        self._turn = threading.Condition()
        self._due = self._closed = False
        self._failure: BaseException | None = None
        self._advanced = False
        self._account = Account(inner.roster, self._between)
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)
        self._thread.start()

    @property
    def roster(self) -> Roster:
        return self._account

    def _between(self) -> list[Message]:
        """The copies that are not in their boxes yet, and what was fetched and is not absorbed."""
        outgoing = [message for message, _ in self._outgoing.values()]
        return [*outgoing, *self._fetched.values(), *self._ready.values()]

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        self._wait()
        if dst in self._outgoing and not replace:
            return False
        self._account.copies = replace
        message = Message(numerator.detach().clone(), weight, sent_at, 1)
        with self._account.moving(sent=message):
            self._outgoing[dst] = message, replace
        return True

    def take(self, src: int) -> Message | None:
        return self._account.take(lambda: self._ready.pop(src, None))

    def take_back(self, dst: int) -> Message | None:
        self._wait()
        message = self._account.take(lambda: self._inner.take_back(dst))
        if message is None and dst in self._outgoing:
            message = self._account.take(lambda: self._outgoing.pop(dst)[0])
        return message

    def senders(self) -> Sequence[int]:
        """Those of whom something is ready. Asked again within one update, the learner is draining: look now."""
        if not self._advanced:
            self._wait()
            self._round()
            self._hand_over()
        self._advanced = False
        return sorted(self._ready)

    def waiting(self, src: int, dst: int) -> int:
        if dst == self._rank:  # what can be taken at this moment
            return self._ready[src].count if src in self._ready else 0
        return self._inner.waiting(src, dst) + (dst in self._outgoing)

    def unread_weight(self, dst: int) -> float:
        return self._inner.unread_weight(dst)

    def agree(self, fingerprint: int) -> None:
        self._inner.agree(fingerprint)

    def advance(self, updates: int) -> None:
        self._wait()
        self._inner.advance(updates)
        self._hand_over()
        self._advanced = True
        with self._turn:
            self._due = True
            self._turn.notify_all()

    def progress(self, rank: int) -> int:
        return self._inner.progress(rank)

    def finished(self, rank: int) -> bool:
        return self._inner.finished(rank)

    def rest(self, resting: bool) -> None:
        """At rest all copies are in their boxes, where the peers' drains find them."""
        if resting:
            self._flush()
        self._inner.rest(resting)

    def lost_weight(self) -> float:
        return self._inner.lost_weight()

    def close(self) -> None:
        try:
            if not self._closed:
                self._flush()
        finally:  # after a failure of the thread too, or peers would wait for this learner's silence
            with self._turn:
                self._closed = True
                self._turn.notify_all()
            self._thread.join()
            self._inner.close()

    def _flush(self) -> None:
        self._wait()
        for _ in range(_FLUSH_TRIES):
            if not self._outgoing:
                break
            self._deliver()

    def _wait(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: not self._due)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._due or self._closed)
                if self._closed:
                    return
            try:
                self._round()
            except BaseException as error:  # the learner's next put raises it
                self._failure = error
            with self._turn:
                self._due = False
                self._turn.notify_all()

    def _round(self) -> None:
        self._deliver()
        for src in self._inner.senders():
            if self._account.copies or src not in self._fetched:
                with self._account.moving():
                    message = self._inner.take(src)
                    if message is not None:
                        self._fetched[src] = message

    def _hand_over(self) -> None:
        for src in list(self._fetched):
            if self._account.copies or src not in self._ready:  # mass that was not absorbed yet stays by itself
                self._ready[src] = self._fetched.pop(src)

    def _deliver(self) -> None:
        for dst, (message, replace) in list(self._outgoing.items()):
            with self._account.moving():
                if self._inner.put(dst, message.numerator, message.weight, message.sent_at, replace):
                    del self._outgoing[dst]
