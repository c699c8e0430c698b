"""The actor of the tests: a rank of its own, without simulators."""

from __future__ import annotations

import time
from typing import Any

import torch

from gala.cluster.member import Member
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.remote import RemoteEndpoint


class Peer:
    """A rank whose endpoint a test can call; an averager on demand."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def live(self, hub: Any, rank: int, epoch: int) -> None:
        """Be a new member, with empty boxes."""
        self.member = Member(hub, rank, epoch)

    def start(self, numel: int) -> None:
        self.member.start()
        self.numel, self.end = numel, RemoteEndpoint(self.member, numel, 1e9)

    def deliver(self, envelope: Any) -> bool:
        return self.member.inbox.deliver(envelope)

    def acknowledge(self, dst: int, number: int) -> None:
        self.member.outbox.acknowledged(dst, number)

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        return getattr(self.end, name)(*args, **options)

    def put(self, *args: Any, **options: Any) -> bool:
        while not self.end.put(*args, **options):
            time.sleep(1e-3)
        return self.end.flush()

    def sync(self) -> None:
        self.member.sync()

    def boxes(self) -> list[Any]:
        return [message for message, _ in self.member.inbox._boxes.values()]

    def gossip(self, rank: int, n: int, rounds: int) -> tuple[float, torch.Tensor]:
        """Learn for some rounds, then come to rest: (envelopes read, sum of own steps as they weighed)."""
        averager = GossipAverager(
            [torch.full((self.numel,), float(rank))], rank=rank, world_size=n, mailbox=self.end, topology="ring"
        )
        added = torch.zeros(self.numel, dtype=torch.float64)
        for t in range(50 * rounds):
            if t >= rounds and averager.stats()["received"]:
                break
            step = 0.1 * torch.randn(self.numel, generator=torch.Generator().manual_seed(1000 * rank + t))
            averager.flat.add_(step)
            added += averager.weight * step.double()
            averager.step()
            time.sleep(5e-3)
        self.end.rest(True)
        self.averager = averager
        return averager.stats()["received"], added

    def drain(self) -> tuple[torch.Tensor, float]:
        self.averager.drain()
        return self.averager.flat.clone(), self.averager.weight
