"""What a measurement depends on: processor, cores, memory, versions. No names, no paths."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from gala.resources import available_cores
from gala.runs import versions


def machine_facts() -> dict[str, Any]:
    """Processor model, usable cores, memory in GiB, GPU names, package versions."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return {"cpu": model, "cores": available_cores(), "memory_gib": memory_gib, "gpus": gpus, "versions": versions()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
