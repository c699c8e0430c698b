"""Training from the command line, in real processes: what is saved, resumed, and left behind when it breaks."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import gymnasium as gym
import psutil
import pytest
import torch
from training import PATIENCE_S, TINY, Gala, distance, parts, same, status, total_weight

from gala.build.envs import Spaces
from gala.build.policy import make_policy
from gala.config.parse import parse_config
from gala.runs.run_dir import RunDir
from gala.training import supervisor
from gala.training.board import UPDATES
from gala.training.common_checkpoint import CommonCheckpoint

END_S = 120.0


def traces(folder: Path, kind: str) -> list[tuple[str, ...]]:
    lines = [file.read_text().splitlines() for file in sorted(folder.glob("gala-learner-*"))]
    return [tuple(line for line in trace if line.startswith(kind))[:40] for trace in lines]


def test_a_gossiping_run_is_interrupted_resumed_and_killed(tmp_path):
    """One run, lived through in order: each part starts from what the one before has left."""
    path = tmp_path / "run"
    gala = Gala(
        path,
        *TINY,
        *("algo=gala", "learners=3", "on_failure=stop", "normalize.obs=true", "normalize.reward=scale"),
        GALA_TEST_TRACE=str(tmp_path),
    )
    gala.wait_for_checkpoint()
    gala.ctrl_c()
    code, _, err = gala.end(END_S)
    run = RunDir.open(path)
    assert (code, err, status(run)) == (130, "", "interrupted")
    saved, meta = parts(run), run.checkpoint_meta("latest")
    assert meta["env_steps"] == sum(part["env_steps"] for _, part in saved) == run.read_metrics()[-1]["global_step"]
    for name in run.checkpoints.names():
        assert abs(total_weight(run, name) - 3) < 1e-9
    spread = [distance(saved[i][0], saved[j][0]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert all(0 < d < 0.5 for d in spread), spread
    for kind in ("seed", "action"):
        assert len(set(traces(tmp_path, kind))) == 3 and all(traces(tmp_path, kind)), kind

    resumed = Gala(path, command="resume")
    resumed.wait_for(lambda: len(resumed.learners()) == 3, "learners")
    resumed.ctrl_c()  # before the first update: what is saved now is what was loaded
    code, _, err = resumed.end(END_S)
    assert (code, err) == (130, "")
    for (tensors, part), (old_tensors, old_part) in zip(parts(run), saved, strict=True):
        assert same(tensors, old_tensors) and part == old_part
        assert {"policy", "optimizer", "obs_moments", "return_moments", "in_progress"} <= tensors.keys()

    again = Gala(path, command="resume")
    again.wait_for_checkpoint(after=meta["env_steps"])
    again.wait_for(lambda: run.read_metrics()[-1]["global_step"] > meta["env_steps"], "a record of metrics")
    steps = [record["global_step"] for record in run.read_metrics()]
    assert steps == sorted(steps)
    assert abs(total_weight(run, "latest") - 3) < 1e-9
    os.kill(again.learners()[1], signal.SIGKILL)
    code, _, err = again.end(END_S)
    assert code == 1 and status(run) == "failed"
    lines = [line for line in err.splitlines() if "learner" in line]
    assert lines == ["learner 1 was killed by SIGKILL; the run has ended."] and "Traceback" not in err
    assert len(parts(run)) == 3


@pytest.mark.long
def test_ctrl_c_while_the_learners_start_saves_the_common_initial_parameters(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, "algo=gala", "learners=2", "env.id=helper_envs:SlowStart-v0")
    gala.wait_for(lambda: len(gala.learners()) == 2, "learners")
    gala.ctrl_c()
    code, _, err = gala.end(END_S)
    run = RunDir.open(tmp_path / "run")
    assert (code, err, status(run)) == (130, "", "interrupted")
    space, action = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)
    initial = make_policy(run.config, Spaces(space, action, 1)).state_dict()
    for tensors, meta in parts(run):
        assert meta["updates"] == 0
        assert all(torch.equal(tensors["policy"][name], initial[name]) for name in initial)


@pytest.mark.parametrize("how", ["second Ctrl-C", "parent killed"])
def test_nothing_outlives_a_run_that_is_killed_not_even_a_simulator_that_is_stuck(tmp_path, how):
    words = ["env.id=helper_envs:Stuck-v0", "env.vectorization=async"]
    (trace := tmp_path / "trace").mkdir()
    gala = Gala(tmp_path / "run", *TINY, *words, GALA_TEST_TRACE=str(trace))
    gala.wait_for(lambda: sum("stuck" in file.read_text() for file in trace.iterdir()) == 2, "stuck simulators")
    assert len(gala.processes()) >= 1 + 1 + 2
    if how == "parent killed":
        os.kill(gala.process.pid, signal.SIGKILL)
        code, _, err = gala.end(END_S)
        assert code == -signal.SIGKILL and "Traceback" not in err
        return
    gala.ctrl_c()
    time.sleep(0.5)
    assert gala.process.poll() is None
    gala.ctrl_c()  # now it waits for no simulator, which would be ten minutes
    code, _, err = gala.end(END_S)
    assert code == 130 and "Traceback" not in err
    assert status(RunDir.open(gala.run)) == "interrupted"


def test_independent_learners_part_and_end_with_their_parent(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, "algo=independent", "learners=2")
    gala.wait_for_checkpoint()
    os.kill(gala.process.pid, signal.SIGKILL)
    gala.end(END_S)
    (a, meta), (b, _) = parts(RunDir.open(gala.run))
    assert "gossip" not in meta and distance(a, b) > 0


def test_a_simulator_that_raises_ends_the_run_with_its_traceback_once(tmp_path):
    code, _, err = Gala(tmp_path / "run", *TINY, "env.id=helper_envs:Raises-v0", "algo=a2c").end()
    assert code == 1 and status(RunDir.open(tmp_path / "run")) == "failed"
    assert err.count('raise KeyError("the simulator broke")') == 1 and err.count("learner 0 failed") == 1


@pytest.mark.parametrize(
    ("vectorization", "ended"),
    [
        ("sync", "learner 0 was killed by SIGSEGV; the run has ended."),
        ("async", "] died: killed by SIGSEGV\n"),
    ],
)
def test_a_simulator_that_crashes_in_c_code_ends_the_run_with_the_line_of_python_that_called_it(
    tmp_path, vectorization, ended
):
    words = ["env.id=helper_envs:Crashes-v0", "algo=a2c", f"env.vectorization={vectorization}"]
    code, _, err = Gala(tmp_path / "run", *TINY, *words).end()
    assert code == 1 and ended in err
    assert err.count("Segmentation fault") == 1 and re.search(r'helper_envs.py", line \d+ in step', err), err


def test_of_two_learners_that_crash_at_once_the_first_tells_where_it_stood(tmp_path):
    words = ["env.id=helper_envs:Crashes-v0", "algo=allreduce", "learners=2"]
    code, _, err = Gala(tmp_path / "run", *TINY, *words).end()
    assert code == 1 and re.search(r"learner \d was killed by SIGSEGV; the run has ended.", err)
    assert err.count("Segmentation fault") == 1 and re.search(r'helper_envs.py", line \d+ in step', err), err


def test_a_nan_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path):
    words = ["algo=a2c", "env.id=helper_envs:NanReward-v0", "log.checkpoint_interval_s=0.1"]
    code, _, err = Gala(tmp_path / "run", *TINY, *words).end()
    run = RunDir.open(tmp_path / "run")
    assert code == 1 and status(run) == "failed" and "Traceback" not in err, err
    assert "\nthe environment returned a reward that is not finite, in row 0\n" in err
    assert f"gala resume {run.path}\n" in err
    tensors, meta = parts(run)[0]
    assert meta["updates"] > 0 and all(t.isfinite().all() for group in tensors.values() for t in group.values())


def test_simulators_in_processes_of_their_own_end_quietly_after_a_nan(tmp_path):
    words = ["algo=a2c", "env.id=helper_envs:NanReward-v0", "env.vectorization=async"]
    code, _, err = Gala(tmp_path / "run", *TINY, *words).end()
    assert code == 1 and "reward that is not finite" in err and "Traceback" not in err, err


def test_the_last_record_has_the_losses_of_an_update_that_outlasts_the_interval(tmp_path):
    code, _, err = Gala(tmp_path / "run", *TINY, "algo=a2c", "steps=80", "log.interval_s=1e-9").end()
    assert code == 0, err
    last = RunDir.open(tmp_path / "run").read_metrics()[-1]
    assert last["global_step"] == 80 and last["learner0"]["charts/SPS"] > 0
    assert {"losses/policy_loss", "losses/value_loss", "losses/entropy"} <= last.keys()


def stop_while_learners_train(gala):
    """SIGSTOP for the parent, at a moment at which no learner waits for it, as in a checkpoint."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        os.kill(gala.process.pid, signal.SIGSTOP)
        learner = psutil.Process(gala.learners()[0])
        before, until = sum(learner.cpu_times()[:2]), time.monotonic() + 5
        while time.monotonic() < until:
            if sum(learner.cpu_times()[:2]) > before + 0.05:
                return
            time.sleep(0.01)
        os.kill(gala.process.pid, signal.SIGCONT)
        time.sleep(0.1)
    raise AssertionError("the learners never train")


