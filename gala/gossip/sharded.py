"""Streaming exchange: a Kth of the parameters per round, so that a message is K times smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gala.gossip.averager import GossipAverager
from gala.gossip.evidence.events import AgeHistogram
from gala.gossip.message import Edge, Mailbox
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.gossip.values import ExchangedValues, Source


def shard_sizes(numel: int, shards: int) -> list[int]:
    """Sizes of ``shards`` nearly equal consecutive parts of ``numel`` parameters.

    Raises:
        ValueError: fewer than one parameter in a shard, or no shard.
    """
    if not 1 <= shards <= numel:
        raise ValueError(f"{numel} parameters can be cut into 1 to {numel} shards, not {shards}")
    return [numel // shards + (i < numel % shards) for i in range(shards)]


class ShardedMailboxes:
    """The parent's side: boxes in shared memory for each shard. One shard is the usual case."""

    def __init__(self, shards: Sequence[SharedMemoryMailboxes]) -> None:
        self.shards = list(shards)
        self.handle: tuple[Any, ...] = tuple(shard.handle for shard in self.shards)
        """What a child needs: one handle per shard."""

    @classmethod
    def create(
        cls, world_size: int, numel: int, edges: Sequence[Edge], shards: int = 1, **settings: Any
    ) -> ShardedMailboxes:
        """See ``SharedMemoryMailboxes.create``. Raises ValueError if there are fewer parameters than shards."""
        sizes = shard_sizes(numel, shards)
        return cls([SharedMemoryMailboxes.create(world_size, size, edges, **settings) for size in sizes])

    def bury(self, rank: int) -> float:
        """Write a dead rank off; returns the weight that went with it, on average over shards."""
        return sum(shard.bury(rank) for shard in self.shards) / len(self.shards)

    def left_weight(self) -> float:
        """What there is, in the unit of ``bury``, on average over shards."""
        return sum(shard.table.total_weight() for shard in self.shards) / len(self.shards)

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight."""
        for shard in self.shards:
            shard.admit(rank)

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        for shard in self.shards:
            shard.retire(rank)

    def weights(self, ranks: Sequence[int]) -> list[list[float]]:
        """Per shard, the weight that each rank has published; 0 for all but ``ranks``."""
        return [[w if rank in ranks else 0.0 for rank, w in enumerate(shard.table.weights())] for shard in self.shards]

    def restore(self, weights: Sequence[Sequence[float]], ranks: Sequence[int]) -> None:
        """Take up saved weights, which are then all there is; those in ``ranks`` take part, and the others have yet to
        be admitted."""
        for shard, row in zip(self.shards, weights, strict=True):
            shard.table.restore(row, ranks)

    def silent(self) -> tuple[int, ...]:
        """Ranks that should be at work and gave no sign for long."""
        return self.shards[0].silent()

    def close(self) -> None:
        """Forget the memory. May be called twice."""
        for shard in self.shards:
            shard.close()


class ShardedAverager:
    """One ``GossipAverager`` for each of K shards of the flat vector, which take turns: shard k exchanges at every Kth
    update. Each shard has a weight of its own, so each is exact PushSum for itself. K = 1 is ``GossipAverager``.

    Args:
        params, average_buffers: as ``GossipAverager`` takes them.
        mailboxes: this rank's endpoint for each shard, of ``shard_sizes(numel, len(mailboxes))`` numbers.
        every: updates between two turns.
        settings: everything else that ``GossipAverager`` takes.
    """

    def __init__(
        self,
        params: Source,
        *,
        mailboxes: Sequence[Mailbox],
        every: int = 1,
        average_buffers: bool = True,
        **settings: Any,
    ) -> None:
        self.values = ExchangedValues(params, average_buffers)
        self.flat = self.values.flat
        self._every = every
        parts = self.flat.split(shard_sizes(self.flat.numel(), len(mailboxes)))
        self.shards = [
            GossipAverager([part], mailbox=mailbox, every=every * len(mailboxes), **settings)
            for part, mailbox in zip(parts, mailboxes, strict=True)
        ]
        for k, shard in enumerate(self.shards):
            shard.fingerprint = self.values.fingerprint()  # equal parts of unequal models do not fit
            shard.updates = (len(self.shards) - 1 - k) * every  # the first turn is shard 0's

    def step(self) -> None:
        """Send and absorb the shard whose turn it is; call after ``optimizer.step()``. Raises as ``GossipAverager``."""
        self.send()
        self.receive()

    def send(self) -> None:
        """The first half of ``step``."""
        self.values.check()
        self.values.read()
        for shard in self.shards:
            shard.send()

    def receive(self) -> None:
        """The second half of ``step``."""
        for shard in self.shards:
            shard.receive()
        self.values.write()

    def rest(self, resting: bool) -> None:
        """Stand still for a while, or go on: see ``Mailbox.rest``."""
        for shard in self.shards:
            shard.rest(resting)

    def drain(self) -> None:
        """Absorb all that waits, in all shards."""
        self.values.read()
        for shard in self.shards:
            shard.drain()
        self.values.write()

    def close(self) -> None:
        """This learner is done."""
        self.values.read()
        for shard in self.shards:
            shard.close()
        self.values.write()

    def leave(self) -> bool:
        """See ``GossipAverager.leave``."""
        self.values.read()
        left = all(shard.leave() for shard in self.shards)
        self.values.write()
        return left

    def join(self, updates: int = 0) -> None:
        """See ``GossipAverager.join``."""
        for k, shard in enumerate(self.shards):
            shard.join(updates + (len(self.shards) - 1 - k) * self._every)

    @property
    def age_histogram(self) -> AgeHistogram:
        """Ages of the messages of all shards."""
        return sum((shard.age_histogram for shard in self.shards), AgeHistogram())

    @property
    def weight(self) -> float:
        """The smallest weight of a shard."""
        return min(shard.weight for shard in self.shards)

    def slice_weights(self) -> list[tuple[int, float]]:
        """(length, weight) of each shard: see ``GossipAverager.slice_weights``."""
        return [pair for shard in self.shards for pair in shard.slice_weights()]

    def stats(self) -> dict[str, float]:
        """As ``GossipAverager.stats``: counters summed over shards, ages averaged, extremes as such."""
        each = [shard.stats() for shard in self.shards]
        total = {name: sum(stats[name] for stats in each) for name in each[0]}
        total["weight"] = self.weight
        total["quiet_rounds"] = min(stats["quiet_rounds"] for stats in each)
        total["held_up_by"] = max(stats["held_up_by"] for stats in each)
        total["message_age_mean"] /= len(each)
        total["message_age_max"] = max(stats["message_age_max"] for stats in each)
        return total

    def state_dict(self) -> dict[str, Any]:
        """One state per shard."""
        return {"shards": [shard.state_dict() for shard in self.shards]} | self.values.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state of as many shards."""
        self.values.load_state_dict(state)
        for shard, saved in zip(self.shards, state["shards"], strict=True):
            shard.load_state_dict(saved)
