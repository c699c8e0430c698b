"""Cluttered images in which one small object decides the class: is there a digit of the target's kind?

The construction of nMNIST (Pawlowski et al. 2019, arXiv 1908.06037, section 3.1) at any size: an image with the object
holds ``n`` other digits, one without it ``n + 1``, of which there are so many that they cover a constant share of any
image. Unlike there, clutter never lies on the object, so that a classifier that knew the place could answer; and what
stands for an absent object has an object's ink.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.supervised.tiny.glyphs import Glyphs

Split = Literal["train", "test"]
_SPLITS: dict[Split, int] = {"train": 0, "test": 1}
_STRAIGHT = 3
"""Random numbers of an image before those of its clutter, two for each piece."""


class Scene(NamedTuple):
    """Where everything is in B images of n pieces of clutter each.

    objects [B] and clutter [B, n]: indices into the two pools; an object of -1 is absent, and ``stand_in [B]`` is there
    instead. corners [B, 1 + n, 2]: (row, column) of the upper left pixels, those of the object or its stand-in first.
    """

    objects: NDArray
    stand_in: NDArray
    clutter: NDArray
    corners: NDArray


class TinyImages:
    """Images ``[B, 1, side, side]`` in [0, 1] by index, rendered when they are asked for; nothing else is kept.

    Image i depends on the seed, the split and i alone: the first half of a larger set is the smaller set. Images of
    even index hold the object, so any set of an even number is balanced.
    """

    def __init__(self, glyphs: Glyphs, side: int, num_clutter: int, *, size: int, split: Split, seed: int) -> None:
        self.glyphs, self.side, self.num_clutter = glyphs, side, num_clutter
        self.object_px = glyphs.objects.shape[-1]
        self._stand_ins = glyphs.stand_ins()
        self._places = object_places(side, self.object_px)
        self._key, self._indices = [_SPLITS[split], seed], np.arange(size)

    def __len__(self) -> int:
        return len(self._indices)

    def take(self, indices: Tensor) -> TinyImages:
        """Some of the images, as a set of its own that is rendered later too."""
        part = object.__new__(TinyImages)
        part.__dict__.update(self.__dict__, _indices=self._indices[indices.numpy()])
        return part

    def first(self, size: int) -> TinyImages:
        """The first images of the endless set that this one begins, be there as many here or not."""
        part = object.__new__(TinyImages)
        part.__dict__.update(self.__dict__, _indices=np.arange(size))
        return part

    @property
    def labels(self) -> Tensor:
        """int64 [N]: 1 where the object is there."""
        return torch.from_numpy((self._indices + 1) % 2)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        return torch.from_numpy(self.render(self.scene(chosen)))[:, None]

    def chunks(self, size: int = 256) -> Iterator[slice]:
        """Slices that cover the set."""
        return (slice(at, at + size) for at in range(0, len(self), size))

    def scene(self, chosen: Tensor | slice) -> Scene:
        """Where everything is in the chosen images."""
        own = self._indices[chosen.numpy() if isinstance(chosen, Tensor) else chosen]
        width = _STRAIGHT + 2 * self.num_clutter
        # A counter-based generator: any image's numbers are had without those before it. 4 numbers to a count.
        draws = np.stack(
            [np.random.Generator(np.random.Philox(key=self._key, counter=[0, i, 0, 0])).random(width) for i in own]
        )
        objects = _pick(draws[:, 0], len(self.glyphs.objects))
        stand_in = self._stand_ins[objects, _pick(draws[:, 1], self._stand_ins.shape[1])]
        place = self._places[_pick(draws[:, 2], len(self._places))]
        kinds, places = draws[:, _STRAIGHT::2], draws[:, _STRAIGHT + 1 :: 2]
        clutter = _pick(kinds, len(self.glyphs.others))
        corners = np.concatenate([place[:, None], clutter_places(places, place, self.side, self.object_px)], 1)
        return Scene(np.where(own % 2 == 0, objects, -1), stand_in, clutter, corners)

    def render(self, scene: Scene) -> NDArray:
        """float32 [B, side, side]: all pieces added, and clipped to 1."""
        p, batch = self.object_px, len(scene.objects)
        there = (scene.objects >= 0)[:, None, None]
        first = np.where(there, self.glyphs.objects[scene.objects], self.glyphs.others[scene.stand_in])
        pieces = np.concatenate([first[:, None], self.glyphs.others[scene.clutter]], 1)
        inside = (np.arange(p)[:, None] * self.side + np.arange(p)).ravel()
        start = scene.corners @ np.array([self.side, 1]) + np.arange(batch)[:, None] * self.side**2
        canvas = torch.zeros(batch * self.side**2)
        canvas.index_add_(
            0,
            torch.from_numpy((start[..., None] + inside).ravel()),
            torch.from_numpy(np.ascontiguousarray(pieces, np.float32).reshape(-1)),
        )
        return canvas.clamp_(max=1.0).numpy().reshape(batch, self.side, self.side)

    def crops(self, chosen: Tensor | slice) -> Tensor:
        """[B, p, p]: what lies where the object or its stand-in is."""
        scene = self.scene(chosen)
        images, at = self.render(scene), np.arange(self.object_px)
        rows, columns = (scene.corners[:, 0, axis, None] + at for axis in (0, 1))
        return torch.from_numpy(images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]])


def _pick(draws: NDArray, n: int) -> NDArray:
    """Numbers in [0, 1) as whole ones below ``n``."""
    return (draws * n).astype(np.int64)


def object_places(side: int, p: int) -> NDArray:
    """[places, 2]: the corners of a square of ``p`` pixels that leave room for another one. In an image of less than
    three squares' side these are at the border."""
    lines = np.arange(side - p + 1)
    free = (lines >= p) | (lines + 2 * p <= side)
    return np.argwhere(free[:, None] | free)


def clutter_places(draws: NDArray, place: NDArray, side: int, p: int) -> NDArray:
    """Corners [B, n, 2], uniform over those of squares of ``p`` pixels that do not overlap the square at ``place``
    [B, 2]; one of ``draws`` [B, n] in [0, 1) decides each.

    The corners that do overlap are a rectangle of all ``m`` x ``m`` corners; the others are counted row by row.
    """
    m = side - p + 1
    first, last = np.maximum(place - p + 1, 0)[:, None], np.minimum(place + p - 1, m - 1)[:, None]
    height, width = (last - first + 1)[..., 0], (last - first + 1)[..., 1]
    beside = m - width
    at = (draws * (m * m - height * width)).astype(np.int64)
    above, band = first[..., 0] * m, height * beside
    within = at - above
    row, column = np.divmod(within, np.maximum(beside, 1))
    column = column + np.where(column >= first[..., 1], width, 0)
    below = within - band
    in_band, under = (within >= 0) & (below < 0), below >= 0
    rows = np.where(under, last[..., 0] + 1 + below // m, np.where(in_band, first[..., 0] + row, at // m))
    columns = np.where(under, below % m, np.where(in_band, column, at % m))
    return np.stack([rows, columns], -1)
