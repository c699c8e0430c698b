"""From rows of evaluation episodes to a verdict: gap = J_train - J_test, positive = overfit.

Three gaps are given. The raw one. The normalised one, divided by J_reference - J_random on the test contexts, and never
by J_train, which may be near 0 or negative. The adjusted one, from which the reference's own gap is taken context by
context: with few training MDPs one set may simply be easier. The verdict is on the adjusted and normalised gap.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.experiments import statistics as st

Row = Mapping[str, Any]
SIGN = "gap = J_train - J_test; positive = overfit"
LEARNED = 0.25
"""A normalised train score below this is called out: a gap of 0 then says little."""
STRESS = ("sticky", "sigma", "init_mult")
"""Conditions of a stress test, as in ``sticky=0.25``: they speak of robustness."""
SETS = ("train", "val", "test", "extrap")
Scores = dict[int, dict[str, float]]
"""Run -> context -> mean return over its episodes."""


@dataclass(frozen=True)
class GapGroup:
    """What is known of one condition with one number of training MDPs."""

    runs: int
    design: str
    j_random: float | None
    j_reference: float
    scale: float
    """Gaps are divided by it: J_reference - J_random, or 1 where that is not positive."""
    sets: dict[str, dict[str, Any]]
    """Set -> mean, IQM, worst MDPs, success, and the scores of the random and the reference policy."""
    gap: st.Interval
    normalised: st.Interval
    adjusted: st.Interval | None
    judged: st.Interval
    """The adjusted gap where there is one, else the normalised one."""
    verdict: str | None
    """None for conditions of a stress test."""
    p_train_better: float
    by_run: dict[int, float]
    train_normalised: float
    test_normalised: float
    warnings: list[str]
    condition: str = ""
    n_train: int | None = None
    robustness: bool = False


def scores(rows: Iterable[Row]) -> Scores:
    """Mean return by run and context."""
    returns: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        returns[row["run"]][row["context"]].append(row["return"])
    return {run: {c: float(np.mean(v)) for c, v in by.items()} for run, by in sorted(returns.items())}


def judge(rows: Sequence[Row], *, delta: float = 0.05, repeats: int = 2000, seed: int = 0) -> dict[str, Any]:
    """All groups of (condition, number of training MDPs), and the verdict of the one that heads the report.

    That is the group with the most training MDPs; of several, the one with the largest gap. Conditions of a stress test
    (sticky=, sigma=, init_mult=) speak of robustness: they get scores and no verdict.

    Raises:
        ValueError: no rows of an agent, fewer than 3 runs, or no train or test scores.
    """
    agents = [r for r in rows if r["policy"] == "agent"]
    if not agents:
        raise ValueError("these rows hold no agent's episode")
    if bad := [r for r in rows if not np.isfinite(r["return"])]:
        raise ValueError(f"{len(bad)} returns are not finite, as in context {bad[0]['context']}: nothing can be judged")
    keys = sorted({(r["condition"], r["n_train"]) for r in agents}, key=lambda k: (k[0], k[1] or 0))
    groups, best = [], _best_score(agents)
    for condition, n_train in keys:
        mine = [r for r in agents if (r["condition"], r["n_train"]) == (condition, n_train)]
        robust = _is_stress(condition)
        others = [r for r in rows if r["policy"] != "agent" and r["condition"] in ("" if robust else condition, "")]
        group = _group(mine, others, best, delta=delta, repeats=repeats, seed=seed)
        verdict = None if robust else group.verdict
        groups.append(
            dataclasses.replace(group, condition=condition, n_train=n_train, robustness=robust, verdict=verdict)
        )
    judged = [g for g in groups if not g.robustness]
    most = max(g.n_train or 0 for g in judged)
    head = max((g for g in judged if (g.n_train or 0) == most), key=lambda g: g.judged.estimate)
    trends = {c: _trend([g for g in judged if g.condition == c]) for c in sorted({g.condition for g in judged})}
    return {
        "verdict": head.verdict,
        "headline": head,
        "groups": groups,
        "trends": trends,
        "delta": delta,
        "sign": SIGN,
    }


def _is_stress(condition: str) -> bool:
    return condition.partition("=")[0] in STRESS


def _best_score(agents: Sequence[Row]) -> float:
    """The highest mean return of any condition and number of training MDPs on any of its sets, without stress."""
    returns: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in agents:
        if not _is_stress(row["condition"]):
            returns[row["condition"], row["n_train"], row["set"]].append(row["return"])
    return max((float(np.mean(group)) for group in returns.values()), default=-np.inf)


def _group(
    agents: Sequence[Row], others: Sequence[Row], best: float, *, delta: float, repeats: int, seed: int
) -> GapGroup:
    by_set = {name: by_run for name in SETS if (by_run := scores(r for r in agents if r["set"] == name))}
    if "train" not in by_set or "test" not in by_set:
        raise ValueError("a gap needs scores on train and on test contexts")
    train, test = by_set["train"], by_set["test"]
    random, reference = (_by_context(others, policy) for policy in ("random", "reference"))
    scale, warnings = _scale(random, reference, best, _contexts(test))
    nested = len({frozenset(by) for by in train.values()}) > 1
    settings = {"repeats": repeats, "seed": seed}
    raw = _interval(train, test, nested, settings)
    against = reference or random
    known = all(c in against for by_run in (train, test) for c in _contexts(by_run))
    adjusted = None
    if known:
        own_train, own_test = (
            {run: {c: s - against[c] for c, s in by.items()} for run, by in x.items()} for x in (train, test)
        )
        adjusted = st.Interval(*(x / scale.divisor for x in _interval(own_train, own_test, nested, settings)))
        own = ((_mean(against, _contexts(train)) or 0.0) - (_mean(against, _contexts(test)) or 0.0)) / scale.divisor
        if abs(own) > delta:
            warnings.append(f"sets differ in difficulty: the reference's own gap is {own:+.3f}, normalised")
    elif against:
        warnings.append("the reference was not played on every MDP: the gap is not adjusted")
    normalised = st.Interval(*(x / scale.divisor for x in raw))
    judged = adjusted or normalised
    table = {n: _summary(n, x, agents, random, reference, nested and n == "train") for n, x in by_set.items()}
    reached = {n: (summary["mean"].estimate - (scale.random or 0.0)) / scale.divisor for n, summary in table.items()}
    if scale.learned and reached["train"] < LEARNED:
        share = max(reached["train"], 0.0)
        warnings.append(f"it has learned {share:.0%} of the task: what was not learned cannot be memorised")
    warnings += st.warnings_for(len(train), len(_contexts(test)), None if nested else len(_contexts(train)))
    return GapGroup(
        runs=len(train),
        design="a training set of its own for each run" if nested else "one training set for all runs",
        j_random=scale.random,
        j_reference=scale.reference,
        scale=scale.divisor,
        sets=table,
        gap=raw,
        normalised=normalised,
        adjusted=adjusted,
        judged=judged,
        verdict=st.verdict(judged, delta) if scale.learned else "INCONCLUSIVE",
        p_train_better=st.probability_of_improvement(_flat(train), _flat(test)),
        by_run=_by_run(train, test, against if known else {}, scale.divisor),
        train_normalised=reached["train"],
        test_normalised=reached["test"],
        warnings=warnings,
    )


class _Scale(NamedTuple):
    """What gaps are divided by: what separates the reference from the random policy on the test contexts."""

    divisor: float
    random: float | None
    reference: float
    learned: bool


def _scale(
    random: Mapping[str, float], reference: Mapping[str, float], best: float, test_ids: list[str]
) -> tuple[_Scale, list[str]]:
    """The scale, and what has to be said of it; ``best`` stands in for a reference that was not played."""
    warnings = []
    j_random, j_reference = _mean(random, test_ids), _mean(reference, test_ids)
    if j_reference is None:
        warnings.append("no reference policy: gaps are normalised by the study's best score, less the random one")
        j_reference = best
    divisor = j_reference - (j_random if j_random is not None else 0.0)
    if learned := divisor > 0:
        return _Scale(divisor, j_random, j_reference, learned), warnings
    warnings.append(f"nothing beats the random policy ({j_random:g}): gaps are in units of return, and say little")
    return _Scale(1.0, j_random, j_reference, learned), warnings


def _less(by_run: Scores, against: Mapping[str, float]) -> Scores:
    return {run: {c: s - against[c] for c, s in by.items()} for run, by in by_run.items()}


def _interval(train: Scores, test: Scores, nested: bool, settings: Mapping[str, int]) -> st.Interval:
    """The gap's, where each run has a training set of its own (nested) or all have the same (crossed)."""
    interval = st.nested_gap_interval if nested else st.gap_interval
    return interval(_lists(train), _lists(test), **settings)


