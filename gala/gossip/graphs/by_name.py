"""From a user's words to a graph: a name or a file, with a number of peers or a schedule of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gala.gossip.graphs.from_file import load_topology
from gala.gossip.graphs.topology import (
    TOPOLOGIES,
    Topology,
    circulant,
    get_topology,
    random_out,
    scheduled,
    several_peers,
)
from gala.plugins import loading

MAX_PEERS = 1024
"""Out-peers in a round; a graph of that many rounds at once is drawn for every message."""
FILE_SUFFIXES = (".txt", ".yaml", ".yml")


def _ring(k: int) -> Topology:
    return Topology(f"each sends to the next {k} (GALA)", circulant(lambda t, n: list(range(1, min(k + 1, n)))))


def _at_once(name: str) -> Callable[[int], Topology]:
    return lambda k: several_peers(TOPOLOGIES[name], k)


WITH_PEERS: dict[str, Callable[[int], Topology]] = {
    "ring": _ring,
    "one-peer-exponential": _at_once("one-peer-exponential"),
    "bipartite-exponential": _at_once("bipartite-exponential"),
    "random-1": random_out,
    "random-pairs": _at_once("random-pairs"),
}
"""Graphs that take a number of out-peers."""


def is_file(text: str) -> bool:
    """Whether ``text`` means a file with a graph, and neither a registered name nor ``module:attribute``."""
    return text not in TOPOLOGIES and not loading.is_path(text) and (text.endswith(FILE_SUFFIXES) or os.sep in text)


def choose_topology(text: str, n: int, peers: int = 0, schedule: str = "") -> Topology:
    """The graph ``text`` of ``n`` learners: a name in ``TOPOLOGIES``, a file that ``load_topology`` reads, or
    ``module:attribute``, a ``Topology``.

    Args:
        peers: out-peers in a round, for the graphs in ``WITH_PEERS``; 0 is the graph's own number.
        schedule: the same by the first round from which it holds, as ``0:2,3000:1``; empty: always ``peers``.

    Raises:
        ValueError: says what is wrong with the name, the file, the number of peers or of learners.
    """
    if peers < 0:
        raise ValueError(f"peers={peers} must be 0 (the graph's own number) or more")
    if is_file(text) or loading.is_path(text):
        if peers or schedule:
            raise ValueError(f"{text} says itself who sends to whom; leave out the number of peers")
        return get_topology(load_topology(Path(text)) if is_file(text) else _own_topology(text), n)
    if schedule:
        stages = {start: with_peers(text, k) for start, k in parse_schedule(schedule).items()}
        return get_topology(scheduled(stages), n)
    return get_topology(with_peers(text, peers) if peers else text, n)


def with_peers(name: str, peers: int) -> Topology:
    """The named graph with ``peers`` out-peers a round. Raises ValueError if it takes no such number."""
    get_topology(name, 1)
    if name not in WITH_PEERS:
        raise ValueError(f"topology {name} has its own number of peers; a number goes with {', '.join(WITH_PEERS)}")
    if peers > MAX_PEERS:
        raise ValueError(f"peers={peers} must be at most {MAX_PEERS}")
    return WITH_PEERS[name](peers)


def parse_schedule(text: str) -> dict[int, int]:
    """``0:2,3000:1`` -> {0: 2, 3000: 1}. Raises ValueError in one line."""
    stages = {}
    for word in text.split(","):
        start, colon, peers = word.strip().partition(":")
        if not (colon and start.isdigit() and peers.isdigit() and int(peers)):
            raise ValueError(f"schedule of peers {text!r}: write FIRST_EXCHANGE:PEERS with commas, as 0:2,3000:1")
        stages[int(start)] = int(peers)
    return stages


def _own_topology(path: str) -> Topology:
    """The ``Topology`` named ``module:attribute``."""
    topology = loading.load(path, "gossip.topology")
    if not isinstance(topology, Topology):
        raise ValueError(f"gossip.topology={path} must be a gala.gossip.Topology, not {type(topology).__name__}")
    return topology
