"""Random changes of images that leave the task as it is; in training only. AUGMENTATIONS is the registry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class RandomShift(nn.Module):
    """Each image ``[N, C, H, W]`` moved by up to ``pixels`` along both axes, its border repeated (Kostrikov, Yarats and
    Fergus 2020, arXiv 2004.13649). All channels, which may be frames, move together."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, obs: Tensor) -> Tensor:
        if not self.training:
            return obs
        n, channels, height, width = obs.shape
        by = torch.randint(-self.pixels, self.pixels + 1, (2, n, 1), device=obs.device)
        rows = (torch.arange(height, device=obs.device) + by[0]).clamp(0, height - 1)
        columns = (torch.arange(width, device=obs.device) + by[1]).clamp(0, width - 1)
        image = torch.arange(n, device=obs.device)[:, None, None, None]
        channel = torch.arange(channels, device=obs.device)[None, :, None, None]
        return obs[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class Cutout(nn.Module):
    """One square of each image ``[N, C, H, W]`` set to 0, of a random side up to ``side``, at a random place (DeVries
    and Taylor 2017, arXiv 1708.04552; for reinforcement learning Cobbe et al. 2019, arXiv 1812.02341)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, obs: Tensor) -> Tensor:
        if not self.training:
            return obs
        n, _, height, width = obs.shape
        side = torch.randint(1, self.side + 1, (n, 1), device=obs.device)
        inside = []
        for length in (height, width):
            start = (torch.rand(n, 1, device=obs.device) * (length - side + 1)).long()
            at = torch.arange(length, device=obs.device)
            inside.append((at >= start) & (at < start + side))
        cut = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return obs.masked_fill(cut, 0)


AUGMENTATIONS: dict[str, Callable[[int], nn.Module]] = {
    "shift": lambda side: RandomShift(max(1, round(side * 4 / 84))),
    "cutout": lambda side: Cutout(max(1, side // 3)),
}
"""Name -> module, for images of that side; 4 of 84 pixels are arXiv 2004.13649's."""
