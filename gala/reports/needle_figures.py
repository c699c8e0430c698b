"""Figures of ``gala needle``: heat maps over the ratio and one other axis, limits against data, examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from gala.experiments.needle import RATIO, SIZE, limits, slice_at, values_of
from gala.experiments.needle_grid import AXES
from gala.experiments.rows import Row
from gala.reports.figures import ORANGE, figure_with_axes, save

Example = tuple[str, Any, tuple[int, int], int]
"""(title, picture [side, side], corner of the object as (row, column), its side)."""
_COLUMNS = 4


def draw(rows: Sequence[Row], examples: Sequence[Example], folder: Path) -> list[tuple[Path, str]]:
    """PNG files in ``folder``, each with a caption."""
    found = [_examples(examples, folder / "examples.png")]
    for axis, key in AXES.items():
        if key != RATIO and len(values_of(rows, key)) > 1:
            found.append(_heat_maps(rows, axis, key, folder / f"{axis}.png"))
    if len(values_of(rows, SIZE)) > 1 and any(limit.interval for limit in limits(rows)):
        found.append(_limits(rows, folder / "limits.png"))
    return found


def _examples(examples: Sequence[Example], path: Path) -> tuple[Path, str]:
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    columns = min(_COLUMNS, len(examples))
    lines = math.ceil(len(examples) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * lines), dpi=120)
    for k, (title, picture, (y, x), p) in enumerate(examples, 1):
        axes = figure.add_subplot(lines, columns, k)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.add_patch(Circle((x + (p - 1) / 2, y + (p - 1) / 2), 0.75 * p, fill=False, color=ORANGE, lw=1.6))
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    save(figure, path)
    return path, "The first test image with the object, at each ratio; the object is circled."


def _heat_maps(rows: Sequence[Row], axis: str, key: str, path: Path) -> tuple[Path, str]:
    """Test and training accuracy, side by side, means over seeds, all other axes fixed."""
    from matplotlib.figure import Figure

    mine, fixed = slice_at(rows, (RATIO, key))
    ratios, values = values_of(mine, RATIO), values_of(mine, key)
    figure = Figure(figsize=(2 * (1.6 + 0.75 * len(ratios)) + 1, 1.6 + 0.5 * len(values)), dpi=120)
    for k, score in enumerate(("test_accuracy", "train_accuracy"), 1):
        axes = figure.add_subplot(1, 2, k)
        grid = [[_mean(mine, key, value, ratio, score) for ratio in ratios] for value in values]
        axes.imshow(grid, vmin=0.5, vmax=1.0, cmap="viridis", aspect="auto")
        for i, line in enumerate(grid):
            for j, accuracy in enumerate(line):
                text, dark = ("", True) if math.isnan(accuracy) else (f"{100 * accuracy:.0f}", accuracy < 0.8)
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set_xticks(range(len(ratios)), [f"{100 * ratio:.3g} %" for ratio in ratios], fontsize=8)
        axes.set_yticks(range(len(values)), [str(value) for value in values], fontsize=8)
        axes.set_xlabel("object over image", fontsize=8)
        axes.set_title(f"{score.partition('_')[0]} accuracy, %", fontsize=9)
        if k == 1:
            axes.set_ylabel(axis, fontsize=8)
    save(figure, path)
    others = ", ".join(f"{name}={fixed[k]}" for name, k in AXES.items() if k in fixed and k != key)
    seeds = len({row["seed"] for row in mine})
    return path, f"Accuracy by ratio and {axis}: means of {seeds} seeds, at {others}."


def _mean(rows: Sequence[Row], key: str, value: Any, ratio: float, score: str) -> float:
    found = [row[score] for row in rows if row["axes"][key] == value and row["axes"][RATIO] == ratio]
    return fmean(found) if found else math.nan


def _limits(rows: Sequence[Row], path: Path) -> tuple[Path, str]:
    figure, axes = figure_with_axes()
    lines: dict[tuple, list[tuple[int, Any]]] = {}
    for limit in limits(rows):
        if limit.interval is not None:
            others = tuple((k, v) for k, v in limit.axes.items() if k != SIZE)
            lines.setdefault(others, []).append((limit.axes[SIZE], limit.interval))
    for others, points in lines.items():
        sizes, intervals = zip(*sorted(points), strict=True)
        middle = [x.estimate for x in intervals]
        least, most = min(row["ratio"] for row in rows) / 4, 1.0
        bars = [[m - max(x.low, least) for m, x in zip(middle, intervals, strict=True)]]
        bars.append([min(x.high, most) - m for m, x in zip(middle, intervals, strict=True)])
        names = {k: v for k, v in others if len(values_of(rows, k)) > 1}
        label = ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in names.items()) or None
        axes.errorbar(sizes, middle, bars, marker="o", ms=4, capsize=3, lw=1.2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="training images", ylabel="limit ratio")
    if any(line for line in lines if axes.get_legend_handles_labels()[1]):
        axes.legend(fontsize=7)
    save(figure, path)
    return path, "The limit ratio against the size of the training set, with 95 % intervals over seeds."
