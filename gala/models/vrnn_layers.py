"""The layers of a VRNN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gala.models.likelihoods import Gaussian

_MIN_STD = 1e-3
_STD_1 = math.log(math.e - 1.0)
"""softplus of this is 1."""


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, H, W] -> [N, C, *size], each number four times; ``size`` is 2 H x 2 W, or 1 less where that is odd."""
    return F.interpolate(x, scale_factor=2, mode="nearest")[:, :, : size[0], : size[1]]


class ResidualBlock(nn.Module):
    """x + 0.1 F(x), as in arXiv 1904.12165: deep stacks start near the identity. No normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))


class Encoder(nn.Module):
    """A frame [N, C, H, W] -> features [N, width, H / 2^s, W / 2^s], rounded up, for s = 0 .. scales - 1."""

    def __init__(self, channels: int, width: int, scales: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(scales))
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(scales - 1))

    def forward(self, frame: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.stem(frame), 0.2)
        features = [self.blocks[0](x)]
        for down, block in zip(self.down, list(self.blocks)[1:], strict=True):
            features.append(block(F.leaky_relu(down(features[-1]), 0.2)))
        return features


class ConvGRU(nn.Module):
    """A GRU whose matrices are 3 x 3 convolutions (arXiv 1511.06432)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(inputs + width, 2 * width, 3, padding=1)
        self.candidate = nn.Conv2d(inputs + width, width, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        reset, update = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
        new = torch.tanh(self.candidate(torch.cat([x, reset * h], 1)))
        return update * h + (1 - update) * new


class GaussianHead(nn.Module):
    """Features -> a diagonal Gaussian. Its last layer is 0 at first: every head says N(0, 1), and KLs start at 0."""

    def __init__(self, inputs: int, width: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2 * latent, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Gaussian:
        mean, raw = self.last(F.leaky_relu(self.first(x), 0.2)).chunk(2, 1)
        return Gaussian(mean, F.softplus(raw + _STD_1).clamp(min=_MIN_STD))
