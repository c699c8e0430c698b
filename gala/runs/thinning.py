"""Which records of a long run are kept: the newest all of them, the older ones evenly over the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NEWEST = 4
"""One of so many of the records that are kept is for the newest, without gaps."""


def kept(steps: Sequence[int], most: int) -> list[int]:
    """Ascending indices of at most ``most`` records at ``steps``, which ascend: the first one, the newest
    ``most // 4`` without a gap, and of the others the first of each of equally wide intervals of steps."""
    if len(steps) <= most:
        return list(range(len(steps)))
    begin_newest = len(steps) - max(1, most // _NEWEST)
    old = np.asarray(steps[:begin_newest], np.float64)
    intervals = most - (len(steps) - begin_newest)
    width = (old[-1] - old[0]) / intervals
    which = np.clip(((old - old[0]) / width).astype(int), 0, intervals - 1) if width > 0 else np.zeros(len(old), int)
    _, firsts = np.unique(which, return_index=True)
    return [*sorted(firsts.tolist()), *range(begin_newest, len(steps))]


def stride(wall_s: float, interval_s: float, most: int) -> int:
    """One record of so many is written where nothing can be taken back: each until the run has made ``most``, then one
    of ever more, so that their number grows with the logarithm of the run's length."""
    return 1 + int(wall_s / interval_s) // most if most else 1
