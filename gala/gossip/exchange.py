"""One learner's traffic with its mailbox: what the staleness bound allows, counted, aged and logged."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gala.gossip.evidence.events import AgeHistogram, EventKind, MixEvent
from gala.gossip.mass import Mass
from gala.gossip.message import InPlace, Mailbox, Message, stamp
from gala.gossip.push_sum import in_unit, numerator
from gala.gossip.record import Recorder
from gala.gossip.staleness import StalenessBound

_AGES_KEPT = 1000
_COUNTS = ("sent", "received", "bytes_sent", "kept_rounds", "full_peers", "refused_puts", "taken_back")


class Exchange:
    """Puts and takes on behalf of ``rank``, who holds ``mass``. ``weight`` arguments are the rank's own weight at that
    moment."""

    def __init__(self, mailbox: Mailbox | None, rank: int, bound: StalenessBound, mass: Mass) -> None:
        self.rank, self.bound = rank, bound
        if mailbox is not None:  # without one there is only the log
            self.mailbox = mailbox
        self._in_place = mailbox if isinstance(mailbox, InPlace) else None
        self._numerator: Tensor | None = None  # a message on its way into a box that cannot be written in place
        self.on_event: Callable[[MixEvent], None] | None = None
        self.recorder: Recorder | None = None
        self.age_histogram = AgeHistogram()
        self._mass = mass
        self._sent_unit: dict[int, int] = {}
        self._agreed = False
        self.full: list[int] = []
        self._quiet_rounds = self._traffic = 0
        self._flat, self._settled = mass.flat, mass.flat.clone()
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._ages: deque[int] = deque(maxlen=_AGES_KEPT)

    def agree(self, fingerprint: int) -> None:
        """Once, before the first message: see ``check_same_parameters``. Of two that differ, the later one raises.

        A transport without a place to publish fingerprints is left alone.
        """
        if not self._agreed and hasattr(self.mailbox, "agree"):
            self.mailbox.agree(fingerprint)
        self._agreed = True

    def accepts(self, dst: int) -> bool:
        """Whether ``dst`` is there and reads; in lockstep, waits until it has read the last round's message."""
        box = self.mailbox
        if self.bound.lockstep:  # a second message in the box would add two rounds up
            taken = lambda: box.finished(dst) or not box.waiting(self.rank, dst)  # noqa: E731
            self.bound.wait_until(taken, self.rank, dst, box)
        return not box.finished(dst)

    def is_full(self, dst: int, cap: float) -> bool:
        """Whether ``dst`` gets no mass now: it does not read, it has left as many messages of ours unread as the bound
        allows, or one of another unit, which does not add up; or there are more than ``cap`` of weight in all boxes
        towards it."""
        box = self.mailbox
        most = self.bound.max_unread_messages if self._of_one_unit(dst) else 1
        return box.finished(dst) or box.waiting(self.rank, dst) >= most or box.unread_weight(dst) > cap

    def _of_one_unit(self, dst: int) -> bool:
        return self._sent_unit.get(dst, self._mass.unit) == self._mass.unit

    def left_out(self, full: list[int], kept: bool) -> None:
        """Count the peers that were full this round, and whether nothing was sent."""
        self.full = full
        self.counts["full_peers"] += len(full)
        self.counts["kept_rounds"] += kept

    def end_round(self) -> None:
        """Count the rounds in a row in which nothing came and nothing went."""
        traffic = self.counts["sent"] + self.counts["received"]
        self._quiet_rounds = 0 if traffic != self._traffic else self._quiet_rounds + 1
        self._traffic = traffic

    def put_share(self, dst: int, z: Tensor, weight: float, updates: int) -> bool:
        """Send the mass (weight * z, weight). False if the box stayed locked, or holds a message of another unit, to
        which this one does not add up: the mass is still the caller's."""
        if not self._of_one_unit(dst) and self.mailbox.waiting(self.rank, dst):
            return False
        box, sent_at = self._in_place, stamp(updates, self._mass.unit)
        self._sent_unit[dst] = self._mass.unit
        if box is not None:
            return self._put(lambda: box.put_share(dst, z, weight, sent_at), dst, weight, updates)
        if self._numerator is None:
            self._numerator = torch.empty_like(z)
        sent = numerator(z, weight, out=self._numerator)
        return self._put(lambda: self.mailbox.put(dst, sent, weight, sent_at), dst, weight, updates)

    def put_copy(self, dst: int, z: Tensor, updates: int) -> bool:
        """Send ``z`` in place of what the box holds."""
        return self._put(lambda: self.mailbox.put(dst, z, 1.0, updates, replace=True), dst, 1.0, updates)

    def _put(self, put: Callable[[], bool], dst: int, weight: float, updates: int) -> bool:
        time_ns = time.monotonic_ns()
        if self.bound.lockstep:
            self.bound.wait_until(put, self.rank, dst, self.mailbox)
        elif not put():
            self.counts["refused_puts"] += 1
            return False
        self.log("put", dst, in_unit(weight, self._mass.unit, 0), updates, 1, time_ns, self._norm())
        if self.recorder is not None:
            self.recorder.put(dst, weight)
        self.counts["sent"] += 1
        self.counts["bytes_sent"] += self.mailbox.message_bytes
        return True

    def take(self, src: int, weight: float) -> Message | None:
        """What waits from ``src``."""
        return self._received(src, self.mailbox.take(src), weight)

    def absorb(self, src: int, weight: float, absorb: Callable[[Message], None]) -> bool:
        """Hand what waits from ``src`` to ``absorb``, which must not keep it. False if there is nothing."""
        if self._in_place is not None:
            return self._in_place.take_in_place(src, lambda message: absorb(self._counted(src, message, weight)))
        message = self.take(src, weight)
        if message is not None:
            absorb(message)
        return message is not None

    def wait_for(self, src: int, weight: float, updates: int) -> Message | None:
        """The next message from ``src``; see ``StalenessBound.next_message``."""
        return self._received(src, self.bound.next_message(self.rank, src, self.mailbox, updates), weight)

    def take_back(self, dst: int, weight: float) -> Message | None:
        """What ``dst``, who has departed, did not read."""
        message = self.mailbox.take_back(dst)
        if message is None:
            return None
        message = message.read()
        self.counts["taken_back"] += message.count
        if self.recorder is not None:
            self.recorder.take_back()
        self._log_take("take-back", dst, weight, message)
        return message

    def log_update(self, flat: Tensor, updates: int) -> None:
        """Tell the listener by how much the parameters have moved since ``settle``."""
        if self.on_event is not None:
            # the difference is rounded too, by a unit each
            change = _norm(flat - self._settled) * (1.0 + 4.0 * torch.finfo(flat.dtype).eps)
            self.settle(flat)
            self.log("update", self.rank, change, updates, 1, time.monotonic_ns())

    def settle(self, flat: Tensor) -> None:
        """What changes from here on is the next update."""
        if self.on_event is not None:
            self._settled.copy_(flat)

    def _norm(self) -> float:
        return _norm(self._flat) if self.on_event is not None else 0.0

    def _log_take(self, kind: EventKind, peer: int, weight: float, message: Message) -> None:
        unit = max(torch.finfo(dtype).eps for dtype in (self._flat.dtype, message.numerator.dtype)) / 2
        own = in_unit(weight, self._mass.unit, 0)
        self.log(kind, peer, own, message.sent_at, message.count, time.monotonic_ns(), self._norm(), unit)

    def log(self, kind: EventKind, *rest: Any) -> None:
        """Tell the listener, if there is one."""
        if self.on_event is not None:
            self.on_event(MixEvent(kind, self.rank, *rest))

    def stats(self) -> dict[str, float]:
        """Counters since the start; rounds without any message until now, and the full peer to blame (-1: none);
        ages, in the sender's updates, of the last 1000 messages."""
        ages = self._ages or [0]
        return {
            "message_age_mean": sum(ages) / len(ages),
            "message_age_max": float(max(ages)),
            "quiet_rounds": float(self._quiet_rounds),
            "held_up_by": float(self.full[0] if self.full and self._quiet_rounds else -1),
            "lost_weight": self.mailbox.lost_weight() if hasattr(self, "mailbox") else 0.0,
            "new_starts": float(self._mass.new_starts),
            "unit": float(self._mass.unit),
            **{name: float(count) for name, count in self.counts.items()},
        }

    def _received(self, src: int, message: Message | None, weight: float) -> Message | None:
        return None if message is None else self._counted(src, message, weight)

    def _counted(self, src: int, message: Message, weight: float) -> Message:
        message = message.read()
        age = max(self.mailbox.progress(src) - message.sent_at, 0)
        self._ages.append(age)
        self.age_histogram.add(age)
        self.counts["received"] += 1
        if self.recorder is not None:
            self.recorder.take(src, message.count)
        self._log_take("take", src, weight, message)
        return message


def _norm(vector: Tensor) -> float:
    return torch.linalg.vector_norm(vector, dtype=torch.float64).item()
