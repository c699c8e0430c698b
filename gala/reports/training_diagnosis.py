"""Figures of what learners have measured while they trained: sharpness, and the noise of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gala.reports.figures import BLUE, GREY, ORANGE, Record, curve, figure_with_axes, save, xy

_TOP, _BENT = "diagnose/eigenvalue1", "diagnose/preconditioned_eigenvalue1"
_STEPS = "env_steps over all learners"


def sharpness(records: Sequence[Record], title: str, path: Path, limit: float | None = 2.0) -> None:
    """The Hessian's largest eigenvalue, as the optimiser scales gradients where it does, against env_steps; and
    ``limit`` / lr, beyond which steps along that direction overshoot (None: it is not known). Negative values are left
    out (log axis).

    Raises:
        ValueError: the run has no such records.
    """
    told = [r for r in records if r.get(_TOP) is not None]
    if not told:
        raise ValueError(f"{title} has no curvature in its records; train with diagnose.curvature=500")
    figure, axes = figure_with_axes()
    labels = {_TOP: (BLUE, "of the total loss"), _BENT: (ORANGE, "as the optimiser scales gradients")}
    for tag, (color, label) in labels.items():
        points = [(step, value) for step, value in curve(told, tag) if value > 0]
        if points:
            axes.plot(*xy(points), color=color, lw=1.4, label=label)
    if limit is not None:
        bound = [(step, limit / lr) for step, lr in curve(told, "charts/learning_rate") if lr > 0]
        axes.plot(*xy(bound), color=GREY, lw=1.0, ls="--", label=f"{limit:.3g} / learning rate")
    axes.set(xlabel=_STEPS, ylabel="largest eigenvalue of the Hessian", yscale="log", title=title)
    axes.legend(fontsize=8)
    save(figure, path)


def noise(records: Sequence[Record], title: str, path: Path) -> None:
    """The noise scale in simulators, against env_steps.

    Raises:
        ValueError: the run has no such records, or no signal has shown above the noise.
    """
    points = curve(records, "diagnose/noise_scale")
    if not points:
        measured = any("diagnose/gradient_noise" in r for r in records)
        reason = "shows no signal above the noise" if measured else "has no noise scale in its records"
        raise ValueError(f"{title} {reason}; train {'for longer' if measured else 'with diagnose.noise=100'}")
    figure, axes = figure_with_axes()
    axes.plot(*xy(points), color=BLUE, lw=1.4)
    axes.set(xlabel=_STEPS, ylabel="noise scale in simulators", yscale="log", title=title)
    save(figure, path)
