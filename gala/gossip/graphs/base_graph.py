"""Base-(k+1) graphs (Takezawa et al., arXiv 2305.11420): the exact average of ANY number of learners in O(log n)
rounds.

Powers of two are easy: pair up at distance 1, 2, 4, ... For other n the paper writes n in base k+1, averages within
parts of those sizes, lets the parts exchange once so that every block of the larger part holds the overall mean,
and averages within the blocks. All exchanges are symmetric, with at most k peers for each learner in a round.
"""

from __future__ import annotations

from functools import lru_cache

Round = dict[tuple[int, int], float]
"""One round's exchanges: {(i, j): share, (j, i): share}."""


def base_graph_shares(rank: int, round: int, n: int, k: int) -> list[tuple[int, float]]:
    """(peer, share) pairs of ``rank`` in ``round``."""
    schedule = _per_rank(n, k)
    return schedule[round % len(schedule)].get(rank, [])


def base_graph_period(n: int, k: int) -> int:
    """Rounds until the average is exact, after which the graphs repeat."""
    return len(_per_rank(n, k))


@lru_cache(maxsize=32)
def _per_rank(n: int, k: int) -> list[dict[int, list[tuple[int, float]]]]:
    schedule = []
    for exchanges in base_graph(n, k):
        peers: dict[int, list[tuple[int, float]]] = {}
        for (i, j), share in sorted(exchanges.items()):
            peers.setdefault(i, []).append((j, share))
        schedule.append(peers)
    return schedule


def base_graph(n: int, k: int) -> list[Round]:
    """The rounds of the base-(k+1) graph: the shorter of the simple graph, and of the simple graph on each of p blocks
    followed by exchanges across them, where p is the part of n whose prime factors are at most k+1."""
    p, q = 1, n
    for factor in range(2, k + 2):
        while q % factor == 0:
            p, q = p * factor, q // factor
    blocks = _parallel([_simple([b * q + i for i in range(q)], k) for b in range(p)])
    across = _parallel([_hyper_hypercube([b * q + i for b in range(p)], k) for i in range(q)])
    simple = _simple(list(range(n)), k)
    return min(blocks + across, simple, key=len) or [{}]


def _simple(nodes: list[int], k: int) -> list[Round]:
    digits = _digits(len(nodes), k + 1)
    if len(digits) == 1:
        return _hyper_hypercube(nodes, k)
    parts, start = [], 0
    for count, size in digits:
        parts.append([nodes[start + a * size : start + (a + 1) * size] for a in range(count)])
        start += count * size
    rounds = _parallel([_hyper_hypercube([node for block in blocks for node in block], k) for blocks in parts])
    tails: list[
        list[Round]
    ] = []  # of each part: idle while the larger parts exchange, then exchange, then average within its blocks
    for i, blocks in enumerate(parts):
        rest = [node for later in parts[i + 1 :] for block in later for node in block]
        tails.append(
            [{}] * i
            + ([_hand_over(blocks, rest)] if rest else [])
            + _parallel([_hyper_hypercube(block, k) for block in blocks] if rest else [])
        )
    return rounds + _parallel(tails)


def _hand_over(blocks: list[list[int]], rest: list[int]) -> Round:
    """Afterwards each block's mean is the mean of all. Before it, blocks agree among themselves on one value, and
    each node of ``rest`` holds its own part's mean: its v-th node exchanges with the v-th node of every block."""
    size = len(blocks) * len(blocks[0])
    share = size / (len(blocks) * (size + len(rest)))
    pairs = [(block[v], node) for block in blocks for v, node in enumerate(rest)]
    return {edge: share for i, j in pairs for edge in ((i, j), (j, i))}


def _hyper_hypercube(nodes: list[int], k: int) -> list[Round]:
    """Mixed-radix hypercube: one round per factor of the size, complete averaging in groups of that many."""
    rounds, stride, left = [], 1, len(nodes)
    for factor in range(k + 1, 1, -1):
        while left % factor == 0:
            exchanges = {}
            for a, i in enumerate(nodes):
                digit = (a // stride) % factor
                for other in range(factor):
                    if other != digit:
                        exchanges[i, nodes[a + (other - digit) * stride]] = 1.0 / factor
            rounds.append(exchanges)
            stride, left = stride * factor, left // factor
    return rounds


def _digits(n: int, base: int) -> list[tuple[int, int]]:
    """n as a sum of (digit, power of base) with non-zero digits, largest power first."""
    digits, power = [], 1
    while n:
        n, digit = divmod(n, base)
        if digit:
            digits.append((digit, power))
        power *= base
    return digits[::-1]


def _parallel(schedules: list[list[Round]]) -> list[Round]:
    """Run schedules on disjoint sets of nodes side by side; a shorter one idles at its end."""
    length = max(map(len, schedules), default=0)
    return [{e: w for s in schedules if t < len(s) for e, w in s[t].items()} for t in range(length)]
