"""Defaults of ``gala supervised``, as frozen dataclasses. Nothing here imports beyond the standard library and
``gala.config.schema``. A preset (configs/digits/*.yaml) overrides a default; the command line overrides both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from gala.config.schema import flatten

METHODS = ("allreduce", "sgp", "overlap-sgp", "dpsgd", "local-sgd")
"""In the order of the table."""


@dataclass(frozen=True)
class SgdConfig:
    """The local optimiser, SGD with Nesterov momentum; its state stays local."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["constant", "linear"] = "linear"
    """linear decays to 0 over the run."""
    warmup: float = 0.05
    """Part of the run in which lr rises from 0."""


@dataclass(frozen=True)
class SlowConfig:
    """The periodic exact average of local SGD, and SlowMo (arXiv 1910.00643)."""

    every: int = 12
    """Iterations between exact averages (the paper: 12 for local SGD)."""
    lr: float = 1.0
    momentum: float = 0.5
    """Of SlowMo; local SGD without SlowMo has 0."""
    buffers: Literal["reset", "maintain", "average"] = "maintain"
    """What becomes of SGD's momentum at a slow step (the paper resets it)."""


@dataclass(frozen=True)
class SupervisedConfig:
    """One comparison: every method, with and without SlowMo, on every seed."""

    method: str = "all"
    """all, or names with commas between them: allreduce, sgp, overlap-sgp, dpsgd, local-sgd."""
    slowmo: Literal["off", "on", "both", "no-average", "all"] = "both"
    """both: off and on. all: no-average too, the variant of the gossip methods in which nobody waits for an average."""
    learners: int = 8
    """Processes, one per learner."""
    seeds: tuple[int, ...] = (1,)
    """Of initial parameters, shards and batches; the split into training and test set is split_seed's."""
    split_seed: int = 0
    test_fraction: float = 0.2
    batch_size: int = 16
    """Images per learner and iteration."""
    iterations: int = 300
    """Per learner. Where no learner waits (overlap-sgp), they share learners x iterations and fast ones do more."""
    epochs: float = 0.0
    """Passes over the training set, all learners together, in place of iterations; 0: iterations."""
    compute_ms: float = 20.0
    """Each learner's forward and backward pass is stretched to this by sleeping, as if the model were larger."""
    straggler: float = 1.0
    """The last learner computes this many times longer."""
    latency_ms: float = 5.0
    """A message becomes visible to its receiver this long after it was sent."""
    allreduce: Literal["log2", "ring"] = "log2"
    """Latencies in an exact average: ceil(log2 n) (recursive doubling), or 2 (n - 1) (ring)."""
    topology: str = "one-peer-exponential"
    """Of sgp and overlap-sgp; any of `gala topologies`."""
    dpsgd_topology: str = "undirected-ring"
    """Must be symmetric in every round."""
    overlap_tau: int = -1
    """overlap-sgp waits after this many iterations without a message from a peer that was due; -1: never."""
    wait_timeout_s: float = 30.0
    """A learner that waits this long for another one ends the run with an error."""
    optim: SgdConfig = field(default_factory=SgdConfig)
    slow: SlowConfig = field(default_factory=SlowConfig)
    out: str = ""
    """Directory of the results; empty makes runs/supervised-<time>."""
    overwrite: bool = False
    """Replace the results in an existing directory."""
    preset: str = ""
    """Set by preset=NAME; kept for the record."""


def validate(config: SupervisedConfig) -> None:
    """Refuse values that cannot work. Raises ValueError: one line that names the setting and what it may be."""
    c, values = config, flatten(config)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}={value} must be a finite number")
    rules = {
        "learners": (c.learners >= 1, "at least 1"),
        "seeds": (len(c.seeds) > 0 and min(c.seeds) >= 0, "one or more numbers that are 0 or more"),
        "split_seed": (c.split_seed >= 0, "0 or more"),
        "test_fraction": (0 < c.test_fraction < 1, "between 0 and 1, both excluded"),
        "batch_size": (c.batch_size >= 1, "at least 1"),
        "iterations": (c.iterations >= 1, "at least 1"),
        "epochs": (c.epochs >= 0, "0 or more"),
        "compute_ms": (c.compute_ms >= 0, "0 or more"),
        "straggler": (c.straggler >= 1, "1 (none) or more"),
        "latency_ms": (c.latency_ms >= 0, "0 or more"),
        "overlap_tau": (c.overlap_tau == -1 or c.overlap_tau >= 1, "-1 (no bound) or at least 1; 0 is method=sgp"),
        "wait_timeout_s": (c.wait_timeout_s > 0, "greater than 0"),
        "optim.lr": (c.optim.lr > 0, "greater than 0"),
        "optim.momentum": (0 <= c.optim.momentum < 1, "at least 0 and below 1"),
        "optim.weight_decay": (c.optim.weight_decay >= 0, "0 or more"),
        "optim.warmup": (0 <= c.optim.warmup <= 1, "between 0 and 1"),
        "slow.every": (c.slow.every >= 1, "at least 1"),
        "slow.lr": (c.slow.lr > 0, "greater than 0"),
        "slow.momentum": (0 <= c.slow.momentum < 1, "at least 0 and below 1"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise ValueError(f"{name}={values[name]} must be {rule}")
    if c.straggler > 1 and c.compute_ms == 0:
        raise ValueError(f"straggler={c.straggler} stretches compute_ms, which is 0; give compute_ms too")
    method_names(c)


def method_names(config: SupervisedConfig) -> tuple[str, ...]:
    """The chosen methods in the order of the table. Raises ValueError for an unknown name."""
    chosen = [word.strip() for word in config.method.split(",")]
    if unknown := [word for word in chosen if word not in (*METHODS, "all")]:
        raise ValueError(f"method={unknown[0]!r} is unknown; there are all, {', '.join(METHODS)}")
    return METHODS if "all" in chosen else tuple(name for name in METHODS if name in chosen)
