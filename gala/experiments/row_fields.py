"""What the fields of rows must be: rows come from other machines, versions and hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Test = Callable[[Any], bool]


class Wanted(NamedTuple):
    """What one field must be."""

    holds: Test
    kind: str
    """What it is called in a message: a whole number."""


def fault(row: Mapping[str, Any], fields: Mapping[str, Wanted]) -> str:
    """What is wrong with the first of ``fields`` that is not what it must be, in words; empty if none is. In their
    names ``/`` goes into a table. A field may be absent, but not from a table that is there."""
    for name, wanted in fields.items():
        value: Any = row
        for key in name.split("/"):
            value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
        told = name.replace("/", " ")
        if value is _ABSENT and name not in row and name.split("/")[0] in row:
            return f"has no {told}"
        if value is not _ABSENT and not wanted.holds(value):
            return f"has no {wanted.kind} as its {told}"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _at_least(least: int) -> Test:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < _LARGEST


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _or_null(holds: Test) -> Test:
    return lambda value: value is None or holds(value)


def _table_of(holds: Test) -> Test:
    return lambda value: isinstance(value, dict) and bool(value) and all(map(holds, value.values()))


def _list_of(holds: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _is_policy(value: Any) -> bool:
    return isinstance(value, dict) and _number(value.get("return_mean"))


def _is_judged(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _at_least(1)(value[0]) and _text(value[1])


def _is_evaluation(value: Any) -> bool:
    score, policies = [value.get(key) if isinstance(value, dict) else None for key in ("score", "policies")]
    if not (_table_of(_number)(score) and _table_of(_table_of(_is_policy))(policies)):
        return False
    return _number(value.get("random_return")) and set(score or ()) <= set(policies or ())


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(_or_null(_text)(value.get(key)) for key in ("git", "gala-rl"))


def _is_curve(value: Any) -> bool:
    columns: list[Any] = (
        [value.get(x) for x in ("env_steps", "seconds", "return")] if isinstance(value, dict) else [None]
    )
    if not all(map(_list_of(_number), columns)) or len({len(column) for column in columns}) > 1:
        return False
    return all(sorted(column) == column for column in columns[:2])


_ABSENT = object()
_LARGEST = 1e100
"""Beyond which no return or count lies that was measured, and squares do not fit a float."""
TEXT, NUMBER = Wanted(_text, "text"), Wanted(_number, "number")
COUNT, POSITIVE = Wanted(_at_least(0), "whole number from 0 on"), Wanted(_at_least(1), "whole number from 1 on")
TABLE, TABLE_OR_NULL = Wanted(_is_table, "table"), Wanted(_or_null(_is_table), "table")
OF_TRAININGS = {
    **dict.fromkeys(("name", "group", "failed"), TEXT),
    **dict.fromkeys(("seed", "env_steps", "failures"), COUNT),
    "solved_return": Wanted(_or_null(_number), "number"),
    **dict.fromkeys(("seconds", "watts"), Wanted(_or_null(_not_negative), "number from 0 on")),
    "settings/env.id": TEXT,
    "settings/learners": POSITIVE,
    "settings/envs_per_learner": POSITIVE,
    "evaluation": Wanted(_is_evaluation, "random_return, score by mode, and policies with a return_mean each by mode"),
    "curve": Wanted(_is_curve, "table of env_steps, seconds (ascending) and return, lists of numbers of one length"),
    "judged": Wanted(_or_null(_is_judged), "pair of a number of episodes and a mode"),
    "parts": Wanted(_or_null(_at_least(0)), "whole number from 0 on"),
    "ranks": Wanted(_list_of(_at_least(0)), "list of whole numbers from 0 on"),
    "machine": TABLE_OR_NULL,
    "trained_with": Wanted(_or_null(_are_versions), "table of versions"),
}
"""The rows of `gala compare`."""
