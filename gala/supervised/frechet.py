"""A Frechet distance between clips, on an encoder that is trained here, on the same data: it has learned to tell true
clips from spoilt ones, which look as those of poor models do (an autoencoder's features do not see blur).

It compares models of one data set with each other and with the distance that two sets of true clips have. It is not FVD
(arXiv 1812.01717), which is this distance on the features of an I3D network trained on Kinetics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES, WIDTH, COARSEST_PX = 16, 32, 4
BATCH, LR = 32, 2e-3


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The squared 2-Wasserstein distance of two Gaussians in d dimensions (Dowson and Landau 1982):
    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a^1/2 cov_b cov_a^1/2)^1/2)."""
    root = _root(cov_a.double())
    inner = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    apart = (mean_a.double() - mean_b.double()).square().sum()
    return max(0.0, float(apart + cov_a.double().trace() + cov_b.double().trace() - 2 * inner))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """``gaussian_distance`` of the Gaussians that have mean and covariance of the rows [N, d] and [M, d]. It is biased
    upward by about d / N; compare sets of one size. Raises ValueError: fewer than two rows."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two rows or more, not {len(a)} and {len(b)}")
    moments = [(x.double().mean(0), torch.cov(x.double().T).reshape(x.shape[1], x.shape[1])) for x in (a, b)]
    return gaussian_distance(*moments[0], *moments[1])


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


class ClipEncoder(nn.Module):
    """Clips [S, B, C, H, W] -> features [B, ``FEATURES``]: frames as channels, convolutions of stride 2 down to
    ``COARSEST_PX``, one linear layer."""

    def __init__(self, clip: tuple[int, int, int, int]) -> None:
        """``clip``: (S, C, H, W)."""
        super().__init__()
        steps, channels, height, width = clip
        layers: list[nn.Module] = [nn.Flatten(1, 2)]
        seen = steps * channels
        while max(height, width) > COARSEST_PX:
            layers += [nn.Conv2d(seen, WIDTH, 3, stride=2, padding=1), nn.ReLU()]
            seen, height, width = WIDTH, -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(seen * height * width, FEATURES))

    def forward(self, clips: Tensor) -> Tensor:
        out: Tensor = self.layers(clips.transpose(0, 1))
        return out


def blurred(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel the mean of 3 x 3."""
    return F.avg_pool2d(clips.flatten(0, 1), 3, 1, 1).view_as(clips)


def shuffled(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Each clip's frames in a random order."""
    order = torch.rand(clips.shape[:2], generator=generator).argsort(0)
    return clips.gather(0, order[(...,) + (None,) * 3].expand_as(clips))


def frozen(clips: Tensor, generator: torch.Generator) -> Tensor:
    """The first frame only."""
    return clips[:1].expand_as(clips)


def superposed(clips: Tensor, generator: torch.Generator) -> Tensor:
    """The mean of two clips, as of a model that cannot decide."""
    return (clips + clips.roll(1, 1)) / 2


SPOILT: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "blurred": blurred,
    "shuffled": shuffled,
    "frozen": frozen,
    "superposed": superposed,
}
"""(clips [S, B, C, H, W], generator) -> the same, spoilt."""


def _ways(steps: int, height: int, width: int) -> list[str]:
    """Those that change clips of such frames."""
    without = [*(["blurred"] if height * width == 1 else []), *(["shuffled", "frozen"] if steps == 1 else [])]
    return [name for name in SPOILT if name not in without]


class Trained(NamedTuple):
    """An encoder, and what to call a distance on it."""

    encode: Callable[[Tensor], Tensor]
    name: str
    accuracy: float
    """Share of clips of which it told whether and how they were spoilt, over the last updates."""


def train_encoder(draw: Callable[[int, int], Tensor], data: str, iterations: int, seed: int = 0) -> Trained:
    """An encoder whose features say whether a clip is true, or in which way of ``SPOILT`` it is spoilt.

    Args:
        draw: (count, seed) -> training clips [S, count, C, H, W].
        data: what they are clips of, for the name.
        iterations: updates, of batches of ``BATCH`` clips, each true or spoilt in some way, as likely.
        seed: of parameters and clips; the same encoder comes of the same arguments.
    """
    generator, right = torch.Generator().manual_seed(seed), list[float]()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        steps, _, channels, height, width = draw(BATCH, seed).shape
        ways = _ways(steps, height, width)
        encoder, head = ClipEncoder((steps, channels, height, width)), nn.Linear(FEATURES, 1 + len(ways))
        optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], LR)
        for i in range(iterations):
            clips = draw(BATCH, seed + 1 + i)
            kind = torch.randint(0, 1 + len(ways), (BATCH,), generator=generator)
            seen = torch.stack([clips, *(SPOILT[way](clips, generator) for way in ways)])[kind, :, torch.arange(BATCH)]
            logits = head(F.relu(encoder(seen.transpose(0, 1))))
            optimizer.zero_grad()
            F.cross_entropy(logits, kind).backward()
            optimizer.step()
            right.append((logits.argmax(1) == kind).float().mean().item())
    last = right[-max(1, iterations // 10) :]
    accuracy = sum(last) / len(last)
    told = f"{FEATURES} features, {iterations} updates, seed {seed}, {accuracy:.0%} right"
    name = f"encoder that tells {steps}-frame clips of {data} from {', '.join(ways)} ones ({told})"
    return Trained(torch.no_grad()(encoder.eval()), name, accuracy)
