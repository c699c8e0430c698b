"""Convolutions whose last maps see a chosen number of pixels, at an equal number of parameters.

After the BagNets (Brendel and Bethge 2019, arXiv 1904.00760) as Pawlowski et al. 2019 (arXiv 1908.06037) use them: a
stage looks around itself (3x3) or not (1x1), and one that does not is wider instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from gala.models.residual import orthogonal_

BAGNET_STRIDES = (2, 2, 2, 1)
BAGNET_KERNELS = {3: (1, 1, 1, 1), 5: (3, 1, 1, 1), 9: (3, 3, 1, 1), 17: (3, 3, 3, 1), 33: (3, 3, 3, 3)}
"""Receptive field in pixels -> kernel of each stage's middle convolution."""


def bagnet_layers(
    channels: int, width: int, kernels: Sequence[int], strides: Sequence[int] = BAGNET_STRIDES
) -> list[nn.Module]:
    """A 3x3 convolution, then a bottleneck (1x1, k x k, 1x1) for each of ``kernels``, ReLU after each convolution; the
    middle convolution of stage i has stride ``strides[i]``.

    ``width``: channels between the stages, and inside those with a kernel of 3.
    """
    layers: list[nn.Module] = [_conv(channels, width, 3), nn.ReLU()]
    for kernel, stride in zip(kernels, strides, strict=True):
        inside = width if kernel == 3 else compensated(width)
        layers += [_conv(width, inside, 1), nn.ReLU(), _conv(inside, inside, kernel, stride), nn.ReLU()]
        layers += [_conv(inside, width, 1), nn.ReLU()]
    return layers


def kernels_by_receptive_field(strides: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Receptive field in pixels -> kernels, for stages of these strides: the more of the first ones look around
    themselves, the larger it is. ``BAGNET_KERNELS`` holds those of ``BAGNET_STRIDES``."""
    size, stride, found = 3, 1, {3: (1,) * len(strides)}
    for k, step in enumerate(strides, 1):
        size, stride = size + 2 * stride, stride * step
        found[size] = (3,) * k + (1,) * (len(strides) - k)
    return found


def compensated(width: int) -> int:
    """Inner channels m with which a bottleneck of 1x1 has as many parameters as one of 3x3 has with ``width`` = w:
    m^2 + m (2 w + 2) = 9 w^2 + w (2 w + 2), rounded."""
    half = width + 1
    return round(math.sqrt(half**2 + 9 * width**2 + 2 * half * width) - half)


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Module:
    return orthogonal_(nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2), math.sqrt(2))
