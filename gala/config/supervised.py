"""Defaults of ``gala supervised``, as frozen dataclasses. Nothing here imports beyond the standard library and
``gala.config.schema``. A preset (configs/digits/*.yaml, configs/tiny/*.yaml) overrides a default; the command line
overrides both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gala.config.bounds import (
    AT_LEAST_ONE,
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_RATE,
    UNIT,
    Bound,
    bounded,
    check_bounds,
)

METHODS = ("allreduce", "sgp", "overlap-sgp", "dpsgd", "local-sgd")
"""In the order of the table."""


@dataclass(frozen=True)
class SgdConfig:
    """The local optimiser; its state stays local."""

    name: Literal["sgd", "adam", "rmsprop"] = "sgd"
    """sgd: with Nesterov momentum. The others take no momentum from here."""
    lr: float = bounded(0.1, POSITIVE_RATE)
    """Learning rate of one learner."""
    momentum: float = bounded(0.9, BELOW_ONE)
    """Nesterov momentum."""
    weight_decay: float = bounded(1e-4, NOT_NEGATIVE)
    """This times the parameters is added to the gradient."""
    schedule: Literal["constant", "linear"] = "linear"
    """linear decays to 0 over the run."""
    warmup: float = bounded(0.05, UNIT)
    """Part of the run in which lr rises from 0."""


@dataclass(frozen=True)
class SlowConfig:
    """The periodic exact average of local SGD, and SlowMo (arXiv 1910.00643)."""

    every: int = bounded(12, AT_LEAST_ONE)
    """Iterations between exact averages (the paper: 12 for local SGD)."""
    lr: float = bounded(1.0, POSITIVE_RATE)
    """Slow learning rate: 1 keeps the fast steps whole."""
    momentum: float = bounded(0.5, BELOW_ONE)
    """Slow momentum of SlowMo; local SGD without SlowMo has 0."""
    buffers: Literal["reset", "maintain", "average"] = "maintain"
    """What becomes of SGD's momentum at a slow step (the paper resets it)."""


@dataclass(frozen=True)
class TinyConfig:
    """Images in which one small object decides the class: is there a certain digit among others? (arXiv 1908.06037)"""

    ratio: float = bounded(0.0625, Bound(lambda v: 0.0002 <= v <= 0.25, "between 0.0002 and 0.25"))
    """Area of the object's square over that of the image."""
    object_px: int = bounded(0, NOT_NEGATIVE)
    """Side of the object's square; 0: 8, which handwritten digits have, or for tiny-glyphs what side and ratio make."""
    side: int = bounded(0, NOT_NEGATIVE)
    """tiny-glyphs: side of the image, to which the object is fitted; 0: what object_px and ratio make."""
    coverage: float = bounded(0.3, Bound(lambda v: 0 <= v <= 1, "between 0 and 1"))
    """Area of all clutter over that of the image, the same at every ratio, if no pieces overlapped, as they may;
    there is at least one piece."""
    target: int = bounded(3, Bound(lambda v: 0 <= v <= 9, "0 to 9"))
    """The digit that is the object; clutter is all others."""
    train_images: int = bounded(1000, Bound(lambda v: v >= 2, "at least 2"))
    """Images to learn from, half of them with the object."""
    test_images: int = bounded(1000, Bound(lambda v: v >= 2, "at least 2"))
    """Images to judge by, of digits that no training image has."""
    permuted_labels: bool = False
    """The control: training labels are shuffled, so that test accuracy must be chance."""


