"""Ranges that settings are searched in, as they are typed: ``log(1e-4,1e-2)``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from gala.config.schema import Config, flatten

_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_RANGE = re.compile(r"(log|uniform|choice)\((.*)\)")


@dataclass(frozen=True)
class Range:
    """What a setting is chosen from: numbers between two bounds, evenly or by their logarithm, or names."""

    kind: Literal["log", "uniform", "choice"]
    values: tuple[Any, ...]

    def suggest(self, trial: Any, key: str) -> str:
        """The text of the setting in ``trial``."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(key, list(self.values)))
        low, high = self.values
        if isinstance(low, int):
            return str(trial.suggest_int(key, low, high, log=self.kind == "log"))
        return repr(float(trial.suggest_float(key, low, high, log=self.kind == "log")))

    def __str__(self) -> str:
        return f"{self.kind}({','.join(map(str, self.values))})"


def parse_range(key: str, text: str) -> Range | None:
    """``log(1e-4,1e-2)``, ``uniform(1,8)`` or ``choice(adam,rmsprop)``; None for a plain value. A comma in
    brackets is of the value: ``choice((64,64),(256,256))``.

    Raises:
        ValueError: bounds that are none.
    """
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if not found:
        return None
    try:
        parts = tuple(filter(None, _split(found[2])))
    except ValueError:
        raise ValueError(f"{key}={text}: wants each bracket closed, as in choice((64,64),(256,256))") from None
    if found[1] == "choice":
        if len(set(parts)) < 2:
            raise ValueError(f"{key}={text}: wants two values or more, as in choice(adam,rmsprop)")
        return Range("choice", parts)
    default = flatten(Config()).get(key)
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError(f"{key}={text}: wants two numbers, as in {found[1]}(1e-4,1e-2)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or found[1] == "uniform")):
        raise ValueError(f"{key}={text}: wants a lower and a higher number{', above 0' if found[1] == 'log' else ''}")
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise ValueError(f"{key}={text}: {key} is no number; use choice(...)")
    kind: Literal["log", "uniform"] = "log" if found[1] == "log" else "uniform"
    if not isinstance(default, int):
        return Range(kind, (low, high))
    if not (low.is_integer() and high.is_integer()):
        raise ValueError(f"{key}={text}: {key} is a whole number, and so are its ends")
    return Range(kind, (int(low), int(high)))


def _split(text: str) -> list[str]:
    """``(64,64),32`` -> ``(64,64)`` and ``32``: at the commas outside brackets. Raises ValueError if these do not
    match."""
    parts, open_brackets = [""], ""
    for letter in text:
        if letter == "," and not open_brackets:
            parts.append("")
            continue
        parts[-1] += letter
        if letter in _CLOSED_BY:
            open_brackets += letter
        elif letter in _CLOSED_BY.values():
            if _CLOSED_BY.get(open_brackets[-1:]) != letter:
                raise ValueError(text)
            open_brackets = open_brackets[:-1]
    if open_brackets:
        raise ValueError(text)
    return parts
