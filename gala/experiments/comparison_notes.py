"""What a reader of a comparison must know of how sure its figures are, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gala.config.resumable import THREADS
from gala.experiments.compared import FEWEST_POINTS, Comparison
from gala.experiments.rows import Row, version_of
from gala.experiments.scores import FEWEST


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
    told += _coarse(comparison)
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


def _coarse(comparison: Comparison) -> list[str]:
    """Which curves have too few points for what is taken from them."""
    names = {
        name
        for group in comparison.groups
        for axis, until in comparison.until.items()
        for name in comparison.coarse(group, axis, until)
    }
    if not names:
        return []
    each = f"{', '.join(sorted(names)[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
    why = f"fewer than {FEWEST_POINTS} records before the shortest training's end"
    return [f"{why} ({each}): areas and what it took to the threshold are rough, and decide nothing"]


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


def _values(rows: Sequence[Row], name: str) -> int:
    return len({row["settings"][name] for row in rows if name in row["settings"]})
