"""The oracle gap: what agents score on the test MDPs that were trained on exactly these, above those that were not.

After arXiv 2510.10541. If training on the test MDPs gains nothing, the test set cannot tell an agent that generalises
from one that does not: a train/test gap of zero is then no merit. If it gains more than the train/test gap, the test
MDPs are harder than the training MDPs for those who do not know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gala.diagnostics.overfitting.generalisation import GapGroup
from gala.diagnostics.overfitting.scale import LEARNED
from gala.diagnostics.overfitting.tables import Row, Scores, scores
from gala.experiments import statistics as st


class OracleGap(NamedTuple):
    """``gap``: mean of the oracles less mean of the agents, on the same contexts; in units of return."""

    oracle: float
    agent: float
    gap: st.Interval
    runs: int
    """Oracles; of one alone it is not known how much another would differ, and the interval leaves it out."""


def oracle_gap(agents: Scores, oracles: Scores, level: float = 0.95) -> OracleGap:
    """The interval is that of the agents' differences to the oracles' mean in each context, over runs and contexts
    (``statistics.mean_interval``), widened by the variance between oracles over their number.

    Raises:
        ValueError: they were not scored on the same contexts, or there is nobody on one side.
    """
    every = [frozenset(by) for by in (*agents.values(), *oracles.values())]
    if not agents or not oracles or len(set(every)) != 1:
        raise ValueError("an oracle gap needs agents and oracles that were scored on the same contexts")
    contexts = sorted(every[0])
    a, o = (np.array([[by[c] for c in contexts] for by in side.values()]) for side in (agents, oracles))
    differences = o.mean(0) - a
    more: list[st.Component] = []
    if len(o) > 1:
        variance = float(o.mean(1).var(ddof=1)) / len(o)
        more = [st.Component(variance, len(o) - 1, variance)]
    gap = st.mean_interval(differences, level=level, more=more)
    return OracleGap(float(o.mean()), float(a.mean()), gap, len(o))


def told(gap: OracleGap, margin: float, random: float | None = None, scale: float | None = None) -> str:
    """One sentence; ``margin``: a gap, in units of return, that counts as none. ``scale``: the return of the whole task
    above that of the ``random`` policy, where it is known; of an oracle that has not learned either nothing follows."""
    low, mid, high = gap.gap
    share = (gap.oracle - (random or 0.0)) / scale if scale else None
    if share is not None and share < LEARNED:
        meaning = f"the oracle has learned {max(share, 0.0):.0%} of the task, so nothing follows: train it longer"
    elif low > 0:
        meaning = "this test set tells those who know it from those who do not"
    elif high < margin:
        meaning = "knowing the test MDPs gains nothing: this test set shows no overfitting, whoever has it"
    else:
        meaning = "whether this test set can show overfitting is open"
    alone = "" if gap.runs > 1 else " (one oracle: how others would differ is not known)"
    return (
        f"oracle gap {mid:+.3g} [{low:+.3g}, {high:+.3g}] in return: trained on the test MDPs themselves, an agent "
        f"scores {gap.oracle:.3g} there, and not {gap.agent:.3g}; {meaning}{alone}"
    )


def told_of(gap: OracleGap, head: GapGroup, delta: float) -> str:
    """``told`` by the scale of the group that heads the report."""
    if head.in_return:  # no gain is small enough to be none
        return told(gap, 0.0, head.j_random)
    return told(gap, delta * head.scale, head.j_random, head.scale)


def of_rows(rows: Sequence[Row], head: GapGroup) -> OracleGap | None:
    """That of a study's rows; None without oracles. ``head``: the group that heads the report."""
    oracles = [r for r in rows if r["policy"] == "oracle"]
    if not oracles:
        return None
    of_head = ("agent", "test", head.condition, head.n_train)
    agents = [r for r in rows if (r["policy"], r["set"], r["condition"], r["n_train"]) == of_head]
    return oracle_gap(scores(agents), scores(oracles))
