"""What ``gala eval`` has found of a run: ``evaluations.jsonl``, a line for each, never changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gala.files.plain_yaml import parse_json
from gala.files.whole import append_whole

FILE = "evaluations.jsonl"
_NUMBERS = ("return_mean", "return_std", "length_mean")


def append_evaluation(run: Path, evaluation: Mapping[str, Any]) -> str:
    """Write it down; says in words why that could not be done, or nothing: an evaluation counts without it."""
    try:
        append_whole(run / FILE, (json.dumps(dict(evaluation)) + "\n").encode())
    except OSError as error:
        return f"{run / FILE} cannot be written: {error.strerror}"
    return ""


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """All of them, the oldest first. A line that is none of ours is left out."""
    path, found = run / FILE, []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            told = parse_json(line)
        except ValueError:
            continue
        if isinstance(told, dict) and _is_one(told):
            found.append(told)
    return found


def _is_one(told: Mapping[str, Any]) -> bool:
    interval = told.get("return_ci95")
    return (
        all(isinstance(told.get(name), int | float) for name in _NUMBERS)
        and isinstance(interval, list)
        and len(interval) == 2
        and all(isinstance(end, int | float | None) for end in interval)
        and isinstance(told.get("episodes"), int)
        and all(isinstance(told.get(name), str) for name in ("mode", "checkpoint", "learner"))
    )


def evaluation_text(told: Mapping[str, Any]) -> str:
    """One evaluation in words."""
    low, high = told["return_ci95"]
    steps = f" at {told['env_steps']:,} env_steps" if isinstance(told.get("env_steps"), int) else ""
    interval = "no interval" if low is None else f"95 % interval {low:.4g} to {high:.4g}"
    episodes = f"{told['episodes']} {told['mode']} episodes" if told["episodes"] > 1 else f"1 {told['mode']} episode"
    limit = told.get("max_episode_steps")
    cut = f", cut at {limit:,} steps," if isinstance(limit, int) and limit else ""
    return (
        f"return {told['return_mean']:.4g} ({interval}) over {episodes}{cut or ','} checkpoint "
        f"{told['checkpoint']}{steps}, learner {told.get('played', told['learner'])}"
    )
