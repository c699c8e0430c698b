"""The header of a study: what was asked, of which sets, and how they are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gala_envs.contexts import ContextSet

from gala.config.schema import Config
from gala.overfit.judging import solved
from gala.overfit.options import JudgeOptions, check_delta
from gala.overfit.study import describe_sets

SIGNS = "it was learned from the signs of rewards (normalize.reward=sign), and has other units than returns"
"""Why V cannot be set beside a return."""


def header(
    protocol: str,
    command: str,
    sets: Mapping[str, ContextSet],
    judging: JudgeOptions,
    configs: Sequence[Config] = (),
    **more: Any,
) -> dict[str, Any]:
    """The fields of ``study.json`` that are known before anything is played. ``configs``: of the runs that are judged;
    none for policies that were trained elsewhere. ``more``: fields of this protocol. Raises ValueError: a bad delta."""
    check_delta(judging.delta)
    exposed = [config.env.expose for config in configs]
    limit = max((config.env.max_episode_steps for config in configs), default=0)
    notes = []
    if any(exposed) and not all(exposed):
        notes.append(f"{sum(exposed)} of {len(exposed)} runs are told the parameters of their MDP (env.expose)")
    if limit:
        notes.append(f"episodes end after env.max_episode_steps={limit}; the best return within them is not known")
    if signed := [config for config in configs if config.normalize.reward == "sign"]:
        more["values"] = SIGNS
        notes.append(f"V(s0) of {len(signed)} of {len(configs)} runs is left out: {SIGNS}")
    return {
        "protocol": protocol,
        "family": sets["train"].family,
        "command": command,
        "sets": describe_sets(sets),
        "delta": judging.delta,
        "solved": solved(sets["train"].family, judging, limit),
        "mode": judging.act,
        "expose": bool(exposed) and all(exposed),
        "selection": f"{judging.checkpoint} checkpoint",
        "normaliser": "none",
        "checkpoints": {},
        "budget": judging.budget or None,
        "audit": None,
        "controls": None,
        "notes": notes,
        **more,
    }
