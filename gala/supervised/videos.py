"""What a model of videos learns from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

Split = Literal["train", "test"]
SPLITS: dict[Split, int] = {"train": 0, "test": 1}


class Videos(NamedTuple):
    """B videos of T frames."""

    frames: Tensor
    """[T, B, C, H, W]"""
    entropy: Tensor | None = None
    """[T, B]: entropy in nats of each frame given all before it, under the law that drew it; None: not known."""
    actions: Tensor | None = None
    """[T, B, A]: the action that led to each frame, as a network sees it; None: nobody acts."""


class Source(NamedTuple):
    """Where videos come from, and what a model of them is built for."""

    frame: tuple[int, int, int]
    """(C, H, W)"""
    draw: Callable[[Split, int, int, int], Videos]
    """(split, videos, frames of each, seed) -> videos, pure in its arguments. Raises ValueError: none is so long."""
    actions: int = 0
    """Numbers in an action."""
    real: bool = False
    """Whether frames hold any real numbers, not pixels in [0, 1]."""
    noise_nats: float = 0.0
    """What of each frame's known entropy is its pixels' own noise, which no latent can know."""
