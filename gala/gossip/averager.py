"""GossipAverager: three lines in any training loop keep a model close to those of the other learners."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from gala.gossip.copy_average import average_copies
from gala.gossip.evidence.events import AgeHistogram, MixEvent
from gala.gossip.exchange import Exchange
from gala.gossip.flat import check_finite, without_start
from gala.gossip.graphs.stitching import Neighbours
from gala.gossip.graphs.topology import Shares, Topology, get_topology
from gala.gossip.mass import Mass
from gala.gossip.message import Mailbox, Message, check_rank
from gala.gossip.push_sum import sent_weights
from gala.gossip.staleness import AtBound, StalenessBound
from gala.gossip.values import ExchangedValues, Source

Mixing = Literal["pushsum", "copy-average", "none"]

_DRAIN_TRIES = 20  # a box that a stopped sender holds keeps its mass; the drain must not hang on it


class GossipAverager:
    """Asynchronous PushSum between learners; call ``step()`` once per update, after ``optimizer.step()``.

    The parameters ARE the de-biased average z at all times, so evaluation and checkpoints need no special case.
    Optimiser steps move z by the full step, not by step / w: w only says how much of the network's mass is here at
    this moment, and a step divided by it would change size with the luck of arrivals. Optimiser state stays local.

    Args:
        params: the model, or its parameters; they become views of one vector (see ``ExchangedValues``). Only of a model
            buffers are known, and parameters that are replaced or added later: ``step`` refuses to go on then.
        average_buffers: exchange a model's running statistics too: see ``averaged_tensors`` and ``averaged_numel``.
        rank, world_size: this learner, and how many there can be at a time. Who is there is the mailbox's roster.
        mailbox: this rank's endpoint; None is allowed where nothing is exchanged (one learner, or ``mixing`` none).
        topology: a name in ``TOPOLOGIES``, or a ``Topology``.
        every: exchange once in this many updates.
        w_min: floor of the weight, in (0, 1), as a share of the mean weight; see ``sent_weights``.
        max_unread_weight: a peer for whom more than this share of the mean weight waits, or that has not read our last
            message, is full: the graph is stitched around it as around a missing one, even where the only way leads
            through it, until it reads. Copies and lockstep know no full peers.
        tau: staleness bound: exchanges in a row without a message from a peer that was due to send; None is no bound.
            0 is synchronous gossip, bit-identical to one process that computes all learners in lockstep, without floor.
        at_bound: ``proceed``; ``wait`` until the message comes or the peer has done as many updates as this learner;
            ``drop-peer``: never wait, and let a peer leave tau + 1 messages unread, and not one, before it is full.
        wait_timeout_s: how long ``wait`` and tau=0 wait, once all have begun, before they raise.
        mixing: ``pushsum``; ``copy-average``, GALA's Algorithm 1 (send copies, average once every in-peer has sent);
            ``none``; or a callable that averages the flat vector over all learners in place, an all-reduce say.

    Raises:
        ValueError: an argument out of range (the message says which), or parameters that do not fit the boxes.
    """

    def __init__(
        self,
        params: Source,
        *,
        rank: int,
        world_size: int,
        mailbox: Mailbox | None,
        topology: str | Topology = "ring",
        every: int = 1,
        w_min: float = 0.1,
        max_unread_weight: float = 0.5,
        tau: int | None = None,
        at_bound: AtBound = "proceed",
        wait_timeout_s: float = 60.0,
        mixing: Mixing | Callable[[Tensor], None] = "pushsum",
        average_buffers: bool = True,
    ) -> None:
        check_rank(rank, world_size)
        if every < 1:
            raise ValueError(f"every must be at least 1 update, not {every}")
        if not 0.0 < w_min < 1.0:
            raise ValueError(f"w_min must lie between 0 and 1 (both excluded), not {w_min}")
        if not max_unread_weight > 0.0:
            raise ValueError(f"max_unread_weight must be positive, not {max_unread_weight}")
        if isinstance(mixing, str) and mixing not in ("pushsum", "copy-average", "none"):
            raise ValueError(f"mixing {mixing!r} is unknown; use pushsum, copy-average, none, or a callable")
        self.values = ExchangedValues(params, average_buffers)
        self.flat, self.fingerprint = self.values.flat, self.values.fingerprint()
        self.rank, self.world_size, self.every = rank, world_size, every
        self.topology = get_topology(topology, world_size)
        self.bound = StalenessBound(tau, at_bound, wait_timeout_s)
        self.w_min = 0.0 if self.bound.lockstep else w_min
        self.mixing, self.max_unread_weight = mixing, max_unread_weight
        self.updates = 0
        self._talks = world_size > 1 and mixing in ("pushsum", "copy-average")
        if self._talks:
            self.mailbox = self.values.fitting(mailbox)
            self.bound.check(self.mailbox)
            self._neighbours = Neighbours(self.topology, rank, world_size, self.mailbox.roster)
            self._missed: dict[int, int] = {}
        self._mass = Mass(self.flat, rank, mailbox.roster if self._talks and mailbox is not None else None)
        self._exchange = Exchange(mailbox, rank, self.bound, self._mass)
        if getattr(mailbox, "newcomer", False):
            self.join(max(self.mailbox.progress(other) for other in range(world_size)))

    @property
    def weight(self) -> float:
        """How much of the network's mass is here, in shares of 1 per learner until some die: see ``Mass``."""
        return self._mass.weight

    @weight.setter
    def weight(self, weight: float) -> None:
        self._mass.weight = weight

    def step(self) -> None:
        """Send this round's shares, then absorb what waits. Call after ``optimizer.step()``.

        Raises:
            FloatingPointError: this learner's parameters are not finite; nothing was sent.
            TimeoutError: a bound made us wait for a peer for ``wait_timeout_s``: see ``StalenessBound.wait_until``.
            RuntimeError: parameters were moved (``module.to``), replaced or added since the averager was built.
        """
        self.send()
        self.receive()

    def send(self) -> None:
        """The first half of ``step``. A one-process simulation calls it on all learners, then ``receive`` on all."""
        self.values.check()
        self.updates += 1
        if self._is_exchange():
            self.values.read()
            self._exchange.log_update(self.flat, self.updates)
            if callable(self.mixing):
                self.mixing(self.flat)
                self.values.write()
            elif self._talks:
                self._exchange.agree(self.fingerprint)
                check_finite(self.flat, self.rank, self.updates)
                self._push() if self.mixing == "pushsum" else self._push_copies()
        if self._talks:
            self.mailbox.advance(self.updates)

    def receive(self) -> None:
        """The second half of ``step``."""
        if not (self._talks and self._is_exchange()):
            return
        if self.mixing == "copy-average":
            average_copies(self.flat, self._exchange, self._neighbours.due(self._round), self.updates)
        elif self.bound.lockstep:
            for src in self._neighbours.due(self._round):
                self._absorb(self._exchange.wait_for(src, self.weight, self.updates))
        else:
            self._take_back()
            self._absorb_what_waits()
            self._exchange.end_round()
        self._settle()

    def drain(self) -> None:
        """Absorb all that waits, send nothing; before a checkpoint and at the end. Copies have no mass and are left."""
        if self._talks and self.mixing == "pushsum":
            self._mass.count_as_others()
            self.values.read()
            self._take_back()
            for _ in range(_DRAIN_TRIES):
                for src in self.mailbox.senders():
                    self._exchange.absorb(src, self.weight, self._mass.absorb)
            self._settle()

    def close(self) -> None:
        """This learner is done: absorb what waits; peers keep their shares and never wait (tau=0: after a barrier)."""
        if self._talks:
            self.drain()
            self.mailbox.close()
            self._talks = False

    def leave(self) -> bool:
        """Hand all mass to one peer and close. False if nobody took it (all rest, say): then try after another step."""
        if self._talks and self.mixing == "pushsum":
            self.drain()
            check_finite(self.flat, self.rank, self.updates)
            others = (r for r in self.mailbox.roster.live() if r != self.rank)
            if self.weight > 0.0 and not any(
                self._exchange.put_share(r, self.flat, self.weight, self.updates) for r in others
            ):
                return False
            self.weight = 0.0
        if self._talks:
            self._mass.publish()
            self.mailbox.close()
            self._talks = False
        return True

    def join(self, updates: int = 0) -> None:
        """Take part in a running job with weight 0, which leaves its average alone (a copy has the weight of all);
        ``updates`` is a live peer's count. Raises ValueError in lockstep, where all have a place from the start."""
        if self.bound.lockstep:
            raise ValueError("learners cannot join a synchronous run (tau=0); use tau=1 or more, or none")
        self.updates, self.fingerprint = updates, without_start(self.fingerprint)
        if self.mixing == "pushsum":
            self._mass.begin_with_none()

    def stats(self) -> dict[str, float]:
        """This learner's weight, and its traffic: see ``Exchange.stats``. Nothing of a callable, which has its own."""
        return {} if callable(self.mixing) else {"weight": self.weight, **self._exchange.stats()}

    @property
    def on_event(self) -> Callable[[MixEvent], None] | None:
        """Receives each update, put and take, for ``EpsilonBall``; set it before the first step. Costs three passes."""
        return self._exchange.on_event

    @on_event.setter
    def on_event(self, listener: Callable[[MixEvent], None] | None) -> None:
        self._exchange.on_event = listener

    @property
    def age_histogram(self) -> AgeHistogram:
        """Ages of the messages that this learner took."""
        return self._exchange.age_histogram

    def slice_weights(self) -> list[tuple[int, float]]:
        """(length, weight) of consecutive slices of the flat vector: how much each counts in the learners' average."""
        return [(self.flat.numel(), self.weight)]

    def state_dict(self) -> dict[str, Any]:
        """Weight, update count, counters. Mass in the boxes is not here: ``drain()`` first; save the model too."""
        state = {"weight": self.weight, "updates": self.updates, "counts": dict(self._exchange.counts)}
        return state | self.values.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved weight and update count; load the model's own state beside it."""
        if not (math.isfinite(state["weight"]) and state["weight"] >= 0 and state["updates"] >= 0):
            raise ValueError(f"not a gossip averager's state: weight {state['weight']}, updates {state['updates']}")
        self.weight, self.updates = float(state["weight"]), int(state["updates"])
        self._exchange.counts.update(state["counts"])
        self.values.load_state_dict(state)
        self.fingerprint = without_start(self.fingerprint)
        self._mass.publish()

    def _is_exchange(self) -> bool:
        return self.updates % self.every == 0

    @property
    def _round(self) -> int:
        return self.updates // self.every - 1

    def mark(self, number: int) -> None:
        """Log that the parameters, as they are now, are published under ``number``; for ``Certificate``."""
        self.values.read()
        self._exchange.log_update(self.flat, self.updates)
        self._exchange.log("mark", self.rank, 0.0, number, 1, time.monotonic_ns())

    def rest(self, resting: bool) -> None:
        """Stand still for a while, or go on: see ``Mailbox.rest``."""
        if self._talks:
            self.mailbox.rest(resting)

    def _settle(self) -> None:
        self.values.write()
        self._mass.publish()
        self._exchange.settle(self.flat)

    def _push(self) -> None:
        mean = self._mass.mean_weight()  # what died with others must not stop us
        out, full = (self._accepting(), []) if self.bound.lockstep else self._past_full(mean)
        weights = sent_weights(self.weight, [share for _, share in out], self.w_min * min(mean, 1.0))
        self._exchange.left_out(full, kept=bool(out or full) and not any(weights))
        for (dst, _), weight in zip(out, weights, strict=True):
            if weight > 0.0 and self._exchange.put_share(dst, self.flat, weight, self.updates):
                self.weight -= weight

    def _past_full(self, mean: float) -> tuple[Shares, list[int]]:
        cap = self.max_unread_weight * mean
        return self._neighbours.out_shares_past_full(self._round, lambda dst: self._exchange.is_full(dst, cap))

    def _push_copies(self) -> None:
        for dst, _ in self._accepting():
            self._exchange.put_copy(dst, self.flat, self.updates)

    def _accepting(self) -> Shares:
        return [each for each in self._neighbours.out_shares(self._round) if self._exchange.accepts(each[0])]

    def _absorb_what_waits(self) -> None:
        arrived = {src for src in self.mailbox.senders() if self._exchange.absorb(src, self.weight, self._mass.absorb)}
        for src in self._neighbours.due(self._round):
            self._missed[src] = self._missed.get(src, 0) + 1
            late = src not in arrived and self.bound.waits(self._missed[src])
            if late and self._absorb(self._exchange.wait_for(src, self.weight, self.updates)):
                arrived.add(src)
        for src in arrived:
            self._missed[src] = 0

    def _take_back(self) -> None:
        """What a dead or silent peer did not read is ours again."""
        for dst in self.mailbox.roster.departed():
            if dst != self.rank:
                self._absorb(self._exchange.take_back(dst, self.weight))

    def _absorb(self, message: Message | None) -> bool:
        if message is not None:
            self._mass.absorb(message)
        return message is not None
