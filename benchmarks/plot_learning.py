"""Draws the learning curves of benchmarks/results/learning.jsonl, one PNG per study.

python benchmarks/plot_learning.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
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


def main() -> None:
    studies = defaultdict(list)
    for line in (RESULTS / "learning.jsonl").read_text().splitlines():
        row = json.loads(line)
        studies[row["study"]].append(row)
    for study, rows in studies.items():
        draw(study, rows, RESULTS / f"{study}.png")
        print(RESULTS.name, f"{study}.png")


if __name__ == "__main__":
    main()
