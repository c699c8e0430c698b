"""The report of ``gala needle``: limits, findings, heat maps, examples, JSON, and one page that opens offline."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gala.experiments.needle import (
    RATIO,
    Limit,
    control,
    findings,
    limits,
    summary,
    without_controls,
)
from gala.experiments.needle_grid import AXES
from gala.experiments.rows import Row, finite
from gala.files.whole import write_atomically
from gala.reports.needle_figures import Example, draw
from gala.reports.page import page, picture, table

Analysis = Mapping[str, Any]
_NAMES = {setting: axis for axis, setting in AXES.items()}


def write_report(rows: Sequence[Row], examples: Sequence[Example], folder: Path, command: str) -> dict[str, Any]:
    """Writes report.json, the figures and report.html into ``folder``; returns what report.json says."""
    kept = without_controls(rows)
    shuffled = control(rows)
    analysis = {
        "command": command,
        "trainings": len(rows),
        "seeds": sorted({row["seed"] for row in rows}),
        "data": rows[0]["settings"]["data"],
        "object_px": rows[0]["object_px"],
        "oracle_accuracy": [min(row["oracle_accuracy"] for row in rows), max(row["oracle_accuracy"] for row in rows)],
        "control": shuffled and list(shuffled),
        "findings": [f._asdict() | {"interval": f.interval and list(f.interval)} for f in findings(rows)],
        "limits": [_limit(limit) for limit in limits(rows)],
        "accuracies": summary(rows),
        "seconds": sum(row.get("seconds", 0.0) for row in rows),
    }
    analysis = finite(analysis)
    write_atomically(folder / "report.json", (json.dumps(analysis, indent=1, allow_nan=False) + "\n").encode())
    pictures = draw(kept, examples, folder)
    write_atomically(folder / "report.html", _page(analysis, pictures).encode())
    return analysis


def _limit(limit: Limit) -> dict[str, Any]:
    least, most = limit.tried
    words = {
        seed: f"above {most:.3%}" if math.isinf(x) else f"below {least:.3%}" if x == 0 else x
        for seed, x in limit.by_seed.items()
    }
    return {**limit.axes, "by_seed": words, "interval": limit.interval and list(limit.interval)}


def limit_text(limit: Mapping[str, Any]) -> str:
    """2.1% [1.5%, 3%]; where a seed has no limit among the ratios that were tried, what is known of each."""
    if limit["interval"]:
        low, middle, high = limit["interval"]
        if low is None or high is None:
            return f"{middle:.2%} (one seed: no interval)"
        return f"{middle:.2%} [{low:.2%}, {high:.2%}]"
    told = [x if isinstance(x, str) else f"{x:.2%}" for x in limit["by_seed"].values()]
    return ", ".join(f"{told.count(text)} x {text}" if told.count(text) > 1 else text for text in dict.fromkeys(told))


def finding_line(finding: Mapping[str, Any]) -> str:
    """The claim, its verdict, and the difference of accuracy with its interval, in points."""
    if not finding["interval"]:
        return f"{finding['claim']}: not asked (one value of that axis)"
    low, middle, high = (math.nan if x is None else 100 * x for x in finding["interval"])
    return (
        f"{finding['claim']}: {finding['verdict'].upper()}. {finding['measured']}: {middle:+.1f} points "
        f"[{low:+.1f}, {high:+.1f}]"
    )


def plain(analysis: Analysis) -> str:
    """The findings for a terminal of 80 columns."""
    lines = [finding_line(finding) for finding in analysis["findings"]]
    lines += _facts(analysis)
    return "\n".join(textwrap.fill(line, 80, subsequent_indent="    ") for line in lines)


def _facts(analysis: Analysis) -> list[str]:
    low, high = analysis["oracle_accuracy"]
    lines = [
        f"{analysis['trainings']} trainings, seeds {', '.join(map(str, analysis['seeds']))}, {analysis['data']}, "
        f"objects of {analysis['object_px']} px, {analysis['seconds']:.0f} s; intervals: 95 %, Student's over seeds",
        f"A linear classifier that knows the place is right in {low:.1%} to {high:.1%}.",
    ]
    if analysis["control"]:
        lines.append(f"With shuffled training labels: {analysis['control'][1]:.1%} (chance is 50 %).")
    return lines


def _limit_table(analysis: Analysis) -> list[list[str]]:
    keys = [key for key in AXES.values() if key != RATIO]
    head = [*(_NAMES[key] for key in keys), "limit: ratio at 75 % test accuracy"]
    return [head, *([*(_show(x[key]) for key in keys), limit_text(x)] for x in analysis["limits"])]


def _accuracy_table(analysis: Analysis) -> list[list[str]]:
    keys = list(AXES.values())
    lines = [[*(_NAMES[key] for key in keys), "seeds", "test %", "train %"]]
    for each in analysis["accuracies"]:
        note = " (shuffled)" if each["tiny.permuted_labels"] else ""
        scores = [_percent(each[score]) for score in ("test_accuracy", "train_accuracy")]
        lines.append([*(_show(each[key]) for key in keys), f"{each['seeds']}{note}", *scores])
    return lines


def _percent(interval: Sequence[float | None]) -> str:
    low, middle, _ = interval
    spread = "" if low is None or middle is None else f" ± {100 * (middle - low):.1f}"
    return f"{100 * (middle or 0.0):.1f}{spread}"


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _page(analysis: Analysis, pictures: Sequence[tuple[Path, str]]) -> str:
    found = "".join(
        f"<li class='{f['verdict'].replace(' ', '-')}'>{html.escape(finding_line(f))}</li>"
        for f in analysis["findings"]
    )
    body = [
        f"<p>{_QUESTION}</p>",
        f"<h2>Findings of arXiv 1908.06037 at this size</h2><ul>{found}</ul>",
        *(f"<p>{html.escape(line)}</p>" for line in _facts(analysis)),
        "<h2>Figures</h2>",
        *(picture(path.read_bytes(), caption, broad=True) for path, caption in pictures),
        *([f"<h2>Limits</h2>{table(_limit_table(analysis))}"] if analysis["limits"] else []),
        f"<h2>Accuracies</h2>{table(_accuracy_table(analysis))}",
        f"<h2>Made with</h2><p><code>{html.escape(analysis['command'])}</code></p>",
    ]
    return page("How small may the object be?", "\n".join(body), _STYLE, "gala needle")


_QUESTION = """Is there a certain digit in a cluttered image? Its square covers the ratio; clutter covers the same share
of every image. The limit is the ratio at which test accuracy falls half-way from 1 to chance."""
_STYLE = ".reproduced { color: var(--yes) } .not-reproduced { color: var(--no) }\n"
