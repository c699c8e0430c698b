"""The ``Mailbox`` of a learner whose peers share no memory with it: Ray's actors, or processes on other hosts.

A put is an envelope that nobody waits for. Until the receiver is known to have it, its sender keeps it, and gets it
back when the receiver dies; what had arrived unread, or was read, is lost with the receiver. ``waiting`` (towards a
peer) is as old as the last receipt, about one trip; ``progress``, ``finished`` and the roster are as old as the peers'
last news (see the ``Link``). Progress and rest are published only after the envelopes that belong to them have arrived,
so who waits for an envelope never gives up on one that is under way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gala.gossip.flat import check_same_parameters
from gala.gossip.message import HEADER_BYTES, Message, check_numel, check_rank
from gala.gossip.transport.inbox import Inbox
from gala.gossip.transport.outbox import Outbox
from gala.gossip.transport.roster import FINISHED, PRESENT, RESTING, Table, TableRoster

FLUSH_S = 20.0
"""How long a learner that comes to rest waits for its envelopes to arrive. A peer that hangs for longer will get its
envelopes later, or they come back."""
_GIVEN_S = 1.0
"""How long a learner at rest waits for envelopes that have arrived and are not given up yet: about one trip."""
_CLOSING_ROUNDS = 3


class Link(Protocol):
    """What carries the envelopes of one rank, and its news to the peers and theirs back, in a thread of its own."""

    rank: int
    inbox: Inbox
    outbox: Outbox
    updates: int
    """This rank's update count, to be published."""

    @property
    def table(self) -> Table:
        """States, signs of life and weights of all places. The rank writes its own entries; the link publishes them,
        and writes those of the others."""
        ...

    def sent_updates(self, rank: int) -> int:
        """The update count that ``rank`` published last, and whose envelopes have arrived."""
        ...

    def acknowledge(self, src: int, epoch: int, number: int) -> None:
        """Tell ``src``, if it still lives that life, that its envelopes up to ``number`` were read."""
        ...

    def agree(self, fingerprint: int) -> Sequence[int]:
        """Publish this rank's fingerprint; returns those of all places, 0 where there is none yet."""
        ...

    def reaches(self, rank: int) -> bool:
        """Whether ``rank`` has given a sign lately. Who has not is not waited for."""
        ...

    def stop_accepting(self) -> list[Message]:
        """From now on envelopes go back to their senders; returns what nobody has taken."""
        ...

    def say_goodbye(self) -> None:
        """Publish this rank's last news: nothing follows."""
        ...


class _Roster:
    def __init__(self, link: Link, silent_after_s: float) -> None:
        self._outbox = link.outbox
        self._of_table = TableRoster(link.table, link.rank, silent_after_s)
        self.live, self.is_live = self._of_table.live, self._of_table.is_live
        self.mean_weight, self.publish = self._of_table.mean_weight, self._of_table.publish
        self.highest_unit, self.beat = self._of_table.highest_unit, self._of_table.beat
        self.silent_after_s = silent_after_s

    def wait_for_all(self) -> None:
        """See ``TableRoster``."""
        self._of_table.wait_for_all()
        self.silent_after_s = self._of_table.silent_after_s

    def departed(self) -> tuple[int, ...]:
        """Also those who have started again since they died, as long as there is something to take back."""
        return tuple(sorted({*self._of_table.departed(), *self._outbox.returned()}))


class RemoteEndpoint:
    """``link.rank``'s end of all edges. Boxes are for ``numel`` float32, between any two of the run's places."""

    def __init__(self, link: Link, numel: int, silent_after_s: float) -> None:
        self._link, self.numel = link, numel
        self._rank, self._places = link.rank, len(link.table.state)
        self.roster = _Roster(link, silent_after_s)
        self.dtype = torch.float32
        self.message_bytes = 4 * numel + HEADER_BYTES
        self._lost = 0.0
        self._closed = False

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        check_rank(dst, self._places)
        check_numel(numerator, self.numel)
        numbers = numerator.detach().to("cpu", torch.float32, copy=True).numpy()
        return self._link.outbox.put(dst, numbers, weight, sent_at, replace)

    def take(self, src: int) -> Message | None:
        taken = self._link.inbox.take(src)
        if taken is None:
            return None
        message, newest = taken
        self._link.acknowledge(src, newest.epoch, newest.number)
        return message

    def take_back(self, dst: int) -> Message | None:
        return self._link.outbox.take_back(dst)

    def senders(self) -> Sequence[int]:
        """At rest also those whose envelopes have arrived and are about to be readable: a checkpoint misses no mass."""
        deadline_s = time.monotonic() + _GIVEN_S
        resting = self._link.table.state[self._rank] == RESTING
        while resting and self._link.inbox.holds_any() and time.monotonic() < deadline_s:
            time.sleep(1e-3)
        return self._link.inbox.senders()

    def waiting(self, src: int, dst: int) -> int:
        if dst == self._rank:
            return self._link.inbox.count(src)
        if src != self._rank:
            raise ValueError(f"learner {self._rank} knows nothing of the box {src} -> {dst}, which is between others")
        return self._link.outbox.unread(dst)

    def unread_weight(self, dst: int) -> float:
        """As of the last news from ``dst``."""
        return self._link.table.unread_weight(dst)

    def agree(self, fingerprint: int) -> None:
        check_same_parameters(fingerprint, self._link.agree(fingerprint), self._rank)

    def advance(self, updates: int) -> None:
        self._link.updates = updates
        self._link.table.update(self._rank)

    def progress(self, rank: int) -> int:
        if rank == self._rank:
            return self._link.updates
        return max(self._link.sent_updates(rank), self._link.inbox.progress(rank))

    def finished(self, rank: int) -> bool:
        return not self.roster.is_live(rank)

    def rest(self, resting: bool) -> None:
        if resting:
            self.flush()
        self._link.table.state[self._rank] = RESTING if resting else PRESENT

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all that was put has arrived or come back; False if the time is over, or those that it is under
        way to cannot be reached: the learner would stand still for them, and all that come to rest with it."""
        return self._link.outbox.flush(timeout_s, time.sleep, self._link.reaches)

    def lost_weight(self) -> float:
        return self._lost

    def close(self) -> None:
        """What nobody has read here is passed on to a live peer; who sends to us from now on gets it back."""
        if self._closed:
            return
        self._closed = True
        left = self._link.stop_accepting()
        for _ in range(_CLOSING_ROUNDS):
            left = [message for message in left if not self._pass_on(message)]
            self.flush()
            left += [m for dst in self._link.outbox.returned() if (m := self._link.outbox.take_back(dst))]
            if not left:
                break
        self._lost = sum(message.weight for message in left)
        self._link.table.state[self._rank] = FINISHED
        self._link.say_goodbye()

    def _pass_on(self, message: Message) -> bool:
        numbers, weight = message.numerator.numpy(), message.weight
        others = (rank for rank in self.roster.live() if rank != self._rank)
        return any(self._link.outbox.put(rank, numbers, weight, message.sent_at, False) for rank in others)
