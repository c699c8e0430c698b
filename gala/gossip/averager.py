"""GossipAverager: three lines in any training loop keep a model close to those of the other learners."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from gala.gossip.flat import flatten_parameters, still_flat, unique_tensors
from gala.gossip.message import Mailbox, Message, check_rank
from gala.gossip.monitor import AgeHistogram, EventKind, MixEvent
from gala.gossip.push_sum import absorb_, numerator, sent_weights
from gala.gossip.staleness import AtBound, StalenessBound
from gala.gossip.topology import Topology, all_in_peers, get_topology, in_peers

Mixing = Literal["pushsum", "copy-average", "none"]

_DRAIN_TRIES = 20  # a box that a stopped sender holds keeps its mass; the drain must not hang on it


class GossipAverager:
    """Asynchronous PushSum between learners; call ``step()`` once per update, after ``optimizer.step()``.

    The parameters ARE the de-biased average z at all times, so evaluation and checkpoints need no special case.
    Optimiser steps move z by the full step, not by step / w: w only says how much of the network's mass is here at
    this moment, and a step divided by it would change size with the luck of arrivals. Optimiser state stays local.

    Args:
        params: the model's parameters; they become views of one vector (see ``flatten_parameters``).
        rank, world_size: this learner, and how many there are.
        mailbox: this rank's endpoint; None is allowed where nothing is exchanged (one learner, or ``mixing`` none).
        topology: a name in ``TOPOLOGIES``, or a ``Topology``.
        every: exchange once in this many updates.
        w_min: floor of the weight, in (0, 1); see ``sent_weights``.
        tau: staleness bound: exchanges in a row without a message from a peer that was due to send; None is no bound.
            0 is synchronous gossip, bit-identical to one process that computes all learners in lockstep; the floor
            is off there, since a round's weight comes back within the round.
        at_bound: ``proceed``; ``wait`` until the message comes or the peer has done as many updates as this learner;
            ``drop-peer``: never wait, and send nothing more to a peer that left tau + 1 messages unread.
        wait_timeout_s: how long ``wait`` and tau=0 wait before they raise.
        mixing: ``pushsum``; ``copy-average``, GALA's Algorithm 1 (send copies, average once every in-peer has sent);
            ``none``; or a callable that averages the flat vector over all learners in place, an all-reduce say.

    Raises:
        ValueError: an argument out of range (the message says which), or parameters that do not fit the boxes.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        rank: int,
        world_size: int,
        mailbox: Mailbox | None,
        topology: str | Topology = "ring",
        every: int = 1,
        w_min: float = 0.25,
        tau: int | None = None,
        at_bound: AtBound = "proceed",
        wait_timeout_s: float = 30.0,
        mixing: Mixing | Callable[[Tensor], None] = "pushsum",
    ) -> None:
        check_rank(rank, world_size)
        if every < 1:
            raise ValueError(f"every must be at least 1 update, not {every}")
        if not 0.0 < w_min < 1.0:
            raise ValueError(f"w_min must lie between 0 and 1 (both excluded), not {w_min}")
        if isinstance(mixing, str) and mixing not in ("pushsum", "copy-average", "none"):
            raise ValueError(f"mixing {mixing!r} is unknown; use pushsum, copy-average, none, or a callable")
        self.params = unique_tensors(params)
        self.flat = flatten_parameters(self.params)
        self.rank, self.world_size, self.every = rank, world_size, every
        self.topology = get_topology(topology, world_size)
        self.bound = StalenessBound(tau, at_bound, wait_timeout_s)
        self.w_min = 0.0 if self.bound.lockstep else w_min
        self.mixing = mixing
        self.weight = 1.0
        self.updates = 0
        self._talks = world_size > 1 and mixing in ("pushsum", "copy-average")
        if self._talks:
            if mailbox is None or mailbox.numel != self.flat.numel():
                raise ValueError(
                    f"the model has {self.flat.numel()} parameters and needs a mailbox for as many, "
                    f"not {None if mailbox is None else mailbox.numel}; all learners must have the same parameters"
                )
            self.mailbox = mailbox
            self._sources = all_in_peers(self.topology, world_size)[rank]
            self._missed = dict.fromkeys(self._sources, 0)
        self.on_event: Callable[[MixEvent], None] | None = None
        """Receives each update, put and take, for ``EpsilonBall``; set it before the first step. Costs three passes."""
        self._before = self.flat.clone()
        self._buffer = torch.empty_like(self.flat)
        self.age_histogram = AgeHistogram()
        self._ages: deque[int] = deque(maxlen=1000)
        self._counts = dict.fromkeys(("sent", "received", "bytes_sent", "kept_rounds", "refused_puts"), 0)

    def step(self) -> None:
        """Send this round's shares, then absorb what waits. Call after ``optimizer.step()``.

        Raises:
            FloatingPointError: this learner's parameters are not finite; nothing was sent.
            TimeoutError: the peer that a bound made us wait for stayed silent for ``wait_timeout_s``.
            RuntimeError: the parameters were moved (``module.to``) since the averager was built.
        """
        self.send()
        self.receive()

    def send(self) -> None:
        """The first half of ``step``. A one-process simulation calls it on all learners, then ``receive`` on all."""
        if not still_flat(self.flat, self.params):
            raise RuntimeError("the parameters were moved after GossipAverager was built; move the model first")
        self.updates += 1
        if self._is_exchange():
            if self.on_event is not None:
                change = torch.linalg.vector_norm(self.flat - self._before).item()
                self._log("update", self.rank, change, self.updates, 1, time.monotonic_ns())
            if callable(self.mixing):
                self.mixing(self.flat)
            elif self._talks:
                self._check_finite()
                self._push() if self.mixing == "pushsum" else self._push_copies()
        if self._talks:
            self.mailbox.advance(self.updates)

    def receive(self) -> None:
        """The second half of ``step``."""
        if not (self._talks and self._is_exchange()):
            return
        if self.mixing == "copy-average":
            self._average_copies()
        elif self.bound.lockstep:
            for src in self._due():
                self._absorb(src, self._next_message(src))
        else:
            self._absorb_what_waits()
        self._settle()

    def drain(self) -> None:
        """Absorb all that waits and send nothing; before a checkpoint and at the end. Copies carry no mass and are
        left."""
        if self._talks and self.mixing == "pushsum":
            for src in self._sources:
                for _ in range(_DRAIN_TRIES):
                    self._absorb(src, self.mailbox.take(src))
                    if not self.mailbox.waiting(src, self.rank):
                        break
            self._settle()

    def close(self) -> None:
        """This learner is done: absorb what waits, and tell the peers, who then keep their shares and never wait."""
        if self._talks:
            self.drain()
            self.mailbox.close()
            self._talks = False

    def stats(self) -> dict[str, float]:
        """This learner's counters: messages and bytes since the start, ages (in the sender's updates) of the last
        1000."""
        ages = self._ages or [0]
        return {
            "weight": self.weight,
            "message_age_mean": sum(ages) / len(ages),
            "message_age_max": float(max(ages)),
            "lost_weight": self.mailbox.lost_weight() if self._talks else 0.0,
            **{name: float(count) for name, count in self._counts.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Weight, update count and counters. Mass in the boxes is not here: ``drain()`` first, then save the model
        too."""
        return {"weight": self.weight, "updates": self.updates, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved weight and update count; load the model's own state beside it."""
        if not (math.isfinite(state["weight"]) and state["weight"] > 0 and state["updates"] >= 0):
            raise ValueError(
                f"not the state of a gossip averager: weight {state['weight']}, updates {state['updates']}"
            )
        self.weight, self.updates = float(state["weight"]), int(state["updates"])
        self._counts.update(state["counts"])

    def _is_exchange(self) -> bool:
        return self.updates % self.every == 0

    @property
    def _round(self) -> int:
        return self.updates // self.every - 1

    def _due(self) -> list[int]:
        return in_peers(self.topology, self._round, self.world_size)[self.rank]

    def _check_finite(self) -> None:
        # The sum is ten times cheaper than isfinite().all(), and finite unless something is not (or is near overflow).
        if not math.isfinite(self.flat.sum().item()) and not bool(torch.isfinite(self.flat).all()):
            raise FloatingPointError(
                f"learner {self.rank}: parameters are not finite after update {self.updates}; nothing was sent to its "
                "peers. Lower the learning rate or clip the gradients"
            )

    def _settle(self) -> None:
        if self.on_event is not None:  # what changes from here on is the next update
            self._before.copy_(self.flat)

    def _push(self) -> None:
        out = self._accepting()
        weights = sent_weights(self.weight, [share for _, share in out], self.w_min)
        if out and not any(weights):
            self._counts["kept_rounds"] += 1
        scaled_by = 0.0
        for (dst, _), weight in zip(out, weights, strict=True):
            if weight > 0.0:
                if weight != scaled_by:  # equal shares, the usual case, are computed once
                    numerator(self.flat, weight, out=self._buffer)
                    scaled_by = weight
                if self._put(dst, self._buffer, weight):
                    self.weight -= weight

    def _push_copies(self) -> None:
        for dst, _ in self._accepting():
            self._put(dst, self.flat, 1.0, replace=True)

    def _accepting(self) -> list[tuple[int, float]]:
        shares = self.topology.out_shares(self.rank, self._round, self.world_size)
        return [(dst, share) for dst, share in shares if self._accepts(dst)]

    def _accepts(self, dst: int) -> bool:
        box = self.mailbox
        if self.bound.lockstep:  # a second message in the box would add two rounds up
            taken = lambda: box.finished(dst) or not box.waiting(self.rank, dst)  # noqa: E731
            self.bound.wait_until(taken, self.rank, dst, box)
        return not box.finished(dst) and not self.bound.drops(box.waiting(self.rank, dst))

    def _put(self, dst: int, message: Tensor, weight: float, replace: bool = False) -> bool:
        time_ns = time.monotonic_ns()

        def put() -> bool:
            return self.mailbox.put(dst, message, weight, self.updates, replace)

        if self.bound.lockstep:
            self.bound.wait_until(put, self.rank, dst, self.mailbox)
        elif not put():
            self._counts["refused_puts"] += 1
            return False
        self._log("put", dst, weight, self.updates, 1, time_ns)
        self._counts["sent"] += 1
        self._counts["bytes_sent"] += self.mailbox.message_bytes
        return True

    def _absorb_what_waits(self) -> None:
        arrived = {src for src in self._sources if self._absorb(src, self.mailbox.take(src))}
        for src in self._due():
            self._missed[src] += 1
            if (
                src not in arrived
                and self.bound.waits(self._missed[src])
                and self._absorb(src, self._next_message(src))
            ):
                arrived.add(src)
        for src in arrived:
            self._missed[src] = 0

    def _absorb(self, src: int, message: Message | None) -> bool:
        if message is None:
            return False
        self._count(src, message, self.weight)
        self.weight = absorb_(self.flat, self.weight, message.numerator.to(self.flat.device), message.weight)
        return True

    def _average_copies(self) -> None:
        """x <- (x + sum of the in-peers' newest copies) / (1 + in-degree), once there is a copy from every one."""
        if self.bound.lockstep:
            copies = {src: self._next_message(src) for src in self._due()}
        elif all(self.mailbox.waiting(src, self.rank) for src in self._due()):
            copies = {src: self.mailbox.take(src) for src in self._due()}
        else:
            return
        arrived = [(src, message) for src, message in copies.items() if message is not None]
        for i, (src, message) in enumerate(arrived):
            self._count(src, message, 1.0 + i)
            self.flat.add_(message.numerator.to(self.flat.device))
        self.flat.div_(1 + len(arrived))

    def _count(self, src: int, message: Message, weight: float) -> None:
        age = max(self.mailbox.progress(src) - message.sent_at, 0)
        self._ages.append(age)
        self.age_histogram.add(age)
        self._counts["received"] += 1
        self._log("take", src, weight, message.sent_at, message.count, time.monotonic_ns())

    def _log(self, kind: EventKind, *rest: Any) -> None:
        if self.on_event is not None:
            self.on_event(MixEvent(kind, self.rank, *rest))

    def _next_message(self, src: int) -> Message | None:
        return self.bound.next_message(self.rank, src, self.mailbox, self.updates)
