"""An unreliable network for tests: messages are delayed, reordered, repeated or lost; time is a tick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gala.gossip.averager import GossipAverager
from gala.gossip.message import Mailbox, Message
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.roster import Table, TableRoster


@dataclass
class Network:
    """``sums``: boxes add (plain PushSum). Otherwise each take hands out one raw message, in order of arrival."""

    world_size: int
    numel: int
    rng: np.random.Generator
    max_delay: int = 0
    loss: float = 0.0
    repeat: float = 0.0
    sums: bool = True
    now: int = 0
    on_the_way: dict[tuple[int, int], list[tuple[int, Message]]] = field(default_factory=dict)
    lost_mass: list[tuple[Tensor, float]] = field(default_factory=list)
    updates: dict[int, int] = field(default_factory=dict)

    def endpoint(self, rank: int) -> Mailbox:
        return _Endpoint(self, rank)

    def in_flight(self) -> tuple[Tensor, float]:
        messages = [message for queue in self.on_the_way.values() for _, message in queue]
        total = torch.zeros(self.numel, dtype=torch.float64)
        return sum((m.numerator for m in messages), total), sum(m.weight for m in messages)


class _Endpoint:
    def __init__(self, network: Network, rank: int) -> None:
        self.network, self.rank, self.numel = network, rank, network.numel
        self.message_bytes = 8 * self.numel

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        net = self.network
        message = Message(numerator.clone(), weight, sent_at, 1)
        if net.rng.random() < net.loss:
            net.lost_mass.append((message.numerator, weight))
            return True
        for _ in range(1 + (net.rng.random() < net.repeat)):
            arrival = net.now + int(net.rng.integers(net.max_delay + 1))
            net.on_the_way.setdefault((self.rank, dst), []).append((arrival, message))
        return True

    def take(self, src: int) -> Message | None:
        net = self.network
        queue = net.on_the_way.get((src, self.rank), [])
        ready = sorted((entry for entry in queue if entry[0] <= net.now), key=lambda entry: entry[0])
        ready = ready if net.sums else ready[:1]
        if not ready:
            return None
        taken = {id(entry) for entry in ready}
        net.on_the_way[src, self.rank] = [entry for entry in queue if id(entry) not in taken]
        messages = [message for _, message in ready]
        return Message(
            sum((m.numerator for m in messages), torch.zeros(self.numel, dtype=torch.float64)),
            sum(m.weight for m in messages),
            max(m.sent_at for m in messages),
            len(messages),
        )

    @property
    def roster(self) -> TableRoster:
        return TableRoster(Table.local(self.network.world_size), self.rank, math.inf)

    def take_back(self, dst: int) -> None:
        return None

    def senders(self) -> list[int]:
        return [src for src, dst in self.network.on_the_way if dst == self.rank]

    def waiting(self, src: int, dst: int) -> int:
        return len(self.network.on_the_way.get((src, dst), []))

    def unread_weight(self, dst: int) -> float:
        queues = (queue for (_, to), queue in self.network.on_the_way.items() if to == dst)
        return sum(message.weight for queue in queues for _, message in queue)

    def agree(self, fingerprint: int) -> None:
        pass

    def advance(self, updates: int) -> None:
        self.network.updates[self.rank] = updates

    def progress(self, rank: int) -> int:
        return self.network.updates.get(rank, 0)

    def finished(self, rank: int) -> bool:
        return False

    def lost_weight(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def start(values: Tensor, network: Network | InProcessMailboxes | None = None, wrap=lambda box: box, **settings):  # type: ignore[no-untyped-def]
    """One averager for each row of ``values`` [n, d], over ``network`` (fresh in-process boxes by default), each
    endpoint wrapped by ``wrap``."""
    n, d = values.shape
    shared = network or InProcessMailboxes(n, d)
    return [
        GossipAverager([values[r].clone()], rank=r, world_size=n, mailbox=wrap(shared.endpoint(r)), **settings)
        for r in range(n)
    ]


def lockstep(averagers: list[GossipAverager]) -> None:
    """One synchronous round of all learners in one thread."""
    for averager in averagers:
        averager.send()
    for averager in averagers:
        averager.receive()


def stack(averagers: list[GossipAverager]) -> Tensor:
    """Parameters of all learners, [n, d], copied."""
    return torch.stack([a.flat.clone() for a in averagers])


def mass(averagers: list[GossipAverager]) -> tuple[Tensor, float]:
    """(sum of numerators [d], sum of weights) that the learners hold."""
    return sum((a.weight * a.flat.double() for a in averagers), torch.zeros(1)), sum(a.weight for a in averagers)
