"""The table in docs/compare.md is what its committed rows say."""

import re
from pathlib import Path

from gala.experiments.comparison import Terms, analyse
from gala.experiments.rows import read_rows

ROOT = Path(__file__).parent.parent


def test_the_table_of_what_was_measured_is_that_of_its_rows():
    rows = read_rows(ROOT / "benchmarks" / "results" / "compare" / "minatar_breakout.jsonl")
    groups = analyse(rows, Terms("a2c", "sampled", 3.7))["groups"]
    text = (ROOT / "docs" / "compare.md").read_text()
    table = re.findall(r"^\| ([\w-]+) \d x \d+ \| (\S+) \| (\S+) to (\S+) \| (\S+) \|$", text, re.MULTILINE)
    assert {name for name, *_ in table} == set(groups) and all(row["env_steps"] >= 1_000_000 for row in rows)
    for name, score, low, high, env_steps in table:
        found = groups[name]
        assert [f"{x:.2f}" for x in found["score"]] == [low, score, high]
        assert f"{round(found['to_threshold_env_steps'][1], -3):,.0f}" == env_steps
