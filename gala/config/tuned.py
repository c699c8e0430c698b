"""Where this machine's tuned settings of a preset are kept: `gala tune` writes them, ``learners=auto`` reads them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from gala.processes.resources import available_cores


def tuned_path(preset: str) -> Path:
    """Below XDG_CONFIG_HOME, by kind and number of cores: a file is never used on a machine that it is not for."""
    root = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    machine = f"{platform.machine()}-{available_cores()}-cores"
    return root / "gala" / "tuned" / machine / f"{preset.replace('/', '-') or 'default'}.yaml"
