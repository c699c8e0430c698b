"""Whether a machine was ours alone while something was measured: what other processes and other machines took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import psutil

OTHERS, STEAL, MOVED = 0.05, 0.02, 0.10
"""Shares above which a measurement counts as disturbed."""


class Taken(NamedTuple):
    """Seconds of processor time of the whole machine, of this process and its descendants, and the clock."""

    busy_s: float
    steal_s: float
    own_s: float
    clock_s: float


def taken() -> Taken:
    """Since the machine started. Descendants that have ended count as others', so take it while they live."""
    times = psutil.cpu_times()
    steal_s = float(getattr(times, "steal", 0.0))
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    guests_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user time too
    me, own_s = psutil.Process(), 0.0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            own_s += used.user + used.system
    return Taken(sum(times) - guests_s - idle_s - steal_s, steal_s, own_s, time.monotonic())


def disturbance(before: Taken, after: Taken, ceilings: Sequence[float], cores: int) -> dict[str, Any]:
    """What may have falsified a measurement between two looks.

    Args:
        ceilings: the roofline of each round, env_steps/s.
        cores: that the measurement could use.

    Returns:
        others and steal, as shares of ``cores``; roofline_moved, (largest - smallest) / smallest; and warnings, a line
        for each that is too large.
    """
    elapsed_s = max(after.clock_s - before.clock_s, 1e-9)
    others_s = max(after.busy_s - before.busy_s - (after.own_s - before.own_s), 0.0)
    others, steal = others_s / elapsed_s / cores, (after.steal_s - before.steal_s) / elapsed_s / cores
    moved = max(ceilings) / min(ceilings) - 1.0 if ceilings and min(ceilings) > 0 else 0.0
    lines = {
        f"other processes took {others:.0%} of the cores": others > OTHERS,
        f"the host took {steal:.0%} of the cores for other machines (steal)": steal > STEAL,
        f"the roofline moved by {moved:.0%} between the rounds": moved > MOVED,
    }
    warnings = [text for text, is_so in lines.items() if is_so]
    return {"others": others, "steal": steal, "roofline_moved": moved, "warnings": warnings}
