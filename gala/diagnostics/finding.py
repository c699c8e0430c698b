"""What a diagnostic has found, in a form that any of them fits and one report can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Curves:
    """One figure: label -> (x, y). ``style``: lines, or stems from 0."""

    title: str
    xlabel: str
    ylabel: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    style: str = "lines"


@dataclass(frozen=True)
class Finding:
    """title; sentences for a reader who knows no paper; a table (header first); figures; numbers for a machine."""

    title: str
    sentences: Sequence[str]
    table: Sequence[Sequence[str]]
    figures: Sequence[Curves]
    numbers: dict[str, Any] = field(default_factory=dict)
