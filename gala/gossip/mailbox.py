"""Boxes that add: one per directed edge, between one sender and one receiver, who never wait for each other.

``put`` adds mass to the box and ``take`` empties it, each under one short lock. Nothing is overwritten, so mass is
conserved under any delay and any difference in speed.
"""

from __future__ import annotations

import threading

from torch import Tensor

from gala.gossip.message import HEADER_BYTES, Edge, Mailbox, Message, check_numel, check_rank, total_mass
from gala.gossip.shared_memory import SharedMemoryMailboxes, open_endpoint

__all__ = ["Edge", "InProcessMailboxes", "Mailbox", "Message", "SharedMemoryMailboxes", "open_endpoint"]


class InProcessMailboxes:
    """Boxes of one process: deterministic, for tests and for simulations of thousands of ranks. Any float dtype."""

    def __init__(self, world_size: int, numel: int) -> None:
        self.world_size, self.numel = world_size, numel
        self.boxes: dict[Edge, Message] = {}
        self.updates = [0] * world_size
        self.closed = [False] * world_size
        self.lock = threading.Lock()

    def endpoint(self, rank: int) -> Mailbox:
        check_rank(rank, self.world_size)
        return _InProcessEndpoint(self, rank)

    def in_flight(self) -> tuple[Tensor, float]:
        """The mass that waits in all boxes: (sum of numerators [d] in float64, sum of weights)."""
        return total_mass(self.boxes.values(), self.numel)


class _InProcessEndpoint:
    def __init__(self, shared: InProcessMailboxes, rank: int) -> None:
        self._shared, self._rank, self.numel = shared, rank, shared.numel
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
        return True

    def take(self, src: int) -> Message | None:
        with self._shared.lock:
            return self._shared.boxes.pop((src, self._rank), None)

    def waiting(self, src: int, dst: int) -> int:
        message = self._shared.boxes.get((src, dst))
        return message.count if message else 0

    def advance(self, updates: int) -> None:
        self._shared.updates[self._rank] = updates

    def progress(self, rank: int) -> int:
        return self._shared.updates[rank]

    def finished(self, rank: int) -> bool:
        return self._shared.closed[rank]

    def rest(self, resting: bool) -> None:
        self._shared.closed[self._rank] = resting

    def lost_weight(self) -> float:
        return 0.0

    def close(self) -> None:
        self._shared.closed[self._rank] = True
