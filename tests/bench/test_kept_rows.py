"""Rows of a benchmark outlive whoever else writes to their file, and whoever is cut off."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from kept_rows import KeptRows

KEYS = ("task", "seed")


def test_two_that_write_to_one_file_keep_each_others_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    first, second = KeptRows(path, KEYS), KeptRows(path, KEYS)
    first.add({"task": "a", "seed": 1, "score": math.nan, "pair": (1, 2)})
    second.add({"task": "b", "seed": 1, "score": 2.0})
    second.add_new({"task": "b", "seed": seed, "score": 3.0} for seed in (1, 2))
    first.add({"task": "a", "seed": 2, "score": 4.0})
    first.conclude([{"finding": "none"}])
    assert sorted((row["task"], row["seed"]) for row in KeptRows(path, KEYS).rows) == [
        *(("a", 1), ("a", 2), ("b", 1), ("b", 2)),
    ]
    assert list(json.loads(path.read_text().splitlines()[-1])) == ["machine"]


def test_a_write_that_fails_leaves_the_rows_that_were_there(tmp_path):
    kept = KeptRows(tmp_path / "rows.jsonl", KEYS)
    kept.add({"task": "a", "seed": 1})
    (tmp_path / "rows.jsonl.tmp").mkdir()  # where the new file would be written
    with pytest.raises(OSError, match=r"rows\.jsonl\.tmp"):
        kept.add({"task": "a", "seed": 2})
    assert [row["seed"] for row in KeptRows(kept.path, KEYS).rows] == [1]
