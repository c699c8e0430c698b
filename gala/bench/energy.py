"""Joules from the counters of the hardware: GPUs through NVML, processors through RAPL. None where there is neither."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


def counters() -> list[Callable[[], float]]:
    """One function per counter that can be read here; each returns joules since some moment, and never falls."""
    return [*_gpu_counters(), *_cpu_counters(POWERCAP)]


def joules(read_counters: Sequence[Callable[[], float]]) -> float | None:
    """The sum over ``found`` as of now, of which only differences mean something; None if there are no counters."""
    return sum(read() for read in read_counters) if read_counters else None


def _gpu_counters() -> list[Callable[[], float]]:
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    readers: list[Callable[[], float]] = []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            with contextlib.suppress(pynvml.NVMLError):  # GPUs before Volta do not count
                _gpu_joules(handle)
                readers.append(partial(_gpu_joules, handle))
    return readers


def _gpu_joules(handle: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def cpu_counter_files(root: Path = POWERCAP) -> list[Path]:
    """Counters of whole packages only (``intel-rapl:0``, named package-0): their parts (``intel-rapl:0:0``) are counted
    within them, and they within the whole platform's counter (psys). Where no zone is named so, all but psys."""
    paths = [p for p in sorted(root.glob("intel-rapl:*/energy_uj")) if p.parent.name.count(":") == 1]
    names = {path: _zone_name(path.parent) for path in paths}
    packages = [path for path in paths if names[path].startswith("package")]
    return packages or [path for path in paths if not names[path].startswith("psys")]


def _cpu_counters(root: Path) -> list[Callable[[], float]]:
    return [_Rapl(path) for path in cpu_counter_files(root) if os.access(path, os.R_OK)]


def _zone_name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


class _Rapl:
    """A package's counter in microjoules, which starts over at its range; read it more often than that (minutes)."""

    def __init__(self, path: Path) -> None:
        self._path, self._range = path, int((path.parent / "max_energy_range_uj").read_text())
        self._last, self._total = int(path.read_text()), 0

    def __call__(self) -> float:
        now = int(self._path.read_text())
        self._total += (now - self._last) % self._range
        self._last = now
        return self._total / 1e6
