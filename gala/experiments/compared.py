"""The rows of one task by group, on the terms of a comparison, and what each training took and came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gala.experiments.rows import Row, finished
from gala.experiments.scores import area_under, first_reached

COSTS = ("env_steps", "seconds", "joules")
"""What it takes to reach the threshold: less is better."""
AREAS = {"auc_steps": "env_steps", "auc_seconds": "seconds"}
"""Areas under the curve by the axis that each is over."""
FEWEST_POINTS = 10
"""Points below which a curve decides nothing: its area, and when it reached a score, may be a tenth off and more."""


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
        """The x-axes end where the shortest curve does."""

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

    def coarse(self, group: str, axis: str, until: float = math.inf) -> list[str]:
        """Names of the trainings whose curves have too few points up to ``until`` on this axis."""
        rows = self.groups[group]
        return [row["name"] for row in rows if len({x for x in row["curve"][axis] if x <= until}) < FEWEST_POINTS]

    def sure(self, group: str, measure: str) -> bool:
        """Whether the curves of the group are fine enough for an area, or for what it took to reach the threshold."""
        if measure in AREAS:
            return not self.coarse(group, AREAS[measure], self.until[AREAS[measure]])
        return measure not in COSTS or not self.coarse(group, "env_steps")
