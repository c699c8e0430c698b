"""Defaults of ``gala video train``, as a frozen dataclass. A preset (configs/video/*.yaml) overrides a default; the
command line overrides both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gala.config.bounds import (
    AT_LEAST_ONE,
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_RATE,
    Bound,
    bounded,
    check_bounds,
)
from gala.config.several_learners import SlowMoConfig


@dataclass(frozen=True)
class VideoEkfacConfig:
    """The Fisher matrix of optimizer=ekfac, local to each learner; see ``gala.optim.ekfac.EKFAC``."""

    kind: Literal["ekfac", "kfac", "diagonal"] = "ekfac"
    """ekfac: second moments in the eigenbasis. kfac: products of eigenvalues. diagonal: no eigenbasis."""
    videos: int = bounded(2, AT_LEAST_ONE)
    """Videos of each batch that the matrix is estimated from; memory and time grow with them."""
    damping: float = bounded(0.01, POSITIVE)
    """Added to the Fisher matrix before it is inverted: the larger, the nearer to plain gradients."""
    decay: float = bounded(0.95, BELOW_ONE)
    """What the running means of second moments keep per iteration."""
    basis_every: int = bounded(20, AT_LEAST_ONE)
    """Iterations between two renewals of the eigenbases."""
    max_dim: int = bounded(1024, AT_LEAST_ONE)
    """Layers with more inputs or outputs have a diagonal instead of an eigenbasis."""
    kl_limit: float = bounded(0.01, NOT_NEGATIVE)
    """Steps are shortened to this KL divergence, in nats per predicted frame, to second order. 0 is no limit."""
    momentum: float = bounded(0.9, BELOW_ONE)
    """Steps are running means of natural gradients, which keep this share per iteration."""


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
    """Latents, from the coarsest scale upward: 1 to 3, and no more than scales."""
    width: int = bounded(32, AT_LEAST_ONE)
    """Channels of every layer."""
    latent: int = bounded(8, AT_LEAST_ONE)
    """Channels of each latent."""
    likelihood: Literal["auto", "bernoulli", "gaussian", "disc-logistic"] = "auto"
    """auto: gaussian for numbers, bernoulli for pictures. bernoulli: pixels of 0 and 1, or grey ones as probabilities,
    so that nats are no lower than their entropy. gaussian: any numbers. disc-logistic: pixels of k / 255, in whose bits
    models can be compared; small objects are learned late."""
    decoder_blocks: int = bounded(1, Bound(lambda v: 0 <= v <= 100, "0 to 100"))
    """Residual blocks of the decoder at each scale: the capacity of the likelihood, the latents left as they are."""
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
    optimizer: Literal["adam", "ekfac"] = "adam"
    """ekfac: gradients are multiplied with the inverse of a Fisher matrix, see ekfac.*; with lr=0.5."""
    ekfac: VideoEkfacConfig = field(default_factory=VideoEkfacConfig)
    lr: float = bounded(3e-3, POSITIVE_RATE)
    """That of Adam, or of the natural gradient. Adam at 1e-3 takes two to three times as many iterations
    (benchmarks/video_models.py)."""
    schedule: Literal["constant", "linear"] = "constant"
    """What becomes of lr: linear falls to 0 at the last iteration, so that pixels that never change become certain."""
    max_grad_norm: float = bounded(100.0, NOT_NEGATIVE)
    """The largest norm of Adam's gradients; 0 is no limit. With optimizer=ekfac, ekfac.kl_limit limits the step."""
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
