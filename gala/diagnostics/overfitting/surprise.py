"""How much more a model of videos is surprised by held-out MDPs than by training MDPs, under one policy: perception.

Beside the gap of returns it tells two kinds of overfitting apart (after arXiv 1904.12165): where frames of held-out
MDPs surprise no more than those of training MDPs, but the policy earns less there, the policy is what was memorised.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.evaluation.student import t_quantile
from gala.experiments.statistics import Interval

Row = dict[str, Any]


class Surprise(NamedTuple):
    """Nats per predicted frame: minus the evidence lower bound."""

    gap: Interval
    """Held-out less training MDPs: above 0, what is seen there is new too."""
    train: NDArray
    """[contexts]: mean over the episodes of each."""
    test: NDArray


def summarise(rows: Iterable[Row]) -> Surprise | None:
    """Rows {set, context, nats} -> the gap with Welch's 95% interval over contexts; None with fewer than 2 in a set.

    The interval is about these MDPs' luck, for one policy and one model of videos: it does not cover other seeds.
    """
    nats: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    for row in rows:
        nats[row["set"]][row["context"]].append(row["nats"])
    train, test = (np.array([np.mean(v) for v in nats[name].values()]) for name in ("train", "test"))
    if min(len(train), len(test)) < 2:
        return None
    parts = [x.var(ddof=1) / len(x) for x in (train, test)]
    gap, variance = float(test.mean() - train.mean()), float(sum(parts))
    freedom = sum(p**2 / (len(x) - 1) for p, x in zip(parts, (train, test), strict=True))
    reach = t_quantile(0.95, max(1, int(variance**2 / freedom))) * math.sqrt(variance) if variance else 0.0
    return Surprise(Interval(gap - reach, gap, gap + reach), train, test)


def told(surprise: Surprise, return_gap: Interval) -> str:
    """One sentence that sets it beside the gap of returns."""
    low, mid, high = surprise.gap
    text = f"surprise on held-out MDPs {mid:+.3g} nats per frame [{low:+.3g}, {high:+.3g}]: "
    if low > 0:
        return f"{text}what is seen there is new as well"
    if return_gap.low > 0:
        return f"{text}not shown to be more than on training MDPs, yet the policy earns less"
    return f"{text}not shown to be more than on training MDPs"
