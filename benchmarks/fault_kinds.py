"""What ``benchmarks/faults.py`` does to a training, and what must become of it.

A kind is a function of a ``Trial`` whose training has saved a checkpoint. It injects the fault and returns what must
become of the run: ``GOES_ON`` (it makes further updates), a number (it ends in order with this exit status, having
saved all that it had done), ``DIES`` (it ends, and ``gala resume`` goes on from the newest whole checkpoint) or
``GONE`` (it ends in one line; its files are lost).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOES_ON, DIES, GONE = "goes on", "dies", "gone"
Kind = Callable[[Any], Any]


def _hit(trial: Any, number: int, pids: list[int]) -> None:
    for pid in pids:
        trial.kill(pid, number)


def learner_killed(trial: Any) -> str:
    _hit(trial, signal.SIGKILL, [trial.a_learner()])
    return GOES_ON


def learner_stopped(trial: Any) -> str:
    pid = trial.a_learner()
    _hit(trial, signal.SIGSTOP, [pid])
    time.sleep(trial.rng.uniform(0.5, 3.0))
    _hit(trial, signal.SIGCONT, [pid])
    return GOES_ON


def learner_told_to_end(trial: Any) -> str:
    """A scheduler's signal that reaches a learner alone: learners leave ends to their parent."""
    _hit(trial, signal.SIGTERM, [trial.a_learner()])
    return GOES_ON


def parent_stopped(trial: Any) -> str:
    _hit(trial, signal.SIGSTOP, [trial.process.pid])
    time.sleep(trial.rng.uniform(0.5, 3.0))
    _hit(trial, signal.SIGCONT, [trial.process.pid])
    return GOES_ON


def job_suspended(trial: Any) -> str:
    pids = trial.pids()
    _hit(trial, signal.SIGSTOP, pids)
    time.sleep(trial.rng.uniform(0.5, 3.0))
    _hit(trial, signal.SIGCONT, pids)
    return GOES_ON


def parent_killed(trial: Any) -> str:
    _hit(trial, signal.SIGKILL, [trial.process.pid])
    return DIES


def all_killed(trial: Any) -> str:
    _hit(trial, signal.SIGKILL, trial.pids())
    return DIES


def helper_killed(trial: Any) -> str:
    """The process that forks the learners, or the one that watches over them."""
    learners = [trial.process.pid, *trial.learners()]
    _hit(trial, signal.SIGKILL, [trial.rng.choice([pid for pid in trial.pids() if pid not in learners])])
    return f"{GOES_ON} or {DIES}"


def killed_while_saving(trial: Any) -> str:
    def saving() -> bool:
        return any(".tmp" in p.name or "staging" in p.name for p in (trial.run / "checkpoints").rglob("*"))

    trial.wait(saving, "save", 20.0)
    _hit(trial, signal.SIGKILL, trial.pids())
    return DIES


def _ends_by(number: signal.Signals) -> Kind:
    def kind(trial: Any) -> int:
        _hit(trial, number, [trial.process.pid])
        return 128 + number

    return kind


def _env(what: str, becomes: str) -> Kind:
    def kind(trial: Any) -> str:
        (trial.folder / "fault.new").write_text(what)
        (trial.folder / "fault.new").rename(trial.folder / "fault")
        return becomes

    return kind


def reader_gone(trial: Any) -> str:
    """``gala train | head``: nobody reads the output any more."""
    trial.process.stdout.close()
    return GOES_ON


def metrics_garbled(trial: Any) -> str:
    with (trial.run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"global_step": 1, \xff\x00\n')
    return GOES_ON


def disk_full(trial: Any) -> str:
    """For a while; the run's folder lies on a small file system of its own."""
    filler = trial.disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 65536):
            continue
    time.sleep(trial.rng.uniform(0.5, 2.0))
    filler.unlink()
    return GOES_ON


def file_size_limit(trial: Any) -> str:
    """No file of the run may grow beyond ten bytes, for a while (``ulimit -f``, a quota)."""
    _limit(trial, resource.RLIMIT_FSIZE, lambda pid: 10)
    return GOES_ON


def _limit(trial: Any, which: int, size: Callable[[int], int]) -> None:
    before = {pid: resource.prlimit(pid, which) for pid in trial.pids()}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, which, (size(pid), hard))
    time.sleep(trial.rng.uniform(0.5, 2.0))
    for pid, limits in before.items():
        if Path(f"/proc/{pid}").exists():
            resource.prlimit(pid, which, limits)


