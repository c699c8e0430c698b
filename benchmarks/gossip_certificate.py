"""Does the epsilon-ball certificate hold in a real run, and would it notice if nobody mixed?

    python benchmarks/gossip_certificate.py --steps 300000 --runs runs --out benchmarks/results/gossip_certificate.jsonl

Two trainings in real processes, alike but for gossip.mixing: pushsum and none. Each logs every update, put and take.
Row ``pushsum``: distance between the learners against the certified bound, at every logged point. Row ``negative
control``: the learners of the run WITHOUT mixing against the bound for learners whose updates had exactly the same
norms and who mixed as the first run did, which are the puts and takes of the first run, replayed with the update norms
of the second. If the certificate could not fail, it would cover that distance too. Row ``none``: the second run's own
certificate, which knows that nothing was mixed.

Draws the first two as a PNG beside the output. Finished runs are used again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.bench.machine import machine_facts
from gala.gossip.evidence.events import MixEvent

CURVE_POINTS = 150
Point = tuple[int, float, float]
"""env_steps, root-mean-square distance to the mean, its bound."""


def train(words: list[str], run: Path) -> None:
    """A finished run in ``run``. Raises RuntimeError with what the command said."""
    summary = run / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["status"] == "finished":
        return
    command = [sys.executable, "-m", "gala", "train", *words, f"run={run}", "overwrite=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


def records(run: Path) -> list[dict[str, Any]]:
    """The logged points that have a certificate."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if "gossip/epsilon_bound" in record]


def points(run: Path) -> list[Point]:
    return [(r["global_step"], r["gossip/consensus_distance"], r["gossip/epsilon_bound"]) for r in records(run)]


def events(run: Path, learners: int) -> list[list[MixEvent]]:
    """Each learner's log, in its order."""
    paths = [run / "gossip" / f"learner{rank}-from0.jsonl" for rank in range(learners)]
    return [[MixEvent(*json.loads(line)) for line in path.read_text().splitlines()] for path in paths]


class Replay:
    """What each learner was made of at chosen versions, by dense algebra that forgets nothing: an oracle for the live
    certificate, which compresses. Coefficients [updates] of learner ``rank`` after version v: ``rows[rank, v]``."""

    def __init__(self, logs: list[list[MixEvent]], wanted: list[tuple[int, ...]]) -> None:
        updates = [(e.rank, e.version, i) for log in logs for i, e in enumerate(log) if e.kind == "update"]
        self.columns = {key: i for i, key in enumerate(updates)}
        self.rows: dict[tuple[int, int], NDArray] = {}
        self._held = np.zeros((len(logs), len(updates)))
        self._boxes: dict[tuple[int, int], list[tuple[int, float, NDArray]]] = defaultdict(list)
        self._wanted = [sorted({versions[rank] for versions in wanted}) for rank in range(len(logs))]
        numbered = [(e.time_ns, e.rank, i, e) for log in logs for i, e in enumerate(log)]
        for _, rank, i, event in sorted(numbered, key=lambda entry: entry[:3]):
            self._apply(rank, i, event)
        for rank in range(len(logs)):
            self._capture(rank, math.inf)

    def bound(self, versions: tuple[int, ...], norms: NDArray) -> float:
        """For the learners at these versions, if the updates had these norms; root mean square over learners."""
        held = np.stack([self.rows[rank, version] for rank, version in enumerate(versions)])
        return float(np.linalg.norm(held - held.mean(0), axis=0) @ norms) / math.sqrt(len(versions))

    def _apply(self, rank: int, i: int, event: MixEvent) -> None:
        if event.kind == "update":
            self._capture(rank, event.version)
            self._held[rank, self.columns[rank, event.version, i]] = 1.0
        elif event.kind == "put":
            self._boxes[rank, event.peer].append((event.version, event.amount, self._held[rank].copy()))
        elif event.kind == "take":
            box = self._boxes[event.peer, rank]
            taken = [put for put in box if put[0] <= event.version][-event.puts :]
            self._boxes[event.peer, rank] = [put for put in box if put[0] > event.version]
            weight = event.amount + sum(amount for _, amount, _ in taken)
            total = event.amount * self._held[rank] + sum(amount * row for _, amount, row in taken)
            self._held[rank] = total / weight

    def _capture(self, rank: int, before: float) -> None:
        while self._wanted[rank] and self._wanted[rank][0] < before:
            self.rows[rank, self._wanted[rank].pop(0)] = self._held[rank].copy()


