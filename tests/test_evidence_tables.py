"""Tables of the evidence, against the rows that their benchmarks have left."""

import collections
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks/peers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablations
import dead_units
import defaults
import hosts
import learning_rates
import presets
import robustness
import score_at_budget
import ten_tasks
import time_to_score

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DOCS = Path(__file__).parents[1] / "docs"
EVIDENCE = DOCS / "evidence.md"


def test_the_table_of_settings_without_a_preset_is_that_of_the_rows():
    rows = [json.loads(line) for line in defaults.RESULTS.read_text().splitlines()]
    seeds = collections.Counter((row["task"], row["preset"]) for row in rows)
    assert seeds == {(task, preset): 3 for task in defaults.TASKS for preset in defaults.PRESETS}
    assert defaults.table(rows) in EVIDENCE.read_text()


def test_the_table_of_presets_is_that_of_the_rows():
    rows = [row for row in map(json.loads, presets.RESULTS.read_text().splitlines()) if "preset" in row]
    assert presets.table(rows) in EVIDENCE.read_text()


def test_the_tables_of_networks_are_those_of_the_rows():
    rows = [json.loads(line) for line in hosts.RESULTS.read_text().splitlines()]
    cells = [row for row in rows if "algorithm" in row and "ms" in row]
    assert len(cells) == 2 * 3 * 3 * 6
    for count in hosts.HOSTS:
        assert hosts.table(cells, count) in EVIDENCE.read_text()
    cut = next(row for row in rows if "partition_s" in row)
    assert cut["weight_error"] < 1e-14 and abs(sum(cut["weights"]) - 4) < 1e-14


def scored_rows(path):
    return [row for row in map(json.loads, path.read_text().splitlines()) if "score" in row]


def test_the_table_of_robustness_is_that_of_the_rows():
    rows = scored_rows(robustness.CARTPOLE.path)
    cells = collections.Counter((row["algorithm"], row["envs"], row["lr_scaling"]) for row in rows)
    assert len(cells) == 3 * 4 * 2 and set(cells.values()) == {10}
    assert robustness.table(rows, robustness.CARTPOLE) in (DOCS / "compare.md").read_text()
    rows = scored_rows(robustness.BREAKOUT.path)
    assert set(collections.Counter((row["algorithm"], row["envs"]) for row in rows).values()) == {10}
    assert robustness.table(rows, robustness.BREAKOUT) in (DOCS / "compare.md").read_text()


def test_the_tables_of_rates_and_ablations_are_those_of_the_rows():
    page = (DOCS / "compare.md").read_text()
    for module in (learning_rates, ablations):
        rows = scored_rows(module.RESULTS)
        assert module.table(rows) in page
    assert learning_rates.table_of_words(scored_rows(learning_rates.RESULTS)) in page
    seeds = collections.Counter(row["variant"] for row in rows)
    assert min(seeds.values()) >= 5 and seeds["gala (ring)"] == seeds["a2c, 1 x 64"] == 10


def test_the_tables_of_mujoco_are_those_of_the_rows():
    page = (DOCS / "compare.md").read_text()
    for module, name in ((score_at_budget, "score_at_budget"), (ten_tasks, "ten_tasks")):
        rows = scored_rows(BENCHMARKS / "results" / f"{name}.jsonl")
        assert len(rows) >= 15 and module.table(rows) in page
    assert ten_tasks.mixing_table(rows) in page


def test_the_table_of_dead_units_is_that_of_the_rows():
    rows = [json.loads(line) for line in dead_units.RESULTS.read_text().splitlines()]
    assert dead_units.table([row for row in rows if "seed" in row]) in (DOCS / "compare.md").read_text()


def test_the_tables_of_time_to_a_score_are_those_of_the_rows():
    lines = (BENCHMARKS / "results" / "time_to_score.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "seed" in row]
    seeds = collections.Counter((row["task"], row["system"]) for row in rows)
    tasks, systems = {task for task, _ in seeds}, time_to_score.CONTESTANTS.items()
    wanted = {
        (t, name): 5 if t in ("cartpole", "acrobot") else 3 for t in tasks for name, each in systems if t in each.setups
    }
    assert seeds == wanted and {"cartpole", "acrobot"} <= tasks
    assert all(time_to_score.table(rows, task) in EVIDENCE.read_text() for task in tasks)
