"""GALA's Algorithm 1 (arXiv 1906.04585): averages of copies, row-stochastic, kept for comparison with PushSum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gala.gossip.exchange import Exchange


def average_copies(flat: Tensor, exchange: Exchange, due: Sequence[int], updates: int) -> None:
    """x <- (x + sum of the in-peers' newest copies) / (1 + in-degree), once there is a copy from every one in ``due``.

    ``flat`` [d] changes in place. In lockstep it waits for each copy, and raises TimeoutError if one does not come.
    """
    lockstep = exchange.bound.lockstep
    if not lockstep and not all(exchange.mailbox.waiting(src, exchange.rank) for src in due):
        return
    arrived = 0
    for src in due:
        own = 1.0 + arrived  # parts in the sum so far
        message = exchange.wait_for(src, own, updates) if lockstep else exchange.take(src, own)
        if message is not None:
            flat.add_(message.numerator.to(flat.device))
            arrived += 1
    flat.div_(1 + arrived)
