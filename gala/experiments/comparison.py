"""From rows of trainings to a comparison: figures of each group, and what they say against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.experiments.compared import AREAS, COSTS, Comparison, Terms
from gala.experiments.comparison_notes import notes
from gala.experiments.rows import Row, finished
from gala.experiments.scores import (
    FEWEST,
    improvement_interval,
    interval,
    non_inferior,
    order,
    pooled,
)
from gala.experiments.statistics import Interval, cvar, iqm, performance_profile, wilson

WORST = 0.25
"""The mean of the worst quarter has no interval and is not ranked: of ten normal trainings a bootstrap would hold the
truth in 69 % of cases, of five in 41 %; those of IQM and median hold it in 93 to 96 %."""
MEASURES = ("score", *AREAS, "above", *COSTS)
"""What groups are ordered by. The last four count failed trainings; the others, of survivors, are not ranked then."""
COUNT_FAILED = MEASURES[-4:]
Figures = dict[str, Any]


def analyse(rows: Sequence[Row], terms: Terms) -> dict[str, Any]:
    """All figures of a report, as JSON but for infinities.

    Raises:
        ValueError: no rows, or of several tasks, or judged otherwise; a baseline that is not among them.
    """
    check(rows, terms)
    comparison = Comparison(rows, terms)
    low, high, whence = comparison.score_range()
    margin = terms.margin * abs(high - low)
    figures = {group: _figures(comparison, group) for group in comparison.groups}
    every = np.concatenate([comparison.scores(group) for group in comparison.groups])
    grid = np.linspace(every.min(), every.max(), 101) if every.min() < every.max() else every[:1]
    return {
        "task": rows[0]["settings"]["env.id"],
        "baseline": terms.baseline,
        "mode": terms.mode,
        "threshold": terms.threshold,
        "range": {"low": low, "high": high, "from": whence},
        "margin": {"share": terms.margin, "return": margin},
        "groups": figures,
        "against": {
            group: _against(comparison, figures, group, margin) for group in figures if group != terms.baseline
        },
        "profile": {
            "score": grid.tolist(),
            **{group: performance_profile(comparison.scores(group), grid).tolist() for group in figures},
        },
        "notes": notes(comparison, whence),
    }


def check(rows: Sequence[Row], terms: Terms) -> None:
    """Raises ValueError, in one line, for rows that cannot be compared on these terms."""
    if not (trained := finished(rows)):
        raise ValueError("there is no finished training to compare")
    check_task(rows)
    groups = list(dict.fromkeys(row["group"] for row in trained))
    if terms.baseline not in groups:
        lost = " (all of its trainings failed)" * any(row["group"] == terms.baseline for row in rows)
        raise ValueError(f"baseline={terms.baseline}{lost}: wants one of {', '.join(groups)}")
    for row in trained:
        if terms.mode not in row["evaluation"]["score"]:
            judged = ", ".join(row["evaluation"]["score"])
            raise ValueError(f"{row['name']} was judged {judged}, not {terms.mode}; say mode={judged.split(',')[0]}")


def check_task(rows: Sequence[Row]) -> None:
    """Raises ValueError, in one line, unless all are of one task."""
    tasks = sorted({row["settings"]["env.id"] for row in rows})
    if len(tasks) > 1:
        raise ValueError(f"the trainings are of several tasks ({', '.join(tasks)}); compare those of one at a time")


def _figures(comparison: Comparison, group: str) -> Figures:
    rows, scores, threshold = comparison.groups[group], comparison.scores(group), comparison.terms.threshold
    failed = comparison.failed_seeds(group)
    above = None if threshold is None else wilson(int((scores >= threshold).sum()), len(scores) + len(failed))
    found: Figures = {
        "seeds": [row["seed"] for row in rows],
        "failed": failed,
        "learners": rows[0]["settings"]["learners"],
        "envs_per_learner": rows[0]["settings"]["envs_per_learner"],
        "env_steps": float(np.median([row["env_steps"] for row in rows])),
        "wall_s": _interval(np.array([row["seconds"] or math.nan for row in rows], np.float64), np.mean),
        "scores": scores.tolist(),
        "score": interval([[scores]], pooled(iqm)),
        "mean": interval([[scores]], pooled(np.mean)),
        "worst": cvar(scores, WORST),
        **{area: _interval(comparison.areas(group, axis), np.mean) for area, axis in AREAS.items()},
        "above": above,
        "above_count": None if threshold is None else int((scores >= threshold).sum()),
        "each_learner": _learner_scores(rows, comparison.terms.mode),
    }
    for what in COSTS:
        taken = comparison.cost_to_threshold(group, what)
        found[f"to_threshold_{what}"] = None if taken is None else _interval(taken, np.median)
        found[f"reached_{what}"] = None if taken is None else int(np.isfinite(taken).sum())
    return found


def _interval(values: NDArray, statistic: Any) -> Interval | None:
    """None where a value is missing."""
    return None if np.isnan(values).any() else interval([[values]], pooled(statistic))


def _learner_scores(rows: Sequence[Row], mode: str) -> Interval | None:
    """The mean score of single learners, beside that of their consensus; None where there is no consensus."""
    if any("consensus" not in row["evaluation"]["policies"][mode] for row in rows):
        return None
    each = [
        np.mean([p["return_mean"] for name, p in row["evaluation"]["policies"][mode].items() if name != "consensus"])
        for row in rows
    ]
    return _interval(np.array(each, np.float64), np.mean)


def _against(comparison: Comparison, figures: Mapping[str, Figures], group: str, margin: float) -> dict[str, Any]:
    """One group against the baseline."""
    base = comparison.terms.baseline
    x, y = comparison.scores(group), comparison.scores(base)
    enough = min(len(x), len(y)) >= FEWEST
    whole = enough and not comparison.failed_seeds(group) + comparison.failed_seeds(base)  # survivors flatter
    difference = interval([[x], [y]], lambda a, b: iqm(a[0]) - iqm(b[0]))
    orders = {}
    for measure in MEASURES:
        key = f"to_threshold_{measure}" if measure in COSTS else measure
        mine, theirs = figures[group][key], figures[base][key]
        known = (enough if measure in COUNT_FAILED else whole) and mine is not None and theirs is not None
        known = known and all(comparison.sure(name, measure) for name in (group, base))
        orders[measure] = order(mine, theirs) if known else "undecided"
    return {
        "difference": difference,
        "improvement": improvement_interval(x, y),
        "order": orders,
        "non_inferior": (as_well := non_inferior(difference, margin) if whole else "undecided"),
        "answers": answers(orders, as_well, comparison.terms),
    }


def answers(orders: Mapping[str, str], as_well: str, terms: Terms) -> dict[str, str]:
    """As well, faster, more robustly than the baseline: shown, refuted or undecided. A training that failed has not
    reached the threshold.

    Faster: fewer seconds to the threshold, or where none is known a larger area under the curve against seconds. More
    robustly: a larger share of the seeds scores the threshold; undecided where none is known.
    """
    shown = {"higher": "shown", "lower": "refuted", "undecided": "undecided"}
    less = {"lower": "shown", "higher": "refuted", "undecided": "undecided"}
    faster = shown[orders["auc_seconds"]] if terms.threshold is None else less[orders["seconds"]]
    return {"as_well": as_well, "faster": faster, "more_robustly": shown[orders["above"]]}
