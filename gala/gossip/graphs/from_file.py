"""A user's own graph, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gala.gossip.graphs.topology import Shares, Topology, get_topology

_Round = dict[int, Shares]


def load_topology(path: str | Path) -> Topology:
    """The graph in ``path``, checked: strongly connected over its period, with shares that make sense.

    Plain text: one edge a line, ``source destination`` or ``source destination share``; ``#`` starts a comment, and
    a line ``---`` starts the next round. Without shares a sender with k peers gives 1 / (k + 1) to each. YAML
    (.yaml, .yml): ``edges``, a list of such edges; or ``rounds``, a list of such lists; or ``matrix``, a list of
    rows where entry (i, j) is the share of its mass that j gives to i, every column summing to 1 with a positive
    diagonal.

    Raises:
        ValueError: names the file, and the line, edge, column or learner that is wrong.
    """
    path = Path(path)
    try:
        rounds = _read_yaml(path) if path.suffix in (".yaml", ".yml") else _read_text(path)
        graphs = [_round(edges) for edges in rounds]
        ranks = {rank for graph in graphs for src, out in graph.items() for rank in (src, *(dst for dst, _ in out))}
        if not ranks:
            raise ValueError("there are no edges")
        n = max(ranks) + 1
        topology = Topology(
            f"from {path.name}",
            lambda rank, round, n: graphs[round % len(graphs)].get(rank, []),
            period=lambda n: len(graphs),
            problem=lambda m: "" if m == n else f"{path} describes {n} learners, not {m}",
            learners=n,
        )
        return get_topology(topology, n)
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: {e}") from None
    except OSError as e:
        raise ValueError(f"cannot read the topology {path}: {e.strerror}") from None


def _read_text(path: Path) -> list[list[list[Any]]]:
    rounds: list[list[list[Any]]] = [[]]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split("#")[0].split()
        if words == ["---"]:
            rounds.append([])
        elif words:
            try:
                rounds[-1].append([int(words[0]), int(words[1]), *map(float, words[2:])])
            except (ValueError, IndexError):
                raise ValueError(f"line {number} is {line.strip()!r}; write: source destination [share]") from None
    return rounds


def _read_yaml(path: Path) -> list[list[list[Any]]]:
    import yaml

    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or len(content) != 1 or not set(content) <= {"edges", "rounds", "matrix"}:
        raise ValueError("a YAML topology has exactly one key: edges, rounds, or matrix")
    if "edges" in content:
        return [content["edges"]]
    return content["rounds"] if "rounds" in content else [_edges_of_matrix(content["matrix"])]


def _edges_of_matrix(rows: list[list[float]]) -> list[list[Any]]:
    matrix = np.asarray(rows, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"the matrix must be square, not {matrix.shape}")
    for j, column in enumerate(matrix.T):
        if abs(column.sum() - 1.0) > 1e-9:
            raise ValueError(f"column {j} sums to {column.sum():g}; each must sum to 1 (all that learner {j} gives)")
    return [[j, i, matrix[i, j]] for i in range(len(matrix)) for j in range(len(matrix)) if i != j and matrix[i, j]]


def _round(edges: list[list[Any]]) -> _Round:
    """Shares of each sender, checked; those without a share get equal ones."""
    graph: dict[int, list[tuple[int, float | None]]] = {}
    for edge in edges:
        if len(edge) not in (2, 3) or not all(isinstance(rank, int) and rank >= 0 for rank in edge[:2]):
            raise ValueError(f"edge {edge} is not [source, destination] or [source, destination, share]")
        src, dst = edge[:2]
        if src == dst:
            raise ValueError(f"edge {edge} leads from {src} to itself; what is not sent stays by itself")
        if dst in (j for j, _ in graph.get(src, [])):
            raise ValueError(f"edge {src} -> {dst} occurs twice in one round")
        graph.setdefault(src, []).append((dst, float(edge[2]) if len(edge) == 3 else None))
    shares: _Round = {}
    for src, out in graph.items():
        equal = 1.0 / (1 + len(out))
        shares[src] = [(dst, equal if share is None else share) for dst, share in out]
        total = sum(share for _, share in shares[src])
        if total >= 1.0 or any(not share > 0.0 for _, share in shares[src]):
            raise ValueError(f"learner {src} gives away {total:g} of its mass; shares are positive, and some must stay")
    return shares
