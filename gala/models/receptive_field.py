"""How many pixels of an image one location of a network's last maps can see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from gala.models.residual import ResidualStack


class ReceptiveField(NamedTuple):
    """Side of the square that one location sees, and the distance between those of neighbours, in pixels."""

    size: int
    stride: int


def receptive_field(module: nn.Module) -> ReceptiveField:
    """The receptive field of the square convolutions and pools in ``module``, in closed form.

    From r = j = 1, each kernel k, dilation d and stride s: r <- r + d (k - 1) j, then j <- j s. All layers must follow
    each other in the order in which they were registered; identity paths beside them, as in residual blocks, change
    nothing. What a normalisation sees, and a pooling over all locations, are not counted.
    """
    size = stride = 1
    for kernel, step, dilation in _windows(module):
        size += dilation * (kernel - 1) * stride
        stride *= step
    return ReceptiveField(size, stride)


def _windows(module: nn.Module) -> Iterator[tuple[int, int, int]]:
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        yield _side(module.kernel_size), _side(module.stride), _side(getattr(module, "dilation", 1))
    elif isinstance(module, ResidualStack):
        for k in range(module.uses):
            yield from _windows(module.convs(k))
    else:
        for child in module.children():
            yield from _windows(child)


def _side(value: Any) -> int:
    first, *rest = value if isinstance(value, tuple) else (value,)
    assert all(other == first for other in rest), f"only square windows have one side, not {value}"
    return int(first)
