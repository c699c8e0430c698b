"""Whose code a run may import: modules that this user has trained with, and not whatever a directory names.

A run directory names modules (``env.id``, ``model.encoder``, ``optim.name``, ``gossip.topology``) that its evaluation
imports, from the working directory too. So what a user trains with is remembered outside of all runs, with the file
that it was; a run from somebody else that names other code wants ``trust=true``. See docs/trust.md.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from gala_envs.families import is_family

from gala.config.schema import Config, flatten
from gala.files.plain_yaml import parse_json
from gala.plugins import loading, naming

_KNOWN = re.compile(r"torch\.optim:\w+|(ale_py|minatar|gymnasium|gymnasium_robotics):[\w/]+-v\d+")
"""Names of these forms lead to nothing but an optimiser of PyTorch, or a registered environment of a known package."""


def named_code(config: Config) -> dict[str, str]:
    """Setting -> the ``module:...`` in it that would be imported, where that is not of a known package."""
    settings = flatten(config)
    named = {setting: settings[setting] for setting in naming.SETTINGS.values()}
    named["env.id"] = _without_family(named["env.id"])
    if config.env.backend not in ("auto", "gymnasium") and named["env.id"] == config.env.id:
        del named["env.id"]  # those backends have ids of their own
    return {setting: text for setting, text in named.items() if ":" in text and not _KNOWN.fullmatch(text)}


def family_code(family: str) -> dict[str, str]:
    """The same of a family of contextual MDPs, such as ``seeds:my_envs:Maze-v0``."""
    text = _without_family(family)
    return {"family": text} if ":" in text and not _KNOWN.fullmatch(text) else {}


def remember(config: Config) -> None:
    """What this user trains with is theirs: later commands import it, from the same file, without being asked. Where it
    cannot be written down, they ask."""
    _remember(named_code(config))


def remember_family(family: str) -> None:
    """The same of a family that this user has typed, whose sets may then be read."""
    _remember(family_code(family))


def _remember(named: Mapping[str, str]) -> None:
    new = [line for line in map(_record, named.values()) if line not in _remembered()]
    path = _store()
    if not new or path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in new))
    except OSError:
        return


def check_trusted(named: Mapping[str, str], source: str | Path, *, trust: bool, remedy: str) -> None:
    """Raises ValueError, before anything is imported, if ``source`` names code that this user has not trained with.

    ``named``: see ``named_code``. ``remedy`` ends the line: what to type if the code is to be trusted.
    """
    if trust or not named:
        return
    known = _remembered()
    for setting, text in named.items():
        record = _record(text)
        if record not in known:
            where = record["file"] or "not found here"
            raise ValueError(
                f"{source}: {setting}={text} would run code ({where}) that you have not trained with on this machine; "
                f"if you trust it: {remedy}"
            )


def _without_family(text: str) -> str:
    while ":" in text and is_family(text):
        text = text.partition(":")[2]
    return text


def _record(text: str) -> dict[str, str]:
    """What is named, and the file that would be run for it first; found without running any."""
    module = text.rpartition(":")[0] if text.rpartition(":")[0].endswith(".py") else text.partition(":")[0]
    if module.endswith(".py"):
        return {"name": text, "file": str(Path(module).resolve())}
    loading.search_working_directory()
    try:
        spec = importlib.util.find_spec(module.split(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return {"name": text, "file": ""}
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return {"name": text, "file": str(Path(places[0]).resolve()) if places else ""}


def _remembered() -> list[object]:
    path = _store()
    try:
        lines = path.read_text(errors="replace").splitlines() if path is not None else []
    except OSError:
        return []
    known: list[object] = []
    for line in lines:
        with contextlib.suppress(ValueError):  # cut short by a kill, say
            known.append(parse_json(line))
    return known


def _store() -> Path | None:
    """Below XDG_STATE_HOME; None where this user has no home."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gala" / "own_code.jsonl"
    except RuntimeError:
        return None
