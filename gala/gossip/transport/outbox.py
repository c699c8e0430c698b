"""Envelopes on their way: kept until the receiver has them, sent again after a fault, given back after its death."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from gala.gossip.message import Message, unit_of, updates_of
from gala.gossip.transport.inbox import Envelope

DeliveryStatus = Literal["delivered", "refused", "unknown", "dead"]
"""unknown: the connection failed, and the envelope may have arrived or not, so it is sent again under its number."""

MAX_UNDER_WAY = 8
"""Envelopes per receiver that are not acknowledged; then ``put`` is refused, which bounds the memory they take."""


class Carrier(Protocol):
    """What carries envelopes: Ray, TCP, or a test's own."""

    def send(self, dst: int, envelope: Envelope) -> Any:
        """Start it on its way, without waiting; returns a receipt for ``status``, None if the rank is not known."""
        ...

    def settled(self, receipts: list[Any]) -> list[Any]:
        """Those of ``receipts`` whose status is known; does not wait."""
        ...

    def status(self, receipt: Any) -> DeliveryStatus:
        """The state of one that is settled."""
        ...


class _Unsettled(NamedTuple):
    """An envelope of which it is not known whether it arrived."""

    envelope: Envelope
    receipt: Any


class Outbox:
    """All that one learner has sent. ``settle`` is called by whoever has the time: each put, and the link's thread."""

    def __init__(self, carrier: Carrier, rank: int, epoch: int) -> None:
        self._carrier, self._rank, self._epoch = carrier, rank, epoch
        self._lock = threading.Lock()
        self._under_way: dict[int, list[_Unsettled]] = {}
        self._returned: dict[int, list[Envelope]] = {}
        self._numbers: dict[int, int] = {}
        self._read: dict[int, int] = {}  # up to which number a receiver has read, or never will

    def put(self, dst: int, numerator: np.ndarray, weight: float, sent_at: int, replace: bool) -> bool:
        """False, and nothing has changed, while too many to ``dst`` are not acknowledged, or it is unknown."""
        self.settle()
        with self._lock:
            unsettled = self._under_way.setdefault(dst, [])
            if len(unsettled) >= MAX_UNDER_WAY:
                return False
            number = self._numbers.get(dst, 0) + 1
            envelope = Envelope(self._rank, self._epoch, number, numerator, weight, sent_at, replace)
            receipt = self._carrier.send(dst, envelope)
            if receipt is None:
                return False
            self._numbers[dst] = number
            unsettled.append(_Unsettled(envelope, receipt))
            return True

    def settle(self) -> None:
        """Learn the status of what is under way."""
        with self._lock:
            unsettled = [one for sent in self._under_way.values() for one in sent]
            settled = set(self._carrier.settled([p.receipt for p in unsettled])) if unsettled else ()
            for dst, sent in self._under_way.items() if settled else ():
                self._under_way[dst] = [
                    kept for p in sent if (kept := self._settled(dst, p) if p.receipt in settled else p) is not None
                ]

    def _settled(self, dst: int, one: _Unsettled) -> _Unsettled | None:
        status = self._carrier.status(one.receipt)
        if status == "unknown" and (receipt := self._carrier.send(dst, one.envelope)) is not None:
            return _Unsettled(one.envelope, receipt)
        if status != "delivered":
            self._read[dst] = max(one.envelope.number, self._read.get(dst, 0))
            self._returned.setdefault(dst, []).append(one.envelope)
        return None

    def flush(
        self, timeout_s: float, sleep: Callable[[float], None], reaches: Callable[[int], bool] = lambda dst: True
    ) -> bool:
        """Wait until every envelope has been delivered or has come back; False if the time is over, or what is left is
        under way to those alone whom nobody ``reaches``."""
        step_s, waited_s = 1e-3, 0.0
        self.settle()
        while any(map(reaches, self.under_way_to())) and waited_s < timeout_s:
            sleep(step_s)
            waited_s += step_s
            self.settle()
        return self.oldest() is None

    def acknowledged(self, dst: int, number: int) -> None:
        """``dst`` has read all up to ``number``."""
        with self._lock:
            self._read[dst] = max(number, self._read.get(dst, 0))

    def forget(self, dst: int) -> None:
        """``dst`` starts a new life: what the old one has not read, nobody will."""
        with self._lock:
            self._read[dst] = self._numbers.get(dst, 0)

    def unread(self, dst: int) -> int:
        """Envelopes that ``dst`` has, or is about to get, and has not read as far as we have heard."""
        with self._lock:
            return self._numbers.get(dst, 0) - self._read.get(dst, 0)

    def under_way_to(self) -> list[int]:
        """Ranks that an envelope is under way to."""
        with self._lock:
            return sorted(dst for dst, unsettled in self._under_way.items() if unsettled)

    def oldest(self) -> int | None:
        """The lowest update count among the envelopes under way; None if there are none."""
        with self._lock:
            counts = [updates_of(p.envelope.sent_at) for unsettled in self._under_way.values() for p in unsettled]
            return min(counts, default=None)

    def returned(self) -> list[int]:
        """Ranks that something came back from."""
        with self._lock:
            return sorted(self._returned)

    def take_back(self, dst: int) -> Message | None:
        """The sum of what came back from ``dst``, of one unit at a time. Copies (``replace``) carry no mass: they are
        dropped."""
        with self._lock:
            envelopes = [envelope for envelope in self._returned.pop(dst, []) if not envelope.replace]
            if not envelopes:
                return None
            unit = unit_of(envelopes[0].sent_at)
            if others := [x for x in envelopes if unit_of(x.sent_at) != unit]:
                self._returned[dst] = others
            envelopes = [x for x in envelopes if unit_of(x.sent_at) == unit]
        total = torch.from_numpy(np.sum([envelope.numerator for envelope in envelopes], axis=0, dtype=np.float32))
        return Message(total, sum(x.weight for x in envelopes), max(x.sent_at for x in envelopes), len(envelopes))
