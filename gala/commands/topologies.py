"""``gala topologies [NAME|FILE [n=8] [out=graph.png]]``: the gossip graphs; with a name, who sends to whom."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options

if TYPE_CHECKING:
    from gala.gossip.graphs.topology import Topology

USAGE = """usage: gala topologies [NAME|FILE [n=8] [peers=K] [out=FILE.png|FILE.svg]
                       [overwrite=true]]

List the gossip topologies, or show the rounds of one for n learners, how many
messages each takes and how fast it mixes; out= draws it. Use one with
topology=NAME. A FILE holds one edge a line, `source destination [share]`, and
`---` between rounds; or it is YAML with edges, rounds or a matrix.

A learner that is missing, or that does not read its messages, is stitched out
until it is back: a named graph is drawn over the others, a file's passes
through the gap. So a graph whose only way leads through a slow learner mixes on
without it, and the slow one gets a message whenever it has read the last."""

MAX_SHOWN = 1024
"""Learners of a graph whose edges are printed; its spectrum takes a matrix of n x n numbers."""


@dataclass(frozen=True)
class Options:
    """What ``gala topologies NAME`` accepts."""

    n: int | None = None
    """None: the learners of the file, or 8."""
    peers: int = 0
    out: str = ""
    overwrite: bool = False


def main(argv: Sequence[str]) -> int:
    """Prints the list, or the edges of each round over one period. Returns 0."""
    if argv and asks_for_help(argv):
        print(USAGE)
        return 0
    from gala.gossip.graphs.by_name import choose_topology, is_file
    from gala.gossip.graphs.from_file import load_topology
    from gala.gossip.graphs.topology import TOPOLOGIES
    from gala.reports import figures

    if not argv:
        for name, topology in TOPOLOGIES.items():
            print(textwrap.fill(f"{name:<22} {topology.description}", 80, subsequent_indent=23 * " "))
        return 0
    options = parse_options(Options, argv[1:])
    if options.out:
        figures.check_output(Path(options.out), options.overwrite)
    n = options.n
    if n is None:
        n = load_topology(argv[0]).learners if is_file(argv[0]) else 8
    if n > MAX_SHOWN:
        raise ValueError(f"n={n} is too large to show every edge; n can be at most {MAX_SHOWN}")
    topology = choose_topology(argv[0], n, options.peers)
    print("\n".join(describe(argv[0], topology, n)))
    if options.out:
        figures.graph_rounds(rounds(topology, n), n, f"{argv[0]}, n={n}", Path(options.out))
        print(options.out)
    return 0


def rounds(topology: Topology, n: int) -> list[list[tuple[int, int]]]:
    """The (source, destination) pairs of each round of a period; of one round if it never repeats."""
    period = topology.period(n) or 1
    return [[(i, j) for i in range(n) for j in topology.out_peers(i, t, n)] for t in range(period)]


def describe(name: str, topology: Topology, n: int) -> list[str]:
    """Lines for a reader: rounds, messages, spectral gap, speed."""
    from gala.gossip.graphs.spectrum import exact_after, half_life_rounds, spectral_gap

    each = rounds(topology, n)
    lines = [f"{name}: {topology.description}"]
    for index in range(len(each)):
        peers = [",".join(map(str, topology.out_peers(rank, index, n))) or "-" for rank in range(n)]
        lines.append(f"round {index}: {'  '.join(f'{rank}>{to}' for rank, to in enumerate(peers))}")
    counts = sorted({len(edges) for edges in each})
    exact = exact_after(topology, n)
    half_life = half_life_rounds(topology, n)
    in_all = "1 round" if exact == 1 else f"{exact} rounds"
    speed = f"the exact average after {in_all}" if exact else f"half-life {half_life:.2g} rounds"
    lines.append(f"edges per round {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}")
    lines.append(f"spectral gap {spectral_gap(topology, n):.4f}, {speed}")
    return [textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
