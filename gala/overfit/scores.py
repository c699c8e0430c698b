"""Scores that were made anywhere, as a table: CSV in, rows for ``generalisation.judge`` out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gala.diagnostics.overfitting.tables import SETS, by_context, scores
from gala.files.plain_yaml import shortened
from gala.overfit.csv_tables import check_filled, read_table

NEEDED = ("run", "context", "set", "return")
KNOWN = (*NEEDED, "policy", "success", "episode")
EXPORTED = ("n_train", "condition", "params", "part")
"""Columns that together tell a study's rows.csv; such a table names its conditions and sizes itself."""
MEASURED = ("length", "value", "discounted", "entropy")
"""What rows.csv also says of an episode. In any other table a column of such a name is a condition like any other."""
LARGEST_RETURN = 1e100
"""Squares of larger ones, which a variance is made of, are soon no numbers of 64 bits."""
SUCCESS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
POLICIES = ("agent", "random", "reference")
Row = dict[str, Any]


def read_scores(path: str | Path) -> list[Row]:
    """One row per episode: the columns run, context, set (train, val, test or extrap) and return.

    ``policy`` (agent, random or reference) may name baselines on the same contexts, ``success`` (0 or 1) tells whether
    the task was solved; every other column is part of the condition, each of which gets a gap of its own; where it
    is blank it is no part. Baselines without a condition are set beside all agents. The rows.csv of a study is such a
    table too, with its oracles (``EXPORTED``).

    Raises:
        ValueError: naming the line: a column or value is missing or impossible, or a context is in two sets; or a
            baseline has a condition that no agent has.
    """
    table = read_table(path, NEEDED, KNOWN)
    exported, conditions = set(EXPORTED) <= set(table[0]), conditions_of(table[0])
    policies = (*POLICIES, "oracle") if exported else POLICIES
    runs: dict[str, int] = {}
    where: dict[tuple[str, str], str] = {}
    rows: list[Row] = []
    for k, given in enumerate(table, 2):
        policy, name = given.get("policy") or "agent", given["set"]
        check_filled(given, NEEDED if policy == "agent" else NEEDED[1:], f"{path}:{k}")
        if name not in SETS or policy not in policies:
            wanted = f"policy {shortened(policy)!r} is none of {', '.join(policies)}" if name in SETS else ""
            raise ValueError(f"{path}:{k}: {wanted or f'set {shortened(name)!r} is none of ' + ', '.join(SETS)}")
        run = -1 if policy not in ("agent", "oracle") else runs.setdefault(_one_spelling(given["run"]), len(runs))
        condition = given["condition"] if exported else ", ".join(f"{c}={given[c]}" for c in conditions if given[c])
        context = _one_spelling(given["context"])
        if name != where.setdefault((condition, context), name):
            other = where[condition, context]
            both = f"{shortened(context)} is in the {other} and in the {name} set"
            raise ValueError(f"{path}:{k}: context {both}")
        head = {"policy": policy, "run": run, "set": name, "context": context, "condition": condition}
        success = given.get("success")
        if success and success.lower() not in SUCCESS:
            raise ValueError(f"{path}:{k}: success is {shortened(success)!r}; it must be 0 or 1")
        blank: Row = {"length": 0, "value": None, "discounted": None, "entropy": None, "params": {}, "episode": 0}
        score = _number(given["return"], f"{path}:{k}: return")
        rows.append(head | blank | {"return": score, "success": SUCCESS[success.lower()] if success else None})
    _check_conditions(path, rows, conditions)
    if exported:
        return [
            row | {"n_train": _size(given, f"{path}:{k}")}
            for k, (row, given) in enumerate(zip(rows, table, strict=True), 2)
        ]
    return _with_sizes(rows)


def conditions_of(columns: Iterable[str]) -> list[str]:
    """The columns of a table that are read as conditions."""
    names = list(columns)
    known = (*KNOWN, *EXPORTED, *MEASURED) if set(EXPORTED) <= set(names) else KNOWN
    return [name for name in names if name not in known]


def told_conditions(columns: Sequence[str]) -> str:
    """How an error ends that conditions may be to blame for; empty without any."""
    named = ", ".join(repr(shortened(name)) for name in columns)
    return f"; read as conditions: {named}: remove the columns that are none" if columns else ""


def _size(given: Mapping[str, str], where: str) -> int | None:
    text = given["n_train"]
    if text and not text.isdecimal():
        raise ValueError(f"{where}: n_train is {shortened(text)!r}; it must be a number of MDPs")
    return int(text) if text else None


def _check_conditions(path: str | Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Raises ValueError for a baseline that would be set beside no agent: one of a condition that no agent has."""
    known = {row["condition"] for row in rows if row["policy"] == "agent"} | {""}
    if odd := [row for row in rows if row["condition"] not in known]:
        told = f"{odd[0]['policy']} rows of {shortened(odd[0]['condition'])}, which no agent has"
        remedy = f"give them a condition of the agents, or none, for all of them{told_conditions(columns)}"
        raise ValueError(f"{path} has {told}; {remedy}")


def check_reference(rows: Sequence[Row]) -> None:
    """Raises ValueError where a reference's scores are an agent's: against itself its gap is 0, whatever it is. Scores
    that are one number, as of a task that both solve, say nothing."""
    played = [row for row in rows if row["policy"] == "reference"]
    reference = by_context(played, "reference")
    for run, by in scores([row for row in rows if row["policy"] == "agent"]).items():
        if reference == {c: by[c] for c in reference if c in by} and len(set(reference.values())) > 1:
            raise ValueError(
                f"the reference scored as run {run} did in every context, and no agent is its own reference; give "
                "the scores of another policy, or solved=RETURN"
            )


def _with_sizes(rows: list[Row]) -> list[Row]:
    """``n_train``: the most training contexts of any run of the condition."""
    seen: dict[tuple[str, int], set[str]] = defaultdict(set)
    for row in rows:
        if row["policy"] == "agent" and row["set"] == "train":
            seen[row["condition"], row["run"]].add(row["context"])
    sizes: dict[str, int] = {}
    for (condition, _), contexts in seen.items():
        sizes[condition] = max(sizes.get(condition, 0), len(contexts))
    return [row | {"n_train": sizes.get(row["condition"]) if row["policy"] == "agent" else None} for row in rows]


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where} {shortened(text)!r} is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{where} is {text}: only finite returns can be judged")
    if abs(value) > LARGEST_RETURN:
        raise ValueError(f"{where} is {text}: its square is no number; give returns in larger units")
    return value


def _one_spelling(text: str) -> str:
    """Such as ``7`` for 7.0, which is what a table of floats makes of a number."""
    head, _, tail = text.partition(".")
    return head if head.lstrip("-").isdecimal() and tail and not tail.strip("0") else text
