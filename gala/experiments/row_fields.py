"""What the fields of rows must be: rows come from other machines, versions and hands."""

from __future__ import annotations

import math
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
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
    return isinstance(value, list) and len(value) == 2 and _whole(value[0]) and _text(value[1])


def _is_curve(value: Any) -> bool:
    columns: list[Any] = (
        [value.get(x) for x in ("env_steps", "seconds", "return")] if isinstance(value, dict) else [None]
    )
    return all(map(_list_of(_number), columns)) and len({len(column) for column in columns}) == 1


_ABSENT = object()
TEXT, WHOLE, NUMBER = Wanted(_text, "text"), Wanted(_whole, "whole number"), Wanted(_number, "number")
TABLE, TABLE_OR_NULL = Wanted(_is_table, "table"), Wanted(_or_null(_is_table), "table")
OF_TRAININGS = {
    **dict.fromkeys(("name", "group", "failed"), TEXT),
    **dict.fromkeys(("seed", "env_steps", "failures"), WHOLE),
    **dict.fromkeys(("solved_return", "seconds", "watts"), Wanted(_or_null(_number), "number")),
    "settings/env.id": TEXT,
    "settings/learners": WHOLE,
    "settings/envs_per_learner": WHOLE,
    "evaluation/score": Wanted(_table_of(_number), "table of numbers"),
    "evaluation/policies": Wanted(_table_of(_table_of(_is_policy)), "table of policies with a return_mean each"),
    "evaluation/random_return": NUMBER,
    "curve": Wanted(_is_curve, "table of env_steps, seconds and return, lists of numbers of one length"),
    "judged": Wanted(_or_null(_is_judged), "pair of a number of episodes and a mode"),
    "parts": Wanted(_or_null(_whole), "whole number"),
    "ranks": Wanted(_list_of(_whole), "list of whole numbers"),
    **dict.fromkeys(("machine", "trained_with"), TABLE_OR_NULL),
}
"""The rows of `gala compare`."""
