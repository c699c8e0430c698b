"""A lock-step run that is killed and resumed ends as one that never was: in all that its last checkpoint holds."""

from __future__ import annotations

import os
import random
import signal

import pytest
from training import Gala, parts, same

from gala.runs.run_dir import RunDir

STEPS = 3_200
WORDS = (
    *("model.hidden=8", "envs_per_learner=4", "a2c.num_steps=5", f"steps={STEPS}", "torch_threads=1", "env.threads=1"),
    *("log.interval_s=0.2", "log.checkpoint_interval_s=0.3", "log.tensorboard=false", "log.panel=off"),
    *("optim.schedule=linear", "a2c.entropy_schedule=linear", "log.keep_milestones=0"),
)
ALGOS = {
    "a2c": ("algo=a2c", "learners=1"),
    "allreduce": ("algo=allreduce", "learners=2"),
    "gala": ("algo=gala", "learners=2", "gossip.tau=0"),
}
NORMALIZED = ("normalize.obs=true", "normalize.reward=scale")
RECURRENT = ("model.gru_size=4", *NORMALIZED)
TASKS = {
    "CartPole": ("env.id=CartPole-v1", *RECURRENT),
    "dense": ("env.id=Pendulum-v1", "env.max_episode_steps=50", *NORMALIZED, "optim.name=adam", "optim.lr=1e-3"),
    "HalfCheetah": ("env.id=HalfCheetah-v5", "env.max_episode_steps=60", *RECURRENT),
    "own": ("env.id=CartPole-v1", "optim.name=torch.optim:NAdam", "optim.lr=1e-3"),
    "MinAtar": ("env.id=MinAtar/Breakout-v1", "env.sticky_actions=0.1", "model.encoder=minatar_cnn", "optim.name=adam"),
}
SHORT = {("a2c", "dense")}
EVERY = [
    pytest.param(algo, task, marks=() if (algo, task) in SHORT else (pytest.mark.long,))
    for algo in ALGOS
    for task in TASKS
]


def train_and_kill(path, words, after_steps):
    """SIGKILL for the whole run, at no update in particular."""
    gala = Gala(path, *words)
    gala.wait_for_checkpoint()
    gala.wait_for_metrics(after=after_steps)
    for pid in gala.processes():
        os.kill(pid, signal.SIGKILL)
    assert gala.end()[0] == -signal.SIGKILL


@pytest.mark.parametrize(("algo", "task"), EVERY)
def test_a_run_that_was_killed_and_resumed_ends_as_one_that_was_not(tmp_path, algo, task):
    words = (*WORDS, *ALGOS[algo], *TASKS[task])
    assert Gala(tmp_path / "whole", *words, "delay.mean_s=1e-9").end()[0] == 0
    # Slower, so that it is still running when it is killed; the simulators are the same.
    slow = "delay.mean_s=0.003" if algo == "a2c" else "delay.mean_s=0.006"
    train_and_kill(tmp_path / "killed", (*words, slow), random.randint(STEPS // 10, STEPS // 2))
    killed = RunDir.open(tmp_path / "killed")
    code, out, err = Gala(killed.path, command="resume").end()
    assert (code, err) == (0, "") and "new episodes" not in out
    whole = RunDir.open(tmp_path / "whole")
    for (tensors, meta), (other, other_meta) in zip(parts(whole), parts(killed), strict=True):
        assert same(tensors, other) and meta == other_meta
    parents = [run.checkpoint_meta("latest")["parent"] for run in (whole, killed)]
    assert parents[0]["telemetry"]["episodes"] == parents[1]["telemetry"]["episodes"]
    assert parents[0]["telemetry"]["episodes"]["count"] > 0
