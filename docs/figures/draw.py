"""Draws the figures of the README and of docs/explained/: schemes, simulations in seconds, and committed results.

python docs/figures/draw.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gala.gossip.push_sum import absorb_, numerator, sent_weights

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
BLUE, ORANGE, GREY = "#4c72b0", "#dd8452", "#777777"
METHODS = {"gala": "gala", "rliable": "rliable's bootstrap", "runs_alone": "bootstrap of runs"}


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def save(figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(HERE / name, dpi=110, metadata={"Software": None})
    plt.close(figure)


def ring(axes: Axes) -> None:
    """Four learners with their simulators, and who sends to whom."""
    axes.set(xlim=(-1.75, 1.75), ylim=(-1.5, 1.5), aspect="equal", title="no learner waits for another")
    axes.axis("off")
    angles = np.pi / 4 + np.pi / 2 * np.arange(4)
    centres = 0.85 * np.stack([np.cos(angles) * 1.15, np.sin(angles)], 1)
    for k, (x, y) in enumerate(centres):
        to = centres[(k + 1) % 4]
        arrow = {"arrowstyle": "-|>", "lw": 1.6, "color": ORANGE, "shrinkA": 27, "shrinkB": 27}
        axes.annotate("", to, (x, y), arrowprops=arrow)
        axes.text(x, y, f"learner {k}\nz, w", ha="center", va="center", fontsize=9,
                  bbox={"boxstyle": "circle,pad=0.35", "fc": "#eaf0f8", "ec": BLUE, "lw": 1.5})  # fmt: skip
        for i in range(4):
            axes.add_patch(
                plt.Rectangle((x * 1.72 - 0.14, y + 0.17 * (i - 2)), 0.28, 0.13, fc="#dddddd", ec=GREY, lw=0.7)
            )
    axes.text(0, 0, "a share of the\nparameters z\nand weight w", ha="center", va="center", fontsize=9, color=ORANGE)
    axes.text(0, -1.42, "grey: each learner's own simulators", ha="center", fontsize=9, color=GREY)


def mazes(axes: Axes) -> None:
    """Return on training mazes and on others, of A2C trained on so many."""
    rows = sorted((r for r in rows_of("overfitting.jsonl") if r.get("study") == "R1-mlp"), key=lambda r: r["n_train"])
    x = [row["n_train"] for row in rows]
    for split, colour, label in (("train", BLUE, "training mazes"), ("test", ORANGE, "200 others")):
        low, mean, high = np.array([row["mean"][split] for row in rows]).T
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(x, mean, "o-", color=colour, label=label)
    axes.axhline(rows[0]["reference"], color=GREY, ls="--", lw=0.9, label="best policy")
    axes.set(xscale="log", xlabel="training mazes", ylabel="return, mean of 5 runs", title="learned, or memorised?")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def overview() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), width_ratios=(1, 1.1))
    ring(left)
    mazes(right)
    save(figure, "overview.png")


def gossip(rounds: int, push_sum: bool, seed: int = 0) -> tuple[NDArray, NDArray]:
    """(values, weights), each [rounds, 5]: a directed ring whose learner k acts k + 1 times as often as learner 0.

    With ``push_sum`` shares are sent and add up in the box; without, copies are averaged, as in GALA's Algorithm 1.
    """
    rng = np.random.default_rng(seed)
    z = [torch.tensor([float(k)], dtype=torch.float64) for k in range(5)]
    w, box = [1.0] * 5, [(torch.zeros(1, dtype=torch.float64), 0.0) for _ in range(5)]
    values, weights = [], []
    for k in rng.choice(5, size=rounds, p=np.arange(1, 6) / 15):
        mass, weight = box[k]
        if push_sum:
            w[k] = absorb_(z[k], w[k], mass, weight)
            (share,) = sent_weights(w[k], [0.5], 0.1)
            held, waiting = box[(k + 1) % 5]
            box[(k + 1) % 5] = (held + numerator(z[k], share, torch.empty_like(z[k])), waiting + share)
            w[k] -= share
        else:
            if weight:
                z[k].add_(mass).div_(2)
            box[(k + 1) % 5] = (z[k].clone(), 1.0)
        box[k] = (torch.zeros(1, dtype=torch.float64), 0.0)
        values.append([float(x) for x in z])
        weights.append(list(w))
    return np.array(values), np.array(weights)


def de_biasing() -> None:
    """Mean values in 20 random orders of updates, by averages of copies and by PushSum; numerators in one of them."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4))
    for axes, push_sum, title in ((panels[0], False, "averages of copies"), (panels[2], True, "PushSum, de-biased: z")):
        for seed in range(20):
            axes.plot(gossip(400, push_sum, seed)[0].mean(1), lw=0.9, alpha=0.7)
        axes.set(title=f"{title}, 20 orders", ylim=(0.9, 2.8), ylabel="mean of the five learners")
    values, weights = gossip(400, True)
    panels[1].plot(values * weights, lw=0.9)
    panels[1].set(title="PushSum: numerators w z, one order", ylabel="each learner's w z")
    for axes in panels:
        axes.axhline(2.0, color="black", ls="--", lw=1.2)
        axes.set_xlabel("updates of all five learners")
        axes.grid(alpha=0.3)
    save(figure, "de_biasing.png")


def intervals() -> None:
    """How often 95 % intervals of a gap hold the truth: one dot for each of the designs that get a verdict."""
    designs = [row for row in rows_of("gap_coverage.jsonl") if not row["refused"]]
    rng, figure, axes = np.random.default_rng(0), *plt.subplots(figsize=(7, 3.6))
    shares = defaultdict(list)
    for row in designs:
        for method in METHODS:
            shares[method].append(100 * row[method]["coverage"])
    for place, method in enumerate(METHODS):
        spread = place + rng.uniform(-0.28, 0.28, len(designs))
        axes.plot(shares[method], spread, ".", ms=4, color=BLUE if method == "gala" else ORANGE, alpha=0.6)
    axes.axvline(95, color="black", ls="--", lw=0.9)
    axes.set_yticks(range(len(METHODS)), METHODS.values())
    axes.set(xlim=(0, 101), xlabel="% of 1,000 samples whose 95 % interval holds the true gap")
    axes.set_title(f"{len(designs)} designs, one dot each")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    save(figure, "intervals.png")


if __name__ == "__main__":
    overview()
    de_biasing()
    intervals()
