"""Letters on their way: kept until the receiver has them, sent again after a fault, given back after its death."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from gala.cluster.inbox import Letter
from gala.gossip.message import Message

Fate = Literal["delivered", "refused", "unknown", "dead"]
"""unknown: the connection failed, and the letter may have arrived or not, so it is sent again under its number."""

MAX_UNDER_WAY = 8
"""Letters per receiver that are not acknowledged; then ``put`` is refused, which bounds the memory they take."""


class Post(Protocol):
    """What carries letters; Ray, or a test's own."""

    def send(self, dst: int, letter: Letter) -> Any:
        """Start it on its way, without waiting; returns a receipt for ``fate``. None: nobody of that rank is known."""
        ...

    def settled(self, receipts: list[Any]) -> list[Any]:
        """Those of ``receipts`` whose fate is known; does not wait."""
        ...

    def fate(self, receipt: Any) -> Fate:
        """The state of one that is settled."""
        ...


class _Parcel(NamedTuple):
    letter: Letter
    receipt: Any


class Outbox:
    """All that one learner has sent. ``settle`` is called by whoever has the time: each put, and the link's thread."""

    def __init__(self, post: Post, rank: int, epoch: int) -> None:
        self._post, self._rank, self._epoch = post, rank, epoch
        self._lock = threading.Lock()
        self._under_way: dict[int, list[_Parcel]] = {}
        self._returned: dict[int, list[Letter]] = {}
        self._numbers: dict[int, int] = {}
        self._read: dict[int, int] = {}  # up to which number a receiver has read, or never will

    def put(self, dst: int, numerator: np.ndarray, weight: float, sent_at: int, replace: bool) -> bool:
        """False, and nothing has changed, while too many letters to ``dst`` are not acknowledged, or it is unknown."""
        self.settle()
        with self._lock:
            parcels = self._under_way.setdefault(dst, [])
            if len(parcels) >= MAX_UNDER_WAY:
                return False
            number = self._numbers.get(dst, 0) + 1
            letter = Letter(self._rank, self._epoch, number, numerator, weight, sent_at, replace)
            receipt = self._post.send(dst, letter)
            if receipt is None:
                return False
            self._numbers[dst] = number
            parcels.append(_Parcel(letter, receipt))
            return True

    def settle(self) -> None:
        """Learn the fate of what is under way."""
        with self._lock:
            parcels = [parcel for sent in self._under_way.values() for parcel in sent]
            settled = set(self._post.settled([p.receipt for p in parcels])) if parcels else ()
            for dst, sent in self._under_way.items() if settled else ():
                self._under_way[dst] = [
                    kept for p in sent if (kept := self._settled(dst, p) if p.receipt in settled else p) is not None
                ]

    def _settled(self, dst: int, parcel: _Parcel) -> _Parcel | None:
        fate = self._post.fate(parcel.receipt)
        if fate == "unknown" and (receipt := self._post.send(dst, parcel.letter)) is not None:
            return _Parcel(parcel.letter, receipt)
        if fate != "delivered":
            self._read[dst] = max(parcel.letter.number, self._read.get(dst, 0))
            self._returned.setdefault(dst, []).append(parcel.letter)
        return None

    def flush(self, timeout_s: float, sleep: Callable[[float], None]) -> bool:
        """Wait until every letter has been delivered or has come back; False if the time is over."""
        step_s, waited_s = 1e-3, 0.0
        self.settle()
        while self.oldest() is not None and waited_s < timeout_s:
            sleep(step_s)
            waited_s += step_s
            self.settle()
        return self.oldest() is None

    def thanked(self, dst: int, number: int) -> None:
        """``dst`` has read all up to ``number``."""
        with self._lock:
            self._read[dst] = max(number, self._read.get(dst, 0))

    def forget(self, dst: int) -> None:
        """``dst`` starts a new life: what the old one has not read, nobody will."""
        with self._lock:
            self._read[dst] = self._numbers.get(dst, 0)

    def unread(self, dst: int) -> int:
        """Letters that ``dst`` has, or is about to get, and has not read as far as we have heard."""
        with self._lock:
            return self._numbers.get(dst, 0) - self._read.get(dst, 0)

    def oldest(self) -> int | None:
        """The lowest update count among the letters under way; None if there are none."""
        with self._lock:
            counts = [p.letter.sent_at for parcels in self._under_way.values() for p in parcels]
            return min(counts, default=None)

    def returned(self) -> list[int]:
        """Ranks that something came back from."""
        with self._lock:
            return sorted(self._returned)

    def take_back(self, dst: int) -> Message | None:
        """The sum of what came back from ``dst``. Copies (``replace``) carry no mass: they are dropped."""
        with self._lock:
            letters = [letter for letter in self._returned.pop(dst, []) if not letter.replace]
        if not letters:
            return None
        total = torch.from_numpy(np.sum([letter.numerator for letter in letters], axis=0, dtype=np.float32))
        return Message(total, sum(x.weight for x in letters), max(x.sent_at for x in letters), len(letters))
