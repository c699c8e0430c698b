"""Are the sets what they claim to be? Leaks, duplicates, near copies, and how hard each set is for a random policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gala_envs.contexts import ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family
from gala_envs.identity import canonical, duplicates, roll
from numpy.typing import NDArray

from gala.diagnostics.overfitting.episodes import evaluate
from gala.diagnostics.overfitting.policies import RandomPolicy

MOST_NUMBERS = 2048
"""How many numbers of a rollout are compared, drawn from all of them."""
Pairs = list[dict[str, Any]]


def audit_sets(
    sets: Mapping[str, ContextSet],
    seed: int = 0,
    episodes: int = 5,
    *,
    tolerance: float = 0.0,
    symmetries: bool = False,
    limit: int = 0,
) -> dict[str, Any]:
    """Duplicates and leaks, and each set's return under the random policy (a difference: the sets are not equal).

    Args:
        tolerance: above 0, training MDPs are also compared with others by what fixed actions lead to: near copies
            differ by at most so many standard deviations in every number.
        symmetries: mirror images and rotations count too, where the family knows them.
        limit: ``max_episode_steps`` of the random policy's episodes; 0: the family's own.

    Returns:
        {family, checked (contexts), looked_for (in words), rows (pairs, see ``duplicates``), random ({set: {mean,
        standard_error}})}.

    Raises:
        ValueError: the family knows no symmetries.
    """
    first = next(iter(sets.values()))
    family: Any = make_family(first.family)
    rows, looked_for = duplicates(sets), [f"the same MDP: {family.compares}"]
    if symmetries:
        rows += mirror_images(sets)
        looked_for.append("mirror images and rotations")
    if tolerance > 0:
        known = {(row["a"], row["b"]) for row in rows}
        rows += [row for row in near_copies(sets, tolerance) if (row["a"], row["b"]) not in known]
        looked_for.append(f"training MDPs and others that fixed actions lead through alike, within {tolerance:g} sd")
    checked = sum(map(len, sets.values()))
    random = random_returns(sets, seed, episodes, limit)
    return {"family": first.family, "checked": checked, "looked_for": looked_for, "rows": rows, "random": random}


def random_returns(
    sets: Mapping[str, ContextSet], seed: int, episodes: int, limit: int = 0
) -> dict[str, dict[str, float | None]]:
    """{set: {mean, standard_error}} of the random policy's return, in episodes of at most ``limit`` steps (0: the
    family's own)."""
    first = next(iter(sets.values()))
    env = ContextualEnv(make_family(first.family), first.take(1), 1)
    env.close()
    random: dict[str, dict[str, float | None]] = {}
    for name, contexts in sets.items():
        policy = RandomPolicy(env.action_space)
        rows = evaluate(policy, contexts, episodes=episodes, seed=seed, max_episode_steps=limit)
        means = np.array([row["return"] for row in rows]).reshape(len(contexts), episodes).mean(1)
        spread = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
        random[name] = {"mean": float(means.mean()), "standard_error": spread}
    return random


def mirror_images(sets: Mapping[str, ContextSet]) -> Pairs:
    """Pairs of different MDPs that a reflection or rotation makes equal."""
    first = next(iter(sets.values()))
    family: Any = make_family(first.family)
    if not hasattr(family, "up_to_symmetry"):
        raise ValueError(f"symmetries=true: {first.family} has no symmetries that are known here; maze has")
    seen: dict[str, list[tuple[str, str, str]]] = {}
    pairs = []
    for name, contexts in sets.items():
        for context in contexts:
            one = canonical(family, context)
            print_, others = family.fingerprint(one), seen.setdefault(family.up_to_symmetry(one), [])
            for other, where, its_print in others[:1]:
                if its_print != print_:
                    why = "mirror image or rotation" + (", in one set" if where == name else "")
                    pairs.append({"a": other, "b": context.uid, "sets": [where, name], "why": why})
            others.append((context.uid, name, print_))
    return pairs


def near_copies(sets: Mapping[str, ContextSet], tolerance: float) -> Pairs:
    """Pairs of a training and another MDP whose rollouts under fixed actions hardly differ."""
    traces = {name: _traces(contexts) for name, contexts in sets.items()}
    spread = np.concatenate(list(traces.values())).std(0)
    scale = np.where(spread > 0, spread, 1.0)
    pairs = []
    for name in sets:
        if name == "train":
            continue
        for context, trace in zip(sets[name], traces[name], strict=True):
            apart = np.abs((traces["train"] - trace) / scale).max(1)
            if (nearest := int(apart.argmin())) >= 0 and apart[nearest] <= tolerance:
                why = f"near copy: at most {apart[nearest]:.2g} sd apart"
                uid = sets["train"].uids[nearest]
                pairs.append({"a": uid, "b": context.uid, "sets": ["train", name], "why": why})
    return pairs


def _traces(contexts: ContextSet) -> NDArray:
    """Numbers of each context's rollouts, [contexts, at most MOST_NUMBERS]; 0 past the end of an episode."""
    rows = make_family(contexts.family).simulators(contexts.contexts, 1, 1)
    try:
        seen = [np.concatenate([np.ravel(x).astype(np.float64) for x in roll(rows, c, padded=True)]) for c in contexts]
    finally:
        rows.close()
    chosen = np.random.default_rng(0).permutation(len(seen[0]))[:MOST_NUMBERS]
    return np.stack([trace[chosen] for trace in seen])