def _summary(
    name: str, by_run: Scores, agents: Sequence[Row], random: Mapping, reference: Mapping, nested: bool
) -> dict[str, Any]:
    flat = np.array([s for by in by_run.values() for s in by.values()])
    wins = [r["success"] for r in agents if r["set"] == name and r["success"] is not None]
    ids = _contexts(by_run)
    return {
        "contexts": len(ids),
        "episodes": sum(r["set"] == name for r in agents),
        "mean": st.mean_interval(_lists(by_run), nested=nested),
        "iqm": st.iqm(flat),
        "worst": st.cvar([np.mean([by[c] for by in by_run.values() if c in by]) for c in ids]),
        # Episodes of one MDP, and runs on it, are no independent trials: as many as there are MDPs.
        "success": st.wilson(float(np.mean(wins)) * len(ids), len(ids)) if wins else None,
        "random": _mean(random, ids),
        "reference": _mean(reference, ids),
    }


def _by_run(train: Scores, test: Scores, against: Mapping[str, float], scale: float) -> dict[int, float]:
    """The gap of each run, adjusted where that is possible, and normalised."""

    def mean(by: Mapping[str, float]) -> float:
        return float(np.mean([s - against.get(c, 0.0) for c, s in by.items()]))

    return {run: (mean(train[run]) - mean(test[run])) / scale for run in train}