@dataclass(frozen=True)
class TinyModelConfig:
    """The network of data=tiny-...: a BagNet, a pooling over all places, a linear layer."""

    receptive_field: int = bounded(9, POSITIVE)
    """Side in pixels of the square that one place sees, at equal numbers of parameters: with these strides 3, 5, 9, 13
    or 17, with those of the paper (2,2,2,1) 3, 5, 9, 17 or 33."""
    strides: tuple[int, ...] = bounded(
        (2, 1, 1, 1), Bound(lambda v: len(v) == 4 and min(v) >= 1, "four numbers of at least 1")
    )
    """One of each stage; together 2 pixels where the paper's objects of 28 have 8."""
    channels: int = bounded(16, AT_LEAST_ONE)
    """Channels of the maps between all stages."""
    pooling: Literal["flatten", "mean", "max", "logsumexp", "attention", "top_k"] = "max"
    """As ``model.pooling`` of `gala train`."""
    pool_temperature: float = bounded(1.0, POSITIVE)
    """logsumexp: towards 0 the mean, towards infinity the maximum."""
    pool_top_k: int = bounded(4, AT_LEAST_ONE)
    """top_k: how many of the largest values of each map."""


@dataclass(frozen=True)
class SupervisedConfig:
    """One comparison: every method, with and without SlowMo, on every seed."""

    data: Literal["digits", "tiny-digits", "tiny-glyphs"] = "digits"
    """digits: which of ten, handwritten. tiny-...: is there one certain digit in a cluttered image? Of handwritten ones
    of 8 pixels, or of those of matplotlib's fonts in any size."""
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
    """Seed of the split into training and test set, the same for all seeds."""
    test_fraction: float = bounded(0.2, Bound(lambda v: 0 < v < 1, "between 0 and 1, both excluded"))
    """Share of the images that is the test set."""
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
    """A learner that waits this long for another one ends the run with an error; for the first update of each 300 s, or
    this long if that is more."""
    optim: SgdConfig = field(default_factory=SgdConfig)
    slow: SlowConfig = field(default_factory=SlowConfig)
    tiny: TinyConfig = field(default_factory=TinyConfig)
    model: TinyModelConfig = field(default_factory=TinyModelConfig)
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
    if config.data != "digits":
        geometry(config.data, config.tiny)
    elif (config.tiny, config.model) != (TinyConfig(), TinyModelConfig()):
        raise ValueError("tiny.* and model.* are settings of data=tiny-digits and tiny-glyphs, not of data=digits")


HANDWRITTEN_PX, SMALLEST_PX, LARGEST_SIDE = 8, 6, 1024
_NEAR = 0.05


def geometry(data: str, tiny: TinyConfig) -> tuple[int, int]:
    """(side of the object's square, side of the image) in pixels.

    Raises:
        ValueError: whole pixels come no closer than 5 % to the ratio, or the object or the image has a size that cannot
            be.
    """
    p, side = tiny.object_px, tiny.side
    if data == "tiny-digits" and (p not in (0, HANDWRITTEN_PX) or side):
        raise ValueError("handwritten digits have 8 pixels, and ratio decides the side; for others data=tiny-glyphs")
    if p and side:
        raise ValueError(f"give tiny.object_px={p} or tiny.side={side}, not both: the other follows from tiny.ratio")
    if side:
        p = round(side * tiny.ratio**0.5)
    else:
        p = p or HANDWRITTEN_PX
        side = round(p / tiny.ratio**0.5)
    if p < SMALLEST_PX:
        raise ValueError(f"tiny.ratio={tiny.ratio:g} of side {side} is {p} pixels; digits need {SMALLEST_PX} or more")
    if not 2 * p <= side <= LARGEST_SIDE:
        raise ValueError(f"objects of {p} pixels need images of {2 * p} to {LARGEST_SIDE}, not {side}")
    if abs(p * p / side**2 / tiny.ratio - 1) > _NEAR:
        raise ValueError(
            f"tiny.ratio={tiny.ratio:g}: the nearest for side {side} is {p * p / side**2:.6g} ({p} pixels)"
        )
    return p, side


def method_names(config: SupervisedConfig) -> tuple[str, ...]:
    """The chosen methods in the order of the table. Raises ValueError for an unknown name."""
    chosen = [word.strip() for word in config.method.split(",")]
    if unknown := [word for word in chosen if word not in (*METHODS, "all")]:
        raise ValueError(f"method={unknown[0]!r} is unknown; there are all, {', '.join(METHODS)}")
    return METHODS if "all" in chosen else tuple(name for name in METHODS if name in chosen)