def test_all_reduced_learners_are_equal_and_a_killed_one_is_named_though_its_peers_fail_too(tmp_path):
    # Without normalisers, whose pooling waits for a dead peer until the parent ends it, and the parent is stopped here.
    words = [*TINY, "algo=allreduce", "learners=2", "log.checkpoint_interval_s=1000"]
    words += ["normalize.obs=false", "normalize.reward=none"]
    assert Gala(tmp_path / "run", *words, "steps=80").end()[0] == 0
    gala = Gala(tmp_path / "run", "steps=1e9", "schedule=restart", command="resume")
    gala.wait_for_metrics(after=80)  # from here on nobody stands still for a checkpoint
    stop_while_learners_train(gala)  # it then hears of the peer's error and of the kill at the same time
    os.kill(gala.learners()[1], signal.SIGKILL)
    gala.wait_for(lambda: not gala.learners(), "failure of the peer")
    os.kill(gala.process.pid, signal.SIGCONT)
    code, _, err = gala.end(END_S)
    assert code == 1 and err.startswith("\nlearner 1 was killed by SIGKILL") and "Traceback" not in err, err
    (a, meta), (b, _) = parts(RunDir.open(gala.run))
    assert meta["updates"] > 0 and same({"policy": a["policy"]}, {"policy": b["policy"]})


