"""`gala compare` as a part of a study: what each of its trainings came to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gala.config.parse import parse_config


def compared(words: Sequence[str], out: Path) -> Iterator[dict[str, Any]]:
    """Rows of its ``results.jsonl``, once all are there: what was cut off goes on, more algorithms or seeds extend."""
    subprocess.run([sys.executable, "-m", "gala", "compare", *words, f"out={out}"], check=True)
    yield from map(json.loads, (out / "results.jsonl").read_text().splitlines())


@cache
def bar_of(preset: str) -> float | None:
    """The return that counts as solved there; None where none is known."""
    bar = parse_config([f"preset={preset}"]).solved_return
    return float(bar) if bar else None
