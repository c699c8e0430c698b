"""Benchmarks of real trainings, short: that they freeze, count, refuse and report."""

import json
import os
import signal
import time

import psutil
import pytest

from gala.bench.job import BenchFailed, BenchJob
from gala.bench.roofline import Roofline
from gala.cli import main
from gala.commands import bench
from gala.config.parse import parse_config

WORDS = ["preset=classic/cartpole", "envs_per_learner=4", "torch_threads=1"]


@pytest.mark.parametrize("algo", ["gala", pytest.param("allreduce", marks=pytest.mark.long)])
def test_a_job_stands_still_while_it_is_frozen_and_its_rate_is_that_of_its_counts(algo):
    job = BenchJob(parse_config([*WORDS, f"algo={algo}", "learners=2"]))
    try:
        pids = job._fleet.pids()
        before = job._board.progress.copy()
        time.sleep(0.3)
        assert (job._board.progress == before).all() and before[:2, 1].min() >= 3
        thawed = time.monotonic()
        block = job.measure(1.2, settle_s=0.2)
        thawed_s = time.monotonic() - thawed
        after = job._board.progress.copy()
        counted = (after - before)[:2, 0].sum()
        assert block.seconds >= 1.2 and 0.1 * counted / thawed_s < block.env_steps_per_s < 10 * counted / block.seconds
        assert block.env_steps_per_s == pytest.approx(4 * 32 * sum(block.updates_per_s))
        assert 0 < block.cpu <= 1.1 and 0.1 < block.memory_gib < 8
        blocks = (job.measure(2.5) for _ in range(20))  # of which some has a whole record in it, on any machine
        assert sum(next(b.shares for b in blocks if b.shares).values()) == pytest.approx(1.0, abs=0.02)
        deadline = time.monotonic() + 60.0
        while {psutil.Process(pid).status() for pid in pids} != {psutil.STATUS_STOPPED}:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        job.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_learner_that_dies_ends_the_benchmark_and_is_named():
    job = BenchJob(parse_config([*WORDS, "learners=2"]))
    try:
        psutil.Process(job._fleet.pids()[1]).kill()
        with pytest.raises(BenchFailed, match="learner 1 was killed by SIGKILL"):
            job.measure(5.0)
    finally:
        job.close()


@pytest.mark.long
def test_the_roofline_counts_rows_of_all_processes_at_work():
    roof = Roofline(parse_config(WORDS))
    try:
        for worker in roof._workers:  # Ctrl-C is for their owner
            os.kill(worker.pid, signal.SIGINT)
        for _ in range(2):
            ceiling = roof.measure(0.6)
        assert set(ceiling.core_s) == {"simulate", "forward", "backward"} and min(ceiling.core_s.values()) > 0
        assert ceiling.env_steps_per_s < 1e7
        assert set(roof.best) == set(ceiling.core_s)
    finally:
        roof.close()


def test_learners_that_wait_at_the_bound_can_be_measured(tmp_path):
    """Times that no pause reaches must still be in their order: it was refused by numbers that nobody had given."""
    config = parse_config([*WORDS, "learners=2", "gossip.tau=2", "gossip.at_bound=wait"])
    job = BenchJob(config)
    try:
        assert job.measure(0.5).env_steps_per_s > 0
    finally:
        job.close()


@pytest.mark.long
def test_bench_throughput_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "bench"
    words = [*WORDS, "learners=2", "algos=a2c,gala", "envs=8", "rounds=2", "block_s=2", f"out={out}"]
    assert main(["bench", "throughput", *words]) == 0
    shown = capsys.readouterr().out
    record = json.loads((out / "record.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["a2c", "gala x2"]
    assert max(map(len, shown.splitlines()[:-1])) <= 80 and "Roofline:" in shown and "gala x2" in shown
    for row in record["rows"]:
        assert len(row["rates"]) == 2 and row["roofline_fraction"] > 0 and f"{row['env_steps_per_s']:,.0f}" in shown
    assert record["rows"][1]["message_age"] is not None and record["rows"][0]["message_age"] is None
    assert str(tmp_path) not in (out / "report.html").read_text() and (out / "rates.png").stat().st_size > 1000
    assert main(["bench", "throughput", *words]) == 2 and "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["speed"], "gala bench speed: wants one of throughput, roofline"),
        (["throughput", "learners=two"], "learners=two: wants whole numbers"),
        (["throughput", "preset=classic/cartpole", "algos=sarsa"], "algos=sarsa is unknown"),
        (["throughput", "envs=0"], "envs must be at least 1"),
        (["throughput", "block_s=nan"], "block_s=nan must be a finite number"),
        (["roofline", "--block-s", "inf"], "block_s=inf must be a finite number"),
        (["throughput", "cluster.address=auto"], "runs on this machine only"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(words, told, capsys):
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [["tune"], ["bench", "roofline"]])
def test_a_signal_ends_a_measurement_in_order(words, monkeypatch):
    """As SIGTERM did not: folders of temporary files were left behind."""
    put_away = []

    def measure(*args, **options):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            put_away.append(words)

    def nobody_listens(number, frame):
        raise RuntimeError

    monkeypatch.setattr("gala.bench.tune.tune", measure)
    monkeypatch.setitem(bench.KINDS, "roofline", measure)
    before = signal.signal(signal.SIGTERM, nobody_listens)
    try:
        assert main([*words, "preset=classic/cartpole"]) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert put_away == [words]
