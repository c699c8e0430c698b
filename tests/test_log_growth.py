"""Logs of runs that last for weeks: bounded, exact at first, and everything that reads them still works."""

from __future__ import annotations

import numpy as np
import pytest

from gala.cli import main
from gala.config.parse import parse_config
from gala.runs import thinning
from gala.runs.following import Follower
from gala.runs.run_dir import RunDir

MOST = 100


def run_with(path, *words: str) -> RunDir:
    config = parse_config([f"run={path}", f"log.max_records={MOST}", "log.interval_s=2", *words])
    return RunDir.create(config, ["x"], False)


def record(i: int) -> dict:
    tags = {"charts/episodic_return": float(i), "charts/SPS": 40.0, "perf/wall_s": 2.0 * i}
    return {"global_step": 80 * i, "frames": 80 * i, **tags, "learner0": {"charts/SPS": 40.0}}


def test_what_is_kept_is_the_newest_and_an_even_grid():
    steps = list(range(0, 4_000, 4))
    assert thinning.kept(steps, 1_000) == list(range(1_000))
    kept = thinning.kept(steps, 80)
    assert kept[0] == 0 and kept[-20:] == list(range(980, 1_000)) and len(kept) == 80
    gaps = np.diff(kept[:60])
    assert gaps.min() >= 15 and gaps.max() <= 18
    assert thinning.kept([7] * 500, 80)[0] == 0 and len(thinning.kept([7] * 500, 80)) <= 80
    assert len(thinning.kept([5, 3, 9, 1] * 200, 80)) <= 80  # whatever lies in a file


def test_a_long_run_has_bounded_records_that_stay_even_and_reach_back_to_the_start(tmp_path):
    run = run_with(tmp_path / "run", "log.tensorboard=false")
    follower, seen = Follower(run), 0
    for i in range(MOST - 1):
        assert run.append_metrics(record(i)) == ""
    assert [r["global_step"] for r in run.read_metrics()] == [80 * i for i in range(MOST - 1)], "exact at first"
    for i in range(MOST - 1, 6_000):
        run.append_metrics(record(i))
        if i % 37 == 0:
            seen = follower.new_records()[-1]["global_step"]
            assert seen == 80 * i, "gala watch sees the newest, also when the file was replaced"
    steps = np.array([r["global_step"] for r in run.read_metrics()]) // 80
    assert MOST // 2 <= len(steps) < MOST and steps[0] == 0 and steps[-1] == 5_999
    newest = steps[-MOST // 8 :]
    assert (np.diff(newest) == 1).all()
    old = steps[steps < 4_000]
    assert np.diff(old).max() <= 2.5 * 6_000 / (MOST // 2 * 3 / 4), "no hole, however often it was thinned"


def test_a_resumed_run_goes_on_within_the_bound(tmp_path):
    first = run_with(tmp_path / "run", "log.tensorboard=false")
    for i in range(MOST - 10):
        first.append_metrics(record(i))
    first.close()
    again = RunDir.open(tmp_path / "run")
    again.rewind(80 * 50)
    assert [r["global_step"] for r in again.read_metrics()] == [80 * i for i in range(51)]
    for i in range(51, 151):
        again.append_metrics(record(i))
    steps = [r["global_step"] // 80 for r in again.read_metrics()]
    assert len(steps) < MOST and steps[0] == 0 and steps[-1] == 150 and steps == sorted(set(steps))
    third = RunDir.open(tmp_path / "run")
    for i in range(151, 400):
        third.append_metrics(record(i))
    assert len(third.read_metrics()) < MOST
    third.replace_config(parse_config([f"run={tmp_path / 'run'}", "log.max_records=0", "log.tensorboard=false"]))
    for i in range(400, 600):
        third.append_metrics(record(i))
    assert len(third.read_metrics()) >= 200, "0 keeps all"


def test_what_cannot_be_written_is_kept_for_later_and_counted_once(tmp_path, monkeypatch):
    run = run_with(tmp_path / "run", "log.tensorboard=false")
    run.append_metrics(record(0))
    with monkeypatch.context() as patch:
        patch.setattr(
            "gala.runs.metrics_file.append_whole", lambda path, data: (_ for _ in ()).throw(OSError(28, "full"))
        )
        assert "cannot be written to: full" in run.append_metrics(record(1))
    run.append_metrics(record(2))
    assert [r["global_step"] for r in run.read_metrics()] == [0, 80, 160]
    for i in range(3, MOST - 1):
        run.append_metrics(record(i))
    assert len(run.read_metrics()) == MOST - 1
    run.append_metrics(record(MOST))
    assert len(run.read_metrics()) == MOST // 2


def test_tensorboard_gets_the_logarithm_of_a_long_run(tmp_path):
    pytest.importorskip("tensorboard")
    run, sizes = run_with(tmp_path / "run"), []
    for i in range(8 * MOST):
        run.append_metrics(record(i))
        if i + 1 in (MOST, 4 * MOST, 8 * MOST):
            sizes.append(sum(file.stat().st_size for file in (tmp_path / "run").glob("events*")))
    run.close()
    per_record = sizes[0] / MOST
    assert sizes[1] < per_record * MOST * 2.2 and sizes[2] < per_record * MOST * 3.0  # 1 + ln 4 and 1 + ln 8


def test_curves_and_the_report_of_a_thinned_run(tmp_path, capsys):
    run = run_with(tmp_path / "run", "log.tensorboard=false")
    for i in range(1_000):
        run.append_metrics(record(i))
    run.close()
    assert main(["report", str(tmp_path / "run"), f"out={tmp_path / 'report.html'}"]) == 0
    assert main(["plot", str(tmp_path / "run"), f"out={tmp_path / 'curve.png'}"]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1_000 and (tmp_path / "curve.png").is_file()
