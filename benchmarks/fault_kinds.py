"""What ``benchmarks/faults.py`` does to a training, and what must become of it.

A kind is a function of a ``Trial`` whose training has saved a checkpoint. It injects the fault at a random moment and
returns how the run must end: ``GOES_ON`` (the run itself makes further updates, and finishes when it is told to), a
number (it ends in order with this exit status, having saved all that it had done), ``DIES`` (it ends, and ``gala
resume`` goes on from the newest whole checkpoint) or ``GONE`` (it ends in one line; its files are lost).
"""

from __future__ import annotations

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
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            pass
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


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long back(void) {  /* seconds, read anew each time: the clock is set while the program runs */
    long seconds = 0;
    FILE *file = fopen(getenv("GALA_FAULT_CLOCK"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec -= back();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec; now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
"""
"""A library that stands between a program and the C library's clock."""


KINDS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "learner killed": (learner_killed, ("on_failure=continue",)),
    "learner killed, restarted": (learner_killed, ("on_failure=restart",)),
    "learner stopped": (learner_stopped, ()),
    "learner gets SIGTERM": (learner_told_to_end, ()),
    "parent stopped": (parent_stopped, ()),
    "all suspended": (job_suspended, ()),
    "parent killed": (parent_killed, ()),
    "all killed": (all_killed, ()),
    "helper process killed": (helper_killed, ()),
    "killed while saving": (killed_while_saving, ("log.checkpoint_interval_s=0.1",)),
    "SIGTERM": (_ends_by(signal.SIGTERM), ()),
    "SIGINT": (_ends_by(signal.SIGINT), ()),
    "SIGHUP": (_ends_by(signal.SIGHUP), ()),
    "SIGUSR1": (_ends_by(signal.SIGUSR1), ()),
    "simulator raises": (_env("raise", GOES_ON), ("on_failure=continue",)),
    "simulator raises, restarted": (_env("raise", GOES_ON), ("on_failure=restart",)),
    "simulator hangs": (_env("hang", GOES_ON), ("on_failure=continue", "env.watchdog_s=1")),
    "NaN reward": (_env("nan reward", GOES_ON), ("on_failure=continue",)),
    "NaN observation": (_env("nan observation", GOES_ON), ("on_failure=continue",)),
    "reader of the output gone": (reader_gone, ()),
    "metrics garbled": (metrics_garbled, ()),
    "disk full": (disk_full, ()),
    "file size limit": (file_size_limit, ()),
    "folder removed": (folder_removed, ()),
    "checkpoint bit flipped": (_damage(_flip), ("log.keep_milestones=50",)),
    "checkpoint cut": (_damage(_cut), ("log.keep_milestones=50",)),
    "checkpoint file removed": (_damage(_remove), ("log.keep_milestones=50",)),
    "no descriptors": (few_descriptors, ()),
    "no memory for a learner": (little_memory, ("on_failure=restart",)),
    "clock set back": (clock_set_back, ()),
}
"""name -> (what is done, settings of the run that it is done to)."""


def read_json(path: Path) -> dict[str, Any]:
    """{} where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
