"""Who sends to whom: pure functions of (rank, round, number of learners)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

import numpy as np

from gala.gossip.graphs.base_graph import base_graph_period, base_graph_shares
from gala.gossip.message import Edge

Shares = list[tuple[int, float]]
"""(out-peer, share of the sender's mass) pairs; the sender keeps the rest."""


@dataclass(frozen=True)
class Topology:
    """A directed graph per round. Any number of learners from 1 on works unless ``problem`` says otherwise."""

    description: str
    out_shares: Callable[[int, int, int], Shares]
    """(rank, round, n) -> whom ``rank`` sends to in that round, and how much. [] if it keeps everything."""
    period: Callable[[int], int] = lambda n: 1
    """Rounds after which the graph of n learners repeats; 0 if it never does (drawn anew each round)."""
    problem: Callable[[int], str] = lambda n: ""
    """Why n learners cannot form this graph, or an empty string."""
    stages: tuple[tuple[int, Topology], ...] = ()
    """(first round, graph from there on) where the graph changes for good; ``period`` is then the last stage's."""
    learners: int = 0
    """How many it was drawn for, if for one number only (a user's file); 0 otherwise."""

    def out_peers(self, rank: int, round: int, n: int) -> list[int]:
        """Ranks that ``rank`` sends to in ``round``."""
        return [peer for peer, _ in self.out_shares(rank, round, n)]

    def edges(self, n: int) -> list[Edge]:
        """Every (source, destination) that occurs over a period; all pairs if the graph is drawn at random."""
        if self.stages:
            return sorted({edge for _, stage in self.stages for edge in stage.edges(n)})
        if self.period(n) == 0:
            return [(i, j) for i in range(n) for j in range(n) if i != j]
        pairs = {(i, j) for t in range(self.period(n)) for i in range(n) for j in self.out_peers(i, t, n)}
        return sorted(pairs)


def uniform(peers: Callable[[int, int, int], list[int]]) -> Callable[[int, int, int], Shares]:
    """Equal shares for all out-peers and for the sender itself: 1 / (1 + out-degree)."""

    def out_shares(rank: int, round: int, n: int) -> Shares:
        targets = [j for j in dict.fromkeys(peers(rank, round, n)) if j != rank]
        return [(j, 1.0 / (1 + len(targets))) for j in targets]

    return out_shares


def circulant(hops: Callable[[int, int], list[int]]) -> Callable[[int, int, int], Shares]:
    """Every rank sends to rank + hop (modulo n), for each of ``hops(round, n)``."""
    return uniform(lambda rank, round, n: [(rank + hop) % n for hop in hops(round, n)])


def _exponents(n: int) -> int:
    """ceil(log2 n): how many powers of two are under n."""
    return max(n - 1, 0).bit_length()


def _one_peer_hop(round: int, n: int) -> list[int]:
    return [2 ** (round % _exponents(n))] if n > 1 else []


def _bipartite_hops(n: int) -> list[int]:
    odd = [1] + [2**k + 1 for k in range(1, _exponents(n)) if 2**k + 1 < n]
    return odd + [-hop for hop in odd]


def _bipartite_peers(rank: int, round: int, n: int) -> list[int]:
    hop = _bipartite_hops(n)[round % len(_bipartite_hops(n))]
    return [(rank + (hop if rank % 2 == 0 else -hop)) % n]


def torus_rows(n: int) -> int:
    """Rows of the most nearly square grid of n: its largest divisor up to sqrt(n); 1 (a ring) if n is prime."""
    return max(d for d in range(1, int(n**0.5) + 1) if n % d == 0)


def _torus_peers(rank: int, round: int, n: int) -> list[int]:
    rows = torus_rows(n)
    columns = n // rows
    r, c = divmod(rank, columns)
    around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
    return [(i % rows) * columns + j % columns for i, j in around]


def _hypercube_peers(rank: int, round: int, n: int) -> list[int]:
    return [rank ^ 2**k for k in range(_exponents(n)) if rank ^ 2**k < n]


def random_out(k: int, seed: int = 0) -> Topology:
    """Each learner draws ``k`` other learners anew every round; a pure function of (seed, round, rank)."""

    def peers(rank: int, round: int, n: int) -> list[int]:
        if n == 1:
            return []
        others = np.random.default_rng((seed, round, rank)).choice(n - 1, min(k, n - 1), replace=False)
        return [int(j) + (int(j) >= rank) for j in others]

    return Topology(f"{k} peer(s) drawn anew by each learner every round", uniform(peers), period=lambda n: 0)


def random_pairs(seed: int = 0) -> Topology:
    """Disjoint pairs drawn anew every round, the same for all learners; with an odd number one keeps its mass."""

    @lru_cache(maxsize=256)
    def partners(round: int, n: int) -> dict[int, int]:
        order = np.random.default_rng((seed, round)).permutation(n).tolist()
        pairs = list(zip(order[0::2], order[1::2], strict=False))
        return dict(pairs) | {j: i for i, j in pairs}

    def peers(rank: int, round: int, n: int) -> list[int]:
        mate = partners(round, n).get(rank)
        return [] if mate is None else [mate]

    return Topology("disjoint pairs drawn anew every round", uniform(peers), period=lambda n: 0)


def base_graph(k: int) -> Topology:
    """The exact average after one period for ANY n, with at most ``k`` peers a round (arXiv 2305.11420)."""
    return Topology(
        f"exact average in finitely many rounds for any number of learners, at most {k} peer(s) a round",
        lambda rank, round, n: base_graph_shares(rank, round, n, k),
        period=lambda n: base_graph_period(n, k),
    )


def several_peers(topology: Topology, k: int) -> Topology:
    """``k`` rounds of a time-varying graph at once: k peers a round instead of one, with equal shares."""
    if k < 1:
        raise ValueError(f"the number of peers must be at least 1, not {k}")

    def peers(rank: int, round: int, n: int) -> list[int]:
        return [j for t in range(round * k, round * k + k) for j in topology.out_peers(rank, t, n)]

    def period(n: int) -> int:
        return topology.period(n) // math.gcd(topology.period(n), k) if topology.period(n) else 0

    return Topology(f"{k} rounds at once of: {topology.description}", uniform(peers), period, topology.problem)


def scheduled(stages: dict[int, Topology]) -> Topology:
    """A graph that changes at given rounds, {first round: graph}: two peers early and one later, as SGP does, is
    ``scheduled({0: several_peers(one_peer, 2), 3000: one_peer})``."""
    starts = sorted(stages)
    if not starts or starts[0] != 0:
        raise ValueError(f"a schedule must say what holds from round 0 on; it starts at {starts[:1]}")
    last = stages[starts[-1]]

    def out_shares(rank: int, round: int, n: int) -> Shares:
        return stages[max(start for start in starts if start <= round)].out_shares(rank, round, n)

    def problem(n: int) -> str:
        return next(filter(None, (stage.problem(n) for stage in stages.values())), "")

    text = "; ".join(f"from round {start}: {stages[start].description}" for start in starts)
    return Topology(text, out_shares, last.period, problem, tuple((start, stages[start]) for start in starts))


TOPOLOGIES: dict[str, Topology] = {
    "ring": Topology("directed ring: each sends to the next (GALA)", circulant(lambda t, n: [1])),
    "undirected-ring": Topology("each sends to both neighbours", circulant(lambda t, n: [1, -1])),
    "exponential": Topology(
        "each sends to the peers 1, 2, 4, ... ahead, all at once",
        circulant(lambda t, n: [2**k for k in range(_exponents(n))]),
    ),
    "one-peer-exponential": Topology(
        "1, 2, 4, ... ahead in turn, one peer a round (SGP); exact in log2(n) rounds if n is a power of two",
        circulant(_one_peer_hop),
        period=lambda n: max(_exponents(n), 1),
    ),
    "bipartite-exponential": Topology(
        "even and odd ranks exchange in pairs at hops 1, 3, 5, 9, ... (symmetric if n is even)",
        uniform(_bipartite_peers),
        period=lambda n: len(_bipartite_hops(n)),
    ),
    "complete": Topology("everyone sends to everyone", circulant(lambda t, n: list(range(1, n)))),
    "torus": Topology("grid of rows x columns whose edges wrap around; a ring if n is prime", uniform(_torus_peers)),
    "hypercube": Topology("ranks that differ in one bit; corners beyond n are left out", uniform(_hypercube_peers)),
    "star": Topology(
        "rank 0 exchanges with all others; fast to agree, but rank 0 carries a third of all weight",
        uniform(lambda rank, t, n: list(range(1, n)) if rank == 0 else [0]),
    ),
    "random-1": random_out(1),
    "random-2": random_out(2),
    "random-pairs": random_pairs(),
    "base-2": base_graph(1),
    "base-3": base_graph(2),
    "base-4": base_graph(3),
}


def get_topology(topology: str | Topology, n: int) -> Topology:
    """The named topology, checked for ``n`` learners.

    Raises:
        ValueError: an unknown name, or a graph that n learners cannot form.
    """
    if isinstance(topology, str):
        if topology not in TOPOLOGIES:
            close = difflib.get_close_matches(topology, TOPOLOGIES, 1, 0.5)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown topology {topology!r}; there are {', '.join(TOPOLOGIES)}{meant}")
        topology = TOPOLOGIES[topology]
    if n < 1:
        raise ValueError(f"a topology needs at least 1 learner, not {n}")
    if problem := topology.problem(n):
        raise ValueError(problem)
    if topology not in TOPOLOGIES.values():
        _check(topology, n)
    return topology


_ROUNDS_CHECKED = 64
"""Rounds of a graph that never repeats which are looked at."""


@lru_cache(maxsize=256)
def _check(topology: Topology, n: int) -> None:
    """A user's graph. Raises ValueError for shares that PushSum cannot send and for learners that are cut off."""
    try:
        period = range(topology.period(n) or _ROUNDS_CHECKED)
    except Exception as error:
        raise ValueError(f"the graph's period({n}) fails: {type(error).__name__}: {error}") from error
    for round in period:
        for rank in range(n):
            try:
                shares = [(peer, float(share + 0.0)) for peer, share in topology.out_shares(rank, round, n)]
                fractions = [peer for peer, _ in shares if not isinstance(peer, Integral)]
            except Exception as error:
                asked = f"out_shares({rank}, {round}, {n})"
                raise ValueError(f"the graph's {asked} fails: {type(error).__name__}: {error}") from error
            if fractions:
                told = f"{fractions[0]!r}, a {type(fractions[0]).__name__}"
                raise ValueError(f"in round {round} learner {rank} sends to {told}; ranks are integers, as with //")
            if strangers := [peer for peer, _ in shares if peer not in range(n)]:
                raise ValueError(f"in round {round} learner {rank} sends to {strangers[0]}; there are 0 to {n - 1}")
            if problem := shares_problem(rank, shares):
                raise ValueError(f"in round {round} {problem}")
    if stranded := unreachable(topology.edges(n), n):
        raise ValueError(f"the graph is not strongly connected: {stranded}; every learner must reach every other")


def shares_problem(rank: int, shares: Shares) -> str:
    """Why ``rank`` cannot give these shares of its mass away in one round, or an empty string."""
    peers, total = [peer for peer, _ in shares], sum(share for _, share in shares)
    if rank in peers:
        return f"learner {rank} sends to itself; what is not sent stays by itself"
    if len(set(peers)) < len(peers):
        return f"learner {rank} sends to {max(peers, key=peers.count)} twice"
    if not all(share > 0.0 for _, share in shares) or not total < 1.0:
        return f"learner {rank} gives away {total:g} of its mass; shares are positive, and some must stay"
    return ""


def unreachable(edges: list[Edge], n: int) -> str:
    """Names one learner that rank 0 cannot reach or that cannot reach rank 0; empty if the graph is strongly
    connected."""
    backwards = [(j, i) for i, j in edges]
    for pairs, text in ((edges, "nothing gets from 0 to {}"), (backwards, "nothing gets from {} to 0")):
        reached, frontier = {0}, [0]
        following: dict[int, list[int]] = {}
        for i, j in pairs:
            following.setdefault(i, []).append(j)
        while frontier:
            fresh = [j for j in following.get(frontier.pop(), []) if j not in reached]
            reached.update(fresh)
            frontier.extend(fresh)
        if len(reached) < n:
            return text.format(min(set(range(n)) - reached))
    return ""


def out_peers(topology: str, rank: int, round: int, n: int) -> list[int]:
    """Ranks that ``rank`` sends to in ``round`` under the named topology."""
    return get_topology(topology, n).out_peers(rank, round, n)


def edges(topology: str | Topology, n: int) -> list[Edge]:
    """Every (source, destination) over one period; what ``SharedMemoryMailboxes.create`` wants."""
    return get_topology(topology, n).edges(n)
