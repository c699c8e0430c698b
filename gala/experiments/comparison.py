"""From rows of trainings to a comparison: figures of each group, and what they say against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.config.resumable import THREADS
from gala.experiments.rows import Row, finished, version_of
from gala.experiments.scores import (
    FEWEST,
    area_under,
    first_reached,
    improvement,
    interval,
    non_inferior,
    order,
    pooled,
)
from gala.experiments.statistics import Interval, cvar, iqm, performance_profile, wilson

WORST = 0.25
"""The mean of the worst quarter has no interval and is not ranked: of ten normal trainings a bootstrap would hold the
truth in 69 % of cases, of five in 41 %; those of IQM and median hold it in 93 to 96 %."""
MEASURES = ("score", "auc_steps", "auc_seconds", "above", "env_steps", "seconds", "joules")
"""What groups are ordered by. The last three are what it takes to reach the threshold: less is better.
With the one before they count failed trainings, where the others, of survivors, are not ranked if there are any."""
COSTS, COUNT_FAILED = MEASURES[-3:], MEASURES[-4:]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """What is fixed before anything is measured."""

    baseline: str
    mode: str
    threshold: float | None
    """The return that counts as solved; None where none is known."""
    margin: float = 0.05
    """How far below the baseline counts as no worse, as a share of the score range."""


class Comparison:
    """The rows of one task by group, those of trainings that failed apart, and the axes that all groups share."""

    def __init__(self, rows: Sequence[Row], terms: Terms) -> None:
        self.terms, trained = terms, finished(rows)
        self.failed = [row for row in rows if "failed" in row]
        self.groups: dict[str, list[Row]] = {}
        for row in sorted(trained, key=lambda row: row["group"] != terms.baseline):
            self.groups.setdefault(row["group"], []).append(row)
        ends = [(row["curve"][x][-1], x) for row in trained for x in ("env_steps", "seconds") if row["curve"][x]]
        self.until = {
            x: min((end for end, axis in ends if axis == x), default=math.nan) for x in ("env_steps", "seconds")
        }

    def failed_seeds(self, group: str) -> list[int]:
        return [row["seed"] for row in self.failed if row["group"] == group]

    def scores(self, group: str) -> NDArray:
        """``[trainings]``, those that failed left out."""
        return np.array([row["evaluation"]["score"][self.terms.mode] for row in self.groups[group]], np.float64)

    def score_range(self) -> tuple[float, float, str]:
        """(low, high, where they come from): from random actions to the threshold."""
        low = float(np.mean([row["evaluation"]["random_return"] for rows in self.groups.values() for row in rows]))
        if self.terms.threshold is not None and self.terms.threshold > low:
            return low, self.terms.threshold, "from random actions to the threshold"
        high = float(self.scores(self.terms.baseline).mean())
        return low, high, f"from random actions to the mean of {self.terms.baseline}, known only afterwards"

    def cost_to_threshold(self, group: str, what: str) -> NDArray | None:
        """What each training took to reach the threshold, infinity where it did not or failed; None if not known."""
        rows, threshold = self.groups[group], self.terms.threshold
        blank = not all(row["curve"]["return"] for row in rows)
        if threshold is None or blank or (what == "joules" and any(row["watts"] is None for row in rows)):
            return None
        axis = "env_steps" if what == "env_steps" else "seconds"
        taken = np.array([first_reached(r["curve"][axis], r["curve"]["return"], threshold) for r in rows])
        taken = taken * np.array([row["watts"] for row in rows]) if what == "joules" else taken
        return np.append(taken, np.full(len(self.failed_seeds(group)), math.inf))

    def areas(self, group: str, axis: str) -> NDArray:
        curves = [row["curve"] for row in self.groups[group]]
        return np.array([area_under(c[axis], c["return"], self.until[axis]) for c in curves])


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
        "auc_steps": _interval(comparison.areas(group, "env_steps"), np.mean),
        "auc_seconds": _interval(comparison.areas(group, "seconds"), np.mean),
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
    better = interval([[x], [y]], improvement)
    orders = {}
    for measure in MEASURES:
        key = f"to_threshold_{measure}" if measure in COSTS else measure
        mine, theirs = figures[group][key], figures[base][key]
        known = (enough if measure in COUNT_FAILED else whole) and mine is not None and theirs is not None
        orders[measure] = order(mine, theirs) if known else "undecided"
    return {
        "difference": difference,
        "improvement": Interval(max(0.0, better.low), better.estimate, min(1.0, better.high)),
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


def _failures(comparison: Comparison) -> list[str]:
    """Which trainings failed, under the reason that they gave, and what the figures make of them."""
    names: dict[str, list[str]] = {}
    for row in comparison.failed:
        names.setdefault(row["failed"], []).append(row["name"])
    each = "; ".join(f"{', '.join(those)} ({reason})" for reason, those in names.items())
    solved = comparison.terms.threshold is not None
    counted = "each counts as a seed that does not reach the threshold" if solved else "no figure counts them"
    told = f"trainings that failed: {each}. Scores and areas are of the others, and decide nothing; {counted}"
    return [told] if names else []


def _learners_lost(rows: Sequence[Row]) -> list[str]:
    """Which trainings finished with others than all of their learners from begin to end."""
    told = []
    for row in rows:
        wanted, failures = row["settings"]["learners"], row.get("failures", 0)
        ended = len(row.get("ranks", range(wanted)))
        if failures or "ranks" in row:
            failed = f"{failures} failure{'s' * (failures != 1)}, " if failures else ""
            told.append(f"{row['name']} ({failed}{ended} of {wanted} learners at its end)")
    return [f"learners failed, came or went: {', '.join(told)}; the score is of those at its end"] if told else []


def notes(comparison: Comparison, whence: str) -> list[str]:
    """What a reader must know of how sure the figures are."""
    rows = [row for group in comparison.groups.values() for row in group]
    few = {group: len(found) for group, found in comparison.groups.items() if len(found) < 10}
    told = [*_failures(comparison), *_learners_lost(rows)]
    if few:
        each = ", ".join(f"{n} of {group}" for group, n in few.items())
        told.append(
            f"few trainings ({each}): with fewer than 10 the intervals are rough, below {FEWEST} nothing is decided"
        )
    if "afterwards" in whence:
        why = (
            "no solved return is known" if comparison.terms.threshold is None else "random actions reach the threshold"
        )
        told.append(f"{why}: the score range, and so the margin, were known only afterwards")
    steps = [row["env_steps"] for row in rows]
    if max(steps) > 1.05 * min(steps):
        told.append(f"the trainings differ in env_steps, {min(steps):,} to {max(steps):,}: this is no equal comparison")
    if len({row["settings"]["learners"] * row["settings"]["envs_per_learner"] for row in rows}) > 1:
        told.append("the groups differ in their numbers of simulators")
    mixed = [group for group, found in comparison.groups.items() if len({version_of(row) for row in found}) > 1]
    if mixed:
        told.append(f"trainings of several versions of gala are taken together in {', '.join(mixed)}")
    elif len({version_of(row) for row in rows}) > 1 and not any("version=" in group for group in comparison.groups):
        told.append("the groups were trained with different versions of gala")
    again = {group: len(found) - len({row["seed"] for row in found}) for group, found in comparison.groups.items()}
    if repeated := ", ".join(group for group, count in again.items() if count):
        told.append(f"a seed is there more than once in {repeated}: the intervals take its trainings for independent")
    judged = sorted({row["judged"][0] for row in rows if row.get("judged")})
    if len(judged) > 1:
        told.append(f"the trainings were judged by {judged[0]} to {judged[-1]} episodes, some less surely than others")
    cut_off = sum((row.get("parts") or 1) > 1 for row in rows)
    if cut_off:
        told.append(f"trainings that were stopped and went on: {cut_off}; their seconds contain each start anew")
    uneven = {name for name in THREADS for found in comparison.groups.values() if _values(found, name) > 1}
    if uneven:
        told.append(f"trainings of one group differ in {' and '.join(sorted(uneven))}: their seconds do not compare")
    hardware = ("cpu", "cores", "gpus", "cores_each", "at_once")
    if len({str([(row.get("machine") or {}).get(key) for key in hardware]) for row in rows}) > 1:
        told.append("the trainings had different machines, or shares of one: seconds and joules are not comparable")
    if any(not row.get("machine") for row in rows):
        told.append(
            "runs do not say on which machine they were, or beside what: seconds compare only if it was the same"
        )
    return told


def _values(rows: Sequence[Row], name: str) -> int:
    return len({row["settings"][name] for row in rows if name in row["settings"]})
