"""gala as one of the systems: `gala train` in a process below this one, whose records are passed on as they come."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from worker import MINATAR, Reporter, options

PRESETS = {
    "pong": "atari/pong",
    "halfcheetah": "mujoco/halfcheetah",
    "cartpole": "classic/cartpole",
    "acrobot": "classic/acrobot",
    "hopper": "mujoco/hopper",
    "inverted_double_pendulum": "mujoco/inverted_double_pendulum",
    **{task: task for task in MINATAR},
}
POLL_S = 0.02
QUIET = ["log.tensorboard=false", "log.panel=off", "log.checkpoint_interval_s=1e6", "log.max_records=0"]
FOR_EVER = [
    *("steps=1000000000000000", "log.interval_s=0.5", *QUIET),
    *("env.watchdog_s=600", "gossip.silent_after_s=600"),
]
"""A training that does not end, minds no pause, and writes nothing but its records."""


def main() -> None:
    settings = options("--learners", "--settings")
    learners = int(settings.learners)
    if settings.num_envs % learners:
        raise SystemExit(f"{settings.num_envs} simulators cannot be shared equally among {learners} learners")
    length = [f"steps={settings.budget}", "log.interval_s=0.2", *QUIET] if settings.budget else FOR_EVER
    with tempfile.TemporaryDirectory(prefix="gala-peers-") as folder:
        words = [f"preset={PRESETS[settings.task]}", f"learners={learners}", f"seed={settings.seed}"]
        words += [f"envs_per_learner={settings.num_envs // learners}", *length, *shlex.split(settings.settings)]
        command = [sys.executable, "-m", "gala", "train", *words, f"run={folder}/run"]
        training = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        follow(Path(folder, "run", "metrics.jsonl"), training)
        raise SystemExit(training.wait() or (0 if settings.budget else "gala train has ended"))


def follow(records: Path, training: subprocess.Popen[bytes]) -> None:
    """Report every record of the run until it ends. Records tell the seconds since the run began; the smallest delay
    that was ever seen places that beginning on this clock."""
    report, began = Reporter(), math.inf
    while training.poll() is None and not records.exists():
        time.sleep(POLL_S)
    if not records.exists():
        return
    with records.open() as file:
        text = ""
        goes_on = True
        while goes_on:
            goes_on = training.poll() is None
            text += file.read()
            *lines, text = text.split("\n")
            for record in map(json.loads, lines):
                began = min(began, time.monotonic() - record["perf/wall_s"])
                mean_return = record.get("charts/episodic_return", math.nan)
                report(record["global_step"], began + record["perf/wall_s"], mean_return)
            time.sleep(POLL_S)


if __name__ == "__main__":
    main()
