"""Tables of the evidence, against the rows that their benchmarks have left."""

import collections
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import defaults

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence.md"


def test_the_table_of_settings_without_a_preset_is_that_of_the_rows():
    rows = [json.loads(line) for line in defaults.RESULTS.read_text().splitlines()]
    seeds = collections.Counter((row["task"], row["preset"]) for row in rows)
    assert seeds == {(task, preset): 3 for task in defaults.TASKS for preset in defaults.PRESETS}
    assert defaults.table(rows) in EVIDENCE.read_text()
