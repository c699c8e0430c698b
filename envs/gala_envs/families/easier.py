"""Easier variants of a family's MDPs: what has learned the task should do no worse in them.

Delfosse et al. 2025 (arXiv 2505.21731) simplified Atari games, and many agents fell below what they reached in the
games that they had been trained on: they had learned a shortcut.
"""

from __future__ import annotations

from gala_envs.contexts import ContextSet, Family, Scalar

EASIER: dict[str, Scalar] = {
    "bads": 0,
    "flip": 0.0,
    "coverage": 0.0,
    "background": "plain",
    "init_mult": 0.5,
    "sensor_noise": 0.0,
    "delay": 0,
    "sticky": 0.0,
    "cue": 1.0,
}
"""Parameter -> its easy value: nothing bad lies about, things are what they look like, no clutter, nothing behind the
object, starts half as far from rest, sensors without noise and without delay, actions that are not repeated, a cue that
is always right. Each leaves everything else of an MDP where it is."""


def easier_variants(family: Family, contexts: ContextSet) -> dict[str, dict[str, Scalar]]:
    """Name -> the parameter to change, for each that is easier than it is now in some context.

    ALE's games also get their first difficulty, which is the easiest where a game has several.
    """
    easy = dict(EASIER)
    if "difficulty" in family.parameters:
        easy["difficulty"] = family.parameters["difficulty"].default
    return {
        f"{name}:{value}": {name: value}
        for name, value in easy.items()
        if name in family.parameters
        and any(_is_harder(c.get(name, family.parameters[name].default), value) for c in contexts)
    }


def _is_harder(now: Scalar, easy: Scalar) -> bool:
    """Numbers lie farther from 0 than the easy one, or, as the cue's does, below the easy 1; words are others."""
    if isinstance(now, str) or isinstance(easy, str):
        return now != easy
    return now < easy if easy == 1 else now > easy
