"""A user's own graph, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gala.files.plain_yaml import read_text, read_yaml, shortened
from gala.gossip.graphs.topology import Shares, Topology, get_topology, shares_problem

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
        n = _count_ranks(graphs)
        topology = Topology(
            f"from {path.name}",
            lambda rank, round, n: graphs[round % len(graphs)].get(rank, []),
            period=lambda n: len(graphs),
            problem=lambda m: "" if m == n else f"{path} describes {n} learners, not {m}",
            learners=n,
        )
        return get_topology(topology, n)
    except (ValueError, TypeError) as e:
        problem = shortened(str(e))
        raise ValueError(problem if problem.startswith((str(path), "cannot read")) else f"{path}: {problem}") from None


def _count_ranks(graphs: list[_Round]) -> int:
    """The number of learners. Ranks are 0, 1, ... without a gap: one that never occurs would be a learner alone."""
    ranks = {rank for graph in graphs for src, out in graph.items() for rank in (src, *(dst for dst, _ in out))}
    if not ranks:
        raise ValueError("there are no edges")
    for expected, rank in enumerate(sorted(ranks)):
        if rank != expected:
            raise ValueError(
                f"rank {expected} occurs in no edge, but rank {max(ranks)} does; number learners from 0 on"
            )
    return len(ranks)


def _read_text(path: Path) -> list[list[list[Any]]]:
    rounds: list[list[list[Any]]] = [[]]
    last = 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split("#")[0].split()
        if words == ["---"]:
            if not rounds[-1]:
                raise ValueError(f"line {number}: there is no edge before this ---; each round needs one")
            rounds.append([])
            last = number
        elif words:
            try:
                rounds[-1].append([int(words[0]), int(words[1]), *map(float, words[2:])])
            except (ValueError, IndexError):
                raise ValueError(f"line {number} is {line.strip()[:60]!r}; write: source destination [share]") from None
    if len(rounds) > 1 and not rounds[-1]:
        raise ValueError(f"line {last}: there is no edge after this ---; each round needs one")
    return rounds


def _read_yaml(path: Path) -> list[list[list[Any]]]:
    content = read_yaml(path)
    if not isinstance(content, dict) or len(content) != 1 or not set(content) <= {"edges", "rounds", "matrix"}:
        raise ValueError("a YAML topology has exactly one key: edges, rounds, or matrix")
    if "edges" in content:
        return [_list(content["edges"], "edges", "edges")]
    if "matrix" in content:
        return [_edges_of_matrix(content["matrix"])]
    return [_list(edges, "each round", "edges") for edges in _list(content["rounds"], "rounds", "lists of edges")]


def _list(value: Any, name: str, of: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of {of}, not {str(value)[:60]!r}")
    return value


_HUGE = 1e300


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _HUGE:  # NaN is not, either
        raise ValueError(f"{place} is {str(value)[:60]!r}, and must be a finite number")
    return float(value)


def _edges_of_matrix(rows: Any) -> list[list[Any]]:
    n = len(_list(rows, "matrix", "rows"))
    for i, row in enumerate(rows):
        if len(_list(row, f"row {i} of the matrix", "numbers")) != n:
            raise ValueError(f"the matrix must be square: it has {n} rows, and row {i} has {len(row)} entries")
    matrix = np.array([[_number(x, f"entry ({i}, {j})") for j, x in enumerate(row)] for i, row in enumerate(rows)])
    for j, column in enumerate(matrix.T):
        if abs(column.sum() - 1.0) > 1e-9:
            raise ValueError(f"column {j} sums to {column.sum():g}; each must sum to 1 (all that learner {j} gives)")
    return [[j, i, float(matrix[i, j])] for i in range(n) for j in range(n) if i != j and matrix[i, j]]


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _round(edges: list[list[Any]]) -> _Round:
    """Shares of each sender, checked; those without a share get equal ones."""
    graph: dict[int, list[tuple[int, float | None]]] = {}
    for edge in edges:
        if not isinstance(edge, list) or len(edge) not in (2, 3) or not all(map(_is_rank, edge[:2])):
            shown = str(edge)[:60]
            raise ValueError(f"edge {shown} is not [source, destination] or [source, destination, share]")
        src, dst = edge[:2]
        if src == dst:
            raise ValueError(f"edge {edge} leads from {src} to itself; what is not sent stays by itself")
        if dst in (j for j, _ in graph.get(src, [])):
            raise ValueError(f"edge {src} -> {dst} occurs twice in one round")
        graph.setdefault(src, []).append(
            (dst, _number(edge[2], f"the share of edge {src} -> {dst}") if len(edge) == 3 else None)
        )
    shares: _Round = {}
    for src, out in graph.items():
        equal = 1.0 / (1 + len(out))
        shares[src] = [(dst, equal if share is None else share) for dst, share in out]
        if problem := shares_problem(src, shares[src]):
            raise ValueError(problem)
    return shares
