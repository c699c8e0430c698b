"""Pools of small digits for training and for test, which share no instance: handwritten ones, and those of fonts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from gala.config.extras import install
from gala.supervised.comparison import digits

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmb10", "cmss10", "cmtt10"),
)
"""Those that ship with matplotlib and hold upright text digits."""
_PER_DIGIT, _MASTER_PX = 180, 64
_MOST_TURN_DEG, _LEAST_SCALE = 10.0, 0.85
_CLOSEST = 8


class Glyphs(NamedTuple):
    """Images [N, p, p] float32 in [0, 1]; those of the object, and of all else in the order of their ink."""

    objects: NDArray
    others: NDArray

    def stand_ins(self) -> NDArray:
        """[objects, k]: the others whose ink comes closest to each object's. One of these stands where there is no
        object, so that ink does not tell what is what."""
        ink = self.others.sum((1, 2))
        gaps = np.abs(self.objects.sum((1, 2))[:, None] - ink)
        return np.argsort(gaps, 1, kind="stable")[:, :_CLOSEST]


class Pools(NamedTuple):
    """Glyphs for training and for testing, none in both."""

    train: Glyphs
    test: Glyphs


def handwritten(target: int, test_fraction: float, seed: int) -> Pools:
    """scikit-learn's 8 x 8 digits, about 180 of each class, split at random. ``target``: the class of the object."""
    data = digits.load(test_fraction, seed)
    return Pools(
        _sorted(data.train_images.numpy()[:, 0], data.train_labels.numpy(), target),
        _sorted(data.test_images.numpy()[:, 0], data.test_labels.numpy(), target),
    )


def rendered(target: int, side: int, test_fraction: float, seed: int) -> Pools:
    """Digits of matplotlib's fonts, turned by at most 10 degrees, of different sizes within ``side`` x ``side`` pixels
    that their own square may reach. As many as there are handwritten ones.

    Raises:
        ValueError: matplotlib is not installed.
    """
    rng = np.random.default_rng([seed, side])
    masters = _masters()
    labels = np.repeat(np.arange(10), _PER_DIGIT)
    images = np.stack([_glyph(masters[int(rng.integers(len(masters)))][label], side, rng) for label in labels])
    order = rng.permutation(len(labels))
    num_test = max(1, round(test_fraction * len(labels)))
    stack, kinds = images[order], labels[order]
    return Pools(
        _sorted(stack[num_test:], kinds[num_test:], target), _sorted(stack[:num_test], kinds[:num_test], target)
    )


def _sorted(images: NDArray, labels: NDArray, target: int) -> Glyphs:
    others = images[labels != target]
    return Glyphs(images[labels == target], others[np.argsort(others.sum((1, 2)), kind="stable")])


def _masters() -> list[list[NDArray]]:
    """The ten digits of each font, [h, w] in [0, 1], cut to their ink, 64 pixels to the em."""
    try:
        import matplotlib
        from matplotlib.ft2font import FT2Font
    except ImportError:
        raise ValueError(f"digits of fonts need matplotlib: {install('plot')}") from None
    masters = []
    for name in FONTS:
        font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"))
        font.set_size(_MASTER_PX, 72)
        drawn = []
        for label in range(10):
            font.set_text(str(label), 0.0)
            font.draw_glyphs_to_bitmap(antialiased=True)
            bitmap = np.array(font.get_image(), np.float32) / 255.0
            rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
            drawn.append(bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        masters.append(drawn)
    return masters


def _glyph(master: NDArray, side: int, rng: np.random.Generator) -> NDArray:
    """``master`` turned, scaled and moved at random within a square of ``side`` pixels, each the mean of 4 x 4."""
    height, width = master.shape
    turn = math.radians(rng.uniform(-_MOST_TURN_DEG, _MOST_TURN_DEG))
    cos, sin = math.cos(turn), math.sin(turn)
    reach = max(abs(height * cos) + abs(width * sin), abs(width * cos) + abs(height * sin))
    scale = rng.uniform(_LEAST_SCALE, 1.0)
    free = (1 - scale) * rng.uniform(-1, 1, 2)
    # The sampling grid runs over the square's [-1, 1]; the master's own [-1, 1] is its height and width.
    k = reach / scale
    theta = torch.tensor(
        [
            [cos * k / width, sin * k / width, -free[0] * k / width],
            [-sin * k / height, cos * k / height, -free[1] * k / height],
        ],
        dtype=torch.float32,
    )
    grid = F.affine_grid(theta[None], [1, 1, 4 * side, 4 * side], align_corners=False)
    fine = F.grid_sample(torch.from_numpy(master)[None, None], grid, align_corners=False)
    return F.avg_pool2d(fine, 4)[0, 0].clamp(0, 1).numpy()
