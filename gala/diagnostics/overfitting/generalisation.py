"""From rows of evaluation episodes to a verdict: gap = J_train - J_test, positive = overfit.

Three gaps are given. The raw one. The normalised one, divided by what separates the reference or a solved task from the
random policy (``scale``). The adjusted one, from which the reference's own gap is taken context by context: with few
training MDPs one set may simply be easier. The verdict is on the adjusted and normalised gap.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.diagnostics.overfitting.scale import Scale, mean, scale_of
from gala.experiments import statistics as st
from gala.experiments.gap_warnings import warnings_for

Row = Mapping[str, Any]
SIGN = "gap = J_train - J_test; positive = overfit"
STRESS = ("sticky", "sigma", "init_mult")
"""Conditions of a stress test that have a strength, as in ``sticky=0.25``; ``easier=...`` has none."""
SETS = ("train", "val", "test", "extrap")
Scores = dict[int, dict[str, float]]
"""Run -> context -> mean return over its episodes."""


@dataclass(frozen=True)
class GapGroup:
    """What is known of one condition with one number of training MDPs."""

    runs: int
    design: str
    j_random: float | None
    j_reference: float | None
    scale: float
    """Gaps are divided by it; 1 where they are in units of return."""
    in_return: bool
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
    train_normalised: float | None
    test_normalised: float | None
    warnings: list[str]
    refusals: list[str]
    """Why there is no verdict, whatever the interval."""
    condition: str = ""
    n_train: int | None = None
    robustness: bool = False


def scores(rows: Iterable[Row]) -> Scores:
    """Mean return by run and context."""
    returns: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        returns[row["run"]][row["context"]].append(row["return"])
    return {run: {c: float(np.mean(v)) for c, v in by.items()} for run, by in sorted(returns.items())}


def judge(
    rows: Sequence[Row],
    *,
    delta: float = 0.05,
    solved: float | None = None,
    random: float | None = None,
    stress: bool = False,
) -> dict[str, Any]:
    """All groups of (condition, number of training MDPs), and the verdict of the one that heads the report.

    That is the group with the most training MDPs; of several, the one with the largest gap.

    Args:
        solved: the return at which the task counts as solved, for the scale where no reference was played.
        random: the same of the random policy.
        stress: the rows are of ``gala overfit stress``: its conditions (sticky=, sigma=, init_mult=, easier=) speak of
            robustness, and get scores and no verdict. In any other table a condition of that name is one of training.

    Raises:
        ValueError: no rows of an agent, or none without a change, fewer than 3 runs, or no train or test scores.
    """
    agents = [r for r in rows if r["policy"] == "agent"]
    if not agents:
        raise ValueError("these rows hold no agent's episode")
    if bad := [r for r in rows if r["return"] is None or not np.isfinite(r["return"])]:
        raise ValueError(f"{len(bad)} returns are not finite, as in context {bad[0]['context']}: nothing can be judged")
    keys = sorted({(r["condition"], r["n_train"]) for r in agents}, key=lambda k: (k[0], k[1] or 0))
    groups = []
    for condition, n_train in keys:
        mine = [r for r in agents if (r["condition"], r["n_train"]) == (condition, n_train)]
        robust = stress and condition.partition("=")[0] in (*STRESS, "easier")
        others = [r for r in rows if r["policy"] != "agent" and r["condition"] in ("" if robust else condition, "")]
        group = _group(mine, others, (solved, random), delta)
        verdict = None if robust else group.verdict
        groups.append(
            dataclasses.replace(group, condition=condition, n_train=n_train, robustness=robust, verdict=verdict)
        )
    judged = [g for g in groups if not g.robustness]
    if not judged:
        raise ValueError(
            "a stress test needs the scores of its MDPs as they are, and these rows hold changed ones only"
        )
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


def _group(
    agents: Sequence[Row], others: Sequence[Row], known_returns: tuple[float | None, float | None], delta: float
) -> GapGroup:
    by_set = {name: by_run for name in SETS if (by_run := scores(r for r in agents if r["set"] == name))}
    if "train" not in by_set or "test" not in by_set:
        raise ValueError("a gap needs scores on train and on test contexts")
    train, test = by_set["train"], by_set["test"]
    _check_tables(train, test)
    random, reference = (_by_context(others, policy) for policy in ("random", "reference"))
    scale = scale_of(random, reference, known_returns, _contexts(test))
    nested = len({frozenset(by) for by in train.values()}) > 1
    against = reference or random
    known = all(c in against for by_run in (train, test) for c in _contexts(by_run))
    raw = st.gap_interval(_lists(train), _lists(test), nested=nested)
    own_train, own_test = (_lists(_less(x, against)) for x in (train, test)) if known else (_lists(train), _lists(test))
    adjusted = _divided(st.gap_interval(own_train, own_test, nested=nested), scale) if known else None
    judged = adjusted or _divided(raw, scale)
    reached = np.array([r["return"] for r in (*agents, *others)])
    table = {n: _summary(n, x, agents, (random, reference), nested and n == "train") for n, x in by_set.items()}
    for summary in table.values():
        summary["mean"] = _inside(summary["mean"], reached.min(), reached.max())
    train_mean = table["train"]["mean"].estimate
    refusals = [text for text in (scale.refusal(train_mean), _one_for_all(train, nested)) if text]
    plain = verdict_on(judged, delta, in_return=scale.in_return)
    warnings = [*refusals, *scale.warnings, *_difficulty(against, known, (train, test), scale, delta)]
    return GapGroup(
        runs=len(train),
        design="a training set of its own for each run" if nested else "one training set for all runs",
        j_random=scale.random,
        j_reference=scale.reference,
        scale=scale.divisor,
        in_return=scale.in_return,
        sets=table,
        gap=_inside(raw, reached.min() - reached.max(), reached.max() - reached.min()),
        normalised=_divided(raw, scale),
        adjusted=adjusted,
        judged=judged,
        verdict="INCONCLUSIVE" if refusals else plain,
        p_train_better=st.probability_of_improvement(_flat(train), _flat(test)),
        by_run=_by_run(train, test, against if known else {}, scale.divisor),
        train_normalised=scale.share(train_mean),
        test_normalised=scale.share(table["test"]["mean"].estimate),
        warnings=[*warnings, *warnings_for(own_train, own_test, nested=nested)],
        refusals=refusals,
    )


def verdict_on(gap: st.Interval, delta: float, *, in_return: bool) -> st.Verdict:
    """In units of return no gap is small enough for NO-GAP, not even one that is 0 to the last digit: agents that earn
    nothing have it too."""
    if in_return:
        return "OVERFIT" if gap.low > 0 else "INCONCLUSIVE"
    return st.verdict(gap, delta)


def _check_tables(train: Scores, test: Scores) -> None:
    """Raises ValueError unless every run was scored on a train set, and all of them on one test set."""
    if missing := sorted(set(train) ^ set(test)):
        raise ValueError(f"run {missing[0]} has scores on one set only; a gap needs train and test scores of each run")
    if len({frozenset(by) for by in test.values()}) > 1:
        raise ValueError("the runs were tested on different contexts; a gap needs one test set for all of them")


def _one_for_all(train: Scores, nested: bool) -> str:
    if nested or len(_contexts(train)) > 1:
        return ""
    return (
        "1 training MDP, the same for all runs: whether it is easier than others cannot be told from overfitting; "
        "give each run a training set of its own (gala overfit sweep does)"
    )


def _difficulty(
    against: Mapping[str, float], known: bool, sets: tuple[Scores, Scores], scale: Scale, delta: float
) -> list[str]:
    """Is one set easier for the reference?"""
    if not known:
        return ["the reference was not played on every MDP: the gap is not adjusted"] if against else []
    on_train, on_test = (mean(against, _contexts(by_run)) or 0.0 for by_run in sets)
    own = (on_train - on_test) / scale.divisor
    if scale.in_return or abs(own) <= delta:
        return []
    return [f"sets differ in difficulty: the reference's own gap is {own:+.3f}, normalised"]


def _divided(interval: st.Interval, scale: Scale) -> st.Interval:
    return st.Interval(*(x / scale.divisor for x in interval))


def _inside(interval: st.Interval, low: float, high: float) -> st.Interval:
    """No mean lies outside the range of all returns that were seen."""
    return st.Interval(max(interval.low, float(low)), interval.estimate, min(interval.high, float(high)))


def _less(by_run: Scores, against: Mapping[str, float]) -> Scores:
    return {run: {c: s - against[c] for c, s in by.items()} for run, by in by_run.items()}


def _summary(
    name: str, by_run: Scores, agents: Sequence[Row], baselines: tuple[Mapping, Mapping], nested: bool
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
        "random": mean(baselines[0], ids),
        "reference": mean(baselines[1], ids),
    }


def _by_run(train: Scores, test: Scores, against: Mapping[str, float], scale: float) -> dict[int, float]:
    """The gap of each run, adjusted where that is possible, and normalised."""

    def less(by: Mapping[str, float]) -> float:
        return float(np.mean([s - against.get(c, 0.0) for c, s in by.items()]))

    return {run: (less(train[run]) - less(test[run])) / scale for run in train}


def _trend(groups: Sequence[GapGroup]) -> dict[str, Any] | None:
    """The gap over the numbers of training MDPs, which rise from group to group: Page's test with runs as blocks, a
    power law, N05, and capacity."""
    groups = [g for g in groups if g.n_train]
    runs = sorted(set.intersection(*(set(g.by_run) for g in groups))) if groups else []
    if len(groups) < 2 or not runs:
        return None
    table = np.array([[g.by_run[run] for g in groups] for run in runs])
    n = [g.n_train or 0 for g in groups]
    law = st.fit_power_law(n, table.mean(0)) if len(n) >= 3 else None
    memorised = [g.n_train or 0 for g in groups if (g.train_normalised or 0.0) >= 0.9]
    scaled = not any(g.in_return for g in groups)
    return {
        "n": n,
        "page_p": st.page_trend_test(table),
        "law": law,
        "n05": law.reaches(0.05) if law and scaled else None,
        "capacity": max(memorised, default=0) if scaled else None,
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
