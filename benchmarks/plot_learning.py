"""Draws the learning curves of benchmarks/results/learning.jsonl, one PNG per study, and prints the table of scores.

python benchmarks/plot_learning.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
COLOURS = {"a2c": "#4c72b0", "gala": "#dd8452", "allreduce": "#55a868", "independent": "#8172b3"}


def draw(study: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Mean return of the last 100 training episodes against env_steps over all learners, a line per seed."""
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    labelled = set()
    for row in sorted(rows, key=lambda row: (row["algo"], row["seed"])):
        steps, returns, updates = zip(*row["curve"], strict=True)
        label = None if row["algo"] in labelled else f"{row['algo']} ({updates[-1]:,} updates in all)"
        labelled.add(row["algo"])
        axes.plot([step / 1e6 for step in steps], returns, color=COLOURS[row["algo"]], lw=1.2, alpha=0.8, label=label)
    if rows[0]["bar"]:
        axes.axhline(rows[0]["bar"], color="grey", lw=0.8, ls="--", label=f"bar {rows[0]['bar']:g}")
    axes.set(xlabel="million env_steps over all learners", ylabel="return, last 100 episodes", title=study)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: per study and algorithm, the final policies' returns over the seeds."""
    lines = [
        "| task | algorithm | env_steps | seeds at the bar | return of the final policies | random |",
        "|" + " --- |" * 6,
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["study"], row["algo"]].append(row)
    for (study, algo), group in groups.items():
        returns = [row["evaluation"]["return_mean"] for row in group]
        solved = f"{sum(row['solved'] for row in group)} of {len(group)} (>= {group[0]['bar']:g})"
        spread = f"{min(returns):.1f} to {max(returns):.1f}" if len(group) > 1 else f"{returns[0]:.1f}"
        measured = [row["random_return"] for row in group if "random_return" in row]
        random = f"{mean(measured):.2f}" if measured else "-"
        lines.append(
            f"| {study} | {algo} x{learners(group[0])} | {group[0]['env_steps']:,} | {solved} | {spread} | {random} |"
        )
    return lines


def learners(row: dict[str, Any]) -> str:
    """The number of learners in a row's command."""
    return next(word.split("=")[1] for word in row["command"].split() if word.startswith("learners="))


def main() -> None:
    studies = defaultdict(list)
    for line in (RESULTS / "learning.jsonl").read_text().splitlines():
        row = json.loads(line)
        studies[row["study"]].append(row)
    for study, rows in studies.items():
        draw(study, rows, RESULTS / f"{study}.png")
    print("\n".join(table([row for rows in studies.values() for row in rows])))


if __name__ == "__main__":
    main()