def versions_of(row: dict[str, Any], logs: list[list[MixEvent]]) -> tuple[int, ...]:
    """The update count of each learner in a record."""
    versions = []
    for log, mark in zip(logs, row["epsilon_marks"], strict=True):
        position = next(i for i, e in enumerate(log) if e.kind == "mark" and e.version == mark)
        versions.append(log[position - 1].version)  # a mark logs an update, of what has moved since the last exchange
    return tuple(versions)


def control(mixed: Path, apart: Path, learners: int) -> tuple[list[Point], float]:
    """(negative control, largest relative difference of the first run's live bounds to the dense oracle)."""
    first, second = events(mixed, learners), events(apart, learners)
    own = {versions_of(row, first): row["gossip/epsilon_bound"] for row in thinned(records(mixed))}
    last = [max(e.version for e in log if e.kind == "update") for log in first]
    points = [(versions_of(row, second), row) for row in thinned(records(apart))]
    points = [(v, row) for v, row in points if all(a <= b for a, b in zip(v, last, strict=True))]
    replay = Replay(first, [*own, *(versions for versions, _ in points)])
    amounts = {(e.rank, e.version, i): e.amount for log in first for i, e in enumerate(log) if e.kind == "update"}
    norms = np.array([amounts[key] for key in replay.columns])
    error = max(abs(replay.bound(versions, norms) / bound - 1) for versions, bound in own.items())
    foreign: dict[tuple[int, int], float] = defaultdict(float)
    for event in (e for log in second for e in log if e.kind == "update"):
        foreign[event.rank, event.version] += event.amount
    seen: set[tuple[int, int]] = set()
    substituted = []
    for rank, version, _ in replay.columns:
        substituted.append(0.0 if (rank, version) in seen else foreign[rank, version])
        seen.add((rank, version))
    bounds = [replay.bound(versions, np.array(substituted)) for versions, _ in points]
    rows = [row for _, row in points]
    curve = [(r["global_step"], r["gossip/consensus_distance"], b) for r, b in zip(rows, bounds, strict=True)]
    return curve, error


def thinned(rows: list[Any]) -> list[Any]:
    """At most about CURVE_POINTS of them, evenly."""
    return rows[:: max(1, len(rows) // CURVE_POINTS)]


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {
        "pushsum": "with gossip: the certificate holds",
        "negative control": "without gossip: the same bound fails",
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), dpi=120, sharey=True)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        steps, distances, bounds = zip(*curves[name], strict=True)
        axis.plot([s / 1e3 for s in steps], bounds, color="#dd8452", label="bound from logged exchanges")
        axis.plot([s / 1e3 for s in steps], distances, color="#4c72b0", label="measured distance")
        axis.set(xlabel="thousand env_steps over all learners", yscale="log", title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("rms distance to the learners' mean")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="minatar/breakout")
    parser.add_argument("--learners", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gossip_certificate.jsonl")
    options = parser.parse_args()
    words = [f"preset={options.preset}", f"learners={options.learners}", f"steps={options.steps}"]
    words += [
        "optim.lr=1e-3",  # the preset's rate and limit when the rows were made, the same for all
        "a2c.max_grad_norm=0.5",
        "gossip.lr_scaling=none",
        f"seed={options.seed}",
        "gossip.certify=true",
        "log.interval_s=1",
    ]
    runs, commands = {}, {}
    for mixing in ("pushsum", "none"):
        runs[mixing] = options.runs / f"certificate-{mixing}"
        commands[mixing] = [*words, f"gossip.mixing={mixing}"]
        train(commands[mixing], runs[mixing])
    curves = {mixing: points(run) for mixing, run in runs.items()}
    curves["negative control"], error = control(runs["pushsum"], runs["none"], options.learners)
    commands["negative control"] = commands["none"]
    facts = machine_facts()
    with options.out.open("w") as file:
        for name, curve in curves.items():
            ratios = [distance / bound for _, distance, bound in curve]
            row = {
                "benchmark": "gossip_certificate",
                "row": name,
                "command": "gala train " + " ".join(commands[name]),
                "seed": options.seed,
                "points": len(curve),
                "points_within_bound": sum(ratio <= 1 for ratio in ratios),
                "largest_distance_over_bound": max(ratios),
                "mean_distance_over_bound": sum(ratios) / len(ratios),
                "curve": [[step, float(f"{d:.4g}"), float(f"{b:.4g}")] for step, d, b in thinned(curve)],
                "machine": facts,
            }
            if name == "pushsum":
                row["live_bound_against_dense_oracle"] = error
            file.write(json.dumps(row) + "\n")
            print({key: value for key, value in row.items() if key not in ("curve", "machine")})
    draw(curves, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
