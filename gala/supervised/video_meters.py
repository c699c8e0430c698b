"""What a video model's samples and its surprise say of it: diversity, a Frechet distance, how random its data are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.config.video import VideoConfig
from gala.models.vrnn import VRNN
from gala.supervised.frechet import frechet_distance, train_encoder
from gala.supervised.video_data import draw, open_source
from gala.supervised.videos import Videos

CLIPS = 256
UNCERTAIN_NATS = 0.1
"""A frame with more chance than this is one that cannot be foreseen."""


def diversity(samples: Tensor) -> list[float]:
    """Continuations [S, B, samples, C, H, W] of the same contexts -> [S]: root mean squared difference of a pixel
    between two of them, mean over contexts. 0: all samples are one. Needs two samples or more."""
    differ = 2 * samples.var(2).flatten(2).mean(2)  # E (a - b)^2 = 2 var, for independent draws
    return differ.sqrt().mean(1).tolist()


def stochasticity(config: VideoConfig, videos: Videos, kl: Tensor) -> dict[str, Any]:
    """How random the model finds each frame, beside how random it is.

    Args:
        config: of the training.
        videos: what it has seen.
        kl: [S, levels, B] in nats. Its mean over videos cannot be less than what a frame tells beyond the past, if the
            model is to explain it.

    Returns:
        ``kl_by_frame`` [S]. Where the law is known, ``chance_by_frame`` [S], the entropy of each frame less that of
        its pixels' noise; ``kl_over_chance``, their ratio over all frames, above 1 for a posterior that says more than
        it must; and, where some frames are certain and others not, ``kl_auroc``: how often the KL is larger in a frame
        of the latter.
    """
    total = kl.sum(1)
    row: dict[str, Any] = {"kl_by_frame": total.mean(1).tolist()}
    if videos.entropy is None:
        return row
    chance = (videos.entropy[config.context :] - open_source(config.data).noise_nats).clamp(min=0)
    row["chance_by_frame"] = chance.mean(1).tolist()
    if chance.sum() > UNCERTAIN_NATS:
        row["kl_over_chance"] = (total.sum() / chance.sum()).item()
    uncertain = (chance > UNCERTAIN_NATS).flatten().numpy()
    if uncertain.any() and not uncertain.all():
        row["kl_auroc"] = auroc(total.flatten().numpy(), uncertain)
    return row


def auroc(scores: NDArray, positive: NDArray[np.bool_]) -> float:
    """How often a positive scores more than a negative, ties counted half (Mann and Whitney 1947); [N] each."""
    negatives = np.sort(scores[~positive])
    below, upto = (np.searchsorted(negatives, scores[positive], side).mean() for side in ("left", "right"))
    return float((below + upto) / 2 / len(negatives))


@torch.no_grad()
def frechet(config: VideoConfig, model: VRNN, iterations: int, seed: int) -> dict[str, Any]:
    """``frechet``: the distance of ``CLIPS`` continuations, one for each held-out context, to as many true ones, on an
    encoder trained for so many ``iterations`` on training videos; ``frechet_of_truth``: that of two sets of true clips,
    which no model can be expected to pass; and the encoder's name."""
    from gala.supervised.video_eval import continuations

    def clips(count: int, number: int) -> Tensor:
        return draw(config.data, "train", count, config.frames, number).frames[config.context :]

    encoder = train_encoder(clips, Path(config.data).name, iterations)
    one, other = (draw(config.data, "test", CLIPS, config.frames, seed + k) for k in range(2))
    imagined = continuations(config, model, one, 1, torch.Generator().manual_seed(seed))[:, :, 0]
    truth, again, made = (encoder.encode(x) for x in (*(v.frames[config.context :] for v in (one, other)), imagined))
    return {
        "frechet": frechet_distance(truth, made),
        "frechet_of_truth": frechet_distance(truth, again),
        "frechet_encoder": encoder.name,
    }
