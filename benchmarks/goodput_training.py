"""A real training under faults: MinAtar Breakout, four learners, one killed or stopped every two seconds.

    python benchmarks/goodput_training.py                        five seeds with faults and without, about 40 minutes
    python benchmarks/goodput_training.py --seeds 1 --steps 2e5

``gala train on_failure=restart`` runs as a user runs it, and the faults come from outside: at random moments, 2 s apart
on average, a random learner gets a SIGKILL, or a SIGSTOP and 0.5 to 3 s later a SIGCONT. (While one learner is being
restarted, the next fault is a stop: which new process has which rank is then known.) Each batched step of a simulator
takes ten milliseconds more (a sleep), so that the cores are not the limit. The first half minute has no faults and
gives the rate. Goodput, recovery and uptime are those of ``goodput.py``; the mass error is that of the last checkpoint:
the weights of its learners and what was lost with the dead, against the four that there were. The final return is the
mean of 100 sampled episodes of the consensus policy. Rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.api.run import Run
from gala.bench.machine import machine_facts
from gala.gossip.push_sum import in_unit
from gala.training.board import UPDATES

Row = dict[str, Any]
LEARNERS, MEAN_GAP_S, CALM_S, STOP_S, LOOK_S = 4, 2.0, 30.0, (0.5, 3.0), 0.02
SETTINGS = [
    "preset=minatar/breakout",
    "optim.lr=1e-3",  # the preset's rate and limit when the rows were made, the same for all
    "a2c.max_grad_norm=0.5",
    "gossip.lr_scaling=none",
    "algo=gala",
    f"learners={LEARNERS}",
    "on_failure=restart",
    "max_restarts=100000",
]
SETTINGS += ["delay.mean_s=0.01", "torch_threads=1", "log.tensorboard=false", "log.panel=off"]
RESULTS = Path(__file__).parent / "results" / "goodput_training.jsonl"


def learners_of(parent: int) -> list[int]:
    """The learners' process ids in the order of their start: each leads a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            above = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if os.getpgid(int(entry.name)) == int(entry.name) and parent in (above, _parent(above)):
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return sorted(found)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def progress_of(parent: int) -> NDArray[np.int64] | None:
    """The board [learners, 2] of the training that this process runs, as shared memory; None before there is one."""
    for entry in Path(f"/proc/{parent}/fd").iterdir():
        try:
            if "memfd:gala-board" in os.readlink(entry):
                return np.memmap(entry, np.int64, "r", shape=(LEARNERS, 2))
        except OSError:
            continue
    return None


