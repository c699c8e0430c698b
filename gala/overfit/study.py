"""A study on disk: what was asked, the sets, one row per evaluation episode, and the training runs behind them.

study.json  rows.jsonl  curves.jsonl  sets/**.json  runs/<name>/  report.html
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gala_envs.contexts import ContextSet
from gala_envs.identity import assert_disjoint

from gala.build.trust import check_trusted, family_code
from gala.files.plain_yaml import parse_json, read_json, read_text, shortened
from gala.files.whole import write_atomically
from gala.runs.run_dir import versions

Row = dict[str, Any]
SETS = ("train", "val", "test", "extrap")
FEWEST_TEST = 2
"""MDPs of a test set: of one alone it is not known how much another would differ."""
_MAX_BYTES = 2**30
"""A table has a row of some 400 bytes per episode."""
_TERMS = ("sets", "solved", "settings", "delta", "mode")
"""A study has one of each: rows on other terms do not belong to it."""
_FOUND = ("done", "checkpoints", "audit", "controls", "normaliser")
"""What is written into the header while a study is made."""
_KINDS: dict[str, type] = {"notes": list, "done": list, "versions": dict}
_REMEDY = "draw any set of that family with `gala overfit split`"


class Study:
    """Appends rows and keeps ``study.json`` true. The command that began a study makes it again, or goes on with it."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path, self.meta = path, meta

    @classmethod
    def create(cls, path: str | Path, meta: Mapping[str, Any], *, resumes: bool = False) -> Study:
        """A new study, or, at ``path``, the one of the same command: begun anew, with today's header and no rows, or as
        far as it has come (``resumes``), if it is of the same sets.

        Raises:
            ValueError: another study, or anything else, is there; or one to be resumed was begun with other sets or on
                other terms, so that its rows do not go with those that are to come.
        """
        path = Path(path)
        known = path / "study.json"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        study = cls(path, {"created": stamp, "versions": versions(), "notes": [], **meta})
        if known.is_file():
            old = read_json(known)
            if not isinstance(old, dict):
                raise ValueError(f"{known} is no study's; choose another out=DIRECTORY")
            if bad := [name for name, kind in _KINDS.items() if not isinstance(old.get(name, kind()), kind)]:
                raise ValueError(f"{known} is damaged: {bad[0]} is no {_KINDS[bad[0]].__name__}; choose another out=")
            if old.get("command") != meta["command"]:
                held = shortened(str(old.get("command")))
                raise ValueError(f"{path} holds another study ({held}); choose another out=DIRECTORY")
            if resumes:
                study._resume(old)
            else:
                study._forget(old)
        elif path.exists() and any(path.iterdir()):
            raise ValueError(f"{path} is not empty and holds no study; choose another out=DIRECTORY")
        path.mkdir(parents=True, exist_ok=True)
        study.save()
        return study

    def _resume(self, old: Mapping[str, Any]) -> None:
        """Take up what was found so far, under a header that is true of all rows."""
        new = json.loads(json.dumps(self.meta))
        if odd := [name for name in _TERMS if name in old and name in new and old[name] != new[name]]:
            raise ValueError(
                f"{self.path} was begun with other {odd[0]} than this command gives now; choose another out=DIRECTORY"
            )
        kept = {name: old[name] for name in ("created", "versions", *_FOUND) if name in old}
        notes = [*old.get("notes", []), *(text for text in new["notes"] if text not in old.get("notes", []))]
        self.meta = {**new, **kept, "notes": notes}
        was = old.get("versions") or {}
        if changed := [f"{k} {v} (was {was.get(k)})" for k, v in new["versions"].items() if v != was.get(k)]:
            self.meta["notes"].append(f"continued with {', '.join(changed)}")

    def _forget(self, old: Mapping[str, Any]) -> None:
        """Remove the rows of an earlier time: all of them are made again, by what the runs and sets are now."""
        stale = ["rows.jsonl", "curves.jsonl"]
        if old.get("sets") != json.loads(json.dumps(self.meta.get("sets"))):
            stale.append("surprise.jsonl")
        for name in stale:
            (self.path / name).unlink(missing_ok=True)

    def save(self) -> None:
        write_atomically(self.path / "study.json", (json.dumps(self.meta, indent=1) + "\n").encode())

    def note(self, text: str) -> None:
        """Something that a reader of the report must know."""
        if text not in self.meta["notes"]:
            self.meta["notes"].append(text)
        self.save()

    def done(self) -> set[str]:
        """Names of the parts that are complete."""
        return set(self.meta.get("done", []))

    def append(self, part: str, rows: Iterable[Row], curves: Iterable[Row] = ()) -> None:
        """The rows of one part, and then its name: a part that was cut off is done again, and its rows replaced."""
        for name, new in (("rows.jsonl", rows), ("curves.jsonl", curves)):
            old = [row for row in self._read(name) if row["part"] != part]
            text = "".join(json.dumps(_finite(row)) + "\n" for row in [*old, *({**row, "part": part} for row in new)])
            if text:
                write_atomically(self.path / name, text.encode())
        self.meta["done"] = sorted({*self.done(), part})
        self.save()

    def replace(self, name: str, rows: Iterable[Row]) -> None:
        """Write a table that belongs to no part, in place of what it was."""
        write_atomically(self.path / name, "".join(json.dumps(_finite(row)) + "\n" for row in rows).encode())

    def rows(self) -> list[Row]:
        return self._read("rows.jsonl")

    def _read(self, name: str) -> list[Row]:
        path = self.path / name
        return [parse_json(line) for line in read_text(path, _MAX_BYTES).splitlines()] if path.is_file() else []


def read_sets(folder: str | Path, *, overlapping: bool = False, trust: bool = False) -> dict[str, ContextSet]:
    """The sets in a folder that ``gala overfit split`` wrote, by split. ``trust``: import what their family names.

    Raises:
        ValueError: no training or no test set, sets of several families, a family of code that this user has not used
            here, or, unless they are to be audited (``overlapping``), one test MDP or sets with an MDP in common.
    """
    folder = Path(folder)
    sets = {name: ContextSet.read(folder / f"{name}.json") for name in SETS if (folder / f"{name}.json").is_file()}
    if "train" not in sets or "test" not in sets:
        raise ValueError(f"{folder} holds no train.json or no test.json; write them with `gala overfit split`")
    for name, contexts in sets.items():
        if contexts.split != name:
            raise ValueError(f"{folder / name}.json holds the {contexts.split} set")
    if len(families := {s.family for s in sets.values()}) > 1:
        raise ValueError(f"{folder}: the sets belong to several families: {', '.join(sorted(families))}")
    check_trusted(family_code(sets["train"].family), folder, trust=trust, remedy=_REMEDY)
    if not overlapping:
        if len(sets["test"]) < FEWEST_TEST:
            told = f"{folder / 'test.json'} holds {len(sets['test'])} MDP; a gap needs at least {FEWEST_TEST} test MDPs"
            raise ValueError(f"{told}: draw them with `gala overfit split`")
        assert_disjoint(list(sets.values()))
    return sets


def describe_sets(sets: Mapping[str, ContextSet]) -> dict[str, Any]:
    """What a report's header says of them."""
    return {
        n: {"sha256": s.sha256, "size": len(s), "region": s.region, "seed": s.sampler_seed} for n, s in sets.items()
    }


def _finite(row: Row) -> Row:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
