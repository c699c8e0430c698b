"""Defaults of ``gala video train``, as a frozen dataclass. A preset (configs/video/*.yaml) overrides a default; the
command line overrides both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gala.config.bounds import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Bound, bounded, check_bounds
from gala.config.several_learners import SlowMoConfig


@dataclass(frozen=True)
class VideoConfig:
    """One training of a model that predicts videos (arXiv 1904.12165)."""

    data: str = bounded("moving-digits", Bound(bool, "a process or a folder"))
    """Videos made by rule: moving-digits; or, of known entropy, wall-bounce, random-walk, particle, coin-flip or
    alternating. Or a folder that `gala record` wrote: the model is told the actions, and one episode in five is for
    testing."""
    frames: int = bounded(12, Bound(lambda v: v >= 2, "at least 2"))
    """Frames of a training video, with the context."""
    context: int = bounded(4, NOT_NEGATIVE)
    """Frames that are given; those after them are predicted."""
    scales: int = bounded(4, AT_LEAST_ONE)
    """Resolutions of the network, each half of the one before."""
    levels: int = bounded(2, Bound(lambda v: 1 <= v <= 3, "1 to 3"))
    """Latents, from the coarsest scale upward; one per scale at most."""
    width: int = bounded(32, AT_LEAST_ONE)
    """Channels of every layer."""
    latent: int = bounded(8, AT_LEAST_ONE)
    """Channels of each latent."""
    likelihood: Literal["bernoulli", "gaussian", "disc-logistic"] = "bernoulli"
    """bernoulli: pixels in [0, 1]. gaussian: any numbers. disc-logistic: pixels of k / 255."""
    learned_prior: bool = True
    """false: every latent's prior is N(0, 1)."""
    learners: int = bounded(1, AT_LEAST_ONE)
    """Processes that gossip after every iteration, each with videos of its own."""
    topology: str = bounded("exponential", Bound(bool, "a graph of `gala topologies`"))
    """Who sends to whom; any of `gala topologies`."""
    tau: int = bounded(-1, Bound(lambda v: v >= -1, "-1 (no bound), 0 (synchronous) or more"))
    """Iterations in a row without a message from a peer that was due to send, after which a learner waits for it.
    0: all do the same iteration, and two runs with one seed end with the same bits."""
    slowmo: SlowMoConfig = field(default_factory=SlowMoConfig)
    batch_size: int = bounded(16, AT_LEAST_ONE)
    """Videos in an iteration of each learner."""
    iterations: int = bounded(3000, AT_LEAST_ONE)
    """Updates of each learner."""
    lr: float = bounded(1e-3, POSITIVE)
    """Adam's."""
    max_grad_norm: float = bounded(100.0, NOT_NEGATIVE)
    """0 is no limit."""
    warm_up: int = bounded(1000, NOT_NEGATIVE)
    """Iterations in which the weight of the KL rises from 0 to 1; 0: it is 1 from the start."""
    seed: int = bounded(0, NOT_NEGATIVE)
    """Draws parameters, videos and samples."""
    log_every: int = bounded(100, AT_LEAST_ONE)
    """Iterations between records, each of which judges the model on held-out videos."""
    save_every: int = bounded(500, AT_LEAST_ONE)
    """Iterations between checkpoints, with a picture of samples each."""
    out: str = ""
    """Directory of the run; empty makes runs/video-<time>."""
    preset: str = ""
    """Set by preset=NAME; kept for the record."""


def validate(config: VideoConfig) -> None:
    """Refuse values that cannot work. Raises ValueError: one line that names the setting and what it may be."""
    check_bounds(config)
    if config.context >= config.frames:
        raise ValueError(f"context={config.context} leaves nothing of frames={config.frames} to predict; lower it")
    if config.data in ("coin-flip", "alternating", "particle") and config.likelihood != "gaussian":
        raise ValueError(f"data={config.data} holds real numbers; it needs likelihood=gaussian")
