"""A training in processes of its own that can be frozen, so that several systems can take turns on one machine."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import psutil

SETTLE_S = 1.0
"""At the start of a turn, not counted: caches fill, and what was in flight when the system was frozen arrives."""
MIN_REPORTS = 3
"""In a turn: at least two whole iterations, however long they take."""
STDERR_LINES = 15
_POLL_S, _SIGNAL_S = 0.02, 10.0


class PeerFailed(RuntimeError):
    """A peer has ended or gone silent; the text says which, with the last lines of its stderr."""


class Report(NamedTuple):
    """``env_steps`` agent decisions since the start were reached at ``t`` seconds of the monotonic clock."""

    t: float
    env_steps: int
    mean_return: float = math.nan
    """Of the last hundred training episodes."""


class Peer:
    """``command`` is a worker: it trains until it is killed and prints Reports as JSON lines (see worker.py).

    Every method but ``kill`` raises PeerFailed when the worker has ended, or was not frozen and yet silent for so long.
    """

    def __init__(self, name: str, command: Sequence[str], silent_s: float = 60.0, start_s: float = 240.0) -> None:
        self.name, self.command = name, list(command)
        self.silent_s, self.start_s = silent_s, start_s
        self._reports: list[Report] = []
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._frozen: list[psutil.Process] = []
        self._deadline = 0.0
        self._seen = 0

    def start(self, task: str, num_envs: int, cores: int) -> None:
        """Start the worker as the leader of a process group; it counts as silent after ``start_s`` at first."""
        words = ["--task", task, "--num-envs", str(num_envs), "--cores", str(cores)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [*self.command, *words],
            stdout=pipe,
            stderr=pipe,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._deadline = time.monotonic() + self.start_s
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def steps(self) -> Report:
        """The latest count, with the time when it was reached."""
        self._check()
        return self._reports[-1] if self._reports else Report(0.0, 0)

    def warm_up(self, reports: int = MIN_REPORTS) -> None:
        """Wait until the worker has reported so often."""
        while len(self._reports) < reports:
            self._check()
            time.sleep(_POLL_S)

    def reach(self, bar: float) -> Report | None:
        """Wait for the first report with a mean return of at least ``bar``; None if the training ends without one."""
        looked_at = 0
        while True:
            ended = self._process.poll() == 0
            if ended:
                self._readers[0].join(_SIGNAL_S)
            reports = self._reports[looked_at:]
            looked_at += len(reports)
            if found := next((report for report in reports if report.mean_return >= bar), None):
                return found
            if ended:
                return None
            self._check()
            time.sleep(_POLL_S)

    def last(self) -> Report:
        """Wait until the training has ended; its last report."""
        while self._process.poll() != 0:
            self._check()
            time.sleep(_POLL_S)
        self._readers[0].join(_SIGNAL_S)
        return self._reports[-1]

    def freeze(self) -> None:
        """Stop the worker and all that it has started, in any process group: they notice only that time passes."""
        self._check()
        found: dict[int, psutil.Process] = {}
        while new := [process for process in self._tree() if process.pid not in found]:  # some may fork meanwhile
            for process in new:
                found[process.pid] = process
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGSTOP)
        self._frozen = list(found.values())
        end = time.monotonic() + _SIGNAL_S
        while any(map(runs, self._frozen)) and time.monotonic() < end:
            time.sleep(_POLL_S)

    def thaw(self) -> None:
        """Let it go on. Raises PeerFailed too if something else has done so: it took time from the others' turns."""
        if any(map(runs, self._frozen)):
            raise PeerFailed(f"{self.name} did not stay frozen: another program has woken it in the turn of others")
        for process in reversed(self._frozen):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        self._frozen = []
        self._deadline = time.monotonic() + self.silent_s

    def measure(self, seconds: float) -> float:
        """Thaw for SETTLE_S and then at least ``seconds``, longer if that had fewer than MIN_REPORTS reports, and
        freeze again. Returns env_steps per second from the first to the last report of the turn."""
        self.thaw()
        begin = time.monotonic() + SETTLE_S
        while time.monotonic() < begin + seconds or len(self._since(begin)) < MIN_REPORTS:
            self._check()
            time.sleep(_POLL_S)
        self.freeze()
        return rate(self._since(begin))

    def kill(self) -> None:
        """End the worker and all that it has started. Harmless when it has ended."""
        if not hasattr(self, "_process"):
            return
        ended = [*self._tree(), *self._frozen]
        for process in ended:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        end = time.monotonic() + _SIGNAL_S
        while any(map(lives, ended)) and time.monotonic() < end:
            time.sleep(_POLL_S)

    def _since(self, begin: float) -> list[Report]:
        return [report for report in self._reports if report.t >= begin]

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def _check(self) -> None:
        if (status := self._process.poll()) is not None:
            self._readers[1].join(2.0)
            raise PeerFailed(f"{self.name} has ended with status {status}\n{self._last_words()}")
        if len(self._reports) > self._seen:
            self._seen = len(self._reports)
            self._deadline = max(self._deadline, time.monotonic() + self.silent_s)
        if not self._frozen and time.monotonic() > self._deadline:
            raise PeerFailed(f"{self.name} has reported no env_steps for too long\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self._stderr)

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"t":'):  # libraries print, too
                self._reports.append(Report(**json.loads(line)))

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        self._stderr.extend(map(str.rstrip, self._process.stderr))


def lives(process: psutil.Process) -> bool:
    """False also for one that has ended but whose new parent has not asked yet how."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def runs(process: psutil.Process) -> bool:
    """It lives and is not stopped."""
    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def rate(reports: Sequence[Report]) -> float:
    """env_steps per second between the first and the last of ``reports``, at least two."""
    first, last = reports[0], reports[-1]
    return (last.env_steps - first.env_steps) / (last.t - first.t)
