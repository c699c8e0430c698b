"""A family whose contexts are those of another one with parameters added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gala_envs.contexts import Context, Family, Parameter, Scalar


@dataclass(frozen=True)
class Added:
    """``own`` parameters on top of those of ``base``. ``seed`` is the one of ``own`` that each context draws anew.

    Raises:
        ValueError: the base has a parameter of the same name.
    """

    name: str
    base: Family
    own: Mapping[str, Parameter]
    seed: str

    def __post_init__(self) -> None:
        if taken := sorted(set(self.own) & set(self.base.parameters)):
            raise ValueError(
                f"{self.name}: {self.base.name} has a parameter {taken[0]} of its own; choose another base family"
            )

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return {**self.base.parameters, **self.own}

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        """``n`` contexts of the base, each with a seed of its own that no other of them has."""
        own = {name: value for name, value in settings.items() if name in self.own}
        rest = {name: value for name, value in settings.items() if name not in self.own}
        contexts = self.base.sample(n, region, rng, rest)
        seeds = rng.choice(2**31 - 1, n, replace=False)
        return [
            Context.of(self.name, c.seed, **dict(c.params) | {self.seed: int(seed)} | own)
            for c, seed in zip(contexts, seeds, strict=True)
        ]

    def inner(self, context: Context) -> Context:
        """The base family's context."""
        params = {name: value for name, value in context.params if name not in self.own}
        return Context.of(self.base.name, context.seed, **params)

    def value(self, context: Context, name: str) -> Scalar:
        """The value of an own parameter, or its default."""
        value: Scalar = context.get(name, self.own[name].default)
        return value
