"""The records of a training of a video model, one line of JSON each."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from gala.files.whole import write_atomically

METRICS = "metrics.jsonl"


def forget_after(metrics: Path, iteration: int) -> float:
    """Records past the checkpoint are lived through again. Returns the seconds that the training had taken at the last
    one that is kept. Lines that are no records, as one that a kill has cut short, are dropped."""
    kept = []
    for line in metrics.read_bytes().splitlines() if metrics.is_file() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            kept += [row] if row["iteration"] <= iteration and row["wall_s"] >= 0 else []
    write_atomically(metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())
    return float(kept[-1]["wall_s"]) if kept else 0.0
