"""``gala watch``: what it shows of a run in each state, and that it leaves no trace in it."""

import io
import json
import os
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console
from training import TINY, Gala

from gala import cli
from gala.commands.watch import watch
from gala.config.parse import parse_config
from gala.runs import lock
from gala.runs.following import Follower
from gala.runs.run_dir import RunDir
from gala.training.panel import Panel

SUMMARY = {"status": "finished", "env_steps": 1000, "frames": 1000, "updates": 10, "wall_s": 2.0}
SUMMARY |= {"env_steps_per_s": 600.0, "return_mean": 5.0, "learners": [{}], "time_shares": {}}


def make_run(tmp_path):
    words = [f"run={tmp_path / 'run'}", "steps=1000", "log.tensorboard=false"]
    return RunDir.create(parse_config(words), words, overwrite=False)


def never():
    raise AssertionError("it waits for a run that has ended")


def look(run, pause=never, terminal=False):
    """(exit status, what is shown) of watching until the run ends."""
    out = io.StringIO()
    console = Console(width=80, file=out, force_terminal=terminal, color_system=None)
    panel = Panel(run.config, run.config.steps, "auto", console)
    status = watch(RunDir.open(run.path), panel, pause)
    panel.close()
    return status, out.getvalue()


def snapshot(path):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(path.rglob("*"))}


def test_a_finished_run_shows_its_last_record_and_how_it_ended(tmp_path):
    run = make_run(tmp_path)
    for step in (400, 1000):
        run.append_metrics({"global_step": step, "charts/SPS": 1.0, "charts/episodic_return": 5.0})
    run.write_summary(SUMMARY)
    run.close()
    before = snapshot(run.path)
    status, text = look(run)
    assert status == 0 and text.startswith("step 1,000/1,000 (100%)") and "step 400" not in text
    assert "finished: return 5.00" in text and "1,000 env_steps, 10 updates in 2.0 s" in text
    status, text = look(run, terminal=True)
    lines = re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace(str(run.path), "RUN")))
    assert status == 0 and any("steps/s 500" in line for line in lines) and max(map(len, lines)) <= 80
    assert snapshot(run.path) == before


def test_a_run_that_grows_is_followed_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("gala.training.panel.PLAIN_INTERVAL_S", 0.0)
    run = make_run(tmp_path)

    def write(text):
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(text)

    script = [
        lambda: run.append_metrics({"global_step": 100}),
        lambda: write('{"global_st'),  # a line that is being written
        lambda: write('ep": 200}\n'),
        lambda: (run.append_metrics({"global_step": 300}), run.write_summary(SUMMARY), run.close()),
    ]

    def pause():
        script.pop(0)()

    before = (run.path / ".lock").read_text()
    status, text = look(run, pause=pause)
    assert status == 0 and script == []
    lines = text.splitlines()
    assert lines[0] == f"{run.path} has no records yet: its learners are starting"
    assert [line.split("/")[0] for line in lines[1:4]] == ["step 100", "step 200", "step 300"]
    assert "finished: return 5.00" in lines[4] and (run.path / ".lock").read_text() == before


def test_a_run_that_was_killed_says_so(tmp_path):
    code = "import sys; from gala.runs.run_dir import RunDir; RunDir.open(sys.argv[1]).claim()"
    run = make_run(tmp_path)
    run.close()
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)  # its number is in the lock, and it is gone
    status, text = look(run)
    assert status == 1 and "its process is gone, and has left no summary and no records: it was killed" in text
    run.append_metrics({"global_step": 100})
    status, text = look(run)
    assert status == 1 and text.startswith("step 100/1,000") and f"gala resume {run.path}" in text


def test_no_run_is_one_line(tmp_path, capsys):
    assert cli.main(["watch", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["watch", str(tmp_path), "every_s=0"]) == 2
    assert "every_s=0.0 must be" in capsys.readouterr().err


def test_whether_a_run_is_held_is_seen_without_touching_its_lock(tmp_path):
    run = make_run(tmp_path)
    assert lock.is_held(run.path) is True
    run.close()
    assert lock.is_held(run.path) is False  # this process lives, but holds it no more
    (run.path / ".lock").write_text(f"process {os.getpid()} on another-machine since 2026-01-01 00:00:00\n")
    assert lock.is_held(run.path) is None
    (run.path / ".lock").write_text("process 99999999999999999999 on x")
    assert lock.is_held(run.path) is False
    assert lock.is_held(tmp_path) is False


def test_on_another_machine_a_summary_counts_if_nothing_was_logged_after_it(tmp_path):
    run = make_run(tmp_path)
    run.append_metrics({"global_step": 100})
    run.close()
    (run.path / ".lock").write_text("process 1 on another-machine since 2026-01-01 00:00:00\n")
    follower = Follower(RunDir.open(run.path))
    assert follower.state() == "elsewhere"
    run.write_summary(SUMMARY)
    assert follower.state() == "ended"
    later = time.time() + 10
    os.utime(run.path / "metrics.jsonl", (later, later))
    assert follower.state() == "elsewhere"
    (run.path / "summary.json").write_text(json.dumps({"status": "finished"}))
    assert follower.summary() is None


def test_records_that_a_resumed_run_drops_are_read_anew(tmp_path):
    run = make_run(tmp_path)
    follower = Follower(run)
    assert follower.new_records() == []
    for step in (100, 200, 300):
        run.append_metrics({"global_step": step})
    assert [r["global_step"] for r in follower.new_records()] == [100, 200, 300]
    assert follower.new_records() == []
    run.rewind(100)
    run.append_metrics({"global_step": 150})
    assert [r["global_step"] for r in follower.new_records()] == [100, 150]
    (run.path / "metrics.jsonl").write_text('{"global_step": 7}\n')  # in place, and shorter
    assert [r["global_step"] for r in follower.new_records()] == [7]
    run.close()


@pytest.mark.long
def test_a_real_run_is_watched_from_another_process_and_ctrl_c_ends_the_watching_only(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, "learners=2")
    gala.wait_for((tmp_path / "run/config.yaml").exists, "run")
    watcher = Gala(tmp_path / "run", command="watch")
    gala.wait_for((tmp_path / "run/metrics.jsonl").exists, "record")
    gala.wait_for_metrics(0)
    first = watcher.process.stdout.readline()
    assert first.startswith(("step ", str(tmp_path)))
    watcher.ctrl_c()
    assert watcher.end()[0] == 0
    assert gala.process.poll() is None
    second = Gala(tmp_path / "run", command="watch")
    gala.ctrl_c()
    assert gala.end()[0] == 130
    status, out, _ = second.end()
    assert status == 0 and "interrupted: " in out
