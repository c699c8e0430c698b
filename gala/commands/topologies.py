"""``gala topologies [NAME [n=8]]``: the gossip graphs; with a name, who sends to whom in each round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gala import configure

USAGE = """usage: gala topologies [NAME [n=8]]

List the gossip topologies, or show the rounds of one for n learners and how fast
it mixes; use one with topology=NAME."""


@dataclass(frozen=True)
class Options:
    """What ``gala topologies NAME`` accepts."""

    n: int = 8


def main(argv: Sequence[str]) -> int:
    """Prints the list, or the edges of each round over one period. Returns 0."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    from gala.gossip.spectrum import exact_after, half_life_rounds, spectral_gap
    from gala.gossip.topology import TOPOLOGIES, get_topology

    if not argv:
        for name, topology in TOPOLOGIES.items():
            print(f"{name:<22} {topology.description}")
        return 0
    n = configure.parse_options(Options, argv[1:]).n
    topology = get_topology(argv[0], n)
    print(f"{argv[0]}: {topology.description}")
    for index in range(topology.period(n) or 1):
        peers = [",".join(map(str, topology.out_peers(rank, index, n))) or "-" for rank in range(n)]
        print(f"round {index}: {'  '.join(f'{rank}>{to}' for rank, to in enumerate(peers))}")
    rounds = exact_after(argv[0], n)
    speed = (
        f"the exact average after {rounds} rounds" if rounds else f"half-life {half_life_rounds(argv[0], n):.2g} rounds"
    )
    print(f"spectral gap {spectral_gap(argv[0], n):.4f}, {speed}")
    return 0
