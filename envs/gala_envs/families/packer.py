"""The regions of Packer et al. 2018 (arXiv 1810.12282), parameter by parameter.

D is the default alone, R an interval around it, E the two intervals on either side of R.
"""

from __future__ import annotations

import numpy as np

Interval = tuple[float, float]
REGIONS = ("R", "D", "E")


def draw(
    region: str, default: float, inside: Interval, outside: tuple[Interval, Interval], rng: np.random.Generator
) -> float:
    """Uniform over the region; over E by length, as the paper's own code draws, and not each interval half the time."""
    if region == "D":
        return default
    if region == "R":
        return float(rng.uniform(*inside))
    (low, left), (right, high) = outside
    u = float(rng.uniform(low, left + high - right))
    return u if u < left else min(u + right - left, high)  # rounding could exceed the bound by an ulp
