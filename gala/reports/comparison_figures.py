"""The figures of a comparison of trainings, as PNG: curves with bands, profiles, intervals."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gala.experiments.rows import Row
from gala.experiments.scores import band, on_grid
from gala.reports.figures import BLUE, GREY, HALF_PAGE, ORANGE, figure_with_axes, literal, save

COLORS = (BLUE, ORANGE, "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", GREY)
AXES = {"env_steps": "env_steps over all learners", "seconds": "seconds of training"}
RETURN = "return, last 100 episodes"
_LONG_NAME = 40
"""Characters of a line's name, of which twice as many are as wide as a figure."""
_LINE_INCHES = 0.16
_ROW_NAME = 24
"""Characters of a line of a row's name, which are as wide as a third of a figure."""


def by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows under the names of their groups, in the order in which these appear."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return groups


def draw_curves(
    axes: Any, groups: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], x: str, y: str = "return"
) -> None:
    """Mean over the trainings of each group with its 95 % bootstrap band, and each training as a thin line."""
    for i, (group, curves) in enumerate(groups.items()):
        color = COLORS[i % len(COLORS)]
        told = [curve for curve in curves if curve.get(y)]
        for curve in told:
            axes.plot(curve[x], curve[y], color=color, lw=0.5, alpha=0.35)
        label = literal(group if len(told) == 1 else f"{group} ({len(told)} trainings)")
        try:
            grid, heights = on_grid([(curve[x], curve[y]) for curve in told])
        except ValueError:  # no part of the axis in common: the thin lines are all there is
            axes.plot([], [], color=color, label=f"{label}, no mean")
            continue
        low, middle, high = band(heights)
        axes.fill_between(grid, low, high, color=color, alpha=0.2, lw=0)
        axes.plot(grid, middle, color=color, lw=1.6, label=label)
    _name_lines(axes)


def _name_lines(axes: Any) -> None:
    """A legend: among the lines, or under them, in a figure that is so much higher, where a name is too long."""
    lines, names = axes.get_legend_handles_labels()
    if max(map(len, names), default=0) <= _LONG_NAME:
        axes.legend(fontsize=8)
        return
    names = [textwrap.fill(name, 2 * _LONG_NAME, break_on_hyphens=False) for name in names]
    axes.figure.set_figheight(axes.figure.get_figheight() + _LINE_INCHES * "\n".join(names).count("\n") + _LINE_INCHES)
    axes.legend(lines, names, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Names of rows from the top down, on several lines where they are long, in a figure that is high enough."""
    told = [textwrap.fill(literal(name), _ROW_NAME, break_on_hyphens=False) for name in names]
    most = max((name.count("\n") + 1 for name in told), default=1)
    around = 1.2  # inches of title and of the horizontal axis
    higher = around + len(told) * (most + 0.5) * _LINE_INCHES
    axes.figure.set_figheight(max(axes.figure.get_figheight(), higher))
    axes.set_yticks(range(len(told)), told, fontsize=8 if most > 1 else None)
    axes.set_ylim(len(told) - 0.5, -0.5)


def draw(rows: Sequence[Row], analysis: Mapping[str, Any], folder: Path) -> list[tuple[Path, str]]:
    """(file, caption) of each figure, written into ``folder``."""
    pictures = []
    curves = {group: [row["curve"] for row in mine] for group, mine in by_group(rows).items()}
    curves = {group: curves[group] for group in analysis["groups"]}
    for x, label in AXES.items():
        figure, axes = figure_with_axes(HALF_PAGE)
        draw_curves(axes, curves, x)
        _threshold(axes, analysis)
        axes.set(xlabel=label, ylabel=RETURN, title=f"{analysis['task']}: return against {x}")
        pictures.append((folder / f"curves_{x}.png", f"Learning curves against {label}: mean, 95 % band, each seed."))
        save(figure, pictures[-1][0])
    for draw_one, name, caption in (
        (_intervals, "scores", "Scores of the trained policies: interquartile mean with its 95 % interval, each seed."),
        (_profiles, "profiles", "Performance profiles: the share of seeds that score more than so much."),
        (_improvements, "improvement", "Probability that a training scores more than one of the baseline."),
    ):
        if name == "improvement" and not analysis["against"]:
            continue
        figure, axes = figure_with_axes(HALF_PAGE)
        draw_one(axes, analysis)
        pictures.append((folder / f"{name}.png", caption))
        save(figure, pictures[-1][0])
    return pictures


def _threshold(axes: Any, analysis: Mapping[str, Any], vertical: bool = False) -> None:
    if analysis["threshold"] is not None:
        line = axes.axvline if vertical else axes.axhline
        line(analysis["threshold"], color="black", lw=0.8, ls=":")


def _intervals(axes: Any, analysis: Mapping[str, Any]) -> None:
    names = list(analysis["groups"])
    for i, name in enumerate(names):
        figures, color = analysis["groups"][name], COLORS[i % len(COLORS)]
        low, middle, high = figures["score"]
        axes.plot(figures["scores"], [i] * len(figures["scores"]), "|", ms=9, color=color, alpha=0.6)
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [i, i], color=color, lw=7, alpha=0.35, solid_capstyle="butt")
        axes.plot(middle, i, "o", color=color, ms=6)
    _name_rows(axes, names)
    _threshold(axes, analysis, vertical=True)
    axes.set(xlabel=f"return, {analysis['mode']} actions", title=f"{analysis['task']}: score")


def _profiles(axes: Any, analysis: Mapping[str, Any]) -> None:
    x = analysis["profile"]["score"]
    for i, name in enumerate(analysis["groups"]):
        axes.step(x, analysis["profile"][name], where="post", color=COLORS[i % len(COLORS)], label=literal(name))
    _threshold(axes, analysis, vertical=True)
    axes.set(xlabel="score", ylabel="share of seeds above it", ylim=(-0.02, 1.02), title="Performance profiles")
    _name_lines(axes)


def _improvements(axes: Any, analysis: Mapping[str, Any]) -> None:
    names = list(analysis["against"])
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(analysis["groups"])}
    for i, name in enumerate(names):
        low, middle, high = analysis["against"][name]["improvement"]
        axes.plot([low, high], [i, i], color=colors[name], lw=7, alpha=0.35, solid_capstyle="butt")
        axes.plot(middle, i, "o", color=colors[name], ms=6)
    axes.axvline(0.5, color="black", lw=0.8, ls=":")
    _name_rows(axes, names)
    label = textwrap.fill(literal(f"P(score > {analysis['baseline']})"), _LONG_NAME, break_on_hyphens=False)
    axes.set(xlim=(-0.02, 1.02), xlabel=label, title="Probability of improvement")
