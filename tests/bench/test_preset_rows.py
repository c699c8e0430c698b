"""Every preset is what a committed training was of, or says that there is none."""

import json
import sys
from pathlib import Path

import pytest

from gala.config.preset_files import preset_path
from gala.experiments.rows import differing, settings_of
from gala.training.new_run import prepare

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import presets

ROWS = {row["preset"]: row for row in map(json.loads, presets.RESULTS.read_text().splitlines()) if "preset" in row}
"""The latest of each."""


@pytest.mark.parametrize("name", presets.agents())
def test_a_preset_names_its_run_and_is_what_that_run_used(name):
    said = [line for line in preset_path(name).read_text().splitlines() if line.startswith("# Run: ")]
    assert said == ["# Run: benchmarks/results/presets.jsonl." if name in ROWS else "# Run: none of this preset yet."]
    if name in ROWS:
        odds = differing(ROWS[name]["settings"], settings_of(prepare([f"preset={name}"], start_processes=False)))
        assert set(odds) <= {"steps"}, f"run benchmarks/presets.py --presets {name} again: {odds} changed since"
