"""The settings of a video run on disk, and a digest that ties it to the rollouts that it learns from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from gala.config.parse import dump_config, load_options
from gala.config.video import VideoConfig
from gala.files.whole import write_atomically
from gala.optim.schedules import SCHEDULES
from gala.runs.rollouts import is_rollouts, rollouts_digest

SETTINGS, DATA = "config.yaml", "data.json"
_KEY = "rollouts_sha256"
MAY_CHANGE = ("iterations", "log_every", "save_every", "data")
"""What a resumed run takes anew; ``data`` is another place of the same rollouts."""
_BEFORE_SETTINGS = {".lock", DATA, f"{DATA}.tmp", f"{SETTINGS}.tmp"}
"""What a training leaves that was killed, or had no room, before it had written its settings."""


def refuse_used(out: Path) -> None:
    """Raises ValueError: there is something where a training is to begin."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give another out=DIRECTORY")
    if out.is_dir() and {path.name for path in out.iterdir()} - _BEFORE_SETTINGS:
        goes_on = f", or `gala video resume {out}`" if (out / SETTINGS).is_file() else ""
        raise ValueError(f"{out} already exists; give another out=DIRECTORY{goes_on}")


def kept_settings(config: VideoConfig) -> dict[str, Any]:
    """What a training is from its first checkpoint on, by dotted names. Of rollouts ``DATA`` says which they are."""
    kept: dict[str, Any] = {"data": "rollouts" if _is_folder(config.data) else config.data}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            kept |= {f"{name}.{key}": part for key, part in value.items()}
        elif name not in (*MAY_CHANGE, "out", "preset"):
            kept[name] = value
    return kept


def read_settings(out: Path) -> VideoConfig:
    """Those of a run of ``gala video train``. Raises ValueError: it is none."""
    if not (out / SETTINGS).is_file():
        raise ValueError(f"{out} holds no {SETTINGS} of `gala video train`")
    return load_options(out / SETTINGS, VideoConfig)


def write_settings(out: Path, config: VideoConfig) -> None:
    """``config``, and the digest of the rollouts that it names, if it is the first to be written."""
    if _is_folder(config.data) and not (out / DATA).exists():
        write_atomically(out / DATA, json.dumps({_KEY: rollouts_digest(config.data)}).encode())
    write_atomically(out / SETTINGS, dump_config(config).encode())


def with_absolute_data(config: VideoConfig) -> VideoConfig:
    """A folder by its absolute path, which holds in every working directory."""
    return dataclasses.replace(config, data=str(Path(config.data).resolve())) if _is_folder(config.data) else config


def find_data(out: Path, config: VideoConfig, given: str = "", remedy: str = "give data=") -> VideoConfig:
    """``config`` of the run ``out`` with the rollouts where they are now: in ``given``, else where it says.

    Raises:
        ValueError: they are not there (``remedy`` says what to do), or are not those that the run learned from. A run
            that is older than digests is believed where nothing else is given.
    """
    moved = given not in ("", config.data)
    if not _is_folder(config.data):
        if moved:
            raise ValueError(f"data cannot change: {out} learned from data={config.data}")
        return config
    folder, digest = given or config.data, _known_digest(out)
    if moved and digest is None and Path(folder).resolve() != Path(config.data).resolve():
        raise ValueError(f"{out} keeps no digest of its rollouts to compare data={folder} with; leave out data=")
    if not moved and not is_rollouts(folder):
        raise ValueError(f"{out} learned from {folder}, which is not here; {remedy}")
    if digest not in (None, rollouts_digest(folder)):
        said = "holds other rollouts than" if moved else "has changed since"
        raise ValueError(f"{folder} {said} {out} {'learned from' if moved else 'began'}; train into another out=")
    return with_absolute_data(dataclasses.replace(config, data=folder))


def extension_lines(out: Path, known: VideoConfig, config: VideoConfig, done: int) -> list[str]:
    """What is to be minded where a run of ``known`` settings that has done ``done`` iterations goes on with
    ``config``'s. Raises ValueError if it has done more than these."""
    if config.iterations < done:
        raise ValueError(f"{out} has done {done} iterations: iterations={config.iterations} is behind it")
    before, after = (c.lr * SCHEDULES[c.schedule](done / c.iterations) for c in (known, config))
    if before == after:
        return []
    falls = f"schedule={config.schedule} falls over all {config.iterations}"
    return [f"the learning rate goes from {before:.3g} to {after:.3g}: {falls}"]


def _is_folder(data: str) -> bool:
    from gala.supervised.video_data import PROCESSES  # here, as it imports torch

    return data not in PROCESSES


def _known_digest(out: Path) -> str | None:
    """None: the run is older than digests."""
    if not (out / DATA).exists():
        return None
    try:
        return str(json.loads((out / DATA).read_bytes())[_KEY])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{out / DATA} is damaged; remove it if the rollouts are as they were") from None
