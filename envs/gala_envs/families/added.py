"""A family whose contexts are those of another one with parameters added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gala_envs.contexts import Context, Family, Parameter, Scalar, draw_distinct


@dataclass(frozen=True)
class Added:
    """``own`` parameters on top of those of ``base``. ``seed`` is the one of ``own`` that each context draws anew;
    ``fingerprint`` is that of the family.

    Raises:
        ValueError: the base has a parameter of the same name.
    """

    name: str
    base: Family
    own: Mapping[str, Parameter]
    seed: str
    fingerprint: Callable[[Context], str]

    def __post_init__(self) -> None:
        if taken := sorted(set(self.own) & set(self.base.parameters)):
            raise ValueError(
                f"{self.name}: {self.base.name} has a parameter {taken[0]} of its own; choose another base family"
            )

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return {**self.base.parameters, **self.own}

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        """``n`` contexts of the base, each with a seed of its own that no other of them has. Where ``settings`` leave
        the base one context alone, all share it, and what is added tells them apart.

        Raises:
            ValueError: there are fewer than ``n``.
        """
        own = {name: value for name, value in settings.items() if name in self.own}
        rest = {name: value for name, value in settings.items() if name not in self.own}

        def added(context: Context, seed: int) -> Context:
            return Context.of(self.name, context.seed, **dict(context.params) | {self.seed: seed} | own)

        try:
            contexts = self.base.sample(n, region, rng, rest)
        except ValueError:
            if not self._is_one(region, rest):  # some of them would share a task, and others not
                raise
            (only,) = self.base.sample(1, region, rng, rest)
            return draw_distinct(n, lambda: added(only, int(rng.integers(2**31 - 1))), self.fingerprint)
        seeds = rng.choice(2**31 - 1, n, replace=False)
        return [added(context, int(seed)) for context, seed in zip(contexts, seeds, strict=True)]

    def _is_one(self, region: str, settings: Mapping[str, Scalar]) -> bool:
        """Whether ``settings`` leave the base a single context. Raises ValueError: they leave it none."""
        rng = np.random.default_rng(0)
        self.base.sample(1, region, rng, settings)
        try:
            self.base.sample(2, region, rng, settings)
        except ValueError:
            return True
        return False

    def inner(self, context: Context) -> Context:
        """The base family's context."""
        params = {name: value for name, value in context.params if name not in self.own}
        return Context.of(self.base.name, context.seed, **params)

    def value(self, context: Context, name: str) -> Scalar:
        """The value of an own parameter, or its default."""
        value: Scalar = context.get(name, self.own[name].default)
        return value
