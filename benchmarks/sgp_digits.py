"""Gossip, all-reduce and local SGD on a classifier: accuracy, and time per iteration under latency and a straggler.

    python benchmarks/sgp_digits.py             all parts, accuracy over the seeds 1 2 3: half an hour on two cores
    python benchmarks/sgp_digits.py --parts accuracy --seeds 1
    python benchmarks/sgp_digits.py --table     only print what was measured, and write the .md

Writes one JSON line per training to benchmarks/results/sgp_digits.jsonl, and the tables made from them beside it. A
finished (part, method, SlowMo, seed) that is already there is skipped, so the command can be given again.

The times are injected sleeps, by the model of ``gala.supervised.comparison.collective`` and of
``gala.gossip.transport.delayed``, at the scale of a large network: 250 ms of compute per iteration and 60 ms of
latency, so that eight learners fit on two cores. ``injected_ms`` in a row is what remains if nothing but the sleeps
took time; ``late`` is the share of iterations in which the machine was too busy for them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gala.bench.machine import machine_facts
from gala.config.parse import parse_options
from gala.config.supervised import SupervisedConfig, validate
from gala.supervised.comparison import build, data, report
from gala.supervised.comparison.launch import Team

SETTINGS = ["preset=digits/sgp", "slowmo=all", "learners=8"]
TIMED = ["compute_ms=250", "iterations=12"]
TIMES = {
    "no latency": [*TIMED, "latency_ms=0"],
    "latency": [*TIMED, "latency_ms=60"],
    "latency and straggler": [*TIMED, "latency_ms=60", "straggler=4"],
}
PARTS = {"accuracy": ["compute_ms=20", "latency_ms=5", "iterations=300"], **TIMES}
RESULTS = Path(__file__).parent / "results" / "sgp_digits.jsonl"


def measure(part: str, seed: int, rows: list[dict[str, Any]], out: Path) -> None:
    """Train what ``rows`` lacks of one part and seed, and append it to ``out``."""
    words = [*SETTINGS, *PARTS[part], f"seeds={seed}"]
    config = parse_options(SupervisedConfig, words)
    validate(config)
    done = {(r["method"], r["slowmo"]) for r in rows if r["part"] == part and r["seed"] == seed}
    pending = [job for job in build.jobs(config) if (job.method, job.slowmo) not in done]
    if not pending:
        return
    images = data.load(config)
    with Team(config, images) as team:
        for job in pending:
            row = {"part": part, "command": " ".join(["gala supervised", *words])}
            row |= report.row(config, job, team.run(job), images)
            row |= {"load_average": round(os.getloadavg()[0], 2), "machine": machine_facts()}
            rows.append(row)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{part}, {job}: {row['test_accuracy']:.2%} {row['ms_per_iteration']:.1f} ms", flush=True)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: accuracy, loss and distance; then ms per iteration, and in brackets what was injected."""
    lines = ["| method | SlowMo | test accuracy % | worst learner % | train loss | distance |", "|" + " --- |" * 6]
    keys = list(dict.fromkeys((r["method"], r["slowmo"]) for r in rows))
    for key in keys:
        group = [r for r in rows if (r["method"], r["slowmo"], r["part"]) == (*key, "accuracy")]
        if group:
            accuracies = [100 * r["test_accuracy"] for r in group]
            spread = f" ± {stdev(accuracies):.2f}" if len(group) > 1 else ""
            worst = 100 * min(min(r["test_accuracies"]) for r in group)
            loss = fmean(r["train_loss"] for r in group)
            distance = fmean(fmean(r["consensus_distance"]) for r in group)
            lines.append(
                f"| {key[0]} | {key[1]} | {fmean(accuracies):.2f}{spread} ({len(group)} seeds) | {worst:.2f} | "
                f"{loss:.4f} | {distance:.3g} |"
            )
    lines += ["", "| method | SlowMo | " + " | ".join(TIMES) + " |", "|" + " --- |" * (2 + len(TIMES))]
    for key in keys:
        cells = []
        for part in TIMES:
            group = [r for r in rows if (r["method"], r["slowmo"], r["part"]) == (*key, part)]
            measured = fmean(r["ms_per_iteration"] for r in group) if group else float("nan")
            cells.append(f"{measured:.0f} ms ({group[0]['injected_ms']:.0f})" if group else "-")
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    busy = [r for r in rows if r["part"] in TIMES]
    loads = [r["load_average"] for r in busy]
    if busy:
        lines += [
            "",
            "Time per iteration, and in brackets what was injected: 250 ms of compute, 60 ms of latency, a straggler",
            f"four times slower, all-reduce in log2(n) messages. {busy[0]['machine']['cores']} cores, eight learners,",
            f"load average {min(loads):.0f} to {max(loads):.0f}; what lies between the numbers is the machine's doing.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of accuracy; times take the first")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for part in [] if args.table else args.parts:
        for seed in args.seeds if part == "accuracy" else args.seeds[:1]:
            measure(part, seed, rows, args.out)
    text = tables(rows)
    args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
