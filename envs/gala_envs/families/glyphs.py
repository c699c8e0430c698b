"""Ten kinds of glyphs as bitmaps of any size: strokes like those of digits, deformed and roughened at random.

All glyphs of a size have exactly the same number of lit pixels: neither ink nor histogram tells their kinds apart.
"""

from __future__ import annotations

import numpy as np

from gala_envs.contract import Array

INK = 0.4
"""Share of a glyph's square that is lit, to the nearest pixel."""
_STROKES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.2, 0.1), (0.8, 0.1), (0.8, 0.9), (0.2, 0.9), (0.2, 0.1)),
    ((0.3, 0.25), (0.5, 0.1), (0.5, 0.9)),
    ((0.2, 0.1), (0.8, 0.1), (0.8, 0.5), (0.2, 0.5), (0.2, 0.9), (0.8, 0.9)),
    ((0.2, 0.1), (0.8, 0.1), (0.8, 0.5), (0.3, 0.5), (0.8, 0.5), (0.8, 0.9), (0.2, 0.9)),
    ((0.2, 0.1), (0.2, 0.5), (0.8, 0.5), (0.8, 0.1), (0.8, 0.9)),
    ((0.8, 0.1), (0.2, 0.1), (0.2, 0.5), (0.8, 0.5), (0.8, 0.9), (0.2, 0.9)),
    ((0.8, 0.1), (0.2, 0.1), (0.2, 0.9), (0.8, 0.9), (0.8, 0.5), (0.2, 0.5)),
    ((0.2, 0.1), (0.8, 0.1), (0.4, 0.9)),
    ((0.2, 0.5), (0.2, 0.1), (0.8, 0.1), (0.8, 0.9), (0.2, 0.9), (0.2, 0.5), (0.8, 0.5)),
    ((0.8, 0.5), (0.2, 0.5), (0.2, 0.1), (0.8, 0.1), (0.8, 0.9), (0.2, 0.9)),
)
"""The polyline of each kind, as (x, y) with y downwards, in the unit square."""
KINDS = len(_STROKES)
_JITTER, _SLANT, _ROUGHNESS = 0.04, 0.15, 0.03


def lit_pixels(side: int) -> int:
    """How many pixels are lit in every glyph of ``side`` x ``side``."""
    return round(INK * side * side)


def draw_glyph(kind: int, side: int, rng: np.random.Generator) -> Array:
    """bool [side, side]: the pixels nearest to the strokes of ``kind``, with corners, slant and size drawn anew."""
    points = np.array(_STROKES[kind]) - 0.5
    points = points * rng.uniform(0.85, 1.1, 2) + rng.normal(0, _JITTER, points.shape)
    points[:, 0] += rng.uniform(-_SLANT, _SLANT) * points[:, 1]
    at = (np.arange(side) + 0.5) / side - 0.5
    pixels = np.stack(np.meshgrid(at, at), -1).reshape(-1, 1, 2)
    start, along = points[:-1], np.diff(points, axis=0)
    reached = ((pixels - start) * along).sum(-1) / (along**2).sum(-1)
    distance = np.linalg.norm(pixels - start - np.clip(reached, 0, 1)[..., None] * along, axis=-1).min(1)
    glyph = np.zeros(side * side, bool)
    glyph[np.argsort(distance + rng.normal(0, _ROUGHNESS, side * side))[: lit_pixels(side)]] = True
    return glyph.reshape(side, side)
