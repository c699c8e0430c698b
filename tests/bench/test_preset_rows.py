"""Every preset is what a committed training was of, or says that there is none."""

import json
import sys
from pathlib import Path

from gala.config.preset_files import preset_names, preset_path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import presets

ROWS = [row for row in map(json.loads, presets.RESULTS.read_text().splitlines()) if "preset" in row]


def test_every_preset_names_its_run_and_is_what_that_run_used():
    for name in (name for name in presets.agents() if not name.startswith("overfit/")):
        said = [line for line in preset_path(name).read_text().splitlines() if line.startswith("# Run: ")]
        changed = presets.changed_since(ROWS, name)
        kept = "benchmarks/results/presets.jsonl" if changed is not None else "none of this preset yet"
        assert said == [f"# Run: {kept}."], name
        assert not changed, f"run benchmarks/presets.py --presets {name} again"


def test_presets_of_gala_overfit_name_the_studies_that_were_made_with_them():
    study = presets.RESULTS.parent / "overfit_protocols.jsonl"
    names = [name for name in preset_names() if name.startswith("overfit/")]
    assert names
    for name in names:
        assert f"\n# Run: benchmarks/results/{study.name}.\n" in preset_path(name).read_text()
        assert f"preset={name}" in study.read_text()
