"""Video models: four learners that gossip against one learner with four times the batch, at equal samples.

    python benchmarks/video_gossip.py --seeds 1                          8 minutes for each seed, on two idle cores
    python benchmarks/video_gossip.py --preset video/moving-digits --iterations 300 --seeds 1

One JSON line per training: minus the evidence lower bound and the importance-weighted one on 128 held-out videos (for
several learners, of their consensus: ``gala video eval``), seconds, iterations and frames per second, and the peak of
memory (PSS, all processes together). One line per finding. What is in ``--work`` is not made again; a training that was
cut off goes on, its memory is then that of the last part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from kept_rows import KeptRows

from gala.runs.checkpoints import Checkpoints
from gala.supervised.video_settings import read_settings

Row = dict[str, Any]
LEARNERS, BATCH = 4, 8
SMALL = ("lr=1e-3", "width=16", "frames=10", "scales=3")
VARIANTS = {
    "gossip": (f"learners={LEARNERS}", f"batch_size={BATCH}", "topology=exponential"),
    "large-batch": ("learners=1", f"batch_size={LEARNERS * BATCH}"),
    "large-batch-sqrt-lr": ("learners=1", f"batch_size={LEARNERS * BATCH}", "lr=2e-3"),
}
_POLL_S = 0.5


def watched(*words: str) -> float:
    """Run a command of gala; returns the peak of its processes' memory in GiB. Raises SystemExit: it failed."""
    print("gala", *words, flush=True)
    process, peak = subprocess.Popen([sys.executable, "-m", "gala", *words]), 0.0
    try:
        while process.poll() is None:
            peak = max(peak, memory_gib(process.pid))
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.wait()  # it was told too, and saves
        raise
    if process.returncode:
        raise SystemExit(process.returncode)
    return peak


def memory_gib(pid: int) -> float:
    """Memory of a process and all that it has started, what they share counted once (PSS)."""
    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                info = each.memory_full_info()
                total += getattr(info, "pss", info.uss)
    return float(total / 2**30)


def train(name: str, seed: int, options: argparse.Namespace) -> Row:
    out = options.work / f"{name}-{seed}"
    settings = (*SMALL, *VARIANTS[name], f"iterations={options.iterations}", f"warm_up={options.iterations // 3}")
    peak = 0.0
    if not (out / "config.yaml").exists():
        peak = watched(
            *("video", "train", f"preset={options.preset}", *settings, f"seed={seed}", "save_every=100"),
            *(f"log_every={max(1, options.iterations // 8)}", f"out={out}"),
        )
    elif done(out) < options.iterations:
        peak = watched("video", "resume", str(out))
    watched("video", "eval", str(out), "videos=128", "weights=10", "samples=1", "encoder=0")
    config, report = read_settings(out), json.loads((out / "eval.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    wall_s, videos = rows[-1]["wall_s"], config.iterations * config.learners * config.batch_size
    return {
        "variant": name,
        "preset": options.preset,
        "seed": seed,
        "settings": " ".join(settings),
        "videos": videos,
        **{key: report[key] for key in ("nats", "nats_weighted")},
        "standard_error": report["nats_weighted_standard_error"],
        "wall_s": round(wall_s, 1),
        "iterations_per_s": round(config.iterations / wall_s, 3),
        "frames_per_s": round(videos * config.frames / wall_s, 1),
        "peak_gib": round(peak, 3),
        "curve": [[row["iteration"], row["wall_s"], row["nats"]] for row in rows],
    }


def done(out: Path) -> int:
    checkpoints = Checkpoints(out / "checkpoints")
    return int(checkpoints.meta("latest")["iteration"]) if "latest" in checkpoints.names() else 0


def findings(rows: list[Row]) -> list[Row]:
    found = []
    for preset in sorted({row["preset"] for row in rows}):
        of = {(row["variant"], row["seed"]): row for row in rows if row["preset"] == preset}
        for other in list(VARIANTS)[1:]:
            seeds = sorted(seed for name, seed in of if name == other and ("gossip", seed) in of)
            for key in ("nats", "wall_s", "iterations_per_s", "peak_gib"):
                pairs = [(of["gossip", seed][key], of[other, seed][key]) for seed in seeds]
                if not pairs:
                    continue
                values = [a - b if key == "nats" else a / b for a, b in pairs if key == "nats" or b]
                what = "less that of" if key == "nats" else "over that of"
                text = f"{preset}: {key} of {LEARNERS} learners that gossip {what} {other}"
                mean = float(np.mean(values)) if values else None
                found.append({"finding": text, "seeds": [float(f"{v:.4g}") for v in values], "mean": mean})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="video/wall-bounce")
    parser.add_argument("--iterations", type=int, default=600, help="of each learner")
    parser.add_argument("--seeds", default="1,2,3", help="with commas between")
    parser.add_argument("--work", type=Path, default=Path("runs/video_gossip"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "video_gossip.jsonl")
    options = parser.parse_args()
    options.work = options.work / Path(options.preset).name
    options.work.mkdir(parents=True, exist_ok=True)
    kept = KeptRows(options.out, ("variant", "preset", "seed"))
    for seed in map(int, options.seeds.split(",")):
        for name in VARIANTS:
            if kept.lacks(name, options.preset, seed):
                kept.add(train(name, seed, options))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
