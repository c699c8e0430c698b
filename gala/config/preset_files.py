"""Where presets lie, and the nearest of the names that there are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from gala.config.other_names import OTHER_NAMES


def preset_root() -> Path:
    """The folder of the presets: inside the installed package, or ``configs/`` of a checkout."""
    installed = Path(__file__).parents[1] / "presets"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def preset_names() -> list[str]:
    """All presets, as ``family/task``. Files that begin with an underscore are only bases of others."""
    root = preset_root()
    return sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml") if not p.name.startswith("_"))


def preset_path(name: str) -> Path:
    """The file of a preset; a name that ends in .yaml is a path. Raises ValueError with the nearest name."""
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ValueError(f"there is no preset file {name!r}")
        return Path(name)
    path = preset_root() / f"{name}.yaml"
    if not path.is_file():
        names = preset_names()
        by_task = [n for n in names if n.split("/")[-1] == name]
        raise ValueError(f"unknown preset {name!r}; `gala presets` lists them{nearest(name, names, by_task)}")
    return path


def nearest(word: str, names: Iterable[str], exact: Sequence[str] = ()) -> str:
    """``; did you mean 'x'?`` for the closest of ``names`` (first of ``exact`` if there is one), or an empty string."""
    close = [*exact, *difflib.get_close_matches(word, list(names), 1, 0.5)]
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest_setting(key: str, names: Iterable[str]) -> str:
    """``nearest`` of a setting: first one whose last part is that of ``key``, then what other libraries call so."""
    names = sorted(names)  # sets have another order in each process
    exact = [name for name in names if name.split(".")[-1] == key.rsplit(".", 1)[-1]]
    return nearest(key, names, [*exact, *(name for name in names if name == OTHER_NAMES.get(key))])


def meant(word: str, settings: Collection[str]) -> str:
    """What should have been written for a bare ``word`` of the command line, where these are the ``settings``."""
    if "env.id" in settings and re.search(r"-v\d+$", word):
        return f"env.id={word}"
    near = difflib.get_close_matches(word, preset_names(), 1, 0.8)
    return f"preset={near[0]}" if near else "key=value or --key value"
