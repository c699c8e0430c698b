"""The page of ``gala diagnose``: a finding of each diagnostic, with its figures, in one file."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path

from gala.diagnostics.finding import Curves, Finding
from gala.files.whole import write_atomically
from gala.reports.figures import BLUE, GREY, HALF_PAGE, ORANGE, figure_with_axes, save
from gala.reports.page import page as one_page
from gala.reports.page import picture, table

_COLORS = (BLUE, ORANGE, GREY)


def draw(findings: Mapping[str, Finding], folder: Path) -> dict[str, list[Path]]:
    """A PNG file for every figure: name of the finding -> paths."""
    paths: dict[str, list[Path]] = {}
    for name, finding in findings.items():
        paths[name] = [folder / f"{name}-{i}.png" for i in range(len(finding.figures))]
        for curves, path in zip(finding.figures, paths[name], strict=True):
            _figure(curves, path)
    return paths


def _figure(curves: Curves, path: Path) -> None:
    figure, axes = figure_with_axes(HALF_PAGE)
    for (label, (x, y)), color in zip(curves.lines.items(), _COLORS, strict=False):
        if curves.style == "stems":
            axes.vlines(x, 0, y, color=color, lw=1.2, label=label)
            axes.set_yscale("symlog", linthresh=1e-4)
        else:
            points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
            axes.plot([a for a, _ in points], [b for _, b in points], marker="o", ms=3, color=color, label=label)
    if all(float(a).is_integer() for x, _ in curves.lines.values() for a in x):
        axes.xaxis.get_major_locator().set_params(integer=True)  # there is no rollout 1.5
    axes.set(title=curves.title, xlabel=curves.xlabel, ylabel=curves.ylabel)
    if len(curves.lines) > 1:
        axes.legend(fontsize=8)
    save(figure, path)


def page(findings: Mapping[str, Finding], pictures: Mapping[str, list[Path]], title: str, path: Path) -> None:
    """One HTML file with everything in it; opens without a network."""
    body = "".join(_section(finding, pictures[name]) for name, finding in findings.items())
    write_atomically(path, one_page(title, body, generator="gala diagnose").encode())


def _section(finding: Finding, pictures: list[Path]) -> str:
    text = "".join(f"<p>{html.escape(line)}</p>" for line in finding.sentences)
    images = "".join(
        picture(file.read_bytes(), curves.title) for curves, file in zip(finding.figures, pictures, strict=True)
    )
    return f'<h2>{html.escape(finding.title)}</h2>{text}{table(finding.table)}<div class="figures">{images}</div>'
