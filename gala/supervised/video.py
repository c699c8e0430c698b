"""A VRNN trained on videos, made by rule or recorded, by the supervised loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gala.config.video import VideoConfig
from gala.gossip.averager import GossipAverager
from gala.models.bounds import active_units, warm_up
from gala.models.vrnn import VRNN, Trace
from gala.models.vrnn_shape import VrnnShape
from gala.optim.eager import spare_compiler
from gala.optim.ekfac import EKFAC
from gala.optim.schedules import SCHEDULES
from gala.optim.slowmo import SlowMo
from gala.optim.update import LearningStep, NotFinite
from gala.supervised.loop import Batch, SupervisedLearner
from gala.supervised.video_data import draw, open_source
from gala.supervised.video_eval import continuations
from gala.supervised.video_fisher import VideoFisher

Row = dict[str, Any]
HELD_OUT = 64
"""Videos that a record is about: always the same ones, of the test split."""


def make_model(config: VideoConfig) -> VRNN:
    """The model with the initial parameters of its seed. Raises ValueError: the settings do not fit the frames."""
    source = open_source(config.data)
    # Not disc-logistic, though recorded pixels are k / 255: the scales that it learns make the gradients of pixels that
    # never change so large that those of small objects drown (cf. arXiv 2203.09168).
    fits = "gaussian" if source.real else "bernoulli"
    likelihood = fits if config.likelihood == "auto" else config.likelihood
    if source.real and likelihood != "gaussian":
        raise ValueError(f"data={config.data} holds real numbers; it needs likelihood=gaussian")
    shape = VrnnShape(
        source.frame,
        actions=source.actions,
        scales=config.scales,
        levels=config.levels,
        width=config.width,
        latent=config.latent,
        context=config.context,
        likelihood=likelihood,
        learned_prior=config.learned_prior,
        decoder_blocks=config.decoder_blocks,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return VRNN(shape)


def make_learner(
    config: VideoConfig, model: VRNN, start: int = 0, rank: int = 0, averager: GossipAverager | None = None
) -> SupervisedLearner:
    """The learner of ``model``, about to do iteration ``start``; build ``averager`` with the model's parameters
    first."""
    spare_compiler()
    ekfac, observe = None, None
    if config.optimizer == "ekfac":
        e = config.ekfac
        arguments = {name: getattr(e, name) for name in ("damping", "decay", "basis_every", "max_dim", "kl_limit")}
        ekfac = EKFAC(model, kind=e.kind, kl_lr=config.lr, **arguments)
        observe = VideoFisher(ekfac, model, e.videos)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), config.lr, momentum=e.momentum, dampening=e.momentum
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), config.lr)
    s = config.slowmo
    slowmo = SlowMo(optimizer, every=s.every, lr=s.lr, momentum=s.momentum) if s.every else None
    limit = 0.0 if ekfac else config.max_grad_norm  # EKFAC has a limit of its own, in nats
    step = LearningStep(optimizer, precondition=ekfac, max_grad_norm=limit, averager=averager, slowmo=slowmo)
    return SupervisedLearner(model, batches(config, start, rank), model.loss, step, observe=observe)


def batches(config: VideoConfig, start: int, rank: int = 0) -> Iterator[Batch]:
    """((frames [T, B, C, H, W], actions), weight of the KL, a scalar) for iterations ``start``, ``start`` + 1, ...: a
    video is its own target, so that what the loss is told beside the model's output is how to weigh it."""
    for i in range(start, config.iterations):
        seed = _stream(config, i, rank)
        videos = draw(config.data, "train", config.batch_size, config.frames, seed)
        yield (videos.frames, videos.actions), torch.tensor(warm_up(i, config.warm_up))


