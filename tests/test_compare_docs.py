"""The table in docs/compare.md is what its committed rows say."""

import re
from pathlib import Path

import yaml

from gala.experiments.compared import Terms
from gala.experiments.comparison import analyse
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


def test_every_threshold_that_a_preset_sets_itself_is_told():
    text = (ROOT / "docs" / "compare.md").read_text()
    told = " ".join(re.search(r"the preset's `solved_return`:(.*?)Others have none", text, re.DOTALL)[1].split())
    for path in (ROOT / "configs").glob("*/*.yaml"):
        if yaml.safe_load(path.read_text()).get("solved_return"):
            family = {"classic": "classic control", "mujoco": "MuJoCo"}.get(path.parent.name)
            assert (family or path.stem.title()) in told, path


def test_the_comparison_with_other_libraries_says_why_not():
    """gala's column: it has a feature, or has not with a reason; the others' cells say what was read, and no more."""
    text = (ROOT / "docs" / "compared-with.md").read_text()
    rows = [row[2:-2].split(" | ") for row in text.split("## Where these")[0].splitlines() if row.startswith("| ")]
    features = [row for row in rows if row[0] not in ("feature", "---")]
    assert len(features) >= 45 and all(len(row) == 8 for row in features)
    for feature, ours, *theirs in features:
        assert re.match(r"has( \(|:|, |$| by | two )|has not[:;] .{8,}|written, never run$", ours), (feature, ours)
        assert set(theirs) <= {"yes", "no", "?", "older", "by hand"}, feature
