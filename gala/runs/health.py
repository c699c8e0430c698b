"""What of a run is healthy, told from one record of metrics.jsonl: one home for the panel, `gala watch` and the report.

The thresholds are rules of thumb: they say where to look, and prove nothing. A tag that a record does not have is not
judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gala.runs.units import number

Record = Mapping[str, Any]

THRESHOLDS: dict[str, float] = {
    "spread": 0.05,
    "age_updates": 10.0,
    "weight_low": 0.11,
    "weight_high": 5.0,
    "quiet_rounds": 100.0,
    "kept_share": 0.5,
    "clipped_share": 0.5,
    "dead_share": 0.5,
    "entropy_nats": 0.02,
    "explained_variance": 0.0,
}
"""Name -> the value at which a quantity counts as unhealthy; ``_RULES`` says which side of it is the wrong one."""


class Finding(NamedTuple):
    """What one quantity says."""

    name: str
    value: float
    healthy: bool
    why: str
    """In a few words: what the value means, whichever it is."""

    def line(self) -> str:
        """Name, value and reason, for a terminal or a list."""
        return f"{self.name} {number(self.value)}: {self.why}"


class _Rule(NamedTuple):
    name: str
    value: Callable[[Record], float | None]
    is_sick: Callable[[float], bool]
    well: str
    sick: str


def health(record: Record) -> list[Finding]:
    """A finding for each quantity of ``record`` that can be judged, in the order of ``_RULES``.

    Args:
        record: a record of all learners, as in metrics.jsonl; a null or a missing tag is not judged.
    """
    findings = []
    for rule in _RULES:
        value = rule.value(record)
        if isinstance(value, int | float) and not math.isnan(value):
            sick = rule.is_sick(value)
            findings.append(Finding(rule.name, float(value), not sick, rule.sick if sick else rule.well))
    return findings


def _tag(name: str) -> Callable[[Record], float | None]:
    return lambda record: record.get(name)


def _kept(record: Record) -> float | None:
    """Rounds in which a learner kept its whole share, as a share of all updates (of exchanges, if gossip.every=1)."""
    kept, updates = record.get("gossip/kept_rounds"), record.get("perf/updates")
    return kept / updates if kept is not None and updates else None


def _spread(record: Record) -> float | None:
    """Only where learners are meant to stay together, by messages."""
    return record.get("gossip/relative_spread") if "gossip/weight" in record else None


def _discrete_entropy(record: Record) -> float | None:
    """Entropies of continuous actions, which alone can be clipped, may be of any sign."""
    return None if "charts/clipped_actions" in record else record.get("losses/entropy")


def _late_values(record: Record) -> float | None:
    """Values of the first updates predict nothing in any run: there is nothing to be told yet."""
    updates = record.get("perf/updates")
    return None if updates is not None and updates < _FIRST_UPDATES else record.get("losses/explained_variance")


_FIRST_UPDATES = 100
_T = THRESHOLDS
_RULES = (
    _Rule(
        "spread",
        _spread,
        lambda x: x > _T["spread"],
        "the learners are close together",
        "the learners drift apart: mix more, or lower the rate",
    ),
    _Rule(
        "age",
        _tag("gossip/message_age_mean"),
        lambda x: x > _T["age_updates"],
        "messages are young",
        "messages are read many updates late",
    ),
    _Rule(
        "least weight",
        _tag("gossip/weight_min"),
        lambda x: x < _T["weight_low"],
        "every learner counts",
        "a learner counts little: it sends more than it gets",
    ),
    _Rule(
        "most weight",
        _tag("gossip/weight_max"),
        lambda x: x > _T["weight_high"],
        "no learner counts too much",
        "the mass piles up at one learner",
    ),
    _Rule(
        "quiet rounds",
        _tag("gossip/quiet_rounds"),
        lambda x: x >= _T["quiet_rounds"],
        "all exchange",
        "a learner exchanges nothing",
    ),
    _Rule(
        "kept rounds",
        _kept,
        lambda x: x > _T["kept_share"],
        "shares are sent",
        "most rounds send nothing: peers do not read",
    ),
    _Rule(
        "clipped actions",
        _tag("charts/clipped_actions"),
        lambda x: x > _T["clipped_share"],
        "actions lie within their bounds",
        "most actions lie outside their bounds",
    ),
    _Rule(
        "dead units",
        _tag("diagnose/dead_units"),
        lambda x: x > _T["dead_share"],
        "most ReLUs answer to something",
        "most ReLUs are 0 whatever is seen",
    ),
    _Rule(
        "entropy",
        _discrete_entropy,
        lambda x: x < _T["entropy_nats"],
        "the policy still explores",
        "collapsed: the policy tries one action only",
    ),
    _Rule(
        "explained variance",
        _late_values,
        lambda x: x <= _T["explained_variance"],
        "values predict returns",
        "values predict no better than a constant",
    ),
)
