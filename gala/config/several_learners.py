"""The settings of several learners: how they exchange, what makes them slow, where they run. See ``schema``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gala.config.bounds import (
    AT_LEAST_ONE,
    BELOW_ONE,
    INSIDE_UNIT,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_RATE,
    Bound,
    bounded,
)


@dataclass(frozen=True)
class GossipConfig:
    """What the learners exchange, with whom and how (algo=gala)."""

    mixing: Literal["pushsum", "copy-average", "allreduce", "none"] = "pushsum"
    """copy-average: GALA's Algorithm 1. allreduce: the exact average of the parameters, in lock-step."""
    topology: str = "ring"
    """A name from `gala topologies`, the path of an edge list (.txt) or of a .yaml file with edges or a matrix, or
    module:attribute, a ``gala.gossip.Topology`` of your own."""
    peers: int = bounded(0, NOT_NEGATIVE)
    """Out-peers in a round, for graphs that take a number (ring, one-peer-exponential, ...); 0 is the graph's own."""
    peers_schedule: str = ""
    """The same from given exchanges on: 0:2,3000:1 is two peers for the first 3000 exchanges, then one."""
    every: int = bounded(1, AT_LEAST_ONE)
    """Exchange once in this many updates."""
    lr_scaling: Literal["none", "sqrt", "noise"] = "none"
    """sqrt multiplies optim.lr by sqrt(learners): the mean of their noisy steps is so much shorter than the one step of
    a learner with all their simulators. noise lengthens, with optim.name=adam, only the steps of those parameters whose
    gradients are noise rather than signal, see ``gala.optim.mean_adam``; for other optimisers it is sqrt. Both know
    the learners of the start, also after `gala scale`."""
    shards: int = bounded(1, AT_LEAST_ONE)
    """Exchange a K-th of the parameters at a time, in turn; messages are K times smaller."""
    codec: Literal["none", "fp16", "int8"] = "none"
    """Encoding of messages, with error feedback."""
    overlap: bool = False
    """Exchange in a thread of its own while the next rollout is collected; what arrives is absorbed an update later."""
    w_min: float = bounded(0.1, INSIDE_UNIT)
    """A learner whose PushSum weight would fall under this share of the mean keeps it for the round."""
    max_unread_weight: float = bounded(0.5, POSITIVE)
    """A learner for which more than this share of the mean weight waits unread is full, as is one that has not read our
    last message: the graph is stitched around it until it reads. PushSum without tau=0 only."""
    tau: int = bounded(-1, Bound(lambda v: v >= -1, "-1 (no bound), 0 (synchronous) or more"))
    """Staleness bound in own updates without a message; -1 is no bound, 0 is synchronous gossip."""
    at_bound: Literal["proceed", "wait", "drop-peer"] = "proceed"
    """At the staleness bound: go on; wait for the peer that is late; or go on and send it no more until it reads."""
    wait_timeout_s: float = bounded(60.0, POSITIVE)
    """A learner that waits this long for another one (tau=0, at_bound=wait) ends with an error that names it. For
    the first update of each it waits 300 s, or this long if that is more."""
    silent_after_s: float = bounded(30.0, POSITIVE)
    """A learner that finished no update for so long is left out of the graph until it does; longer than any update."""
    certify: bool = False
    """Log all exchanges, and from them a bound on the distance between the learners that cannot be exceeded."""
    record: bool = False
    """Log when each learner sent and absorbed what, so that `gala replay RUN` can repeat the run to the last bit."""


@dataclass(frozen=True)
class SlowMoConfig:
    """Slow momentum on top of any algorithm, local to each learner (SlowMo's no-average variant)."""

    every: int = bounded(0, NOT_NEGATIVE)
    """Updates between slow steps; 0 is off. The paper takes 48 on top of gossip."""
    lr: float = bounded(1.0, POSITIVE_RATE)
    """Slow learning rate: 1 keeps the fast steps whole."""
    momentum: float = bounded(0.6, BELOW_ONE)
    """What the slow momentum keeps per slow step."""


@dataclass(frozen=True)
class DelayConfig:
    """Simulators made slower than they are, for experiments with stragglers; training only."""

    mean_s: float = bounded(0.0, NOT_NEGATIVE)
    """Mean time of one simulator's decision; a batched step takes as long as its slowest row. 0 adds nothing."""
    sigma: float = bounded(0.0, NOT_NEGATIVE)
    """Sigma of the lognormal times; 0 makes them constant, 1 heavy-tailed."""
    slow_learner: float = bounded(1.0, AT_LEAST_ONE)
    """The last learner's simulators take so many times longer."""


@dataclass(frozen=True)
class ClusterConfig:
    """Learners on the machines of a Ray cluster (extra `cluster`)."""

    address: str = ""
    """Empty: processes of this machine, without Ray. auto: the Ray cluster that this machine is part of, or else Ray on
    this machine. local: Ray on this machine, closed to others. HOST:PORT: that cluster."""
