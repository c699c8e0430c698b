"""Whether a machine was ours alone while something was measured: what other processes and other machines took."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import psutil

OTHERS, STEAL, MOVED = 0.05, 0.02, 0.10
"""Shares above which a measurement counts as disturbed."""


class Taken(NamedTuple):
    """Seconds of processor time of the cores that this process may run on and of it and its descendants, the clock, and
    the number of those cores."""

    busy_s: float
    steal_s: float
    own_s: float
    clock_s: float
    cores: int


def taken() -> Taken:
    """Since the machine started. Descendants that have ended count as others', so take it while they live."""
    every = psutil.cpu_times(percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(every))
    cores = [times._asdict() for k, times in enumerate(every) if k in mine]
    spent = {name: float(sum(times[name] for times in cores)) for name in cores[0]}
    steal_s, guests_s = spent.get("steal", 0.0), spent.get("guest", 0.0) + spent.get("guest_nice", 0.0)
    busy_s = sum(spent.values()) - spent["idle"] - spent.get("iowait", 0.0) - steal_s - guests_s  # they are user's too
    me, own_s = psutil.Process(), 0.0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            own_s += used.user + used.system
    return Taken(busy_s, steal_s, own_s, time.monotonic(), len(cores))


def disturbance(before: Taken, after: Taken, ceilings: Sequence[float]) -> dict[str, Any]:
    """What may have falsified a measurement between two looks.

    Args:
        ceilings: the roofline of each round, env_steps/s.

    Returns:
        others and steal, as shares of the cores that the measurement could run on; roofline_moved, (largest - smallest)
        / smallest; and warnings, a line for each that is too large.
    """
    core_s = max(after.clock_s - before.clock_s, 1e-9) * before.cores
    others_s = max(after.busy_s - before.busy_s - (after.own_s - before.own_s), 0.0)
    others, steal = others_s / core_s, (after.steal_s - before.steal_s) / core_s
    moved = max(ceilings) / min(ceilings) - 1.0 if ceilings and min(ceilings) > 0 else 0.0
    lines = {
        f"other processes took {others:.0%} of the cores": others > OTHERS,
        f"the host took {steal:.0%} of the cores for other machines (steal)": steal > STEAL,
        f"the roofline moved by {moved:.0%} between the rounds": moved > MOVED,
    }
    warnings = [text for text, is_so in lines.items() if is_so]
    return {"others": others, "steal": steal, "roofline_moved": moved, "warnings": warnings}
