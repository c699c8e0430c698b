"""Runs that are to count as several must be several: one that is named twice, or copied, is one."""

from __future__ import annotations

from collections.abc import Sequence

from gala.runs.run_dir import RunDir


def are_one(a: RunDir, b: RunDir) -> bool:
    """Whether both are one run: the same folder by any name, or one is a copy of the other (``RunDir.identity``)."""
    if a.path.resolve() == b.path.resolve():
        return True
    identity = a.identity()
    return identity is not None and identity == b.identity()


def check_distinct(runs: Sequence[RunDir]) -> None:
    """Raises ValueError if one of the runs is there twice: its luck would count as that of two."""
    for k, run in enumerate(runs):
        for other in runs[:k]:
            if are_one(run, other):
                told = "is named twice" if run.path.resolve() == other.path.resolve() else f"is a copy of {other.path}"
                raise ValueError(f"{run.path} {told}: one run does not count as two; name others")
