"""Are the sets what they claim to be? Leaks, duplicates, and how hard each set is for a random policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gala_envs.contexts import ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family

from gala.diagnostics.overfitting.episodes import evaluate
from gala.diagnostics.overfitting.policies import RandomPolicy


def duplicates(sets: Mapping[str, ContextSet]) -> list[dict[str, Any]]:
    """Pairs of contexts, within a set or across sets, that are one MDP though their seeds differ."""
    seen: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, contexts in sets.items():
        family = make_family(contexts.family)
        for context in contexts:
            print_ = family.fingerprint(context)
            if print_ in seen:
                other, where = seen[print_]
                why = "same MDP" if where != name else "same MDP, twice in one set"
                pairs.append({"a": other, "b": context.uid, "sets": [where, name], "why": why})
            else:
                seen[print_] = (context.uid, name)
    return pairs


def audit_sets(sets: Mapping[str, ContextSet], seed: int = 0, episodes: int = 5) -> dict[str, Any]:
    """Duplicates and leaks, and each set's return under the random policy (a difference: the sets are not equal).

    Keys: family, checked (contexts), rows (of ``duplicates``), random ({set: {mean, standard_error}}).
    """
    first = next(iter(sets.values()))
    env = ContextualEnv(make_family(first.family), first.take(1), 1)
    random = {}
    try:
        for name, contexts in sets.items():
            rows = evaluate(RandomPolicy(env.action_space), contexts, episodes=episodes, seed=seed)
            means = np.array([row["return"] for row in rows]).reshape(len(contexts), episodes).mean(1)
            spread = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
            random[name] = {"mean": float(means.mean()), "standard_error": spread}
    finally:
        env.close()
    checked = sum(map(len, sets.values()))
    return {"family": first.family, "checked": checked, "rows": duplicates(sets), "random": random}
