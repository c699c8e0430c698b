"""Graphs over those who are left: dead and silent learners are stitched out, joiners in."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from gala.gossip.graphs.topology import Shares, Topology, get_topology
from gala.gossip.message import Roster


class Neighbours:
    """One learner's peers in each round: those of the topology while all are there, of the stitched graph otherwise."""

    def __init__(self, topology: Topology, rank: int, world_size: int, roster: Roster) -> None:
        self._topology, self._rank, self._world_size, self._roster = topology, rank, world_size, roster

    def out_shares(self, round: int) -> Shares:
        """Whom to send to, and how much."""
        return stitched_shares(self._topology, self._rank, round, self._world_size, self._live())

    def out_shares_past_full(self, round: int, is_full: Callable[[int], bool]) -> tuple[Shares, list[int]]:
        """``out_shares`` without the peers that are full, around whom the graph is stitched as around missing ones;
        and who they are. Only peers that the graph of this round leads to are asked, so the others keep their place."""
        live, full = self._live(), list[int]()
        while True:
            shares = stitched_shares(self._topology, self._rank, round, self._world_size, live)
            refusing = [dst for dst, _ in shares if is_full(dst)]
            if not refusing:
                return shares, full
            full += refusing
            live = tuple(rank for rank in live if rank not in refusing)

    def due(self, round: int) -> list[int]:
        """Who sends to this learner."""
        return stitched_in_peers(self._topology, round, self._world_size, self._live()).get(self._rank, [])

    def _live(self) -> tuple[int, ...]:
        live = self._roster.live()
        return live if len(live) == self._world_size or self._rank in live else tuple(sorted((*live, self._rank)))


@lru_cache(maxsize=1024)
def connects(topology: Topology, n: int) -> bool:
    """Whether ``n`` learners can gossip over the graph."""
    try:
        return bool(get_topology(topology, n))
    except ValueError:
        return False


def stitched_shares(topology: Topology, rank: int, round: int, n: int, live: tuple[int, ...]) -> Shares:
    """``topology.out_shares`` among the ``live`` of ``n`` ranks (joiners may lie beyond n).

    A graph that connects any number of learners is drawn anew over the live ones, in their order, and so keeps its
    speed. One that does not (a user's file, or function) passes through the gap: what would go to a missing peer goes,
    in equal parts, to those whom that peer ever sends to, which leaves a strongly connected graph strongly connected.
    """
    if len(live) == n and live[-1] == n - 1:  # everyone, since ranks ascend
        return topology.out_shares(rank, round, n)
    if connects(topology, len(live)):
        shares = topology.out_shares(live.index(rank), round, len(live))
        if all(peer < len(live) for peer, _ in shares):  # else it was written for n, and does not say so
            return [(live[peer], share) for peer, share in shares]
    merged: dict[int, float] = {}
    for peer, share in topology.out_shares(rank, round, n):
        heirs = sorted(set(_heirs(topology, peer, n, live)) - {rank})
        for heir in heirs:
            merged[heir] = merged.get(heir, 0.0) + share / len(heirs)
    return list(merged.items())


@lru_cache(maxsize=256)
def stitched_in_peers(topology: Topology, round: int, n: int, live: tuple[int, ...]) -> dict[int, list[int]]:
    """For each live rank, ascending, who sends to it in ``round``."""
    senders: dict[int, list[int]] = {rank: [] for rank in live}
    for src in live:
        for dst, _ in stitched_shares(topology, src, round, n, live):
            senders[dst].append(src)
    return senders


@lru_cache(maxsize=1024)
def _heirs(topology: Topology, peer: int, n: int, live: tuple[int, ...]) -> tuple[int, ...]:
    """``peer`` itself if it lives, else the live ranks that are reached from it over missing ones only."""
    if peer in live:
        return (peer,)
    followers: dict[int, list[int]] = {}
    for src, dst in topology.edges(n):
        followers.setdefault(src, []).append(dst)
    heirs, seen, frontier = set(), {peer}, [peer]
    while frontier:
        for dst in followers.get(frontier.pop(), []):
            if dst in live:
                heirs.add(dst)
            elif dst not in seen:
                seen.add(dst)
                frontier.append(dst)
    return tuple(sorted(heirs))
