"""What a measurement depends on: processor, cores, memory, versions. No names, no paths."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from gala.processes.resources import available_cores, mps_serves
from gala.runs.run_dir import versions


def machine_facts() -> dict[str, Any]:
    """Processor model, usable cores, memory in GiB, GPU names (and whether MPS serves them), package versions."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    facts = {"cpu": model, "cores": available_cores(), "memory_gib": memory_gib, "gpus": gpus}
    return facts | ({"mps": mps_serves()} if gpus else {}) | {"versions": versions()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
