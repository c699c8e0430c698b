"""Families of contextual MDPs, one file each. A family's file is imported only when it is used."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from gala_envs.contexts import Family

FAMILIES = {
    "bits": "gala_envs.families.bits:Bits",
    "maze": "gala_envs.families.maze:Maze",
    "tiny_objects": "gala_envs.families.tiny_objects:TinyObjects",
    "classic": "gala_envs.families.classic:Classic",
    "mujoco": "gala_envs.families.mujoco:Mujoco",
    "seeds": "gala_envs.families.seeds:Seeds",
    "ale": "gala_envs.families.ale:Ale",
    "confounded": "gala_envs.families.confounded:Confounded",
    "backgrounds": "gala_envs.families.backgrounds:Backgrounds",
    "envpool": "gala_envs.families.envpool:EnvPoolLevels",
}
"""Name -> module:class. A name with an argument is written NAME:ARGUMENT, as in classic:CartPole-v1; the class is then
called with the argument."""


def make_family(name: str) -> Family:
    """``maze``, ``seeds:CartPole-v1``, ``confounded:seeds:CartPole-v1``, ...

    Raises:
        ValueError: there is no such family, or it cannot have this argument.
    """
    kind, _, argument = name.partition(":")
    if kind not in FAMILIES:
        near = difflib.get_close_matches(kind, FAMILIES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown family '{kind}'{hint} (families: {', '.join(FAMILIES)})")
    module, cls = FAMILIES[kind].split(":")
    made: Any = getattr(importlib.import_module(module), cls)
    needs_argument = getattr(made, "ARGUMENT", "")
    if bool(needs_argument) != bool(argument):
        wanted = f"{kind}:{needs_argument}" if needs_argument else kind
        raise ValueError(f"write the family as {wanted}, not as {name}")
    family: Family = made(argument) if argument else made()
    return family


def is_family(id: str) -> bool:
    """Whether an environment id names a family."""
    return id.partition(":")[0] in FAMILIES
