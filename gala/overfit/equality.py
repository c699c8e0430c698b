"""Values of a user's function, made hashable: equal values have equal images, whatever their containers are called."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Any


def frozen(value: Any) -> Hashable:
    """An image of ``value`` that can be a key: dicts by their items in any order, lists, tuples and arrays by their
    items in order, sets by their members, numbers by value (1, 1.0 and ``np.int64(1)`` are one), all else by ``==``.

    Raises:
        ValueError: in words that follow "returned": NaN, which equals nothing, not even itself; or an object that
            cannot be a key, or is equal to nothing but itself.
    """
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy, PyTorch, pandas and the standard library
        value = value.tolist()
    if isinstance(value, Mapping):
        return Mapping, frozenset((frozen(key), frozen(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, Set):
        return frozenset(frozen(item) for item in value)
    kind = type(value)
    if kind.__hash__ is None or (kind.__hash__ is object.__hash__ and value is not None):
        raise ValueError(
            f"a {kind.__name__}, which cannot be compared by value; return numbers, texts, tuples or dicts"
        )
    if value != value:  # noqa: PLR0124
        raise ValueError("NaN, which equals nothing; return a text for what is not known")
    return value
