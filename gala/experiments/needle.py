"""What a grid of classifiers says: the least object that is still seen, and the findings of arXiv 1908.06037.

A finding is a difference of accuracies, paired by seed and by all settings but one, averaged for each seed; its
interval is Student's over seeds.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from gala.evaluation.student import t_quantile
from gala.experiments.needle_grid import AXES, PERMUTED
from gala.experiments.rows import Row
from gala.experiments.statistics import FEWEST_RUNS, Interval

CHANCE, HALF_WAY, SMALL = 0.5, 0.75, 0.02
"""Two classes of equal size; the accuracy at the limit; differences of accuracy that count as none."""
RATIO, SIZE, POOLING = AXES["ratios"], AXES["train_sizes"], AXES["poolings"]
FIELD, WIDTH, UPDATES = AXES["receptive_fields"], AXES["widths"], AXES["updates"]
Verdict = Literal["reproduced", "not reproduced", "undecided", "not asked"]


class Finding(NamedTuple):
    """One claim of the paper, what was measured for it, and whether that agrees."""

    claim: str
    measured: str
    interval: Interval | None
    verdict: Verdict


def over_seeds(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student's interval; unbounded for one value."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(-math.inf, mean, math.inf)
    half = t_quantile(level, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean - half, mean, mean + half)


def judge(interval: Interval, seeds: int) -> Verdict:
    """reproduced: the interval lies above 0, and not within +-0.02. not reproduced: it lies below 0 or within."""
    if seeds < FEWEST_RUNS:
        return "undecided"
    if interval.high < 0 or (interval.low >= -SMALL and interval.high <= SMALL):
        return "not reproduced"
    return "reproduced" if interval.low > 0 else "undecided"


def without_controls(rows: Iterable[Row]) -> list[Row]:
    """The rows whose labels were not permuted."""
    return [row for row in rows if not row["axes"][PERMUTED]]


def values_of(rows: Sequence[Row], key: str) -> list[Any]:
    """The values of an axis, in their order; ratios from the largest."""
    found = {row["axes"][key] for row in rows}
    if key == POOLING:
        return list(dict.fromkeys(row["axes"][key] for row in rows))
    return sorted(found, reverse=key == RATIO)


def crossing(ratios: Sequence[float], accuracies: Sequence[float]) -> float:
    """The ratio at which accuracy first falls below half-way between chance and 1, from the largest ratio downward,
    linear in the logarithm; 0 if it never does, infinity if it is below at the largest."""
    points = sorted(zip(ratios, accuracies, strict=True), reverse=True)
    if points[0][1] < HALF_WAY:
        return math.inf
    for (above, good), (below, bad) in itertools.pairwise(points):
        if bad < HALF_WAY:
            part = (good - HALF_WAY) / (good - bad)
            return math.exp(math.log(above) + part * (math.log(below) - math.log(above)))
    return 0.0


class Limit(NamedTuple):
    """The limit of one combination of settings: of each seed, and over seeds (in the logarithm) where all have one."""

    axes: dict[str, Any]
    tried: tuple[float, float]
    """The smallest and the largest ratio."""
    by_seed: dict[int, float]
    interval: Interval | None


def limits(rows: Sequence[Row]) -> list[Limit]:
    """One for every combination of settings that was trained at two ratios or more."""
    groups: dict[tuple, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in without_controls(rows):
        key = tuple(sorted((k, v) for k, v in row["axes"].items() if k not in (RATIO, PERMUTED)))
        groups[key][row["seed"]].append(row)
    found = []
    for key, seeds in groups.items():
        if min(len(each) for each in seeds.values()) < 2:
            continue
        by_seed = {
            seed: crossing([r["ratio"] for r in each], [r["test_accuracy"] for r in each])
            for seed, each in seeds.items()
        }
        finite = [math.log(x) for x in by_seed.values() if 0 < x < math.inf]
        whole = len(finite) == len(by_seed)
        interval = Interval(*map(_exp, over_seeds(finite))) if whole else None
        tried = [r["ratio"] for each in seeds.values() for r in each]
        found.append(Limit(dict(key), (min(tried), max(tried)), by_seed, interval))
    return found


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def contrast(rows: Sequence[Row], key: str, one: Any, other: Any, score: str = "test_accuracy") -> dict[int, float]:
    """Seed -> mean of score(one) - score(other) over all pairs of trainings that differ in ``key`` alone."""
    kept = {(row["seed"], _others(row, key), row["axes"][key]): row[score] for row in rows}
    pairs: dict[int, list[float]] = defaultdict(list)
    for (seed, others, value), result in kept.items():
        if value == one and (seed, others, other) in kept:
            pairs[seed].append(result - kept[seed, others, other])
    return {seed: fmean(each) for seed, each in pairs.items()}


def _others(row: Row, key: str) -> tuple:
    return tuple(sorted((k, v) for k, v in row["axes"].items() if k != key))


def findings(rows: Sequence[Row]) -> list[Finding]:
    """The four of the abstract of arXiv 1908.06037, each with its verdict at this size.

    Where nothing was learned at all nothing differs, and that decides nothing.
    """
    kept = without_controls(rows)
    found = _findings(kept)
    if max(row["test_accuracy"] for row in kept) < HALF_WAY:
        return [f._replace(verdict="undecided") if f.interval else f for f in found]
    return found


def _findings(kept: Sequence[Row]) -> list[Finding]:
    sizes, widths, fields = (values_of(kept, key) for key in (SIZE, WIDTH, FIELD))
    object_px = kept[0]["object_px"]
    fits = min(fields, key=lambda size: (size < object_px, abs(size - object_px)))
    return [
        _axis(kept, RATIO, "1a. below some object-to-image ratio networks fail to generalise", *_ends(kept, RATIO)),
        _axis(kept, SIZE, "1b. more data moves that limit", sizes[-1], sizes[0]),
        _axis(kept, WIDTH, "2. higher capacity generalises better", widths[-1], widths[0]),
        _field(kept, fields, fits),
        _pooling(kept),
    ]


def _ends(rows: Sequence[Row], key: str) -> tuple[Any, Any]:
    values = values_of(rows, key)
    return values[0], values[-1]


def _axis(rows: Sequence[Row], key: str, claim: str, one: Any, other: Any) -> Finding:
    differences = list(_longest(rows, key, one, other).values()) if one != other else []
    return _finding(claim, f"test accuracy at {key}={_text(one)} minus that at {_text(other)}", differences)


def _longest(rows: Sequence[Row], key: str, one: Any, other: Any) -> dict[int, float]:
    """The contrast of test accuracy among trainings of the most updates at which both values were tried: a network that
    has not learned its training images yet says little of how it generalises."""
    for updates in reversed(values_of(rows, UPDATES)):
        if found := contrast([row for row in rows if row["axes"][UPDATES] == updates], key, one, other):
            return found
    return {}


def _field(rows: Sequence[Row], fields: Sequence[int], fits: int) -> Finding:
    claim = "3. a receptive field of the object's size helps"
    by_seed: dict[int, list[float]] = defaultdict(list)
    for other in fields:
        if other != fits:
            for seed, difference in _longest(rows, FIELD, fits, other).items():
                by_seed[seed].append(difference)
    rest = ", ".join(str(size) for size in fields if size != fits)
    measured = f"test accuracy at {FIELD}={fits} minus the mean of {rest or 'others'}"
    return _finding(claim, measured, [fmean(each) for each in by_seed.values()])


def _pooling(rows: Sequence[Row]) -> Finding:
    """How far apart poolings fit their training images, at smaller ratios against the largest."""
    spreads: dict[tuple[int, tuple], dict[str, float]] = defaultdict(dict)
    for row in rows:
        spreads[row["seed"], _others(row, POOLING)][row["axes"][POOLING]] = row["train_accuracy"]
    largest = max(row["axes"][RATIO] for row in rows)
    at_largest, below = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)
    for (seed, others), accuracies in spreads.items():
        if len(accuracies) > 1:
            where = at_largest if dict(others)[RATIO] == largest else below
            where[seed].append(max(accuracies.values()) - min(accuracies.values()))
    seeds = [seed for seed in below if seed in at_largest]
    return _finding(
        "4. the pooling decides optimisation where the object is small, and little where it is large",
        "spread of training accuracy over poolings below the largest ratio minus that at the largest",
        [fmean(below[seed]) - fmean(at_largest[seed]) for seed in seeds],
    )


def _finding(claim: str, measured: str, differences: Sequence[float]) -> Finding:
    if not differences:
        return Finding(claim, measured, None, "not asked")
    interval = over_seeds(differences)
    return Finding(claim, measured, interval, judge(interval, len(differences)))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def control(rows: Sequence[Row]) -> Interval | None:
    """Test accuracy after training on shuffled labels; None if that was not asked for."""
    found = [row["test_accuracy"] for row in rows if row["axes"][PERMUTED]]
    return over_seeds(found) if found else None


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per combination of settings: mean accuracies with intervals over seeds."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(sorted(row["axes"].items()))].append(row)
    return [
        {
            **dict(key),
            "seeds": len(each),
            **{s: list(over_seeds([r[s] for r in each])) for s in ("test_accuracy", "train_accuracy")},
        }
        for key, each in groups.items()
    ]


def slice_at(rows: Sequence[Row], free: Sequence[str]) -> tuple[list[Row], Mapping[str, Any]]:
    """The rows that differ in the axes ``free`` alone: of all values of the other axes those with the most rows."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(sorted((k, v) for k, v in row["axes"].items() if k not in free))].append(row)
    key = max(groups, key=lambda k: (len({tuple(r["axes"][f] for f in free) for r in groups[k]}), len(groups[k])))
    return groups[key], dict(key)
