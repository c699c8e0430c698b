"""The report of ``gala compare``: sentences, tables, figures, JSON, and one page that opens without a network."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gala.experiments.compared import COSTS, Terms
from gala.experiments.comparison import analyse
from gala.experiments.rows import Row, finished, finite
from gala.files.whole import write_atomically
from gala.reports.comparison_figures import by_group, draw
from gala.reports.page import items, page, picture, table

Analysis = Mapping[str, Any]
UNKNOWN = "-"
_READ_ME = "Nothing is ranked whose intervals overlap: that is undecided. Intervals are 95 % bootstraps over trainings."
QUESTIONS = {"as_well": "learns as well", "faster": "faster", "more_robustly": "more robust"}


def write_report(rows: Sequence[Row], terms: Terms, folder: Path, command: str) -> dict[str, Any]:
    """Writes report.json, the figures and report.html into ``folder``; returns what report.json says, with infinities.

    Raises:
        ValueError: the rows cannot be compared on these terms.
    """
    analysis, rows = analyse(rows, terms) | {"command": command}, finished(rows)
    write_atomically(folder / "report.json", (json.dumps(finite(analysis), indent=1) + "\n").encode())
    pictures = draw(rows, analysis, folder)
    write_atomically(folder / "report.html", _page(rows, analysis, pictures).encode())
    return analysis


def number(value: float | None) -> str:
    """Four digits; a dash for what is unknown, "never" for infinity."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "never" if value > 0 else "-inf"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval_text(interval: Sequence[float] | None) -> str:
    """Estimate and 95 % interval: 5.1 [4.8, 5.4]."""
    if interval is None:
        return UNKNOWN
    low, estimate, high = interval
    if math.isinf(low) and low < 0:
        return f"{number(estimate)} [one training: no interval]"
    return f"{number(estimate)} [{number(low)}, {number(high)}]"


def sentences(analysis: Analysis, group: str) -> list[str]:
    """The verdict on one group against the baseline."""
    base, found = analysis["baseline"], analysis["against"][group]
    mine, theirs, orders = analysis["groups"][group], analysis["groups"][base], found["order"]
    margin = f"{number(analysis['margin']['return'])} ({analysis['margin']['share']:.3g} of the score range)"
    lines = [
        f"Score {interval_text(mine['score'])} against {interval_text(theirs['score'])}: {orders['score']}; "
        f"no worse by more than {margin}: {found['non_inferior']}.",
        f"Mean of the worst quarter of the seeds: {number(mine['worst'])} against {number(theirs['worst'])}.",
        f"Area under the curve by seconds {interval_text(mine['auc_seconds'])} against "
        f"{interval_text(theirs['auc_seconds'])}: {orders['auc_seconds']}.",
    ]
    if analysis["threshold"] is None:
        return lines
    solved = number(analysis["threshold"])
    lines.append(f"Seeds that score {solved} or more: {_share(mine)} against {_share(theirs)}: {orders['above']}.")
    for what in COSTS:
        key = f"to_threshold_{what}"
        if mine[key] is not None and theirs[key] is not None:
            lines.append(
                f"Median {what} to a training return of {solved}: {interval_text(mine[key])} against "
                f"{interval_text(theirs[key])}: {orders[what]}."
            )
    return lines


def answers(analysis: Analysis, group: str) -> str:
    """The three questions and their answers, in one line."""
    found = analysis["against"][group]["answers"]
    told = ", ".join(f"{QUESTIONS[question]}: {answer}" for question, answer in found.items())
    return f"{group} against {analysis['baseline']}: {told}"


def _seeds(figures: Analysis) -> str:
    told = f"{n} seeds" if (n := len(figures["seeds"])) != 1 else "1 seed"
    return f"{told}, {len(figures['failed'])} more failed" if figures["failed"] else told


def _begun(figures: Analysis) -> int:
    """How many trainings there were, those that failed too."""
    return len(figures["seeds"]) + len(figures["failed"])


def _share(figures: Analysis) -> str:
    return f"{figures['above_count']} of {_begun(figures)}"


