"""The ``Mailbox`` of a learner whose peers are actors, on other machines perhaps.

A put is a call that nobody waits for. What is not acknowledged yet is kept by the sender, and comes back to it when the
receiver dies; what had arrived unread, or was read, is lost with the receiver and reported with it. ``waiting``
(towards a peer) is as old as the last receipt, about one trip; ``progress``, ``finished`` and the roster are as old as
the last visit to the hub (``SYNC_S``, more on a slow network). Progress and rest are published only after the envelopes
that belong to them have arrived, so who waits for a envelope never gives up on one that is under way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from gala.cluster.member import Member
from gala.gossip.flat import check_same_parameters
from gala.gossip.message import HEADER_BYTES, Message, check_numel, check_rank
from gala.gossip.transport.roster import FINISHED, PRESENT, RESTING, TableRoster

FLUSH_S = 20.0
"""How long a learner that comes to rest waits for its envelopes to arrive. A peer that hangs for longer will get its
envelopes later, or they come back."""
_CLOSING_ROUNDS = 3


class _Roster:
    def __init__(self, member: Member, silent_after_s: float) -> None:
        self._outbox = member.outbox
        self._of_table = TableRoster(member.mirror.table, member.rank, silent_after_s)
        self.live, self.is_live = self._of_table.live, self._of_table.is_live
        self.mean_weight, self.publish = self._of_table.mean_weight, self._of_table.publish
        self.highest_unit = self._of_table.highest_unit

    def departed(self) -> tuple[int, ...]:
        """Also those who have started again since they died, as long as there is something to take back."""
        return tuple(sorted({*self._of_table.departed(), *self._outbox.returned()}))


class RayEndpoint:
    """``member``'s end of all edges. Boxes are for ``numel`` float32, between any two of the run's places."""

    def __init__(self, member: Member, numel: int, silent_after_s: float) -> None:
        self._member, self.numel = member, numel
        self._rank, self._places = member.rank, len(member.mirror.progress)
        self.roster = _Roster(member, silent_after_s)
        self.dtype = torch.float32
        self.message_bytes = 4 * numel + HEADER_BYTES
        self._lost = 0.0
        self._closed = False

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        check_rank(dst, self._places)
        check_numel(numerator, self.numel)
        numbers = numerator.detach().to("cpu", torch.float32, copy=True).numpy()
        return self._member.outbox.put(dst, numbers, weight, sent_at, replace)

    def take(self, src: int) -> Message | None:
        taken = self._member.inbox.take(src)
        if taken is None:
            return None
        message, newest = taken
        self._member.acknowledge(src, newest.epoch, newest.number)
        return message

    def take_back(self, dst: int) -> Message | None:
        return self._member.outbox.take_back(dst)

    def senders(self) -> Sequence[int]:
        return self._member.inbox.senders()

    def waiting(self, src: int, dst: int) -> int:
        if dst == self._rank:
            return self._member.inbox.count(src)
        if src != self._rank:
            raise ValueError(f"learner {self._rank} knows nothing of the box {src} -> {dst}, which is between others")
        return self._member.outbox.unread(dst)

    def unread_weight(self, dst: int) -> float:
        """As of the last visit to the hub."""
        return self._member.mirror.table.unread_weight(dst)

    def agree(self, fingerprint: int) -> None:
        check_same_parameters(fingerprint, self._member.agree(fingerprint), self._rank)

    def advance(self, updates: int) -> None:
        self._member.updates = updates
        self._member.mirror.table.update(self._rank)

    def progress(self, rank: int) -> int:
        if rank == self._rank:
            return self._member.updates
        return max(int(self._member.mirror.sent_updates[rank]), self._member.inbox.progress(rank))

    def finished(self, rank: int) -> bool:
        return not self.roster.is_live(rank)

    def rest(self, resting: bool) -> None:
        if resting:
            self.flush()
        self._member.mirror.table.state[self._rank] = RESTING if resting else PRESENT

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all that was put has arrived or come back; False if the time is over."""
        return self._member.outbox.flush(timeout_s, time.sleep)

    def lost_weight(self) -> float:
        return self._lost

    def close(self) -> None:
        """What nobody has read here is passed on to a live peer; who sends to us from now on gets it back."""
        if self._closed:
            return
        self._closed = True
        left = self._member.inbox.close()
        for _ in range(_CLOSING_ROUNDS):
            left = [message for message in left if not self._pass_on(message)]
            self.flush()
            left += [m for dst in self._member.outbox.returned() if (m := self._member.outbox.take_back(dst))]
            if not left:
                break
        self._lost = sum(message.weight for message in left)
        self._member.mirror.table.state[self._rank] = FINISHED
        self._member.sync()

    def _pass_on(self, message: Message) -> bool:
        numbers, weight = message.numerator.numpy(), message.weight
        others = (rank for rank in self.roster.live() if rank != self._rank)
        return any(self._member.outbox.put(rank, numbers, weight, message.sent_at, False) for rank in others)
