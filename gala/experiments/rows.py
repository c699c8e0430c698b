"""One training as a row of ``results.jsonl``, which says all that a report needs without the run directory; one that
failed has a row too, with no score but the reason."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gala.config.resumable import SAME_EXPERIMENT, THREADS
from gala.config.schema import Config, flatten
from gala.experiments.row_fields import OF_TRAININGS, Wanted, fault
from gala.files.plain_yaml import read_json
from gala.files.whole import write_atomically
from gala.runs.command_file import read_command
from gala.runs.run_dir import RunDir, versions

Row = dict[str, Any]
CURVE_POINTS = 200
ROWS = "results.jsonl"
"""The file of rows in the directory of a comparison."""
_NO_SETTINGS = ("run", "overwrite", "seed", "preset", "solved_return", "track")
_UNTOLD = SAME_EXPERIMENT.difference(THREADS)
_BY_ALL = ("name", "group", "seed", "settings")
_NEEDED = (*_BY_ALL, "env_steps", "seconds", "evaluation", "curve")


def settings_of(config: Config) -> dict[str, Any]:
    """Dotted name -> value of what decides the result, the seed and where things are written left out."""
    plain = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(config).items()
        if key not in _NO_SETTINGS and not key.startswith("log.")
    }
    return dict(json.loads(json.dumps(plain)))


def differing(found: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Names of the settings in which two ``settings_of`` differ, and that make them two experiments: a run that was
    resumed with more patience is the same. What an earlier version did not write had its default; masks of actions,
    which it did not know, were off."""
    one, other = (_deciding(settings) for settings in (found, mine))
    if {one["env.action_masks"], other["env.action_masks"]} == {"auto", "off"}:
        one["env.action_masks"] = other["env.action_masks"]
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _deciding(settings: Mapping[str, Any], left_out: frozenset[str] = SAME_EXPERIMENT) -> dict[str, Any]:
    """``settings_of`` without what `gala resume` may change of the same experiment, and with what a default had."""
    return {key: value for key, value in {**_defaults(), **settings}.items() if key not in left_out}


@functools.cache
def _defaults() -> dict[str, Any]:
    return settings_of(Config())


def make_row(run_dir: RunDir, group: str, judged: Mapping[str, Any], watts: float | None) -> Row:
    """The row of a run that has a checkpoint; what it did after that is not judged, and is left out.

    Args:
        group: what it is compared as.
        judged: what ``gala.experiments.judging`` has found.
        watts: mean power of the machine while it trained alone, where that was measured.
    """
    meta = run_dir.checkpoint_meta("latest")
    records = [record for record in run_dir.read_metrics() if record["global_step"] <= meta["env_steps"]]
    seconds = records[-1].get("perf/wall_s", math.nan) if records else math.nan
    return {
        **known_beforehand(run_dir),
        "group": group,
        "command": command_of(run_dir),
        "env_steps": meta["env_steps"],
        "updates": records[-1].get("perf/updates") if records else None,
        "seconds": seconds,
        "watts": watts,
        "evaluation": {key: judged[key] for key in ("score", "policies", "random_return")},
        "curve": curve(records),
        **_learners_lost(run_dir, meta["ranks"]),
    }


def _learners_lost(run_dir: RunDir, ranks: Sequence[int]) -> Row:
    """What is not as it should be: ``failures``, how often a learner failed, if ever, and ``ranks``, those of the last
    checkpoint, where they are not all that the settings ask for. Nothing in an ordinary run."""
    lost: Row = {}
    with contextlib.suppress(ValueError):  # a run whose last checkpoint is of its end may lack a summary
        if failures := run_dir.read_summary().get("failures"):
            lost["failures"] = len(failures)
    if [*ranks] != [*range(run_dir.config.learners)]:
        lost["ranks"] = [*ranks]
    return lost


def make_failed_row(run: Path, config: Config, group: str, reason: str) -> Row:
    """The row of a training that failed, before there was a directory ``run`` maybe: it has no score, and says why."""
    known = trained_with(RunDir(run, config)) or versions()
    return {**_beforehand(run.name, config), "group": group, "trained_with": known, "failed": reason}


def finished(rows: Iterable[Row]) -> list[Row]:
    """The rows that have a score: those of trainings that did not fail."""
    return [row for row in rows if "failed" not in row]


def known_beforehand(run_dir: RunDir) -> Row:
    """What of a run's row decides its group and the terms of a comparison, before anything is judged."""
    return {**_beforehand(run_dir.path.name, run_dir.config), "trained_with": trained_with(run_dir)}