def tables(analysis: Analysis) -> list[tuple[str, list[list[str]]]]:
    """(title, rows of text, the header first) of each table."""
    groups = analysis["groups"]
    scores = [["", "learners", "seeds", "score (IQM)", "mean", "worst quarter", "single learners"]]
    curves = [["", "area by env_steps", "area by seconds", "seconds of training"]]
    costs = [what for what in COSTS if any(f[f"to_threshold_{what}"] is not None for f in groups.values())]
    reach = [["", "seeds that score it", *(f"{what} to it, median (reached by)" for what in costs)]]
    for name, f in groups.items():
        shape = f"{f['learners']} x {f['envs_per_learner']}"
        each = (interval_text(f["score"]), interval_text(f["mean"]), number(f["worst"]))
        seeds = f"{len(f['seeds'])} of {_begun(f)}" if f["failed"] else str(len(f["seeds"]))
        scores.append([name, shape, seeds, *each, interval_text(f["each_learner"])])
        curves.append([name, *map(interval_text, (f["auc_steps"], f["auc_seconds"], f["wall_s"]))])
        reach.append([name, f"{_share(f)} {_rate(f['above'])}", *(_cost(f, what) for what in costs)])
    against = [["", "difference of IQM", "P(improvement)", "no worse", "score", "area", "solved"]]
    for name, a in analysis["against"].items():
        orders = a["order"]
        texts = [interval_text(a["difference"]), interval_text(a["improvement"]), a["non_inferior"]]
        against.append([name, *texts, *(orders[m] for m in ("score", "auc_steps", "above"))])
    found = [("Scores of the trained policies", scores), ("Learning", curves)]
    if analysis["threshold"] is not None:
        found.append((f"Reaching {number(analysis['threshold'])}", reach))
    return [*found, (f"Against {analysis['baseline']}", against)] if analysis["against"] else found


def _rate(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.0%}, {interval[2]:.0%}]"


def _cost(figures: Analysis, what: str) -> str:
    interval = figures[f"to_threshold_{what}"]
    if interval is None:
        return "not measured"
    return f"{interval_text(interval)} ({figures[f'reached_{what}']} of {_begun(figures)})"


def plain(analysis: Analysis) -> str:
    """The verdict and the notes for a terminal of 80 columns."""
    lines = [f"{analysis['task']}, scores by {analysis['mode']} actions; score: interquartile mean, 95 % interval"]
    for name, figures in analysis["groups"].items():
        lines.append(f"  {name}: {interval_text(figures['score'])}, {_seeds(figures)}")
    for group in analysis["against"]:
        lines += [answers(analysis, group), *(f"  {line}" for line in sentences(analysis, group))]
    lines += [f"note: {note}" for note in analysis["notes"]]
    return "\n".join(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False) for line in lines)


def _page(rows: Sequence[Row], analysis: Analysis, pictures: Sequence[tuple[Path, str]]) -> str:
    body = [
        f"<p>{_READ_ME}</p>",
        *(_verdict(analysis, group) for group in analysis["against"]),
        "<h2>Mind</h2>",
        items(analysis["notes"] or ["none"]),
        "<h2>Figures</h2>",
        f'<div class="figures">{"".join(picture(path.read_bytes(), caption) for path, caption in pictures)}</div>',
        "<h2>Numbers</h2>",
        *(f"<h3>{html.escape(title)}</h3>{table(body_rows)}" for title, body_rows in tables(analysis)),
        "<h2>Made with</h2>",
        table([["what", "value"], *([k, v] for k, v in _facts(rows, analysis).items())], "facts"),
    ]
    return page(f"gala compare: {analysis['task']}", "\n".join(body), _STYLE, "gala compare")


def _verdict(analysis: Analysis, group: str) -> str:
    found = analysis["against"][group]["answers"]
    title = html.escape(f"{group} against {analysis['baseline']}")
    spans = "".join(f"<span class='{answer}'>{QUESTIONS[q]}: <b>{answer}</b></span>" for q, answer in found.items())
    items = "".join(f"<li>{html.escape(line)}</li>" for line in sentences(analysis, group))
    return f"<section><h2>{title}</h2><p class='answers'>{spans}</p><ul>{items}</ul></section>"


def _facts(rows: Sequence[Row], analysis: Analysis) -> dict[str, str]:
    """How it was made; what differs between rows is said once for each value."""
    low, high = analysis["range"]["low"], analysis["range"]["high"]
    facts = {
        "command": analysis["command"],
        "score range": f"{number(low)} to {number(high)}, {analysis['range']['from']}",
        "margin": f"{number(analysis['margin']['return'])}, {analysis['margin']['share']:.3g} of that range",
    }
    for group, mine in by_group(rows).items():
        facts[f"{group}, seed {mine[0]['seed']}"] = mine[0].get("command") or UNKNOWN
    for key in ("machine", "trained_with"):
        values = dict.fromkeys(json.dumps(row.get(key)) for row in rows)
        facts[key.replace("_", " ")] = "; ".join(
            ", ".join(f"{k} {v}" for k, v in (json.loads(value) or {}).items() if v) for value in values
        )
    return facts


_STYLE = """.answers { display: flex; flex-wrap: wrap; gap: .5rem; margin: .2rem 0 }
.answers span { padding: .2rem .6rem; border-radius: .4rem; background: var(--soft) }
.shown b { color: var(--yes) } .refuted b { color: var(--no) } .undecided b { color: var(--open) }
"""
