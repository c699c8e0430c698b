"""PushSum over a transport that loses, repeats or reorders messages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gala.gossip.message import HEADER_BYTES, Mailbox, Message


class RunningSums:
    """A Mailbox over an unreliable one: sends, on each edge, the sum of all that was EVER put there; the receiver
    absorbs the difference to what it has seen. A lost message is made up for by the next that arrives, a repeated
    or late one changes nothing. (Running-sum PushSum, Hadjicostis, Vaidya and Dominguez-Garcia 2016.)

    ``inner`` must carry float64: differences of sums that grow for ever would drown in float32 rounding.
    """

    def __init__(self, inner: Mailbox) -> None:
        self._inner, self.numel = inner, inner.numel
        self.message_bytes = 8 * self.numel + HEADER_BYTES
        self._given: dict[int, tuple[Tensor, float]] = {}
        self._seen: dict[int, tuple[Tensor, float]] = {}

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        before, total = self._given.get(dst, (torch.zeros(self.numel, dtype=torch.float64), 0.0))
        new = before + numerator.to("cpu", torch.float64), total + weight
        self._given[dst] = new
        self._inner.put(dst, *new, sent_at, replace=True)
        return True  # even if the box refused it: the next put carries it

    def take(self, src: int) -> Message | None:
        message = self._inner.take(src)
        seen, total = self._seen.get(src, (torch.zeros(self.numel, dtype=torch.float64), 0.0))
        if message is None or message.weight <= total:  # sums only grow: this one is older than what was seen
            return None
        self._seen[src] = message.numerator, message.weight
        return message._replace(numerator=message.numerator - seen, weight=message.weight - total)

    def take_back(self, dst: int) -> Message | None:
        return None  # what was given once is in every later sum

    def __getattr__(self, name: str) -> Any:
        """All else is the inner mailbox's."""
        return getattr(self._inner, name)
