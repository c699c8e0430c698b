"""Rows from elsewhere: each field is what a report can read, or one line names the file, the line and the field."""

import copy
import json

import pytest

from gala.config.schema import Config
from gala.experiments.rows import make_failed_row, make_row, read_rows, settings_of, write_rows
from gala.runs.run_dir import RunDir

POLICY = {"learner0": {"return_mean": 2.0}}
ROW = {
    "name": "a2c-s1",
    "group": "a2c",
    "seed": 1,
    "settings": settings_of(Config()),
    "solved_return": None,
    "env_steps": 10,
    "seconds": None,
    "watts": 1.5,
    "evaluation": {"score": {"sampled": 2.0}, "policies": {"sampled": POLICY}, "random_return": 1},
    "curve": {"env_steps": [1, 10], "seconds": [0.5, 1.0], "return": [1.0, 2.0]},
    "judged": [100, "sampled"],
    "parts": None,
    "ranks": [0],
    "failures": 1,
    "machine": None,
    "trained_with": {},
}


def changed(path, value):
    row = copy.deepcopy(ROW)
    *folders, name = path.split("/")
    table = row
    for folder in folders:
        table = table[folder]
    if value is None and name in ("env.id", "score"):
        del table[name]
    else:
        table[name] = value
    return row


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        *[
            (path, value, "has no random_return, score by mode, and policies")
            for path, value in [
                ("evaluation", None),
                ("evaluation", []),
                ("evaluation/score", None),
                ("evaluation/score", {"sampled": None}),
                ("evaluation/score", {"sampled": float("nan")}),
                ("evaluation/score", {"sampled": 1e308}),
                ("evaluation/score", {}),
                ("evaluation/score", {"greedy": 1.0}),
                ("evaluation/policies", {"sampled": {"learner0": 1.0}}),
                ("evaluation/random_return", None),
            ]
        ],
        ("settings", ["env.id"], "has no settings env.id"),
        ("settings/env.id", None, "has no settings env.id"),
        ("settings/learners", "4", "no whole number from 1 on as its settings learners"),
        ("settings/learners", 0, "no whole number from 1 on as its settings learners"),
        ("curve", {}, "no table of env_steps, seconds"),
        ("curve/return", [1.0], "lists of numbers of one length"),
        ("curve/return", [1.0, None], "lists of numbers of one length"),
        ("curve/env_steps", [10, 1], "seconds (ascending)"),
        ("judged", 5, "no pair of a number of episodes and a mode as its judged"),
        ("judged", [-3, "sampled"], "no pair of a number of episodes and a mode as its judged"),
        ("machine", "x", "no table as its machine"),
        ("ranks", 3, "no list of whole numbers from 0 on as its ranks"),
        ("solved_return", "abc", "no number as its solved_return"),
        ("seconds", -5.0, "no number from 0 on as its seconds"),
        ("env_steps", -5, "no whole number from 0 on as its env_steps"),
        ("env_steps", 10**400, "no whole number from 0 on as its env_steps"),
        ("seed", True, "no whole number from 0 on as its seed"),
        ("group", 7, "no text as its group"),
        ("trained_with", "1.0", "no table of versions as its trained_with"),
        ("trained_with", {"git": 5}, "no table of versions as its trained_with"),
    ],
)
def test_a_field_that_no_report_could_read_is_one_line(tmp_path, path, value, told):
    write = tmp_path / "rows.jsonl"
    write.write_text(json.dumps(ROW) + "\n" + json.dumps(changed(path, value)) + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, has ") as info:
        read_rows(write)
    assert told in str(info.value) and str(info.value).endswith(": it is no row of `gala compare`")


def test_what_gala_writes_is_read(tmp_path):
    failed = make_failed_row(tmp_path / "run", Config(), "gala", "loss is nan")
    write_rows(tmp_path / "rows.jsonl", [ROW, failed])
    assert read_rows(tmp_path / "rows.jsonl") == [ROW, json.loads(json.dumps(failed))]


def test_a_reason_with_control_characters_is_read_again(tmp_path):
    """What an environment raises may hold any; a grid reads its own rows at each step."""
    failed = make_failed_row(tmp_path / "run", Config(), "gala", "ValueError: \x1b[31m bad\treward")
    write_rows(tmp_path / "rows.jsonl", [failed])
    assert read_rows(tmp_path / "rows.jsonl")[0]["failed"] == failed["failed"]


def test_a_directory_in_the_place_of_its_rows_is_told_where_they_are(tmp_path):
    write_rows(tmp_path / "results.jsonl", [ROW])
    with pytest.raises(ValueError, match=r"it is a directory, with the rows in .*results\.jsonl"):
        read_rows(tmp_path)


def test_what_a_run_did_after_its_last_checkpoint_is_not_in_its_row(tmp_path, monkeypatch):
    """It was judged as it was then: a score of 200 env_steps with the seconds of 400 is a score of no training."""
    run = RunDir.create(Config(run=str(tmp_path / "run"), learners=2), [], False)
    for k in range(1, 5):
        run.append_metrics(
            {"global_step": 100 * k, "charts/episodic_return": float(k), "perf/wall_s": k / 2, "perf/updates": 10 * k}
        )
    monkeypatch.setattr(RunDir, "checkpoint_meta", lambda self, name: {"env_steps": 200, "ranks": [0, 1]})
    row = make_row(run, "gala", ROW["evaluation"], None)
    assert row["curve"] == {"env_steps": [100, 200], "seconds": [0.5, 1.0], "return": [1.0, 2.0]}
    assert (row["env_steps"], row["seconds"], row["updates"]) == (200, 1.0, 20)
