"""Exact averages over all learners: torch.distributed's gloo on loopback, with the latency of a network injected."""

from __future__ import annotations

import math
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

HOPS = {"log2": lambda n: math.ceil(math.log2(n)), "ring": lambda n: 2 * (n - 1)}
"""Messages one after the other in an all-reduce over n learners.

log2: recursive doubling, which has the fewest. ring: reduce-scatter and all-gather around a ring, which moves the
fewest bytes and is what libraries choose for large models."""


def join(rank: int, world_size: int, store_port: int, timeout_s: float) -> None:
    """Join the process group of a run on this machine; the parent serves a TCPStore at ``store_port``."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore("127.0.0.1", store_port, is_master=False, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)


class Collective:
    """Averages over all learners of the process group. With one learner it does nothing and takes no time.

    Latency model: an average is there ``hops * latency_s`` after the last learner has come to it; no bandwidth. What
    loopback really takes counts towards that time, and shows only where it is longer.

    Every learner sends its vector to all others and averages what it has got: to the last bit the same everywhere, and
    one step instead of the 2 (n - 1) of gloo's ring all-reduce, each of which waits for a process to be scheduled where
    learners outnumber cores. It costs world_size times the memory and the bytes, so it is for small models.
    """

    def __init__(self, world_size: int, latency_s: float, hops: str) -> None:
        self.world_size = world_size
        self.hops = HOPS[hops](world_size)
        self.delay_s = self.hops * latency_s

    def average(self, tensors: list[Tensor], weight: float = 1.0) -> None:
        """Each tensor <- sum of weight * tensor over learners / sum of weights, in place; one message for all.

        All tensors have the same float dtype.
        """
        if self.world_size == 1:
            return
        dtype = tensors[0].dtype
        arrived = torch.tensor([time.monotonic_ns()]).view(dtype)  # bits of the clock that all processes share
        message = torch.cat([*(t.reshape(-1) for t in tensors), torch.tensor([weight], dtype=dtype), arrived])
        rows = torch.empty(self.world_size, message.numel(), dtype=dtype)
        dist.all_to_all_single(rows.view(-1), message.repeat(self.world_size))
        size = message.numel() - 1 - arrived.numel()
        last_ns = int(rows[:, size + 1 :].contiguous().view(torch.int64).max())
        weights = rows[:, size]
        mean = (weights @ rows[:, :size]).div_(weights.sum())
        time.sleep(max(0.0, self.delay_s - (time.monotonic_ns() - last_ns) / 1e9))
        for tensor, part in zip(tensors, mean.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def barrier(self) -> None:
        """Return once all learners have come here. Takes no injected time."""
        if self.world_size > 1:
            dist.barrier()
