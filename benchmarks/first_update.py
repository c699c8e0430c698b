"""How long does a user wait for the first update, and how much memory do the learners take?

    python benchmarks/first_update.py

For each preset: seconds from starting ``gala train`` to the first update of all four learners, median of three starts,
and the memory of all its processes then and ten seconds later (proportional set size, so that shared pages count once),
in GiB. One JSON line per preset in benchmarks/results/first_update.jsonl.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from gala.bench.machine import machine_facts

PRESETS = ("classic/cartpole", "minatar/breakout", "mujoco/halfcheetah", "atari/pong")
LEARNERS = 4


def memory_gib(pid: int) -> float:
    """Memory of a process and its descendants."""
    root = psutil.Process(pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return float(total / 2**30)


def all_updated(metrics: Path) -> bool:
    """Whether every learner has reported an update."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    try:
        record = json.loads(lines[-1]) if lines else {}
    except json.JSONDecodeError:
        return False
    return all(record.get(f"learner{rank}", {}).get("updates", 0) > 0 for rank in range(LEARNERS))


def start(words: list[str], run: Path, settle_s: float) -> tuple[float, float, float]:
    """(seconds to the first update, GiB then, GiB after ``settle_s``)."""
    began = time.monotonic()
    settings = [f"run={run}", "log.interval_s=0.05", "log.panel=off", "log.tensorboard=false"]
    process = subprocess.Popen([sys.executable, "-m", "gala", "train", *words, *settings], stdout=subprocess.DEVNULL)
    while not all_updated(run / "metrics.jsonl"):
        if process.poll() is not None:
            raise RuntimeError(f"gala train {' '.join(words)} ended with status {process.returncode}")
        time.sleep(0.02)
    seconds, at_once = time.monotonic() - began, memory_gib(process.pid)
    time.sleep(settle_s)
    later = memory_gib(process.pid)
    process.send_signal(signal.SIGINT)
    process.wait()
    return seconds, at_once, later


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--settle_s", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "first_update.jsonl")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for preset in PRESETS:
        words = [f"preset={preset}", f"learners={LEARNERS}"]
        with tempfile.TemporaryDirectory() as folder:
            starts = [start(words, Path(folder) / str(i), options.settle_s) for i in range(options.starts)]
        rows.append({"benchmark": "first_update", "settings": words, "seconds": [round(s, 2) for s, _, _ in starts]})
        rows[-1] |= {
            "median_s": round(statistics.median(s for s, _, _ in starts), 2),
            "memory_gib": round(max(max(a, b) for _, a, b in starts), 2),
        }
        print(f"{preset:<20} {rows[-1]['median_s']:6.2f} s   {rows[-1]['memory_gib']:.2f} GiB")
    facts = {"machine": machine_facts()}
    options.out.write_text("".join(json.dumps(row | facts) + "\n" for row in rows))


if __name__ == "__main__":
    main()
