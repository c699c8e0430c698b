"""Defaults of ``gala supervised``, as frozen dataclasses. Nothing here imports beyond the standard library and
``gala.config.schema``. A preset (configs/digits/*.yaml) overrides a default; the command line overrides both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gala.config.bounds import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, POSITIVE, UNIT, Bound, bounded, check_bounds

METHODS = ("allreduce", "sgp", "overlap-sgp", "dpsgd", "local-sgd")
"""In the order of the table."""


@dataclass(frozen=True)
class SgdConfig:
    """The local optimiser, SGD with Nesterov momentum; its state stays local."""

    lr: float = bounded(0.1, POSITIVE)
    momentum: float = bounded(0.9, BELOW_ONE)
    weight_decay: float = bounded(1e-4, NOT_NEGATIVE)
    schedule: Literal["constant", "linear"] = "linear"
    """linear decays to 0 over the run."""
    warmup: float = bounded(0.05, UNIT)
    """Part of the run in which lr rises from 0."""


@dataclass(frozen=True)
class SlowConfig:
    """The periodic exact average of local SGD, and SlowMo (arXiv 1910.00643)."""

    every: int = bounded(12, AT_LEAST_ONE)
    """Iterations between exact averages (the paper: 12 for local SGD)."""
    lr: float = bounded(1.0, POSITIVE)
    momentum: float = bounded(0.5, BELOW_ONE)
    """Slow momentum of SlowMo; local SGD without SlowMo has 0."""
    buffers: Literal["reset", "maintain", "average"] = "maintain"
    """What becomes of SGD's momentum at a slow step (the paper resets it)."""


@dataclass(frozen=True)
class SupervisedConfig:
    """One comparison: every method, with and without SlowMo, on every seed."""

    method: str = "all"
    """all, or names with commas between them: allreduce, sgp, overlap-sgp, dpsgd, local-sgd."""
    slowmo: Literal["off", "on", "both", "no-average", "all"] = "both"
    """both: off and on. all: no-average too, the variant of the gossip methods in which nobody waits for an average."""
    learners: int = bounded(8, AT_LEAST_ONE)
    """Processes, one per learner."""
    seeds: tuple[int, ...] = bounded(
        (1,), Bound(lambda v: len(v) > 0 and min(v) >= 0, "one or more numbers that are 0 or more")
    )
    """Seeds of initial parameters, shards and batches; the split into training and test set is split_seed's."""
    split_seed: int = bounded(0, NOT_NEGATIVE)
    test_fraction: float = bounded(0.2, Bound(lambda v: 0 < v < 1, "between 0 and 1, both excluded"))
    batch_size: int = bounded(16, AT_LEAST_ONE)
    """Images per learner and iteration."""
    iterations: int = bounded(300, AT_LEAST_ONE)
    """Per learner. Where no learner waits (overlap-sgp), they share learners x iterations and fast ones do more."""
    epochs: float = bounded(0.0, NOT_NEGATIVE)
    """Passes over the training set, all learners together, in place of iterations; 0: iterations."""
    compute_ms: float = bounded(20.0, NOT_NEGATIVE)
    """Each learner's forward and backward pass is stretched to this by sleeping, as if the model were larger."""
    straggler: float = bounded(1.0, Bound(lambda v: v >= 1, "1 (none) or more"))
    """The last learner computes this many times longer."""
    latency_ms: float = bounded(5.0, NOT_NEGATIVE)
    """A message becomes visible to its receiver this long after it was sent."""
    allreduce: Literal["log2", "ring"] = "log2"
    """Latencies in an exact average: ceil(log2 n) (recursive doubling), or 2 (n - 1) (ring)."""
    topology: str = "one-peer-exponential"
    """Graph of sgp and overlap-sgp; any of `gala topologies`."""
    dpsgd_topology: str = "undirected-ring"
    """Must be symmetric in every round."""
    overlap_tau: int = bounded(-1, Bound(lambda v: v == -1 or v >= 1, "-1 (no bound) or at least 1; 0 is method=sgp"))
    """overlap-sgp waits after this many iterations without a message from a peer that was due; -1: never."""
    wait_timeout_s: float = bounded(30.0, POSITIVE)
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
    check_bounds(config)
    if config.straggler > 1 and config.compute_ms == 0:
        raise ValueError(f"straggler={config.straggler} stretches compute_ms, which is 0; give compute_ms too")
    method_names(config)


def method_names(config: SupervisedConfig) -> tuple[str, ...]:
    """The chosen methods in the order of the table. Raises ValueError for an unknown name."""
    chosen = [word.strip() for word in config.method.split(",")]
    if unknown := [word for word in chosen if word not in (*METHODS, "all")]:
        raise ValueError(f"method={unknown[0]!r} is unknown; there are all, {', '.join(METHODS)}")
    return METHODS if "all" in chosen else tuple(name for name in METHODS if name in chosen)
