"""Does anything grow? A thousand trainings in one process, and one training for an hour.

    python benchmarks/soak.py cycles                 1,000 short trainings, in blocks of 100; resumable
    python benchmarks/soak.py hour                   four gossiping learners for an hour
    python benchmarks/soak.py hour --minutes 10

``cycles`` calls ``gala.train`` again and again, as a notebook or a sweep does, and after each looks at the memory
(RSS), descriptors and threads of the calling process, its children, the files in /dev/shm and those in the temporary
folder. ``hour`` looks at the same of all processes of one ``gala train`` every ten seconds, and at the size of its
folder. A row has the first and the last value of each after the warm-up (a tenth), and the slope of a straight line
through all, per cycle or per minute. What a training keeps on purpose (TensorBoard's and the metrics' records) is in
the folder's size.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gala.bench.machine import machine_facts

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "soak.jsonl"
TINY = {"preset": "classic/cartpole", "algo": "gala", "learners": 2, "model.hidden": 8, "envs_per_learner": 2}
TINY |= {"a2c.num_steps": 4, "steps": 64, "torch_threads": 1, "log.panel": "off", "log.tensorboard": False}
HOUR = ["preset=classic/cartpole", "algo=gala", "learners=4", "steps=1e12", "optim.schedule=constant"]
HOUR += ["log.checkpoint_interval_s=10", "log.interval_s=1", "log.panel=off"]
LOOK_S, WARM_UP = 10.0, 0.1


def seen(processes: list[psutil.Process]) -> Row:
    """What these hold together, and what lies in the places that outlive processes."""
    found: Row = {"rss_mib": 0.0, "descriptors": 0, "threads": 0, "processes": 0}
    for process in processes:
        try:
            with process.oneshot():
                more = process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()
        except psutil.Error:
            continue
        for name, value in zip(found, (*more, 1), strict=True):
            found[name] += value
    return found | {
        "shared_memory_files": len(os.listdir("/dev/shm")),
        "temporary_files": sum(name.startswith(("gala", "pymp")) for name in os.listdir(tempfile.gettempdir())),
    }


def slopes(samples: list[Row], at: list[float]) -> Row:
    """For each quantity: first and last after the warm-up, and the slope against ``at``."""
    start = int(len(samples) * WARM_UP)
    out: Row = {}
    for name in samples[0]:
        values = np.array([sample[name] for sample in samples[start:]], np.float64)
        slope = float(np.polyfit(at[start:], values, 1)[0]) if len(values) > 2 else float("nan")
        out[name] = {"first": float(values[0]), "last": float(values[-1]), "slope": slope}
    return out


def cycles(number: int) -> Row:
    """So many trainings in this process."""
    import gala

    me, samples = psutil.Process(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for i in range(number):
            gala.train(**TINY, run=f"{folder}/run", overwrite=i > 0)
            samples.append(seen([me]) | {"children": len(me.children(recursive=True))})
    return {"what": "cycles", "cycles": number, **slopes(samples, list(map(float, range(number))))}


def hour(minutes: float) -> Row:
    """One training for so long."""
    samples, at = list[Row](), list[float]()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = Path(folder) / "run"
        process = subprocess.Popen([sys.executable, "-m", "gala", "train", f"run={run}", *HOUR])
        begun_s = time.monotonic()
        try:
            while (passed_s := time.monotonic() - begun_s) < 60.0 * minutes and process.poll() is None:
                time.sleep(LOOK_S)
                tree = psutil.Process(process.pid)
                size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 2**20
                samples.append(seen([tree, *tree.children(recursive=True)]) | {"folder_mib": size})
                at.append(passed_s / 60.0)
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait()
        steps = json.loads((run / "summary.json").read_text())["env_steps"]
    found = {"status": status, "env_steps": steps, **slopes(samples, at)}
    return {"what": "hour", "minutes": minutes, "command": " ".join(["gala", "train", *HOUR]), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cycles", "hour"))
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    rows = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []

    def keep(row: Row) -> None:
        rows.append({**row, **machine_facts()})
        with words.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(row), flush=True)

    if words.what == "hour":
        keep(hour(words.minutes))
    while words.what == "cycles" and (done := sum(row.get("cycles", 0) for row in rows)) < words.cycles:
        keep(cycles(min(words.block, words.cycles - done)))


if __name__ == "__main__":
    main()
