"""Residual blocks that can share their weights, and networks of them as lists of steps that can be cut and repeated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

_GROUPS = 8


def orthogonal_(layer: nn.Module, gain: float) -> nn.Module:
    """Orthogonal weights and zero biases, the initialisation behind the published A2C scores."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class ResidualStack(nn.Module):
    """``h <- h + F_k(h)`` for k = 0 .. uses - 1, with F_k = scale_k conv(relu(norm(conv(relu(norm(h)))))).

    Shared, all uses have the same two convolutions; the norms and the scale stay each use's own, as in the unshared
    batch normalisation of Jastrzebski et al. 2018 (arXiv 1710.04773, section 4.5), without which thirteen uses of one
    block explode. Groups replace batches, whose statistics would have to be averaged between learners.
    """

    def __init__(self, channels: int, uses: int, *, shared: bool, norm: str, scale: float) -> None:
        """``norm``: none or group. ``scale``: the first value of every use's scale; 0 leaves scales out."""
        super().__init__()
        self.uses = uses
        self.blocks = nn.ModuleList(_conv_pair(channels) for _ in range(min(uses, 1) if shared else uses))
        groups = math.gcd(_GROUPS, channels)
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.GroupNorm(groups, channels) for _ in range(2))
            for _ in range(uses if norm == "group" else 0)
        )
        self.relus = nn.ModuleList(nn.ModuleList(nn.ReLU() for _ in range(2)) for _ in range(uses))
        self.scales = nn.ParameterList(torch.full((), scale) for _ in range(uses if scale else 0))

    def convs(self, k: int) -> nn.ModuleList:
        """The two convolutions of use ``k``."""
        block = self.blocks[k if len(self.blocks) > 1 else 0]
        assert isinstance(block, nn.ModuleList)
        return block

    def update(self, k: int, h: Tensor) -> Tensor:
        """F_k(h), of the shape of ``h [N, C, H, W]``."""
        x = h
        norms: Iterable[nn.Module] = self.norms[k] if self.norms else (nn.Identity(), nn.Identity())  # type: ignore[assignment]
        relus = cast(nn.ModuleList, self.relus[k])
        for norm, relu, conv in zip(norms, relus, self.convs(k), strict=True):
            x = conv(relu(norm(x)))
        return x * self.scales[k] if self.scales else x

    def forward(self, h: Tensor) -> Tensor:
        for k in range(self.uses):
            h = h + self.update(k, h)
        return h


def _conv_pair(channels: int) -> nn.ModuleList:
    return nn.ModuleList(orthogonal_(nn.Conv2d(channels, channels, 3, padding=1), math.sqrt(2)) for _ in range(2))


class Step(NamedTuple):
    """``h <- h + run(h)`` of residual block ``block`` in stage ``stage``, or ``h <- run(h)`` where ``stage`` is -1."""

    run: Callable[[Tensor], Tensor]
    stage: int = -1
    block: int = -1

    @property
    def is_residual(self) -> bool:
        return self.stage >= 0


def steps_of(layers: Iterable[nn.Module]) -> list[Step]:
    """Layers that follow each other, with each use of a residual block as a step of its own."""
    steps: list[Step] = []
    stage = 0
    for layer in layers:
        if isinstance(layer, ResidualStack):
            steps += [Step(partial(layer.update, k), stage, k) for k in range(layer.uses)]
            stage += 1
        else:
            steps.append(Step(layer))
    return steps


def run_steps(steps: Sequence[Step], h: Tensor) -> Tensor:
    """What the steps, one after the other, make of ``h``."""
    for step in steps:
        h = h + step.run(h) if step.is_residual else step.run(h)
    return h


def impala_layers(
    channels: int, widths: Sequence[int], *, blocks: int, shared: bool, norm: str, scale: float
) -> list[nn.Module]:
    """The residual network of IMPALA (Espeholt et al. 2018, arXiv 1802.01561, figure 3, right), up to its last maps.

    Each stage: a 3x3 convolution to ``widths[i]`` channels, a maximum that halves height and width, ``blocks`` residual
    blocks. Published: widths 16, 32, 32 and two blocks of their own weights, without norm and scale.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            orthogonal_(nn.Conv2d(channels, width, 3, padding=1), math.sqrt(2)),
            nn.MaxPool2d(3, 2, padding=1),
            ResidualStack(width, blocks, shared=shared, norm=norm, scale=scale),
        ]
        channels = width
    return [*layers, nn.ReLU()]
