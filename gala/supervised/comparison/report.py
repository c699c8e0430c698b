"""Results of a comparison: one row per training, and the tables made from them."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch.nn.utils import vector_to_parameters

from gala.config.supervised import SupervisedConfig
from gala.gossip.evidence.events import consensus_distance
from gala.supervised.comparison import build
from gala.supervised.comparison.build import ComparisonJob
from gala.supervised.comparison.data import DataSet, Images, judge, make_model, subset
from gala.supervised.comparison.learner import Report

Row = dict[str, Any]
LATE = 0.05
"""Share of iterations that may overrun their injected time before the user is warned."""
MOST_JUDGED = 2000
"""Training images, the first ones, from which train_loss and train_accuracy are computed."""
HEADER = ("method", "SlowMo", "test acc. %", "worst %", "train loss", "distance", "ms/iter.")


def row(config: SupervisedConfig, job: ComparisonJob, reports: Sequence[Report], data: DataSet) -> Row:
    """The record of one training: a flat dictionary for JSON.

    ``test_accuracy`` and ``train_loss`` are of the average model (PushSum's mean: weighted, nothing under way),
    ``test_accuracies`` of each learner's own. ``consensus_distance`` is ||X - mean(X)||_F at 20 points of the training,
    ``ms_per_iteration`` the wall time of the slowest learner over the mean number of iterations.
    """
    model = make_model(config, job.seed)
    params = torch.stack([torch.from_numpy(report.params) for report in reports]).double()
    weights = torch.tensor([report.weight for report in reports], dtype=torch.float64)
    total = len(reports) if config.learners == 1 else float(weights.sum())

    def accuracy_and_loss(vector: torch.Tensor, images: Images, labels: torch.Tensor) -> tuple[float, float]:
        vector_to_parameters(vector.float(), model.parameters())
        return judge(model, images, labels)

    mean = (weights @ params) / total
    judged = torch.arange(min(MOST_JUDGED, len(data.train_labels)))
    train_accuracy, train_loss = accuracy_and_loss(mean, subset(data.train_images, judged), data.train_labels[judged])
    snapshots = torch.stack([torch.from_numpy(report.snapshots) for report in reports], dim=1)
    iterations = [report.iterations for report in reports]
    milliseconds = 1e3 / sum(iterations)
    return {
        "method": job.method,
        "slowmo": job.slowmo,
        "seed": job.seed,
        "learners": config.learners,
        "latency_ms": config.latency_ms,
        "straggler": config.straggler,
        "compute_ms": config.compute_ms,
        "allreduce": config.allreduce,
        "test_accuracy": accuracy_and_loss(mean, data.test_images, data.test_labels)[0],
        "test_accuracies": [accuracy_and_loss(x, data.test_images, data.test_labels)[0] for x in params],
        "train_accuracy": train_accuracy,
        "train_loss": train_loss,
        "consensus_distance": [consensus_distance(x) for x in snapshots],
        "ms_per_iteration": 1e3 * max(report.wall_s for report in reports) / fmean(iterations),
        "injected_ms": build.injected_ms(config, job),
        "busy_ms": milliseconds * sum(report.busy_s for report in reports),
        "late": sum(report.late for report in reports) / sum(iterations) if config.compute_ms else 0.0,
        "iterations": iterations,
        "bytes_sent": sum(report.bytes_sent for report in reports) / sum(iterations),
        "total_weight": total,
    }


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line per method and SlowMo mode, means over seeds (± standard deviation of the accuracy)."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for r in rows:
        groups[r["method"], r["slowmo"]].append(r)
    lines: list[tuple[str, ...]] = []
    for (method, slowmo), group in groups.items():
        accuracies = [100 * r["test_accuracy"] for r in group]
        spread = f" ± {stdev(accuracies):.2f}" if len(group) > 1 else ""
        lines.append(
            (
                method,
                slowmo,
                f"{fmean(accuracies):.2f}{spread}",
                f"{100 * min(min(r['test_accuracies']) for r in group):.2f}",
                f"{fmean(r['train_loss'] for r in group):.4f}",
                f"{fmean(fmean(r['consensus_distance']) for r in group):.3g}",
                f"{fmean(r['ms_per_iteration'] for r in group):.1f}",
            )
        )
    return lines


def rich_table(rows: Sequence[Row]) -> Table:
    """At most 80 columns wide."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in HEADER:
        table.add_column(name, justify="left" if name in HEADER[:2] else "right", no_wrap=True)
    for line in cells(rows):
        table.add_row(*line)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The same table for a README."""
    lines = [HEADER, tuple("---" for _ in HEADER), *cells(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def notes(config: SupervisedConfig, rows: Sequence[Row]) -> str:
    """How to read the table, and whether its times can be trusted. At most 80 columns wide."""
    hops = build.make_collective(config).hops
    busy, late = fmean(r["busy_ms"] for r in rows), max(r["late"] for r in rows)
    paragraphs = [
        "test acc., train loss: of the average model. worst: the least of all learners' own. distance: of the learners "
        "from their mean, averaged over the training. ms/iter.: the slowest learner's time over the mean number of "
        "iterations.",
        f"Injected: {config.compute_ms:g} ms of compute per iteration (the passes really took {busy:.1f} ms), "
        f"{config.latency_ms:g} ms of latency per message, {hops} of them in an exact average ({config.allreduce}); "
        f"the last learner computes {config.straggler:g} times longer. The times show these and not the speed of this "
        "machine, as long as its cores are not the bottleneck.",
    ]
    if late > LATE:
        paragraphs.append(
            f"CAUTION: up to {late:.0%} of a method's passes took longer than compute_ms. The cores were busy and its "
            "times are too long; give a larger compute_ms, or fewer learners."
        )
    return "\n".join(textwrap.fill(paragraph, 80) for paragraph in paragraphs)
