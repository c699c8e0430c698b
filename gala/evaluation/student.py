"""Quantiles of Student's t, without SciPy, which an installation may lack."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


@lru_cache(maxsize=1024)
def t_quantile(level: float, df: int) -> float:
    """The t that Student's |T| exceeds with probability 1 - ``level``.

    P(|T| < t) = 2 gamma((df + 1) / 2) / (sqrt(pi) gamma(df / 2)) times the integral of cos^(df - 1) from 0 to
    atan(t / sqrt(df)); Newton's method from the normal quantile below converges from one side.
    """
    t = NormalDist().inv_cdf((1 + level) / 2)
    factor = 2 * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    for _ in range(100):
        angle = math.atan(t / math.sqrt(df))
        inside = factor * angle / 2 * float(_WEIGHTS @ np.cos(angle * (_NODES + 1) / 2) ** (df - 1))
        step = (level - inside) / (factor / math.sqrt(df) * (1 + t * t / df) ** (-(df + 1) / 2))
        t += step
        if abs(step) < 1e-13 * t:
            break
    return t
