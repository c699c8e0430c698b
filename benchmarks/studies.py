"""Studies of ``gala overfit`` in a folder: run those that are not there, and read what they found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gala.diagnostics.overfitting.generalisation import GapGroup
from gala.files.plain_yaml import read_json
from gala.reports.overfitting import judged

KEYS = (
    *("condition", "n_train", "runs", "verdict", "gap", "normalised", "adjusted"),
    *("train_normalised", "test_normalised"),
)


class Results:
    """Groups of all studies that are there."""

    def __init__(self, studies: Path, names: Iterable[str]) -> None:
        self.rows = {name: read(studies / name / "rows.jsonl") for name in names if done(studies / name)}
        self.judged = {name: judged(rows, read_json(studies / name / "study.json")) for name, rows in self.rows.items()}

    def group(self, study: str, n: int, condition: str = "") -> GapGroup:
        return next(g for g in self.judged[study]["groups"] if (g.n_train, g.condition) == (n, condition))

    def gap(self, study: str, n: int, condition: str = "") -> float:
        return float(self.group(study, n, condition).judged.estimate)

    def mean(self, study: str, n: int, split: str, condition: str = "") -> float:
        return float(self.group(study, n, condition).sets[split]["mean"].estimate)


def run_all(studies: Path, commands: Mapping[str, str]) -> None:
    """Those that are not there yet, in turn. ``{studies}`` in a command is the folder."""
    studies.mkdir(parents=True, exist_ok=True)
    for name, command in commands.items():
        if not done(studies / name):
            words = [*command.format(studies=studies).split(), f"out={studies / name}"]
            subprocess.run([sys.executable, "-m", "gala", "overfit", *words], check=False)


def done(study: Path) -> bool:
    return (study / "report.html").is_file()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def short(g: GapGroup) -> dict[str, Any]:
    """A group as one line of a file of results."""
    means = {name: s["mean"] for name, s in g.sets.items()}
    return {key: getattr(g, key) for key in KEYS} | {"mean": means, "random": g.j_random, "reference": g.j_reference}
