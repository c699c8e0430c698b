"""How fast a topology mixes: matrices, spectral gap, half-life. Dense linear algebra, for up to a thousand learners."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gala.gossip.graphs.topology import Topology, get_topology

_DRAWS = 200
_ZERO = 1e-7
"""Eigenvalues under this are 0: those of an exact, non-symmetric product come out as rounding to a fractional power."""


def mixing_matrix(topology: str | Topology, round: int, n: int) -> NDArray:
    """P, [n, n] float64: entry (i, j) is the share of its mass that j gives to i in ``round``. Every column sums to
    1."""
    graph = get_topology(topology, n)
    matrix = np.zeros((n, n))
    for j in range(n):
        for i, share in graph.out_shares(j, round, n):
            matrix[i, j] = share
        matrix[j, j] = 1.0 - matrix[:, j].sum()
    return matrix


def contraction(topology: str | Topology, n: int) -> float:
    """Factor by which disagreement shrinks per round in the long run, in [0, 1): 0 if the average is exact in the end.

    The second largest eigenvalue modulus of one period's product, to the power 1 / period. For graphs drawn at
    random: the root mean square factor of one round for a random disagreement, over 200 seeded rounds.
    """
    graph = get_topology(topology, n)
    start = graph.stages[-1][0] if graph.stages else 0
    period = graph.period(n)
    if n == 1:
        return 0.0
    if period:
        product = np.eye(n)
        for t in range(start, start + period):
            product = mixing_matrix(graph, t, n) @ product
        second = np.sort(np.abs(np.linalg.eigvals(product)))[-2]
        return 0.0 if second < _ZERO else float(second ** (1.0 / period))
    differences = np.eye(n) - 1.0 / n
    drawn = [mixing_matrix(graph, t, n) for t in range(start, start + _DRAWS)]
    kept = [np.linalg.norm(differences @ matrix @ differences) ** 2 / (n - 1) for matrix in drawn]
    return float(np.sqrt(np.mean(kept)))


def spectral_gap(topology: str | Topology, n: int) -> float:
    """1 - ``contraction``, in (0, 1]."""
    return 1.0 - contraction(topology, n)


def half_life_rounds(topology: str | Topology, n: int) -> float:
    """Rounds in which disagreement halves, in the long run; 0 if the average is exact in the end."""
    factor = contraction(topology, n)
    return math.log(0.5) / math.log(factor) if factor else 0.0


def exact_after(topology: str | Topology, n: int) -> int | None:
    """Rounds, at most one period, after which all learners agree exactly (up to rounding); None if they never do."""
    graph = get_topology(topology, n)
    product = np.eye(n)
    for t in range(graph.period(n) + 1):
        if _disagreement(product) < 1e-12:
            return t
        product = mixing_matrix(graph, t, n) @ product
    return None


def _disagreement(product: NDArray) -> float:
    """How far the columns are from being one and the same (a PushSum limit is v 1^T, its ratio the exact mean)."""
    return float(np.linalg.norm(product - product.mean(axis=1, keepdims=True), 2))