def train(
    config: VideoConfig,
    learner: SupervisedLearner,
    start: int,
    record: Callable[[Row], None],
    goes_on: Callable[[], bool] = lambda: True,
    rank: int = 0,
) -> Iterator[int]:
    """Iterations from ``start`` on; yields the number done after each, so that the caller may save the state.

    Noise of an iteration is drawn from the seed and its number: a resumed training is the one that was not interrupted.
    ``record`` gets a row every ``log_every`` iterations of learner 0, ``goes_on`` is asked before each.

    Raises:
        FloatingPointError: the gradient, or the bound on held-out videos, is not finite.
    """
    started, schedule = time.monotonic(), SCHEDULES[config.schedule]
    for i in range(start, config.iterations):
        if not goes_on():
            return
        torch.manual_seed(_stream(config, i, rank))
        loss = learner.update(config.lr * schedule(i / config.iterations))
        done = i + 1
        if rank == 0 and (done % config.log_every == 0 or done == config.iterations):
            judged = judge(config, learner.model)
            for name, value in (("training loss", loss.item()), ("bound on held-out videos", judged["nats"])):
                if not math.isfinite(value):
                    raise NotFinite(f"the {name} is {value:g} nats: not finite; lower the learning rate")
            beta, wall_s = warm_up(i, config.warm_up), time.monotonic() - started
            record({"iteration": done, "train_loss": loss.item(), "beta": beta, "wall_s": wall_s, **judged})
        yield done


@torch.no_grad()
def judge(config: VideoConfig, model: torch.nn.Module, split: Any = "test") -> Row:
    """The bound on ``HELD_OUT`` videos, per predicted frame.

    ``nats`` is minus the evidence lower bound, ``bits_per_dim`` the same per number of a frame; ``nats_if_known`` the
    entropy of the law that drew the videos, where known, which no model can pass; ``kl`` is of each level, from coarse
    to fine, ``kl_by_level`` [levels][S] of each level and predicted frame, ``kl_by_frame`` their sum over levels;
    ``active_units`` are those of each level.
    """
    videos = draw(config.data, split, HELD_OUT, config.frames, config.seed)
    trace: Trace = model(videos.frames, videos.actions, torch.Generator().manual_seed(config.seed))
    predicted = len(trace.log_prob)
    nats = -trace.bound.mean().item() / predicted
    row = {
        "nats": nats,
        "bits_per_dim": nats / (math.log(2) * math.prod(videos.frames.shape[2:])),
        "kl": trace.kl.mean((0, 2)).tolist(),
        "kl_by_level": trace.kl.mean(2).T.tolist(),
        "kl_by_frame": trace.kl.sum(1).mean(1).tolist(),
        "active_units": active_units(trace),
    }
    if videos.entropy is not None:
        row["nats_if_known"] = videos.entropy[config.context :].mean().item()
    return row


@torch.no_grad()
def sample_films(config: VideoConfig, model: VRNN, videos: int = 4, samples: int = 3) -> Tensor:
    """[T, videos, 1 + samples, C, H, W]: held-out videos, each with continuations of its context."""
    drawn = draw(config.data, "test", videos, config.frames, config.seed)
    imagined = continuations(config, model, drawn, samples, torch.Generator().manual_seed(config.seed))
    context = drawn.frames[: config.context].unsqueeze(2).expand(-1, -1, samples, -1, -1, -1)
    return torch.cat([drawn.frames.unsqueeze(2), torch.cat([context, imagined])], 2)


def sample_grid(films: Tensor) -> Tensor:
    """``sample_films`` as a picture [H', W'] in [0, 1], time from left to right: for each video, a row of what
    happened, and a row for each of its continuations."""
    rows = films.flatten(1, 2).amax(2)  # [T, videos * (1 + samples), H, W]: all planes, of which grey pictures have one
    framed = torch.nn.functional.pad(rows.clamp(0, 1), (0, 1, 0, 1), value=0.5)
    return framed.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def _stream(config: VideoConfig, iteration: int, rank: int) -> int:
    """The seed of an iteration's videos and noise; no two learners have the same."""
    return int(np.random.SeedSequence([config.seed, iteration, *([rank] if rank else [])]).generate_state(1)[0])
