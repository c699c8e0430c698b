"""Bounds of a setting, kept beside its default: ``lr: float = bounded(7e-4, NOT_NEGATIVE)``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_type_hints

T = TypeVar("T")


class Bound(NamedTuple):
    """What a value must satisfy, and the same in words that follow "must be"."""

    holds: Callable[[Any], bool]
    rule: str


AT_LEAST_ONE = Bound(lambda v: v >= 1, "at least 1")
POSITIVE = Bound(lambda v: v > 0, "greater than 0")
MOST_STEPS = 10**15
"""At a million a second, thirty years; counters, and numbers in JSON (2**53), hold more."""
STEPS = Bound(lambda v: 1 <= v <= MOST_STEPS, "between 1 and 1e15")
NOT_NEGATIVE = Bound(lambda v: v >= 0, "0 or more")
LEARNING_RATE = Bound(lambda v: 0 <= v <= 1e6, "between 0 and 1e6")
POSITIVE_RATE = Bound(lambda v: 0 < v <= 1e6, "greater than 0 and at most 1e6")
"""More may not fit into the single precision of parameters."""
UNIT = Bound(lambda v: 0 <= v <= 1, "between 0 and 1")
INSIDE_UNIT = Bound(lambda v: 0 < v < 1, "greater than 0 and below 1")
BELOW_ONE = Bound(lambda v: 0 <= v < 1, "at least 0 and below 1")
MILESTONES = Bound(lambda v: 0 <= v <= 1000, "between 0 and 1000")
LOG_STD = Bound(lambda v: -10 <= v <= 10, "between -10 and 10")


def is_number_or_empty(text: str) -> bool:
    """Whether a text is empty or a finite number."""
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False


def bounded(default: T, bound: Bound) -> T:
    """A dataclass field with a default and the bound that ``check_bounds`` holds it to."""
    field: Any = dataclasses.field(default=default, metadata={"bound": bound})
    return field


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Every leaf of a dataclass against its bound; numbers must be finite.

    Raises:
        ValueError: one line that names the setting, with its dots, and what it must be.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            check_bounds(value, f"{name}.")
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}={value} must be a finite number")
        bound: Bound | None = field.metadata.get("bound")
        if bound is not None and not bound.holds(value):
            raise ValueError(f"{name}={value} must be {bound.rule}")
