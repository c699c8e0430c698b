"""How much of the cluster each learner gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Share(NamedTuple):
    """What one learner needs. Ray places by ``cpus`` and ``gpus``, which may be fractions."""

    cpus: float
    gpus: float
    threads: int


def share(node_cpus: Sequence[float], node_gpus: Sequence[float], learners: int) -> Share:
    """An equal share: the largest whole number of CPUs, or 1/2, 1/4 ... of one, of which ``learners`` fit on the nodes;
    the GPUs likewise, at most one each, 0 where there are none.

    Raises:
        ValueError: there is no CPU at all.
    """
    if not any(cpus >= 1 for cpus in node_cpus):
        raise ValueError("the Ray cluster has no CPUs for learners; start its nodes with --num-cpus of at least 1")
    cpus = _largest(node_cpus, learners, max(1.0, sum(node_cpus) // learners))
    gpus = _largest(node_gpus, learners, 1.0) if any(count >= 1 for count in node_gpus) else 0.0
    return Share(cpus, gpus, max(1, int(cpus)))


def _largest(capacities: Sequence[float], learners: int, wanted: float) -> float:
    while sum(int(capacity / wanted) for capacity in capacities) < learners:
        wanted = wanted - 1 if wanted > 1 else wanted / 2
    return wanted
