"""How small are the things in an environment's pictures, and would a convolutional encoder see them?"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_CONTRAST = 0.1
"""Share of the largest value by which a pixel differs from the background: less is an effect of resizing."""
_RARE, _MOST_COLOURS = 0.01, 64
_SEEN_IN = 0.02
"""Share of the pictures in which an object must be seen with the same area; fragments come and go."""
_SAME = 0.02
"""Share of the largest value by which pixels of one colour differ at most."""


class Found(NamedTuple):
    """A connected object: pixels covered, height and width of its bounding box, the picture [t] and corner (row,
    column) where it was found first, and in what share of the pictures there was one of its area."""

    area: int
    height: int
    width: int
    t: int
    corner: tuple[int, int]
    share: float


def components(mask: NDArray) -> list[NDArray]:
    """The 8-connected parts of ``mask [H, W]``, each as its pixels [n, 2] (row, column)."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    while left:
        part, queue = [], deque([left.pop()])
        while queue:
            y, x = queue.popleft()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        parts.append(np.array(part))
    return parts


def smallest_moving(frames: NDArray, breaks: NDArray) -> Found | None:
    """The smallest object of ``frames [T, C, H, W]`` that is no part of the background (each pixel's median) and of
    which a pixel has just changed. ``breaks [T]``: this frame does not follow the one before. None: nothing moves.

    What goes on beyond its edge in the same colour is a part of something that is often there, and does not count.
    """
    brightest = max(float(frames.max()), 1e-9)
    far, near = _CONTRAST * brightest, _SAME * brightest
    values = frames.astype(np.float32)
    apart = np.abs(values - np.median(values, 0)).max(1) > far
    moved = np.abs(np.diff(values, axis=0)).max(1) > far
    parts = {
        t: [
            part
            for part in components(apart[t])
            if moved[t - 1][tuple(part.T)].any() and not _goes_on(part, values[t], apart[t], near)
        ]
        for t in range(1, len(frames))
        if not breaks[t]
    }
    return _smallest(parts)


def _goes_on(part: NDArray, frame: NDArray, apart: NDArray, near: float) -> bool:
    """Whether a pixel beside ``part``, that is background, has the colour of the one in ``part`` that it touches."""
    for step in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        beside = part + step
        inside = np.minimum(beside, np.array(apart.shape) - 1 - beside).min(1) >= 0
        inside[inside] &= ~apart[tuple(beside[inside].T)]
        a, b = (frame[:, pixels[inside, 0], pixels[inside, 1]] for pixels in (part, beside))
        if (np.abs(a - b) <= near).all(0).any():
            return True
    return False


def smallest_rare(frames: NDArray) -> Found | None:
    """The smallest object of one colour that covers less than 1 % of all pixels of ``frames [T, C, H, W]``. None: there
    is none, or there are so many colours (shades, noise) that rarity says nothing."""
    colours, index = np.unique(frames.transpose(0, 2, 3, 1).reshape(-1, frames.shape[1]), axis=0, return_inverse=True)
    if len(colours) > _MOST_COLOURS:
        return None
    index = index.reshape(len(frames), *frames.shape[2:])
    rare = np.flatnonzero(np.bincount(index.ravel()) < _RARE * index.size)
    return _smallest({t: [p for c in rare for p in components(index[t] == c)] for t in range(len(frames))})


def _smallest(parts: dict[int, list[NDArray]]) -> Found | None:
    areas: dict[int, list[tuple[int, NDArray]]] = {}
    for t, found in parts.items():
        for part in found:
            areas.setdefault(len(part), []).append((t, part))
    for area, seen in sorted(areas.items()):
        share = len({t for t, _ in seen}) / len(parts)
        if share >= _SEEN_IN:
            t, part = seen[0]
            (top, left), (bottom, right) = part.min(0).tolist(), part.max(0).tolist()
            return Found(area, bottom - top + 1, right - left + 1, t, (top, left), share)
    return None


def warnings(found: Found, receptive_field: int, stride: int) -> list[str]:
    """Where an encoder of this receptive field and stride, in pixels, may lose the object; empty if nowhere."""
    side = max(found.height, found.width)
    said = []
    if receptive_field < side:
        said.append(f"no location of the encoder sees all of it: {receptive_field} px are less than {side}")
    if side < stride:
        said.append(f"it is smaller than one stride: {side} px are less than {stride}, so neighbours may look the same")
    return said
