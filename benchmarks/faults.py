"""Faults of thirty kinds, injected into real trainings at random moments: what survives, and what is lost?

    python benchmarks/faults.py                                  five runs a kind, 540 faults; an hour; resumable
    python benchmarks/faults.py --kinds "disk full" --runs 1
    python benchmarks/faults.py --table                          prints the table of the rows that are there

Each trial trains three gossiping learners on a small environment, waits for a checkpoint and then for up to two more
seconds, injects the fault (``fault_kinds.py`` has one function a kind), and looks what becomes of the run: does it go
on or end as ``docs/faults.md`` says, how many env_steps are missing afterwards, how long does it take until
there are 2,000 new ones, is a process or a file in /dev/shm left behind, does a traceback reach the user. One that
ended is resumed and must finish; one that goes on gets the next fault. Needs Linux, root for the small file system, and
a C compiler for the clock; kinds that lack what they need are skipped, and said to be. One JSON line a run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from fault_kinds import DIES, GOES_ON, GONE, KINDS, read_json

from gala.bench.machine import machine_facts
from gala.runs.run_dir import RunDir

Row = dict[str, Any]
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "faults.jsonl"
PATIENCE_S, SPREAD_S, MORE_STEPS, DISK = 120.0, 2.0, 2_000, "16m"
SETTINGS = (
    *("preset=classic/cartpole", "env.id=faulty_env:Walk-v0", "algo=gala", "learners=3", "model.hidden=8"),
    *("envs_per_learner=2", "a2c.num_steps=4", "torch_threads=1", "delay.mean_s=0.002", "log.keep_milestones=0"),
    *("log.interval_s=0.2", "log.checkpoint_interval_s=0.5", "log.tensorboard=false", "log.panel=off", "steps=1e5"),
    *("optim.schedule=constant", "a2c.entropy_schedule=constant"),
)


class Trial:
    """One training, and a fault. ``rng`` decides all that is random."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.rng = kind, random.Random(f"{kind} {number}")
        self.folder = Path(tempfile.mkdtemp(prefix="gala-fault-"))
        self.disk, self.run = self.folder / "disk", self.folder / "disk" / "run"
        self.disk.mkdir()
        if "disk" in kind:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.disk], check=True)
        self.mark, self.shm = str(uuid.uuid4()), set(os.listdir("/dev/shm"))

    def start(self, *words: str) -> None:
        environ = {"GALA_FAULT": str(self.folder / "fault"), "GALA_FAULT_MARK": self.mark}
        environ |= {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        if "clock" in self.kind:
            environ |= {"LD_PRELOAD": str(self._clock()), "GALA_FAULT_CLOCK": str(self.folder / "clock")}
        self.err = (self.folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            # As from a terminal, also where this was started with signals ignored (nohup).
            ["env", "--default-signal", sys.executable, "-m", "gala", *words],
            stdout=subprocess.PIPE,
            stderr=self.err,
            env=os.environ | environ,
            start_new_session=True,
        )

    def _clock(self) -> Path:
        library = self.folder / "clock.so"
        if not library.exists():
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, HERE / "faulty_clock.c", "-ldl"], check=True)
        return library

    def pids(self) -> list[int]:
        wanted, found = f"GALA_FAULT_MARK={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return sorted(found)

    def learners(self) -> list[int]:
        """Each leads a process group."""
        return [pid for pid in self.pids() if pid != self.process.pid and _group(pid) == pid]

    def a_learner(self) -> int:
        return self.rng.choice(self.learners())

    def kill(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def steps(self) -> int:
        """env_steps in the last whole line of the metrics."""
        try:
            lines = (self.run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
        except OSError:
            return 0
        for line in reversed(lines):
            try:
                return int(json.loads(line)["global_step"])
            except (ValueError, KeyError):
                continue
        return 0

    def saved_steps(self) -> list[int]:
        """env_steps of the checkpoints that can be read, in order."""
        store = self.run / "checkpoints" / ".store"
        found = [read_json(path).get("env_steps") for path in store.glob("*/meta.json")]
        return sorted(steps for steps in found if steps is not None)

    def wait(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
        end_s = time.monotonic() + patience_s
        while not condition():
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with {self.process.returncode} before {what}: {self.said()}")
            if time.monotonic() > end_s:
                raise RuntimeError(f"no {what} in {patience_s:g} s")
            time.sleep(0.02)

    def said(self) -> str:
        return (self.folder / "stderr").read_text()[-2000:]

    def clean(self) -> None:
        for pid in self.pids():
            self.kill(pid, signal.SIGKILL)
        if os.path.ismount(self.disk):
            subprocess.run(["umount", "-l", self.disk], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def outcome(trial: Trial, row: Row, times: int, settings: tuple[str, ...]) -> None:
    """Inject the fault, as often as it can be injected into one run, and see what becomes of that, into ``row``.

    Raises RuntimeError if it is not what must become of it.
    """
    trial.start("train", f"run={trial.run}", *SETTINGS, *settings)
    trial.wait(trial.saved_steps, "checkpoint")
    expected = ""
    while GOES_ON in str(expected) * (row["injected"] < times) or not row["injected"]:
        time.sleep(trial.rng.uniform(0.0, SPREAD_S))
        before, begun_s = trial.steps(), time.monotonic()
        row["injected"] += 1
        expected = KINDS[trial.kind][0](trial)
        if GOES_ON in str(expected):
            if _ended(trial, before, DIES in str(expected)):
                expected = DIES
            else:
                row["survived"] += 1
                row["recovery_s"].append(time.monotonic() - begun_s)
    if GOES_ON in str(expected):
        trial.kill(trial.process.pid, signal.SIGINT)
        expected = 128 + signal.SIGINT
    _see_the_end(trial, row, expected, before)


def _see_the_end(trial: Trial, row: Row, expected: str | int, before: int) -> None:
    row["status"] = trial.process.wait(PATIENCE_S)
    row["traceback"] = "Traceback" in trial.said()
    if isinstance(expected, int) and row["status"] != expected:
        raise RuntimeError(f"ended with {row['status']}, not {expected}: {trial.said()}")
    _leaves_nothing(trial)
    if isinstance(expected, int) and trial.steps() > trial.saved_steps()[-1]:
        raise RuntimeError(f"ended in order at {trial.steps()} env_steps, and saved {trial.saved_steps()[-1]}")
    if expected != GONE and not row["recovery_s"]:
        begun_s = time.monotonic()
        went_on_from = _resume(trial, MORE_STEPS)
        row["env_steps_lost"] = max(0, before - went_on_from)
        row["recovery_s"].append(time.monotonic() - begun_s)
    row["survived"] = row["injected"]


def _ended(trial: Trial, before: int, may_die: bool) -> bool:
    """Wait for further updates; True if the run has ended instead, which some kinds may."""
    try:
        trial.wait(lambda: trial.steps() > before + MORE_STEPS, "further updates")
    except RuntimeError:
        if may_die and trial.process.poll() is not None:
            return True
        raise
    return False


def _leaves_nothing(trial: Trial) -> None:
    end_s = time.monotonic() + 60.0
    while (left := trial.pids()) and time.monotonic() < end_s:
        time.sleep(0.05)
    new = [name for name in set(os.listdir("/dev/shm")) - trial.shm if "gala" in name]
    if left or new:
        raise RuntimeError(f"left behind: processes {left}, shared memory {new}")


def _resume(trial: Trial, more_steps: int) -> int:
    """Go on for ``more_steps``; returns the env_steps that it went on from. The messages name the checkpoint if it is
    not the latest."""
    run = RunDir.open(trial.run)
    saved = {name: _env_steps(run, name) for name in run.checkpoints.names()}
    trial.start("resume", str(trial.run), f"steps={max(saved.values()) + more_steps}")
    out, _ = trial.process.communicate(timeout=PATIENCE_S)
    if trial.process.returncode:
        raise RuntimeError(f"gala resume ended with {trial.process.returncode}: {trial.said()}")
    if read_json(trial.run / "summary.json").get("status") != "finished":
        raise RuntimeError("gala resume did not finish the run")
    named = re.search(r"resuming from (\S+),", out.decode(errors="replace"))
    return saved[named[1] if named else "latest"]


def _env_steps(run: RunDir, name: str) -> int:
    try:
        return int(run.checkpoint_meta(name)["env_steps"])
    except (ValueError, OSError):
        return 0


def attempt(kind: str, number: int) -> Row:
    """One row: a run, and what was done to it."""
    trial, (_, times, settings) = Trial(kind, number), KINDS[kind]
    row: Row = {"kind": kind, "number": number, "injected": 0, "survived": 0, "recovery_s": [], "env_steps_lost": 0}
    try:
        outcome(trial, row, times, settings)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        row["why"] = str(error).replace(str(trial.folder), "RUN")
    finally:
        trial.clean()
    return row


def table(rows: list[Row]) -> str:
    """Markdown, a line a kind."""
    head = "| fault | injected | survived | env_steps lost, most | seconds to recover, median and most |"
    lines = [head, "|---" * 5 + "|"]
    for kind in KINDS:
        group = [row for row in rows if row["kind"] == kind]
        if not group:
            continue
        injected, survived = (sum(row[key] for row in group) for key in ("injected", "survived"))
        lost = max(row["env_steps_lost"] for row in group)
        took = [seconds for row in group for seconds in row["recovery_s"]]
        seconds = f"{np.median(took):.1f}, {max(took):.1f}" if took else ""
        lines.append(f"| {kind} | {injected} | {survived} | {lost:,} | {seconds} |")
    injected, survived = (sum(row[key] for row in rows) for key in ("injected", "survived"))
    return "\n".join([*lines, f"| all | {injected} | {survived} | | |"])


def possible(kind: str) -> bool:
    if "disk" in kind and os.geteuid() != 0:
        print(f"skipped, needs root: {kind}")
        return False
    if "clock" in kind and not shutil.which("cc"):
        print(f"skipped, needs a C compiler: {kind}")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--runs", type=int, default=5, help="of each kind; see KINDS for the faults in one run")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    rows = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    done, lock = {(row["kind"], row["number"]) for row in rows}, Lock()
    kinds = [] if words.table else [kind for kind in words.kinds if possible(kind)]
    todo = [(kind, i) for i in range(words.runs) for kind in kinds if (kind, i) not in done]

    def one(what: tuple[str, int]) -> None:
        row = {**attempt(*what), **machine_facts()}
        with lock, words.out.open("a") as file:
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            if "why" in row:
                print(f"{row['kind']} {row['number']}: {row['why']}", flush=True)

    with ThreadPoolExecutor(words.at_once) as pool:
        list(pool.map(one, todo))
    print(table(rows))


if __name__ == "__main__":
    main()
