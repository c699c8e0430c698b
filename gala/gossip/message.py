"""What travels between two learners, and the protocol of the boxes that carry it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Edge = tuple[int, int]
"""(source rank, destination rank)."""


HEADER_BYTES = 16
"""Weight and update count travel with every message."""


class Message(NamedTuple):
    """All that was put into one box since it was last emptied."""

    numerator: Tensor
    """[d], the sum of p * w * z."""
    weight: float
    """The sum of p * w."""
    sent_at: int
    """The sender's update count at its newest put."""
    count: int  # type: ignore[assignment]  # a field hides tuple.count, which nobody needs here
    """Number of puts in the sum."""
    unit: int = 0
    """In which numerator and weight count, see ``in_unit``. Travels with ``sent_at``: see ``stamp``."""

    def read(self) -> Message:
        """As it came out of a box, with ``sent_at`` and ``unit`` taken apart."""
        return self._replace(sent_at=updates_of(self.sent_at), unit=unit_of(self.sent_at))


_UNIT_SHIFT = 40


def stamp(updates: int, unit: int) -> int:
    """Update count and unit in the one int64 that boxes carry as ``sent_at``; the newest of several is the largest."""
    return updates + (unit << _UNIT_SHIFT)


def updates_of(sent_at: int) -> int:
    """The sender's update count in a ``stamp``."""
    return sent_at & ((1 << _UNIT_SHIFT) - 1)


def unit_of(sent_at: int) -> int:
    """The unit in a ``stamp``."""
    return sent_at >> _UNIT_SHIFT


class Roster(Protocol):
    """Who takes part; shared by all learners of a run."""

    def live(self) -> tuple[int, ...]:
        """Ascending ranks that send and read at this moment."""
        ...

    def departed(self) -> tuple[int, ...]:
        """Ranks that are done, dead, or were silent for too long: what they did not read may be taken back."""
        ...

    def mean_weight(self) -> float:
        """PushSum weight there is, per learner, in this rank's unit: 1 until learners die (and take theirs along) or
        join (with none)."""
        ...

    def beat(self) -> None:
        """A sign of life of this rank, which is at work though it finishes no update: it waits for a peer."""
        ...

    def highest_unit(self) -> int:
        """The smallest unit that any of those that take part counts in; see ``in_unit``."""
        ...

    def publish(self, weight: float, unit: int = 0) -> None:
        """This rank's weight after its latest exchange: what is lost if it dies now."""
        ...


class Mailbox(Protocol):
    """One rank's end of all its edges. One whose boxes round has a ``dtype`` besides, to which they do."""

    numel: int
    message_bytes: int
    """What one message takes on the wire, header included."""

    @property
    def roster(self) -> Roster: ...

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        """Add ``numerator`` [d] and ``weight`` to the box towards ``dst``, or put them in place of what lies there.

        Never waits for a reader. False (and nothing has changed) if the box stayed locked, by a peer that was
        stopped in the middle of its own access, say: the caller keeps its mass.
        """
        ...

    def take(self, src: int) -> Message | None:
        """Empty the box from ``src``; None if there is nothing, or if the box is locked at this moment."""
        ...

    def take_back(self, dst: int) -> Message | None:
        """Empty the box towards ``dst``, who will not read it; None if there is nothing, or the transport cannot."""
        ...

    def senders(self) -> Sequence[int]:
        """Ranks whose boxes towards this rank may hold something."""
        ...

    def waiting(self, src: int, dst: int) -> int:
        """Puts in the box ``src`` -> ``dst`` that were not taken yet."""
        ...

    def unread_weight(self, dst: int) -> float:
        """Weight in all boxes towards ``dst``, whoever sent it, as far as this rank can see."""
        ...

    def agree(self, fingerprint: int) -> None:
        """Publish the fingerprint of this rank's parameters. Raises ValueError if another rank has published one that
        differs."""
        ...

    def advance(self, updates: int) -> None:
        """Publish this rank's update count, which gives messages their age and is its sign of life."""
        ...

    def progress(self, rank: int) -> int:
        """The update count that ``rank`` published last."""
        ...

    def finished(self, rank: int) -> bool:
        """Whether ``rank`` reads and writes no more, or not at this moment: closed, resting, dead or long silent."""
        ...

    def rest(self, resting: bool) -> None:
        """Stand still for a while, seen by the peers as ``finished``: they send nothing and wait for nothing."""
        ...

    def lost_weight(self) -> float:
        """Weight that was lost in boxes towards this rank because a write was cut off."""
        ...

    def close(self) -> None:
        """Tell the peers that this rank has finished, and release what the endpoint holds. May be called twice."""
        ...


class OpensMailbox(Protocol):
    """A handle of boxes, which processes hand each other."""

    def open(self, rank: int) -> Mailbox:
        """``rank``'s end of all its edges."""
        ...


@runtime_checkable
class InPlace(Protocol):
    """What a Mailbox can do besides if its boxes are this process's memory: spares four of eleven passes over the
    parameters in an exchange."""

    def put_share(self, dst: int, z: Tensor, weight: float, sent_at: int) -> bool:
        """``put`` of the mass (weight * z, weight)."""
        ...

    def take_in_place(self, src: int, use: Callable[[Message], None]) -> bool:
        """``take``; the message is the box's own memory, for as long as ``use`` runs. False if there is none."""
        ...


def total_mass(messages: Iterable[Message], numel: int) -> tuple[Tensor, float]:
    """(sum of numerators [d] in float64, sum of weights)."""
    total, weight = torch.zeros(numel, dtype=torch.float64), 0.0
    for message in messages:
        total += message.numerator.to("cpu", torch.float64)
        weight += message.weight
    return total, weight


def check_rank(rank: int, world_size: int) -> None:
    """Raises ValueError for a rank outside the world."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside the world of {world_size} learners (0 to {world_size - 1})")


def check_numel(numerator: Tensor, numel: int) -> None:
    """Raises ValueError if ``numerator`` is not [numel]."""
    if numerator.shape != (numel,):
        raise ValueError(
            f"a message of shape {tuple(numerator.shape)} does not fit boxes of {numel} numbers: "
            "all learners must have the same parameters"
        )