def _trend(groups: Sequence[GapGroup]) -> dict[str, Any] | None:
    """The gap over the numbers of training MDPs: Page's test with runs as blocks, a power law, N05, and capacity."""
    groups = sorted((g for g in groups if g.n_train), key=lambda g: g.n_train or 0)
    runs = sorted(set.intersection(*(set(g.by_run) for g in groups))) if groups else []
    if len(groups) < 2 or not runs:
        return None
    table = np.array([[g.by_run[run] for g in groups] for run in runs])
    n = [g.n_train or 0 for g in groups]
    law = st.fit_power_law(n, table.mean(0)) if len(n) >= 3 else None
    memorised = [g.n_train or 0 for g in groups if g.train_normalised >= 0.9]
    return {
        "n": n,
        "page_p": st.page_trend_test(table),
        "law": law,
        "n05": law.reaches(0.05) if law else None,
        "capacity": max(memorised, default=0),
    }


def _by_context(rows: Iterable[Row], policy: str) -> dict[str, float]:
    returns: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["policy"] == policy:
            returns[row["context"]].append(row["return"])
    return {context: float(np.mean(values)) for context, values in returns.items()}


def _contexts(by_run: Scores) -> list[str]:
    return sorted({c for by in by_run.values() for c in by})


def _lists(by_run: Scores) -> list[NDArray]:
    """Per run the scores in the order of the contexts, so that columns belong to one context where runs share them."""
    return [np.array([by[c] for c in sorted(by)]) for by in by_run.values()]


def _flat(by_run: Scores) -> NDArray:
    return np.concatenate(_lists(by_run))


def _mean(by_context: Mapping[str, float], ids: Iterable[str]) -> float | None:
    values = [by_context[c] for c in ids if c in by_context]
    return float(np.mean(values)) if values else None