def _beforehand(name: str, config: Config) -> Row:
    return {
        "name": name,
        "group": "",
        "seed": config.seed,
        "settings": settings_of(config),
        "solved_return": float(config.solved_return) if config.solved_return else None,
    }


def trained_with(run_dir: RunDir) -> dict[str, Any]:
    """The versions of all that decided the result, as the run has recorded them; nothing where it has not."""
    path = run_dir.path / "versions.json"
    known = dict(read_json(path)) if path.is_file() else {}
    known.pop("run", None)
    return known


def command_of(run_dir: RunDir) -> str:
    """What was typed, without what says where things are written."""
    words = shlex.split(read_command(run_dir.path))
    return shlex.join(word for word in words if not word.startswith(("run=", "--run=", "overwrite=", "log.")))


def curve(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Columns env_steps, seconds and return (of the last 100 training episodes, as many of each learner) and, where
    there are several learners, consensus (their distance); every k-th record and the last, about 200."""
    told = [r for r in records if r.get("charts/episodic_return") is not None and "perf/wall_s" in r]
    kept = told[:: max(1, math.ceil(len(told) / CURVE_POINTS))]
    kept += told[-1:] if told and kept[-1] is not told[-1] else []
    columns: dict[str, list[float]] = {
        "env_steps": [r["global_step"] for r in kept],
        "seconds": [round(r["perf/wall_s"], 3) for r in kept],
        "return": [round(r["charts/episodic_return"], 5) for r in kept],
    }
    if kept and all(r.get("gossip/consensus_distance") is not None for r in kept):
        columns["consensus"] = [round(r["gossip/consensus_distance"], 8) for r in kept]
    return columns


def read_rows(
    path: Path,
    needed: Sequence[str] = _NEEDED,
    made_by: str = "gala compare",
    fields: Mapping[str, Wanted] = OF_TRAININGS,
) -> list[Row]:
    """All whole rows; a last line that was cut short is left out. Each has the keys ``needed``, or, where the training
    failed, those of all rows, and they are what ``fields`` wants.

    Raises:
        ValueError: the file is missing, or a line is no such row; it names file and line.
    """
    if not path.is_file():
        hint = f"; it is a directory, with the rows in {path / ROWS}" if (path / ROWS).is_file() else ""
        raise ValueError(f"there is no file {path}{hint}")
    rows, lines = [], path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                continue
            raise ValueError(f"{path}, line {number}, is no JSON") from None
        wanted = _BY_ALL if isinstance(row, dict) and "failed" in row else needed
        missing = [key for key in wanted if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(f"{path}, line {number}, has no {missing[0]}: it is no row of `{made_by}`")
        if wrong := fault(row, fields):
            raise ValueError(f"{path}, line {number}, {wrong}: it is no row of `{made_by}`")
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file as a whole."""
    write_atomically(path, "".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows).encode())


def name_groups(rows: Sequence[Row]) -> list[Row]:
    """The rows with a ``group`` each: their own names where each stands for one set of settings, with the version of
    gala where one name has several; and otherwise the settings and versions in which they differ. Patience and what
    watches a run tell no groups apart, and threads none that have a name."""
    by_name: dict[str, set[str]] = {}
    versions: dict[str, set[str]] = {}
    for row in rows:
        by_name.setdefault(row["group"], set()).add(json.dumps(_deciding(row["settings"]), sort_keys=True))
        versions.setdefault(row["group"], set()).add(version_of(row))
    settings_sets = [found for name in by_name for found in by_name[name]]
    if "" not in by_name and len(set(settings_sets)) == len(by_name) == len(settings_sets):
        several = {name for name, found in versions.items() if len(found) > 1}
        return [
            {**row, "group": f"{row['group']} version={version_of(row)}"} if row["group"] in several else row
            for row in rows
        ]
    flat = [{**_deciding(row["settings"], _UNTOLD), "version": version_of(row)} for row in rows]
    names = dict.fromkeys(name for settings in flat for name in settings)
    differing = [n for n in names if len({json.dumps(settings.get(n)) for settings in flat}) > 1]
    return [
        {**row, "group": " ".join(f"{n}={_text(settings.get(n))}" for n in differing) or "all"}
        for row, settings in zip(rows, flat, strict=True)
    ]


def version_of(row: Row) -> str:
    """The commit, or else the version, that a row was trained with."""
    known = row.get("trained_with") or {}
    git = known.get("git")
    return f"{git[:9]}{'-dirty' if git.endswith('-dirty') else ''}" if git else str(known.get("gala-rl"))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def finite(value: Any) -> Any:
    """``value`` as JSON, which has no infinity: null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
