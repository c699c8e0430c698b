"""Boxes that add: one per directed edge, between one sender and one receiver, who never wait for each other.

``put`` adds mass to the box and ``take`` empties it, each under one short lock. Nothing is overwritten, so mass is
conserved under any delay and any difference in speed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

from torch import Tensor

from gala.gossip.flat import check_same_parameters
from gala.gossip.message import HEADER_BYTES, Edge, Mailbox, Message, check_numel, check_rank, total_mass
from gala.gossip.transport.roster import FINISHED, PRESENT, RESTING, Table, TableRoster


class InProcessMailboxes:
    """Boxes of one process: deterministic, for tests and for simulations of thousands of ranks. Any float dtype."""

    def __init__(self, world_size: int, numel: int) -> None:
        self.world_size, self.numel = world_size, numel
        self.boxes: dict[Edge, Message] = {}
        self.updates = [0] * world_size
        self.fingerprints = [0] * world_size
        self.table = Table.local(world_size)
        self.incoming: list[dict[int, float]] = [{} for _ in range(world_size)]
        """By destination: the weight that waits from each source."""
        self.lock = threading.Lock()

    def endpoint(self, rank: int, silent_after_s: float = math.inf) -> Mailbox:
        check_rank(rank, self.world_size)
        return _InProcessEndpoint(self, rank, silent_after_s)

    def bury(self, rank: int) -> float:
        """Write a dead rank off; returns the weight that went with it. What others sent it is theirs to take back."""
        orphans = [e for e in self.boxes if rank in e and self.table.gone(e[0] if e[1] == rank else e[1])]
        for src, dst in orphans:
            self.note(src, dst, None)
        return self.table.bury(rank, sum(self.boxes.pop(edge).weight for edge in orphans))

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight."""
        self.table.admit(rank)

    def note(self, src: int, dst: int, weight: float | None) -> None:
        """What the box ``src`` -> ``dst`` holds now, None if nothing. Sums are made anew: running ones would collect
        rounding."""
        self.incoming[dst].pop(src, None)
        if weight is not None:
            self.incoming[dst][src] = weight
        self.table.unread[dst] = sum(self.incoming[dst].values())

    def in_flight(self) -> tuple[Tensor, float]:
        """The mass that waits in all boxes: (sum of numerators [d] in float64, sum of weights)."""
        return total_mass(self.boxes.values(), self.numel)


class _InProcessEndpoint:
    def __init__(self, shared: InProcessMailboxes, rank: int, silent_after_s: float) -> None:
        self._shared, self._rank, self.numel = shared, rank, shared.numel
        self.roster = TableRoster(shared.table, rank, silent_after_s)
        self.message_bytes = 4 * shared.numel + HEADER_BYTES

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        check_rank(dst, self._shared.world_size)
        check_numel(numerator, self.numel)
        with self._shared.lock:
            old = self._shared.boxes.get((self._rank, dst))
            if old is None or replace:
                new = Message(numerator.detach().clone(), weight, sent_at, 1)
            else:
                new = Message(old.numerator.add_(numerator), old.weight + weight, sent_at, old.count + 1)
            self._shared.boxes[self._rank, dst] = new
            self._shared.note(self._rank, dst, new.weight)
        return True

    def take(self, src: int) -> Message | None:
        return self._empty(src, self._rank)

    def take_back(self, dst: int) -> Message | None:
        return self._empty(self._rank, dst)

    def _empty(self, src: int, dst: int) -> Message | None:
        with self._shared.lock:
            self._shared.note(src, dst, None)
            return self._shared.boxes.pop((src, dst), None)

    def senders(self) -> Sequence[int]:
        with self._shared.lock:
            return sorted(self._shared.incoming[self._rank])

    def waiting(self, src: int, dst: int) -> int:
        message = self._shared.boxes.get((src, dst))
        return message.count if message else 0

    def unread_weight(self, dst: int) -> float:
        return float(self._shared.table.unread[dst])

    def agree(self, fingerprint: int) -> None:
        self._shared.fingerprints[self._rank] = fingerprint
        check_same_parameters(fingerprint, self._shared.fingerprints, self._rank)

    def advance(self, updates: int) -> None:
        self._shared.updates[self._rank] = updates
        self._shared.table.update(self._rank)

    def progress(self, rank: int) -> int:
        return self._shared.updates[rank]

    def finished(self, rank: int) -> bool:
        return not self.roster.is_live(rank)

    def rest(self, resting: bool) -> None:
        self._shared.table.state[self._rank] = RESTING if resting else PRESENT

    def lost_weight(self) -> float:
        return 0.0

    def close(self) -> None:
        self._shared.table.state[self._rank] = FINISHED
