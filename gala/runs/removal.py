"""What ``overwrite=true`` may delete: a run of ours, and nothing beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from gala.files.plain_yaml import parse_json
from gala.runs.command_file import COMMAND, read_command
from gala.runs.lock import LOCK

_OURS = re.compile(
    r"config\.yaml|command\.txt|versions\.json|metrics\.jsonl|summary\.json|wanted_learners|checkpoints|diagnose|gossip|learner\d+"
    r"|evaluations\.jsonl|report\.html|films|wandb"
    rf"|events\.out\.tfevents\..*|(returns|epsilon-ball|sharpness|noise-scale)\.(png|svg)|{re.escape(LOCK)}|.*\.tmp"
)
_BEGUN = re.compile(r"command\.txt|versions\.json|.*\.tmp")
"""What a run directory may hold before its config.yaml."""
STRAY = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|\.directory", re.IGNORECASE)
"""What file managers and network file systems leave in any folder."""


def is_empty(path: Path) -> bool:
    """Whether the folder holds nothing that anybody would miss, as one where a training was cut off at its start."""
    rest = {p.name for p in path.iterdir() if p.name != LOCK and not STRAY.fullmatch(p.name)}
    return rest <= {f"{COMMAND}.tmp"} or (is_begun(path) and all(_BEGUN.fullmatch(name) for name in rest))


def is_begun(path: Path) -> bool:
    """Whether a training wrote down its command here, and was cut off before this was a run."""
    return not (path / "config.yaml").exists() and read_command(path).startswith("gala train")


def _is_known(name: str) -> bool:
    return bool(_OURS.fullmatch(name) or STRAY.fullmatch(name))


def check_removable(path: Path) -> None:
    """Raises ValueError unless ``path`` is a run of ours, reached by no link at its end, with nothing else in it."""
    strangers = [p.name for p in sorted(path.iterdir()) if not _is_known(p.name)] if path.is_dir() else []
    if strangers and is_begun(path):
        raise ValueError(
            f"{path} holds {strangers[0]} beside a training that was cut off at its start; move it away, or give "
            "another run="
        )
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{path} already exists, and is not a run directory (no config.yaml); give another run=")
    if path.is_symlink():
        raise ValueError(f"{path} is a link, which overwrite=true does not follow; name the directory itself")
    try:
        ours = "gala-rl" in parse_json((path / "versions.json").read_bytes())
        ours = ours and read_command(path).startswith("gala train")
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise ValueError(f"{path} was not made by gala (no versions.json of it), so overwrite=true leaves it alone")
    if strangers:
        raise ValueError(f"{path} holds {strangers[0]}, which is not of a run; move it away, or give another run=")


def remove_run(path: Path) -> None:
    """Delete all that a run has written, its lock excepted. A link in it goes, what it leads to stays."""
    for entry in path.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
