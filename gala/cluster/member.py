"""What an actor needs to take part: its boxes, its envelopes, and the link that keeps its mirror of the hub fresh."""

from __future__ import annotations

import queue
import threading
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError

from gala.cluster.hub import Row
from gala.cluster.mirror import Mirror
from gala.cluster.patience import HUB_TIMEOUT_S, answer_of
from gala.gossip.message import Message
from gala.gossip.transport.inbox import Envelope, Inbox
from gala.gossip.transport.outbox import DeliveryStatus, Outbox
from gala.gossip.transport.roster import Table

SYNC_S = 0.05
"""Pause between two visits to the hub: about how old a peer's progress, state and moments are."""
UNREACHABLE_AFTER_S = 3.0
"""One whose thread has not visited the hub for so long is not waited for with envelopes."""
_REPEATS = 10
"""How often Ray repeats a call to the hub when the connection to it broke; the hub knows repeats by their number."""


class RayPost:
    """Carries envelopes as calls of the receivers' actors, which nobody waits for."""

    def __init__(self) -> None:
        self.learners: list[Any] = []

    def send(self, dst: int, envelope: Envelope) -> Any:
        learner = self.learners[dst] if dst < len(self.learners) else None
        return None if learner is None else learner.deliver.remote(envelope)

    def settled(self, receipts: list[Any]) -> list[Any]:
        return ray.wait(receipts, num_returns=len(receipts), timeout=0, fetch_local=False)[0]

    def status(self, receipt: Any) -> DeliveryStatus:
        try:
            return "delivered" if ray.get(receipt) else "refused"
        except ActorUnavailableError:
            return "unknown"
        except RayActorError:
            return "dead"
        except RayError:
            return "unknown"


class Member:
    """One rank's share in the run. Its thread visits the hub; ``deliver`` and ``acknowledge`` are called by the peers.

    Args:
        hub: handle of the ``Hub`` actor.
        epoch: which life of this rank it is.
    """

    def __init__(self, hub: Any, rank: int, epoch: int) -> None:
        self.rank, self.epoch, self._hub = rank, epoch, hub
        self.inbox, self.carrier = Inbox(), RayPost()
        self.outbox = Outbox(self.carrier, rank, epoch)
        self.updates = 0
        self._epochs: tuple[int, ...] = ()
        self.commands: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._heard = self._said = 0
        self._order = threading.Lock()  # a row must not overtake a newer one on its way to the hub
        self._hearing = threading.Lock()  # two visits at a time must not both pass a command on
        self._moments: NDArray | None = None

    def start(self) -> None:
        """Get the hub's rows, and keep them fresh from now on."""
        self.mirror = Mirror(answer_of(self._hub.rows.remote()), self.rank)
        self.sync()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._visit, name="gala link", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(HUB_TIMEOUT_S)

    def sync(self) -> None:
        """One visit to the hub, and a look at the envelopes under way."""
        self.outbox.settle()
        with self._order:
            heard = self._heard
            answer = self._hub.sync.remote(self.rank, self.epoch, self._row(), heard)
        rows, commands = answer_of(answer)
        with self._hearing:
            for command in commands[self._heard - heard :]:
                self.commands.put(command)
                self._heard += 1
        if rows.epochs != self._epochs:
            self.carrier.learners = answer_of(self._hub.learners.remote())
            for rank, (old, new) in enumerate(zip(self._epochs, rows.epochs, strict=False)):
                if old and old != new:
                    self.outbox.forget(rank)
                    self.inbox.bar(rank, old)
            self._epochs = rows.epochs
        self.mirror.apply(rows)

    def say(self, kind: str, body: Any) -> Any:
        """An event for the parent; returns a reference that is ready when the hub has it."""
        with self._order:
            self._said += 1
            say = self._hub.say.options(max_task_retries=_REPEATS)
            return say.remote(self.rank, self.epoch, self._row(), self._said, kind, body)

    def acknowledge(self, src: int, epoch: int, number: int) -> None:
        """Tell ``src``, if it still lives that life, that its envelopes up to ``number`` were read."""
        if self._epochs[src] == epoch:
            acknowledge = self.carrier.learners[src].acknowledge.options(max_task_retries=_REPEATS)
            acknowledge.remote(self.rank, number)  # without it we would stay full for ``src``; twice changes nothing

    @property
    def table(self) -> Table:
        """The mirror's: see ``Link``."""
        return self.mirror.table

    def sent_updates(self, rank: int) -> int:
        return int(self.mirror.sent_updates[rank])

    def reaches(self, rank: int) -> bool:
        return self.mirror.unseen_s(rank) < UNREACHABLE_AFTER_S

    def stop_accepting(self) -> list[Message]:
        return self.inbox.close()

    def say_goodbye(self) -> None:
        self.sync()

    def agree(self, fingerprint: int) -> list[int]:
        """See ``Hub.agree``. Waits for the hub."""
        return list(answer_of(self._hub.agree.remote(self.rank, fingerprint)))

    def publish_params(self, flat: NDArray, number: int, stamp: float) -> None:
        self._hub.publish_params.remote(self.rank, self.epoch, flat, number, stamp)

    def publish_moments(self, moments: NDArray) -> None:
        self.mirror.moments[self.rank] = self._moments = moments

    def _visit(self) -> None:
        while not self._stopped.wait(SYNC_S):
            try:
                self.sync()
            except (ActorUnavailableError, GetTimeoutError):  # the next visit makes good what this one has missed
                continue

    def _row(self) -> Row:
        table, updates = self.mirror.table, self.updates
        oldest = self.outbox.oldest()
        env_steps, learner_updates = (int(x) for x in self.mirror.progress[self.rank])
        moments, self._moments = self._moments, None
        return Row(
            env_steps,
            learner_updates,
            updates if oldest is None else min(updates, oldest - 1),
            int(table.state[self.rank]),
            float(table.weight[self.rank]),
            int(table.unit[self.rank]),
            self.inbox.weight(),
            (int(self.mirror.beats[self.rank, 0]), int(self.mirror.beats[self.rank, 1])),
            moments,
        )
