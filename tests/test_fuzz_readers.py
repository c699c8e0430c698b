"""Damaged input to every reader, as ``benchmarks/fuzz_readers.py`` makes it a million times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gala.overfit.scores import read_scores

ROOT = Path(__file__).parent.parent


def test_every_reader_returns_or_says_in_a_line_what_is_wrong(tmp_path):
    program = [sys.executable, str(ROOT / "benchmarks" / "fuzz_readers.py")]
    words = ["--inputs", "60", "--seed", "7", "--limit-s", "200", "--out", str(tmp_path / "rows.jsonl")]
    subprocess.run([*program, *words], check=True, capture_output=True, text=True, timeout=1500)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 17 and {row["reader"] for row in rows if row["refused"] == 0} == {"metrics", "request"}
    assert [row for row in rows if row["wrong"]] == []


def test_scores_tell_success_in_any_of_its_spellings_and_refuse_others(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("run,context,set,return,success\na,1,train,1,True\na,2,test,0,0.0\na,3,test,0,\n")
    assert [row["success"] for row in read_scores(path)] == [True, False, None]
    path.write_text("run,context,set,return,success\na,1,train,1,0.5\n")
    with pytest.raises(ValueError, match=r"scores.csv:2: success is '0.5'; it must be 0 or 1$"):
        read_scores(path)
