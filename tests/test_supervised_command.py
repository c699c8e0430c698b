"""``gala supervised`` as a user runs it: what it writes, and what is left when it breaks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from training import PATIENCE_S, spawn

from gala import cli
from gala.config.parse import parse_options
from gala.config.supervised import SupervisedConfig
from gala.supervised.comparison import digits
from gala.supervised.comparison.build import ComparisonJob
from gala.supervised.comparison.launch import LearnerFailed, Team

pytest.importorskip("sklearn")
TINY = ("learners=2", "iterations=6", "compute_ms=1", "latency_ms=1", "slow.every=3")
LONG = ("learners=2", "iterations=1000000", "compute_ms=1", "method=sgp", "slowmo=off")


def start(*words):
    return spawn(["supervised", *words])[0]


def learners(process):
    """The learner processes in the order of their ranks, once both of them have begun to train."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        training = [p for p in psutil.Process(process.pid).children(recursive=True) if is_training(p)]
        if len(training) == 2:
            return sorted(training, key=lambda p: p.pid)
        time.sleep(0.05)
    raise AssertionError("no learners")


def is_training(process):
    """Whether it is a learner that has opened the mailboxes, which exist in the parent's memory only."""
    return os.getpgid(process.pid) == process.pid and any(
        "gala-mailboxes" in _target(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()
    )


def _target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed since the folder was read
        return ""


def end(process, children):
    """(status, stdout, stderr); no learner may be left."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
    return process.returncode, out, err


def test_a_comparison_prints_a_table_writes_it_and_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "method=sgp,local-sgd,overlap-sgp", "overlap_tau=2", "seeds=1,2", "out=out"]
    assert cli.main(["supervised", "preset=digits/slowmo", *words]) == 0
    text, err = capsys.readouterr()
    assert err == "" and max(map(len, text.splitlines())) <= 80
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    modes = {"sgp": 3, "overlap-sgp": 3, "local-sgd": 2}
    assert len({(r["method"], r["slowmo"], r["seed"]) for r in rows}) == len(rows) == 2 * 8
    assert {name: sum(r["method"] == name for r in rows) for name in modes} == {k: 2 * v for k, v in modes.items()}
    for row in rows:
        assert 0 < row["test_accuracy"] < 1 and row["ms_per_iteration"] >= row["injected_ms"] - 0.1, row
        assert row["total_weight"] == pytest.approx(2, abs=1e-9)
    table = Path("out/table.md").read_text().splitlines()
    assert table[0].startswith("| method | SlowMo | test acc. % |") and sum(x.startswith("| ") for x in table) == 2 + 8
    assert table[2].startswith(f"| sgp | off | {50 * (rows[0]['test_accuracy'] + rows[8]['test_accuracy']):.2f} ± ")
    assert " sgp          no-average " in text
    saved = parse_options(SupervisedConfig, ["preset=out/config.yaml"])
    assert (saved.out, saved.seeds, saved.iterations) == ("out", (1, 2), 6)

    before = Path("out/results.jsonl").read_bytes()
    assert cli.main(["supervised", *TINY, "out=out"]) == 2
    assert "out already exists; give another out=DIRECTORY, or add overwrite=true" in capsys.readouterr().err
    Path("else").mkdir()
    Path("else/mine").touch()
    assert cli.main(["supervised", *TINY, "out=else", "overwrite=true"]) == 2
    assert "leaves it alone" in capsys.readouterr().err and Path("out/results.jsonl").read_bytes() == before


@pytest.mark.parametrize("how", [pytest.param("interrupted", marks=pytest.mark.long), "parent killed"])
def test_no_learner_outlives_its_parent(tmp_path, how):
    process = start(*LONG, f"out={tmp_path / 'out'}")
    children = learners(process)
    if how == "interrupted":
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = end(process, children)
        assert (code, err) == (130, "")
    else:
        process.kill()
        code, _, err = end(process, children)
        assert code == -signal.SIGKILL and "Traceback" not in err


def test_a_killed_learner_is_named_though_its_peers_fail_too_and_none_is_left():
    config = parse_options(SupervisedConfig, [*LONG, "wait_timeout_s=120"])
    data = digits.load(0.2, 0)
    with pytest.raises(LearnerFailed) as caught, Team(config, data) as team:
        pids = team.fleet.pids()
        killer = threading.Timer(0.5, os.kill, (pids[1], signal.SIGKILL))
        killer.start()
        team.run(ComparisonJob("allreduce", "off", 1))
    assert str(caught.value) == "learner 1 was killed by SIGKILL; the run has ended."
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_first_traceback_reaches_the_user_once(tmp_path):
    words = [*TINY, "method=dpsgd", "optim.lr=1e6", "optim.warmup=0", f"out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "gala", "supervised", *words, "--traceback"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    err = done.stderr
    assert done.returncode == 1 and err.count("Traceback") == 1 and err.count("NotFinite: ") == 1, err
    assert "failed; the run has ended." in err and (tmp_path / "out" / "results.jsonl").read_text() == ""


def test_a_training_that_diverges_says_so_in_a_line(tmp_path, capsys):
    words = [*TINY, "method=dpsgd", "optim.lr=1e6", "optim.warmup=0", f"out={tmp_path / 'out'}"]
    assert cli.main(["supervised", *words]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and re.search(
        r"not finite; lower the learning rate|is nan in .*; lower optim\.lr", err
    ), err


def test_a_dry_run_shows_the_settings_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["supervised", "preset=digits/straggler", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "straggler: 4.0\n" in out and "overlap-sgp  SlowMo off         seed 1  22.1 ms" in out
    assert list(tmp_path.iterdir()) == []