def folder_removed(trial: Any) -> str:
    trial.run.rename(trial.folder / "away")
    shutil.rmtree(trial.folder / "away")
    time.sleep(1.0)
    _hit(trial, signal.SIGINT, [trial.process.pid])
    return GONE


def _files(trial: Any) -> list[Path]:
    latest = (trial.run / "checkpoints" / "latest").resolve()
    return sorted(path for path in latest.iterdir() if path.is_file())


def _damage(how: Callable[[Any, Path], None]) -> Kind:
    """After the whole run was killed."""

    def kind(trial: Any) -> str:
        latest = trial.run / "checkpoints" / "latest"
        trial.wait(
            lambda: any(p.resolve() != latest.resolve() for p in latest.parent.glob("step*")), "second checkpoint"
        )
        _hit(trial, signal.SIGKILL, trial.pids())
        trial.process.wait()
        how(trial, trial.rng.choice(_files(trial)))
        return DIES

    return kind


def _flip(trial: Any, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[trial.rng.randrange(len(data))] ^= 1 << trial.rng.randrange(8)
    path.write_bytes(data)


def _cut(trial: Any, path: Path) -> None:
    os.truncate(path, trial.rng.randrange(path.stat().st_size))


def _remove(trial: Any, path: Path) -> None:
    path.unlink()


def few_descriptors(trial: Any) -> str:
    """No process of the run may open another file, for a while."""
    _limit(trial, resource.RLIMIT_NOFILE, lambda pid: 1 + max(int(p.name) for p in Path(f"/proc/{pid}/fd").iterdir()))
    return GOES_ON


def little_memory(trial: Any) -> str:
    """One learner may not get another byte of address space."""
    pid = trial.a_learner()
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
    time.sleep(1.0)
    return GOES_ON


def clock_set_back(trial: Any) -> str:
    """By a day, for all processes of the run."""
    (trial.folder / "clock").write_text("86400")
    return GOES_ON


KINDS: dict[str, tuple[Kind, int, tuple[str, ...]]] = {
    "learner killed": (learner_killed, 2, ("on_failure=continue",)),
    "learner killed, restarted": (
        learner_killed,
        8,
        (
            "on_failure=restart",
            "max_restarts=100",
        ),
    ),
    "learner stopped": (learner_stopped, 8, ()),
    "learner gets SIGTERM": (learner_told_to_end, 8, ()),
    "parent stopped": (parent_stopped, 8, ()),
    "all suspended": (job_suspended, 8, ()),
    "parent killed": (parent_killed, 1, ()),
    "all killed": (all_killed, 1, ()),
    "helper process killed": (helper_killed, 1, ()),
    "killed while saving": (killed_while_saving, 1, ("log.checkpoint_interval_s=0.1",)),
    "SIGTERM": (_ends_by(signal.SIGTERM), 1, ()),
    "SIGINT": (_ends_by(signal.SIGINT), 1, ()),
    "SIGHUP": (_ends_by(signal.SIGHUP), 1, ()),
    "SIGUSR1": (_ends_by(signal.SIGUSR1), 1, ()),
    "simulator raises": (_env("raise", GOES_ON), 2, ("on_failure=continue",)),
    "simulator raises, restarted": (
        _env("raise", GOES_ON),
        8,
        (
            "on_failure=restart",
            "max_restarts=100",
        ),
    ),
    "simulator hangs": (_env("hang", GOES_ON), 2, ("on_failure=continue", "env.watchdog_s=1")),
    "NaN reward": (_env("nan reward", GOES_ON), 2, ("on_failure=continue",)),
    "NaN observation": (_env("nan observation", GOES_ON), 2, ("on_failure=continue",)),
    "reader of the output gone": (reader_gone, 1, ()),
    "metrics garbled": (metrics_garbled, 8, ()),
    "disk full": (disk_full, 8, ()),
    "file size limit": (file_size_limit, 8, ()),
    "folder removed": (folder_removed, 1, ()),
    "checkpoint bit flipped": (_damage(_flip), 1, ("log.keep_milestones=50",)),
    "checkpoint cut": (_damage(_cut), 1, ("log.keep_milestones=50",)),
    "checkpoint file removed": (_damage(_remove), 1, ("log.keep_milestones=50",)),
    "no descriptors": (few_descriptors, 8, ()),
    "no memory for a learner": (
        little_memory,
        4,
        (
            "on_failure=restart",
            "max_restarts=100",
        ),
    ),
    "clock set back": (clock_set_back, 1, ()),
}
"""name -> (what is done, how often to one run, settings of that run)."""


def read_json(path: Path) -> dict[str, Any]:
    """{} where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
