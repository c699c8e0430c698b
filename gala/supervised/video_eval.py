"""How good a model's predictions are: a tighter bound, and how near its best continuations come to what happened."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gala.config.video import VideoConfig
from gala.models.bounds import importance_weighted_bound
from gala.models.vrnn import VRNN
from gala.supervised.video_data import draw, open_source
from gala.supervised.video_meters import diversity, frechet, stochasticity
from gala.supervised.videos import Videos

SSIM_RADIUS, SSIM_SIGMA = 5, 1.5
AT_ONCE = 256
"""Videos that are in memory together, copies counted."""


@torch.no_grad()
def evaluate(
    config: VideoConfig, model: VRNN, *, videos: int, weights: int, samples: int, encoder: int = 0, seed: int = 1
) -> dict[str, Any]:
    """Judge ``model`` on held-out videos that no record of its training was about.

    ``nats`` is minus the evidence lower bound per predicted frame, ``nats_weighted`` minus the importance-weighted one
    (arXiv 1509.00519) of ``weights`` draws, which is nearer to the truth; ``nats_standard_error`` and
    ``nats_weighted_standard_error`` are theirs over videos. ``psnr`` (dB) and ``ssim`` are of each predicted frame,
    mean over videos of the best of ``samples`` continuations, chosen for each video by its mean over frames, the usual
    protocol (arXiv 1802.07687). SSIM needs frames of 11 x 11 and more; both need pictures, and look at samples cut to
    [0, 1]: where they cannot be had they are left out. ``diversity`` is of the continuations of one context,
    ``kl_by_frame`` and its like say how random the videos are (see ``gala.supervised.video_meters``), ``frechet`` needs
    ``encoder`` updates of an encoder; 0 leaves it out.

    Raises:
        ValueError: the model has diverged: its bound, or the bound's deviation, is not finite.
    """
    drawn = draw(config.data, "test", videos, config.frames, _other_than(config.seed, seed))
    generator = torch.Generator().manual_seed(seed)
    predicted = config.frames - config.context
    trace = model(drawn.frames, drawn.actions, generator)
    elbo = trace.bound / predicted
    weighted = _weighted(model, drawn, weights, generator) / predicted
    report: dict[str, Any] = {
        "videos": videos,
        "weights": weights,
        "samples": samples,
        "nats": -elbo.mean().item(),
        "nats_standard_error": elbo.std().item() / math.sqrt(videos),
        "nats_weighted": -weighted.mean().item(),
        "nats_weighted_standard_error": weighted.std().item() / math.sqrt(videos),
    }
    if not all(math.isfinite(value) for value in report.values()):
        raise ValueError("this model has diverged: its bound is not finite; train another with a lower lr")
    if drawn.entropy is not None:
        report["nats_if_known"] = drawn.entropy[config.context :].mean().item()
    report |= stochasticity(config, drawn, trace.kl)
    truth = drawn.frames[config.context :].unsqueeze(2)
    imagined = continuations(config, model, drawn, samples, generator)
    if samples > 1:
        report["diversity"] = diversity(imagined)
    if encoder:
        report |= frechet(config, model, encoder, _other_than(config.seed, seed + 1))
    if open_source(config.data).real:
        return report
    pictures = imagined.clamp(0, 1)
    report["psnr"] = best_of(psnr(pictures, truth))
    if min(truth.shape[-2:]) > 2 * SSIM_RADIUS:
        report["ssim"] = best_of(ssim(pictures, truth))
    return report


def _weighted(model: VRNN, videos: Videos, weights: int, generator: torch.Generator) -> Tensor:
    """[B]: the importance-weighted bound, of a few videos at a time, as each is taken in ``weights`` times at once."""
    few, bounds = max(1, AT_ONCE // weights), []
    for start in range(0, videos.frames.shape[1], few):
        frames, actions = (None if x is None else x[:, start : start + few] for x in (videos.frames, videos.actions))
        assert frames is not None
        bounds.append(importance_weighted_bound(model, frames, actions, weights, generator))
    return torch.cat(bounds)


def continuations(
    config: VideoConfig, model: VRNN, videos: Videos, samples: int, generator: torch.Generator | None
) -> Tensor:
    """[S, B, samples, C, H, W]: what may follow the context of B videos of T frames under their own actions,
    S = T - context."""
    state = model.initial(videos.frames.shape[1] * samples)
    frames = videos.frames.repeat_interleave(samples, 1)
    actions = None if videos.actions is None else videos.actions.repeat_interleave(samples, 1)
    for t, frame in enumerate(frames[: config.context]):
        state, _ = model.observe(state, frame, None if actions is None else actions[t], generator=generator)
    ahead = None if actions is None else actions[config.context :]
    _, imagined = model.imagine(state, len(frames) - config.context, ahead, generator=generator)
    return imagined.unflatten(1, (-1, samples))


@torch.no_grad()
def films(config: VideoConfig, model: VRNN, videos: int, samples: int, seed: int = 1) -> Tensor:
    """[T, videos, 2 + others, C, H, W]: held-out videos, each with the best of ``samples`` continuations by mean PSNR
    and up to 3 others, in [0, 1], all after the true context."""
    drawn = draw(config.data, "test", videos, config.frames, _other_than(config.seed, seed))
    imagined = continuations(config, model, drawn, samples, torch.Generator().manual_seed(seed)).clamp(0, 1)
    truth = drawn.frames.unsqueeze(2)
    order = psnr(imagined, truth[config.context :]).mean(0).argsort(1, descending=True)
    rows = torch.arange(videos)
    chosen = [order[:, 0], *(order[:, k] for k in range(1, samples, max(1, samples // 3)))][:4]
    ahead = torch.stack([imagined[:, rows, k] for k in chosen], 2)
    context = truth[: config.context].expand(-1, -1, len(chosen), -1, -1, -1)
    return torch.cat([truth, torch.cat([context, ahead])], 2)


def best_of(scores: Tensor) -> list[float]:
    """Scores [S, B, samples], higher is better -> [S]: those of each video's best sample, mean over videos."""
    best = scores.mean(0).argmax(-1)
    return scores.gather(2, best.expand(len(scores), -1).unsqueeze(2)).mean((1, 2)).tolist()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures [..., C, H, W] in [0, 1]; at most 100."""
    return -10 * ((a - b) ** 2).mean((-3, -2, -1)).clamp(min=1e-10).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of pictures [..., C, H, W] in [0, 1] (Wang et al. 2004): a Gaussian window of 11 x 11 with
    sigma 1.5, mean over the places where it lies wholly on the picture, and over channels."""
    a, b = torch.broadcast_tensors(a, b)
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=a.dtype)
    window = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    window /= window.sum()
    kernel = (window[:, None] * window).view(1, 1, *2 * window.shape)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x.reshape(-1, 1, *x.shape[-2:]), kernel)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return score.mean((1, 2, 3)).view(a.shape[:-2]).mean(-1)


def _other_than(training_seed: int, seed: int) -> int:
    """A seed of videos apart from the one that the records of training are judged on."""
    return (training_seed + 1) * 1_000_003 + seed
