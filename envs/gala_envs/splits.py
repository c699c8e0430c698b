"""Disjoint sets of a family's contexts, drawn together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gala_envs.contexts import ContextSet, Family, Scalar, Split

MOST = 1_000_000
"""Contexts of all sets that are drawn together: they are kept in memory, and a set is one file."""


def split(
    family: Family, sizes: Mapping[Split, int], *, region: str = "", seed: int = 0, **settings: Scalar
) -> dict[Split, ContextSet]:
    """Disjoint sets, drawn together without replacement; ``extrap`` from the family's region E.

    Raises:
        ValueError: more contexts than the family has, an unknown region or parameter, or a family without region E.
    """
    check_size(sum(sizes.values()))
    region = region or family.regions[0]
    if region not in family.regions:
        raise ValueError(f"{family.name} has no region '{region}'; it has {', '.join(family.regions)}")
    if sizes.get("extrap") and "E" not in family.regions:
        raise ValueError(f"{family.name} has no region E to extrapolate to; leave extrap out")
    check_settings(family, settings)
    inside = {name: size for name, size in sizes.items() if name != "extrap" and size}
    drawn = family.sample(sum(inside.values()), region, np.random.default_rng([seed, 0]), settings)
    sets: dict[Split, ContextSet] = {}
    for name, size in inside.items():
        sets[name], drawn = ContextSet(tuple(drawn[:size]), name, region, seed), drawn[size:]
    if sizes.get("extrap"):
        outside = family.sample(sizes["extrap"], "E", np.random.default_rng([seed, 1]), settings)
        sets["extrap"] = ContextSet(tuple(outside), "extrap", "E", seed)
    if sizes.get("extrap"):  # the others were drawn together
        from gala_envs.identity import assert_disjoint

        assert_disjoint(list(sets.values()))
    return sets


def check_size(number: int) -> None:
    """Raises ValueError for more contexts than can be drawn in minutes and kept in memory."""
    if number > MOST:
        raise ValueError(f"{number:,} contexts were asked for; at most {MOST:,} are drawn at once")


def check_settings(family: Family, settings: Mapping[str, Scalar]) -> None:
    """Raises ValueError for a parameter that the family does not have, or a value out of its range."""
    for name, value in settings.items():
        if name not in family.parameters:
            raise ValueError(
                f"{family.name} has no parameter '{name}'; it has {', '.join(family.parameters) or 'none'}"
            )
        p = family.parameters[name]
        if p.choices and value not in p.choices:
            raise ValueError(f"{name}={value} must be one of {', '.join(map(str, p.choices))}")
        if not p.choices and not (isinstance(value, int | float) and p.low <= value <= p.high):
            raise ValueError(f"{name}={value} must be a number from {p.low:g} to {p.high:g}")
