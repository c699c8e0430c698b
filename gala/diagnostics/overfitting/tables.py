"""Scores of runs by context, as tables, and what a table must be for a gap to be told from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
"""One episode: policy, run, set, context, condition, return, ..."""
SETS = ("train", "val", "test", "extrap")
Scores = dict[int, dict[str, float]]
"""Run -> context -> mean return over its episodes."""


def scores(rows: Iterable[Row]) -> Scores:
    """Mean return by run and context."""
    returns: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        returns[row["run"]][row["context"]].append(row["return"])
    return {run: {c: float(np.mean(v)) for c, v in by.items()} for run, by in sorted(returns.items())}


def check_tables(train: Scores, test: Scores) -> None:
    """Raises ValueError unless every run was scored on a train set, and all of them on one test set."""
    if missing := sorted(set(train) ^ set(test)):
        raise ValueError(f"run {missing[0]} has scores on one set only; a gap needs train and test scores of each run")
    if len({frozenset(by) for by in test.values()}) > 1:
        raise ValueError("the runs were tested on different contexts; a gap needs one test set for all of them")


_IN_WORDS = {"train": "training", "val": "validation", "extrap": "extrapolation"}


def is_nested(by_run: Scores, name: str = "train") -> bool:
    """Whether each run has contexts of its own in the set of this ``name``; False: all have the same.

    Raises:
        ValueError: neither. The runs that share some would count as independent draws of them, and noise as a gap.
    """
    sets = {frozenset(by) for by in by_run.values()}
    if len(sets) == 1:
        return False
    if len(sets) == len(by_run) and sum(map(len, sets)) == len(frozenset().union(*sets)):
        return True
    own = {run: set(by) for run, by in by_run.items()}
    lacking = [(a, b) for a in own for b in own if own[a] & own[b] and own[b] - own[a]]
    of_set = _IN_WORDS.get(name, name)
    told = f"some runs share their {of_set} contexts, and others have their own"
    if lacking:
        a, b = lacking[0]
        told = f"run {a} lacks the {of_set} context {min(own[b] - own[a])} of run {b}, with which it shares others"
    raise ValueError(f"{told}; give all runs the same {of_set} contexts, or each run contexts of its own")


def copies(train: Scores, test: Scores, best: Mapping[str, float]) -> list[str]:
    """A warning of two runs that agree in every context, unless that is as the ``best`` policy does, or all scores are
    one number. No refusal: those who are optimal agree as well, and nobody may know that they are."""
    both = {run: (*sorted(by.items()), *sorted(test[run].items())) for run, by in train.items()}
    both = {run: by for run, by in both.items() if any(best.get(context) != score for context, score in by)}
    if len({score for by in both.values() for _, score in by}) == 1:
        return []
    known: dict[tuple, int] = {}
    twins = [(known[scores], run) for run, scores in both.items() if known.setdefault(scores, run) != run]
    if not twins:
        return []
    a, b = twins[0]
    return [f"runs {a} and {b} scored the same in every context: if one is a copy, the interval is too narrow"]


def less_baseline(by_run: Scores, against: Mapping[str, float]) -> Scores:
    """Scores less those of a baseline in the same context."""
    return {run: {c: s - against[c] for c, s in by.items()} for run, by in by_run.items()}


def by_context(rows: Iterable[Row], policy: str) -> dict[str, float]:
    """The mean return of a baseline, such as ``random``, in each context."""
    returns: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["policy"] == policy:
            returns[row["context"]].append(row["return"])
    return {context: float(np.mean(values)) for context, values in returns.items()}


def contexts_of(by_run: Scores) -> list[str]:
    """All contexts that any run was scored in, sorted."""
    return sorted({c for by in by_run.values() for c in by})


def rows_of(by_run: Scores) -> list[NDArray]:
    """Per run the scores in the order of the contexts, so that columns belong to one context where runs share them."""
    return [np.array([by[c] for c in sorted(by)]) for by in by_run.values()]


def flat(by_run: Scores) -> NDArray:
    """All scores, run after run."""
    return np.concatenate(rows_of(by_run))
