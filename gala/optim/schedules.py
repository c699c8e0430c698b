"""Schedules of a coefficient over the progress of a run, as functions ``progress in [0, 1] -> factor in [0, 1]``."""

from __future__ import annotations

from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: max(0.0, 1.0 - progress),
}


def scaled_lr(lr: float, scaling: str, num_envs: int, reference_envs: int) -> float:
    """``lr * sqrt(num_envs / reference_envs)`` for "sqrt" (the GALA paper's 7e-4 at 16, 1.4e-3 at 64), or ``lr``."""
    return lr * (num_envs / reference_envs) ** 0.5 if scaling == "sqrt" else lr