class Faults:
    """Injects them, and counts updates and time."""

    def __init__(self, process: subprocess.Popen[str], seed: int) -> None:
        self.process, self.rng = process, np.random.default_rng(seed)
        while (board := progress_of(process.pid)) is None or not board[:, UPDATES].all():
            if process.poll() is not None:
                raise RuntimeError(f"gala train ended with {process.returncode}: {process.stderr.read()}")  # type: ignore[union-attr]
            time.sleep(0.05)
        self.board: NDArray[np.int64] = board
        self.pids: list[int] = learners_of(process.pid)
        if len(self.pids) != LEARNERS:
            raise RuntimeError(f"found the processes {self.pids}, not {LEARNERS} learners")
        self.last = board[:, UPDATES].copy()
        self.updates, self.alive_s, self.killed, self.stopped = 0, 0.0, dict[int, float](), dict[int, float]()
        self.kinds, self.recoveries_s = {"kill": 0, "stop": 0}, list[float]()

    def look(self, passed_s: float) -> None:
        """Count what has happened since the last look, and wake who has been stopped for long enough."""
        now_s, progress = time.monotonic(), self.board[:, UPDATES].copy()
        made, self.last = progress - self.last, progress
        self.updates += int(made.sum())
        for rank, since_s in list(self.killed.items()):
            if made[rank] > 0:
                new = [pid for pid in learners_of(self.process.pid) if pid not in self.pids]
                self.pids[rank] = new[-1]
                self.recoveries_s.append(now_s - since_s)
                del self.killed[rank]
        for rank, until_s in list(self.stopped.items()):
            if now_s >= until_s:
                os.kill(self.pids[rank], signal.SIGCONT)
                del self.stopped[rank]
        self.alive_s += passed_s * (LEARNERS - len(self.killed) - len(self.stopped))

    def inject(self) -> None:
        """One fault, at a learner that is alive."""
        able = [rank for rank in range(LEARNERS) if rank not in self.killed and rank not in self.stopped]
        if not able:
            return
        rank = int(self.rng.choice(able))
        kind = str(self.rng.choice(("kill", "stop"))) if not self.killed else "stop"
        os.kill(self.pids[rank], signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        self.kinds[kind] += 1
        if kind == "stop":
            self.stopped[rank] = time.monotonic() + float(self.rng.uniform(*STOP_S))
        else:
            time.sleep(LOOK_S)  # what it did before it died is counted as its own
            self.last = self.board[:, UPDATES].copy()
            self.killed[rank] = time.monotonic()

    def spend(self, seconds: float, end_steps: float) -> bool:
        """Look on for so long; False once the training is about to end."""
        last_s = time.monotonic()
        end_s = last_s + seconds
        while last_s < end_s and self.board[:, 0].sum() < end_steps:
            time.sleep(LOOK_S)
            now_s = time.monotonic()
            self.look(now_s - last_s)
            last_s = now_s
        return bool(self.board[:, 0].sum() < end_steps)

    def release(self) -> None:
        for rank in self.stopped:
            os.kill(self.pids[rank], signal.SIGCONT)
        self.stopped.clear()


def mass_error(lost: list[float], left: float) -> float:
    """What is missing of the weight ``LEARNERS``, relative to it, after these losses in turn and what is left.

    Weights count in a unit that shrinks by 2^-32 when the mean weight has fallen so far: what is more than there is was
    counted in the next one.
    """
    total, unit = float(LEARNERS), 0
    for weight in [*lost, left]:
        while in_unit(weight, unit, 0) > total * (1 + 1e-5) + 1e-15:
            unit += 1
        total -= in_unit(weight, unit, 0)
    return abs(total) / LEARNERS


def train(seed: int, steps: float, faulty: bool, run: Path) -> Row:
    """One training from its start to its end, and its evaluation."""
    words = [*SETTINGS, f"seed={seed}", f"steps={steps:g}"]
    command = [sys.executable, "-m", "gala", "train", *words, f"run={run}"]
    shutil.rmtree(run, ignore_errors=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    row: Row = {"seed": seed, "with_faults": faulty, "command": " ".join(["gala", "train", *words])}
    try:
        if faulty:
            row |= _under_faults(Faults(process, seed), 0.97 * steps)
        _, err = process.communicate()
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"gala train ended with {process.returncode}: {err}")
    trained = Run(run)
    saved = json.loads((run / "checkpoints" / "latest" / "meta.json").read_text())
    lost = [failure["lost_weight"] for failure in trained.summary.get("failures", [])]
    off = mass_error(lost, float(np.sum(saved["weights"])))
    final = float(trained.evaluate(episodes=100, mode="sampled").return_mean)
    mass = {"deaths": len(lost), "lost_weight": sum(lost), "mass_error": off}
    return {**row, "wall_s": trained.summary["wall_s"], "final_return": final, **mass}


def _under_faults(team: Faults, end_steps: float) -> Row:
    team.spend(CALM_S, end_steps)
    calm = team.updates / team.alive_s
    before, before_s, begun_s = team.updates, team.alive_s, time.monotonic()
    try:
        while team.spend(float(team.rng.exponential(MEAN_GAP_S)), end_steps):
            team.inject()
    finally:
        team.release()
    alive_s, took_s = team.alive_s - before_s, time.monotonic() - begun_s
    return {
        "faults": sum(team.kinds.values()),
        **team.kinds,
        "seconds": took_s,
        "updates_per_second_calm": calm,
        "goodput": (team.updates - before) / (calm * alive_s),
        "uptime": alive_s / (took_s * LEARNERS),
        "recovery_s_median": float(np.median(team.recoveries_s)) if team.recoveries_s else None,
        "recovery_s_max": max(team.recoveries_s, default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=float, default=1e6)
    parser.add_argument("--runs", type=Path, default=Path("runs/goodput_training"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    rows = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    for seed in words.seeds:
        for faulty in (True, False):
            if (seed, faulty) in [(r["seed"], r["with_faults"]) for r in rows]:
                continue
            row = train(seed, words.steps, faulty, words.runs / f"seed{seed}-{'faults' if faulty else 'none'}")
            rows.append({**row, **machine_facts()})
            with words.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