def test_a_lock_step_checkpoint_that_was_asked_for_too_late_is_asked_for_again(tmp_path, monkeypatch):
    late, ahead = [True, True], CommonCheckpoint.update_ahead

    def update_ahead(checkpoint: CommonCheckpoint) -> int:
        return int(checkpoint.board.progress[:, UPDATES].min()) - 1 if late and late.pop() else ahead(checkpoint)

    monkeypatch.setattr(CommonCheckpoint, "update_ahead", update_ahead)
    words = ["gossip.tau=0", "algo=gala", "learners=2", "env.id=helper_envs:Slow-v0", "gossip.wait_timeout_s=60"]
    words += ["log.keep_milestones=1", "log.checkpoint_interval_s=1000", "steps=1_000"]
    config = parse_config([*TINY, *words, f"run={tmp_path / 'run'}"])
    run = RunDir.create(config, words, overwrite=False)
    assert supervisor.train(config, run) == 0 and not late
    assert run.checkpoints.names() == ["latest", "step500"]
    for name in run.checkpoints.names():
        assert len({meta["updates"] for _, meta in parts(run, name)}) == 1


@pytest.mark.long
def test_one_gossiping_learner_is_plain_a2c_to_the_last_bit(tmp_path):
    saved = []
    for algo in ("a2c", "gala"):
        assert Gala(tmp_path / algo, *TINY, "steps=2_000", f"algo={algo}", "model.dropout=0.1").end()[0] == 0
        saved.append(parts(RunDir.open(tmp_path / algo))[0])
    assert saved[0][1]["env_steps"] == saved[1][1]["env_steps"] == 2_000
    assert same(saved[0][0], saved[1][0])
