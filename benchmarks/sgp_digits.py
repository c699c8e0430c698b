"""Gossip, all-reduce and local SGD on a classifier: accuracy, and time per iteration under latency and a straggler.

    python benchmarks/sgp_digits.py                              every condition, seeds 1 2 3: about an hour
    python benchmarks/sgp_digits.py --conditions latency --seeds 1
    python benchmarks/sgp_digits.py --table                      only print what was measured, and write the .md

Writes one JSON line per training to benchmarks/results/sgp_digits.jsonl, and the tables made from them beside it. A
finished (condition, method, SlowMo, seed) that is already there is skipped, so the command can be given again.

The times are those of the injected sleeps (see ``gala.supervised.collective`` and ``gala.gossip.delayed`` for the model):
an iteration's compute is stretched to 40 ms, so that eight learners fit on few cores. ``injected_ms`` in a row is what
remains if nothing but the sleeps took time; ``late`` says in how many iterations the machine was too busy for them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from machine import machine_facts

from gala import configure
from gala.supervised import build, digits, report
from gala.supervised.config import SupervisedConfig, validate
from gala.supervised.launch import Team

SETTINGS = ["preset=digits/sgp", "slowmo=all", "learners=8", "compute_ms=40"]
CONDITIONS = {
    "none": ["latency_ms=0"],
    "latency": ["latency_ms=10"],
    "straggler": ["latency_ms=10", "straggler=4"],
}
RESULTS = Path(__file__).parent / "results" / "sgp_digits.jsonl"


def measure(condition: str, seed: int, rows: list[dict[str, Any]], out: Path) -> None:
    """Train what ``rows`` lacks of one condition and seed, and append it to ``out``."""
    words = [*SETTINGS, *CONDITIONS[condition], f"seeds={seed}"]
    config = configure.parse_options(SupervisedConfig, words)
    validate(config)
    done = {(r["method"], r["slowmo"]) for r in rows if r["condition"] == condition and r["seed"] == seed}
    pending = [job for job in build.jobs(config) if (job.method, job.slowmo) not in done]
    if not pending:
        return
    data = digits.load(config.test_fraction, config.split_seed)
    with Team(config, data) as team:
        for job in pending:
            row = {"condition": condition, "command": " ".join(["gala supervised", *words])}
            row |= report.row(config, job, team.run(job), data)
            row |= {"load_average": round(os.getloadavg()[0], 2), "machine": machine_facts()}
            rows.append(row)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{condition} {job}: {row['test_accuracy']:.2%} {row['ms_per_iteration']:.1f} ms", flush=True)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: accuracy, loss and distance under latency; then milliseconds per iteration in each condition."""
    lines = ["| method | SlowMo | test accuracy % | worst learner % | train loss | distance |", "|" + " --- |" * 6]
    keys = list(dict.fromkeys((r["method"], r["slowmo"]) for r in rows))
    for key in keys:
        group = [r for r in rows if (r["method"], r["slowmo"], r["condition"]) == (*key, "latency")]
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
    lines += ["", "| method | SlowMo | " + " | ".join(CONDITIONS) + " |", "|" + " --- |" * (2 + len(CONDITIONS))]
    for key in keys:
        cells = []
        for condition in CONDITIONS:
            group = [r for r in rows if (r["method"], r["slowmo"], r["condition"]) == (*key, condition)]
            measured = fmean(r["ms_per_iteration"] for r in group) if group else float("nan")
            cells.append(f"{measured:.0f} ms ({group[0]['injected_ms']:.0f})" if group else "-")
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for seed in args.seeds:
        for condition in [] if args.table else args.conditions:
            measure(condition, seed, rows, args.out)
    text = tables(rows)
    args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
