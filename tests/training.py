"""Runs ``gala`` in processes of its own, as a user would, and looks at what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gala.processes.start import ENDING_SIGNALS
from gala.runs.run_dir import RunDir

ROOT = Path(__file__).parent.parent
TINY = (
    *("preset=classic/cartpole", "env.id=helper_envs:Walk-v0", "model.hidden=8", "envs_per_learner=2"),
    *("a2c.num_steps=4", "steps=1e9", "torch_threads=1", "log.interval_s=0.2", "log.checkpoint_interval_s=0.4"),
    *("log.tensorboard=false", "log.panel=off"),
)
PATIENCE_S = 150.0
_MARK = "GALA_TEST_MARK"
_marks: list[str] = []


def spawn(words: Sequence[str], **environ: str) -> tuple[subprocess.Popen[str], str]:
    """``python -m gala WORDS``, started by ``spawn_program``."""
    return spawn_program([sys.executable, "-m", "gala", *words], **environ)


def spawn_program(argv: Sequence[str], **environ: str) -> tuple[subprocess.Popen[str], str]:
    """A program as from a terminal, and the mark by which ``marked`` finds it and all that it starts.

    Ctrl-C and the end of a terminal work there, though whoever runs the tests (``nohup make test &``) may have them
    ignored. What is still there when the test is over is killed, see ``conftest.py``.
    """
    _marks.append(str(uuid.uuid4()))
    path = os.pathsep.join(map(str, (ROOT, ROOT / "envs", ROOT / "tests")))
    # A child inherits what is ignored.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING_SIGNALS if number != signal.SIGINT}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", _MARK: _marks[-1]} | environ,
            start_new_session=True,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return process, _marks[-1]


def marked(mark: str) -> list[int]:
    """Ids of all living processes with that mark in their environment."""
    pids, wanted = [], f"{_MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                pids.append(int(entry.name))
        except OSError:  # it has ended meanwhile, or belongs to someone else
            continue
    return pids


def kill_marked() -> None:
    """All that ``spawn`` has started and that is still there."""
    while _marks:
        mark = _marks.pop()
        while pids := marked(mark):  # again, since one may have started another meanwhile
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


class Gala:
    """One ``gala`` process and all that it starts, found by a mark in their environment."""

    def __init__(self, run: Path, *words: str, command: str = "train", program: str = "", **environ: str) -> None:
        """``gala COMMAND RUN WORDS``; or ``program``, a line for the shell, which writes ``run``."""
        self.run, self.shm = run, set(os.listdir("/dev/shm"))
        target = ["train", f"run={run}"] if command == "train" else [command, str(run)]
        argv = ["sh", "-c", f"exec {program}"] if program else [sys.executable, "-m", "gala", *target, *words]
        self.process, self._mark = spawn_program(argv, **environ)

    def processes(self) -> list[int]:
        """Ids of all living processes of this call."""
        return marked(self._mark)

    def learners(self) -> list[int]:
        """Ids of the learners in the order of their start, which is the order of their ranks.

        Each leads a process group, as does ``gala`` itself, and nothing else.
        """
        return sorted(pid for pid in self.processes() if pid != self.process.pid and _leads_a_group(pid))

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            if self.process.poll() is not None:
                raise AssertionError(f"gala ended before {what}: {self.process.communicate()}")
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S:g} s"
            time.sleep(0.02)
        return found

    def wait_for_checkpoint(self, after: int = 0) -> None:
        def newer() -> bool:
            run = RunDir.open(self.run)
            return "latest" in run.checkpoints.names() and run.checkpoint_meta("latest")["env_steps"] > after

        self.wait_for(lambda: (self.run / "config.yaml").exists() and newer(), "checkpoint")

    def wait_for_metrics(self, after: int) -> None:
        """Until a line of metrics tells of more than ``after`` env_steps."""

        def newer() -> bool:
            path = self.run / "metrics.jsonl"
            lines = path.read_text().split("\n")[:-1] if path.exists() else []
            return bool(lines) and json.loads(lines[-1])["global_step"] > after

        self.wait_for(newer, f"metrics after {after} env_steps")

    def ctrl_c(self) -> None:
        """As a terminal sends it: to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, within_s: float = PATIENCE_S) -> tuple[int, str, str]:
        """(exit status, stdout, stderr); nothing may be left: no process, no file in /dev/shm."""
        try:
            out, err = self.process.communicate(timeout=within_s)
            self.leaves_nothing()
        finally:
            self.kill()
        return self.process.returncode, out, err

    def leaves_nothing(self) -> None:
        deadline = time.monotonic() + 60.0
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        new = set(os.listdir("/dev/shm")) - self.shm
        assert not [name for name in new if not name.startswith("sem.")], new

    def kill(self) -> None:
        """For the end of a failed test."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _leads_a_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def parts(run: RunDir, name: str = "latest") -> list[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
    """(tensors, meta) of every learner."""
    return [run.load_part(name, f"learner{rank}") for rank in run.checkpoint_meta(name)["ranks"]]


def same(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> bool:
    assert a.keys() == b.keys() and all(a[group].keys() == b[group].keys() for group in a)
    return all(torch.equal(a[group][name], b[group][name]) for group in a for name in a[group])


def distance(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> float:
    return max(float((a["policy"][name] - b["policy"][name]).abs().max()) for name in a["policy"])


def total_weight(run: RunDir, name: str) -> float:
    return sum(meta["gossip"]["weight"] for _, meta in parts(run, name))


def status(run: RunDir) -> str:
    return str(json.loads((run.path / "summary.json").read_text())["status"])
