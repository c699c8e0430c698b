"""The epsilon-ball certificate of a running job: learners log what they do, and a reader replays it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gala.gossip.evidence.epsilon_ball import EpsilonBall
from gala.gossip.evidence.events import MixEvent, consensus_distance

_MOST_QUEUED = 500_000


class Measured(NamedTuple):
    """Bound and distance ||X - mean(X)||_F of the same parameters, and the number of each learner's publication."""

    bound: float
    distance: float
    marks: tuple[int, ...]


class Certificate:
    """Bound and measured distance of the same parameters, though learners report at different times and never stop.

    A learner's parameters are a weighted sum of all updates ever made, with weights that the events determine
    (``EpsilonBall``). Each learner marks its log when it publishes its parameters, so the weights of exactly those
    parameters are known; where another learner was at that moment does not matter. Events are replayed in the order of
    each learner, a take after the puts that it took: no clock is compared.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.ball = EpsilonBall(world_size)
        self.void = ""
        """Why there is no certificate any more; empty while there is."""
        self._queues = [deque[MixEvent]() for _ in range(world_size)]
        self._versions = [0] * world_size
        self._newest_put: dict[tuple[int, int], int] = {}
        self._published: list[dict[int, Tensor]] = [{} for _ in range(world_size)]
        self._marked: dict[int, tuple[int, Tensor]] = {}

    def log(self, rank: int, events: Iterable[tuple]) -> None:
        """Take in the next events of one learner, in its order."""
        if not self.void:
            self._queues[rank].extend(MixEvent(*event) for event in events)
            if len(self._queues[rank]) > _MOST_QUEUED:
                self.give_up(f"learner {rank} took messages that no learner has logged")

    def publish(self, rank: int, number: int, params: Tensor) -> None:
        """The parameters [d] that learner ``rank`` marked as ``number``; call it before ``log`` brings that mark."""
        if number and not self.void:
            self._published[rank][number] = params

    def measure(self) -> Measured | None:
        """Bound and distance of the newest published parameters whose past is known.

        None before the first, and once the certificate is ``void``.
        """
        progressed = not self.void
        while progressed:
            progressed = False
            for queue in self._queues:
                while queue and self._is_ready(queue[0]):
                    self._apply(queue.popleft())
                    progressed = True
        bound = self.ball.bound_at_marks()
        if bound is None or self.void:
            return None
        marks, params = zip(*(self._marked[rank] for rank in range(self.world_size)), strict=True)
        return Measured(bound, consensus_distance(torch.stack(params)), marks)

    def _is_ready(self, event: MixEvent) -> bool:
        return event.kind != "take" or self._newest_put.get((event.peer, event.rank), -1) >= event.version

    def _apply(self, event: MixEvent) -> None:
        if event.kind == "put":
            self._newest_put[event.rank, event.peer] = event.version
        elif event.kind == "update":
            if event.version < self._versions[event.rank]:
                self.give_up(f"learner {event.rank} has begun anew")
                return
            self._versions[event.rank] = event.version
        elif event.kind == "mark":
            published = self._published[event.rank]
            if event.version not in published:  # replaced by a newer one before it was read
                return
            self._marked[event.rank] = event.version, published[event.version]
            self._published[event.rank] = {n: params for n, params in published.items() if n > event.version}
        self.ball.apply(event)

    def give_up(self, why: str) -> None:
        """There is no certificate from here on: part of what happened was not logged."""
        self.void = why
        for queue in self._queues:
            queue.clear()
