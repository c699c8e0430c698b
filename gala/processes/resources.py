"""What this process may really use, cores by affinity and cgroup quota, and how it uses memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path


def available_cores() -> int:
    """Whole cores available to this process, at least 1: the affinity mask, capped by a cgroup v2 or v1 CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota)) if quota else cores)


def threads_each(processes: int = 1) -> int:
    """Threads for each of so many processes: an equal share of ``available_cores``, at least 1, and at most
    ``OMP_NUM_THREADS``, as schedulers set it and whoever starts several trainings at a time: threads that wait for each
    other in a loop cost far more than they bring on shared cores."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    share = max(1, available_cores() // processes)
    return min(share, int(told)) if told.isdecimal() and int(told) else share


_LEAST_MIB = 30
"""No learner takes less for itself: one of eight hidden units, beside what it shares with the others, has 40."""


def check_processes(learners: int) -> None:
    """Raises ValueError if so many processes do not fit into this machine's memory whatever they do: started one by
    one, they would take everything with them, the shell and the other trainings, before anything is said."""
    import psutil

    wanted, there = learners * _LEAST_MIB, psutil.virtual_memory().total >> 20
    if wanted > there:
        raise ValueError(
            f"learners={learners} are as many processes, {wanted >> 10:,} GiB at the least, and this machine has "
            f"{there >> 10:,} GiB; take fewer learners"
        )


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BLOCK, _KEPT, _AHEAD = 32 * 2**20, 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep what it frees (glibc only; elsewhere nothing happens).

    Activations of a few MiB are allocated and freed at every step. By default glibc gives such blocks back to the
    kernel, which then zeroes 1,200 fresh pages in each forward pass of 32 Atari frames: 30% of its time, measured.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError, OSError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_MMAP_THRESHOLD, _LARGEST_BLOCK), (_M_TRIM_THRESHOLD, _KEPT), (_M_TOP_PAD, _AHEAD)):
            mallopt(option, value)


def _cgroup_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs granted by this process's cgroup (v2 or v1) and those that it lies in, the least; None without a limit."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        own = top / path.lstrip("/")
        quotas += [_quota_of(folder) for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError):
        limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if int(limit) < 0 else int(limit) / int(period)
    return None


def mps_serves() -> bool:
    """Whether NVIDIA's Multi-Process Service seems to run. Without it, processes that share a GPU take turns on it."""
    return "CUDA_MPS_PIPE_DIRECTORY" in os.environ or Path("/tmp/nvidia-mps").exists()
