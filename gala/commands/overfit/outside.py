"""``gala overfit judge scores.csv`` and ``audit tasks.csv``: what was trained, played or drawn anywhere."""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gala.commands.overfit.verdict import conclude
from gala.commands.overfit.words import (
    command_line,
    default_out,
    pairs,
    show_help,
    sort_words,
    without_out,
)
from gala.config.own_words import asks_for_help, take_paths
from gala.overfit.csv_tables import read_table
from gala.overfit.options import ScoreOptions, TaskOptions, check_delta
from gala.overfit.scores import KNOWN, NEEDED, Row, check_reference, conditions_of, read_scores, told_conditions
from gala.overfit.study import Study
from gala.overfit.tasks import audit_tasks
from gala.plugins import loading


def judge(words: Sequence[str]) -> int:
    """SCORES.csv with the columns run, context, set, return. Returns the verdict's exit code."""
    if asks_for_help(words):
        return show_help("judge SCORES.csv", ScoreOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, ScoreOptions, None)
    if len(paths) != 1 or training:
        raise ValueError("usage: gala overfit judge SCORES.csv [solved=500] [random=20] [delta=0.05] [out=DIRECTORY]")
    rows = read_scores(paths[0])
    _check(paths[0], rows, options)
    solved = None
    if options.solved is not None:
        solved = {"return": options.solved, "source": "given by the user"}
    given = without_out(words)
    out = default_out("judge", options.out)
    meta: dict[str, Any] = {
        "protocol": "judge",
        "family": paths[0],
        "outside": True,
        "command": command_line("judge", [*given, f"out={out}"]),
        "sets": _sets(rows),
        "scores": f"{Path(paths[0]).name}, sha256 {hashlib.sha256(Path(paths[0]).read_bytes()).hexdigest()[:16]}",
        "delta": options.delta,
        "solved": solved,
        "random": options.random,
        "audit": None,
        "controls": None,
        "checkpoints": {},
    }
    study = Study.create(out, meta)
    study.append("scores", rows)
    return conclude(study)


def _check(path: str, rows: Sequence[Row], options: ScoreOptions) -> None:
    """Raises ValueError for what cannot be judged, before anything is written."""
    from gala.diagnostics.overfitting.generalisation import judge as judge_rows

    check_delta(options.delta)
    for name in ("solved", "random"):
        value = getattr(options, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}={value:g} is no return; give a finite number")
    check_reference(rows)
    try:
        judge_rows(rows, delta=options.delta, solved=options.solved, random=options.random)
    except ValueError as error:
        conditions = conditions_of(read_table(path, NEEDED, KNOWN)[0])
        raise ValueError(f"{error}{told_conditions(conditions)}") from None


def _sets(rows: Sequence[Row]) -> dict[str, Any]:
    contexts: dict[str, set[str]] = {}
    for row in rows:
        contexts.setdefault(row["set"], set()).add(row["context"])
    text = {name: "\n".join(sorted(ids)).encode() for name, ids in contexts.items()}
    return {n: {"sha256": hashlib.sha256(text[n]).hexdigest(), "size": len(ids)} for n, ids in contexts.items()}


def audit(words: Sequence[str]) -> int:
    """TASKS.csv with the columns set, context and what describes a task. Exit status 0 if no two are the same."""
    if asks_for_help(words):
        return show_help("audit TASKS.csv", TaskOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, TaskOptions, None)
    if len(paths) != 1 or training:
        raise ValueError("usage: gala overfit audit TASKS.csv [same=module:function]")
    loading.search_working_directory()
    report = audit_tasks(paths[0], loading.load(options.same, "same") if options.same else None)
    for row in report["rows"][:20]:
        print(f"  {row['a']} ({row['sets'][0]}) is {row['b']} ({row['sets'][1]})")
    found = pairs(report["rows"]) or "nothing"
    text = f"{report['checked']} tasks; looked for {'; '.join(report['looked_for'])}. Found {found}."
    print("\n".join(textwrap.wrap(text, 80)))
    return int(bool(report["rows"]))
