"""From rows of evaluation episodes to a verdict: gap = J_train - J_test, positive = overfit.

Three gaps are given. The raw one. The normalised one, divided by what separates the reference or a solved task from the
random policy (``scale``). The adjusted one, from which the reference's own gap is taken context by context: with few
training MDPs one set may simply be easier. The verdict is on the adjusted and normalised gap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from gala.diagnostics.overfitting.scale import Scale, mean, scale_of
from gala.diagnostics.overfitting.tables import (
    SETS,
    Row,
    Scores,
    by_context,
    check_tables,
    contexts_of,
    copies,
    flat,
    is_nested,
    less_baseline,
    rows_of,
    scores,
)
from gala.experiments import statistics as st
from gala.experiments.gap_warnings import warnings_for

SIGN = "gap = J_train - J_test; positive = overfit"
STRESS = ("sticky", "sigma", "init_mult")
"""Conditions of a stress test that have a strength, as in ``sticky=0.25``."""
CHANGES = (*STRESS, "easier", "random_start")
"""All of them: ``easier=...`` and ``random_start`` have none."""


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

    @property
    def unit(self) -> str:
        """What its gap is measured in, in words."""
        return "in units of return" if self.in_return else "normalised"


def judge(
    rows: Sequence[Row],
    *,
    delta: float = 0.05,
    solved: float | None = None,
    random: float | None = None,
    stress: bool = False,
) -> dict[str, Any]:
    """All groups of (condition, number of training MDPs), and the verdict of the one that heads the report.

    That is, of each condition's group with the most training MDPs, the one with the largest gap. Gaps in units of
    return are not compared with normalised ones, which come first unless the others alone are OVERFIT. Of several
    conditions each is held to the level that so many comparisons need (Bonferroni): without any gap one in forty tables
    says OVERFIT, however many conditions it has.

    Args:
        solved: the return at which the task counts as solved, for the scale where no reference was played.
        random: the same of the random policy.
        stress: the rows are of ``gala overfit stress``: its conditions (those of ``CHANGES``) speak of robustness, and
            get scores and no verdict. In any other table a condition of that name is one of training.

    Raises:
        ValueError: no rows of an agent, or none without a change, fewer than 3 runs, or no train or test scores.
    """
    agents = [r for r in rows if r["policy"] == "agent"]
    if not agents:
        raise ValueError("these rows hold no agent's episode")
    if bad := [r for r in rows if r["return"] is None or not np.isfinite(r["return"])]:
        raise ValueError(f"{len(bad)} returns are not finite, as in context {bad[0]['context']}: nothing can be judged")
    keys = sorted({(r["condition"], r["n_train"]) for r in agents}, key=lambda k: (k[0], k[1] or 0))
    changed = {c for c, _ in keys if stress and c.partition("=")[0] in CHANGES}
    compared, groups = len({c for c, _ in keys} - changed), []
    for condition, n_train in keys:
        mine = [r for r in agents if (r["condition"], r["n_train"]) == (condition, n_train)]
        robust = condition in changed
        others = [r for r in rows if r["policy"] != "agent" and r["condition"] in ("" if robust else condition, "")]
        group = _group(mine, others, (solved, random), (delta, compared))
        verdict = None if robust else group.verdict
        groups.append(
            dataclasses.replace(group, condition=condition, n_train=n_train, robustness=robust, verdict=verdict)
        )
    judged = [g for g in groups if not g.robustness]
    if not judged:
        raise ValueError(
            "a stress test needs the scores of its MDPs as they are, and these rows hold changed ones only"
        )
    largest = {g.condition: g for g in sorted(judged, key=lambda g: g.n_train or 0)}
    by_unit = sorted(largest.values(), key=lambda g: (g.in_return, -g.judged.estimate))
    heads = [next(same) for _, same in groupby(by_unit, key=lambda g: g.in_return)]
    head = max(heads, key=lambda g: g.verdict == "OVERFIT")
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
    agents: Sequence[Row],
    others: Sequence[Row],
    known_returns: tuple[float | None, float | None],
    asked: tuple[float, int],
) -> GapGroup:
    """``asked``: delta, and how many conditions are looked at together."""
    by_set = {name: by_run for name in SETS if (by_run := scores(r for r in agents if r["set"] == name))}
    if "train" not in by_set or "test" not in by_set:
        raise ValueError("a gap needs scores on train and on test contexts")
    train, test = by_set["train"], by_set["test"]
    check_tables(train, test)
    random, reference = (by_context(others, policy) for policy in ("random", "reference"))
    scale = scale_of(random, reference, known_returns, contexts_of(test))
    nested, (delta, compared) = is_nested(train), asked
    against = reference or random
    known = all(c in against for by_run in (train, test) for c in contexts_of(by_run))
    raw = st.gap_interval(rows_of(train), rows_of(test), nested=nested)
    own_train, own_test = (
        (rows_of(less_baseline(x, against)) for x in (train, test)) if known else (rows_of(train), rows_of(test))
    )
    adjusted = _divided(st.gap_interval(own_train, own_test, nested=nested), scale) if known else None
    judged = adjusted or _divided(raw, scale)
    reached = np.array([r["return"] for r in (*agents, *others)])
    table = {n: _summary(n, x, agents, (random, reference)) for n, x in by_set.items()}
    for summary in table.values():
        summary["mean"] = _inside(summary["mean"], reached.min(), reached.max())
    train_mean = table["train"]["mean"].estimate
    strict = st.gap_interval(own_train, own_test, nested=nested, level=1 - 0.05 / max(1, compared))
    refusals = [scale.refusal(train_mean), _one_for_all(train, nested), _by_chance(judged, strict, compared)]
    refusals = [text for text in refusals if text]
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
        p_train_better=st.probability_of_improvement(flat(train), flat(test)),
        by_run=_by_run(train, test, against if known else {}, scale.divisor),
        train_normalised=scale.share(train_mean),
        test_normalised=scale.share(table["test"]["mean"].estimate),
        warnings=[*warnings, *copies(train, test, reference), *warnings_for(own_train, own_test, nested=nested)],
        refusals=refusals,
    )


def verdict_on(gap: st.Interval, delta: float, *, in_return: bool) -> st.Verdict:
    """In units of return no gap is small enough for NO-GAP, not even one that is 0 to the last digit: agents that earn
    nothing have it too."""
    if in_return:
        return "OVERFIT" if gap.low > 0 else "INCONCLUSIVE"
    return st.verdict(gap, delta)


def _by_chance(judged: st.Interval, strict: st.Interval, compared: int) -> str:
    if judged.low <= 0 or strict.low > 0:
        return ""
    return (
        f"of {compared} conditions one may well look so by chance: the interval that so many need contains 0; "
        "train more runs, or judge one condition"
    )


def _one_for_all(train: Scores, nested: bool) -> str:
    if nested or len(contexts_of(train)) > 1:
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
    on_train, on_test = (mean(against, contexts_of(by_run)) or 0.0 for by_run in sets)
    own = (on_train - on_test) / scale.divisor
    if scale.in_return or abs(own) <= delta:
        return []
    return [f"sets differ in difficulty: the reference's own gap is {own:+.3f}, normalised"]


def _divided(interval: st.Interval, scale: Scale) -> st.Interval:
    return st.Interval(*(x / scale.divisor for x in interval))


def _inside(interval: st.Interval, low: float, high: float) -> st.Interval:
    """No mean lies outside the range of all returns that were seen."""
    return st.Interval(max(interval.low, float(low)), interval.estimate, min(interval.high, float(high)))


def _summary(name: str, by_run: Scores, agents: Sequence[Row], baselines: tuple[Mapping, Mapping]) -> dict[str, Any]:
    every = flat(by_run)
    wins = [r["success"] for r in agents if r["set"] == name and r["success"] is not None]
    ids = contexts_of(by_run)
    return {
        "contexts": len(ids),
        "episodes": sum(r["set"] == name for r in agents),
        "mean": st.mean_interval(rows_of(by_run), nested=is_nested(by_run, name)),
        "iqm": st.iqm(every),
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
