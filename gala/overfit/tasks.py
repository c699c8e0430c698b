"""Tasks that were drawn anywhere, as a table: which of them are one?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from gala.overfit.csv_tables import check_filled, read_table
from gala.overfit.equality import frozen
from gala.plugins.loading import FAULTS

Same = Callable[[Mapping[str, str]], Any]


def audit_tasks(path: str | Path, same: Same | None = None) -> dict[str, Any]:
    """Which tasks are one? Of a table with the columns set, context and whatever describes a task.

    Two rows are the same task if all of their other columns are the same text, but for case, spaces and the spelling of
    numbers (the context itself, where there is no other column), or if ``same(row)`` returns equal values.

    Returns:
        {checked, looked_for, rows: [{a, b, sets}]}.

    Raises:
        ValueError: a column is missing, or ``same`` fails or returns what cannot be compared.
    """
    table = read_table(path, ("set", "context"))
    described = [name for name in table[0] if name not in ("set", "context")] or ["context"]
    seen: dict[Any, Mapping[str, str]] = {}
    pairs = []
    for k, row in enumerate(table, 2):
        check_filled(row, ("set", "context"), f"{path}:{k}")
        key = _key(same, row, f"{path}:{k}") if same else tuple(_plain(row[name]) for name in described)
        first = seen.setdefault(key, row)
        if first is not row and (first["set"], first["context"]) != (row["set"], row["context"]):
            pairs.append({"a": first["context"], "b": row["context"], "sets": [first["set"], row["set"]]})
    how = "your function" if same else f"the text of {', '.join(described)} (case, spaces and 1 or 1.0 are no matter)"
    return {"checked": len(table), "looked_for": [f"the same task by {how}"], "rows": pairs}


def _key(same: Same, row: Mapping[str, str], where: str) -> Hashable:
    try:
        value = same(row)
    except FAULTS as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{where}: same= failed: {text}") from error
    if value is None:
        raise ValueError(f"{where}: same= returned None; return what makes a row that task")
    try:
        return frozen(value)
    except FAULTS as error:
        raise ValueError(f"{where}: same= returned {error}") from error


def _plain(text: str) -> str | float:
    """The number that it spells, integers of any size exactly, else the text in one spelling; NaN equals itself."""
    text = " ".join(text.lower().split())
    if text.lstrip("+-") == "nan":
        return "nan"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
