"""Masked environments are learned, and no action that they do not allow is ever chosen: they raise at those."""

from __future__ import annotations

import json

import pytest
from gala_envs.contract import EnvError
from masked_envs import Doors, TwoLocks
from small_training import greedy_reward
from test_evaluate import make_run
from training import Gala

import gala
from gala.cli import main
from gala.config.parse import parse_config
from gala.experiments import judging
from gala.experiments.judging import random_return
from gala.processes.child import TRACEBACK, Failure
from gala.training import new_run

MEAN_LENGTH = 7.0  # of Doors, each decision of which earns 1 at best
SHORT = ("torch_threads=1", "log.tensorboard=false", "log.panel=off", "log.checkpoint_interval_s=1000", "seed=1")


@pytest.mark.parametrize("make_env", [Doors, TwoLocks])
def test_a_masked_environment_is_learned_and_played_greedily(make_env):
    assert greedy_reward(make_env, "normalize.obs=true", updates=80) > 0.95


def test_the_start_says_that_actions_are_masked_and_settings_keep_it(capsys):
    config, line = new_run.check(parse_config(["env.id=masked_envs:Doors"]))
    assert config.env.action_masks == "on" and "env.action_masks=on (4 actions)" in line
    assert "model.encoder=mlp for float32 [4]" in line
    unmasked, line = new_run.check(parse_config(["env.id=helper_envs:Walk-v0"]))
    assert unmasked.env.action_masks == "off" and "mask" not in line
    assert main(["train", "env.id=masked_envs:Painted", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "masks of actions           4 numbers beside each observation" in out and "any/_image" in out
    assert main(["train", "env.id=CartPole-v1", "env.action_masks=on", "env.backend=classic"]) == 2
    assert "does not apply to the classic backend (only to gymnasium)" in capsys.readouterr().err


def test_masks_of_steps_alone_are_refused_before_anything_starts(tmp_path, capsys):
    assert main(["train", "env.id=masked_envs:Late", f"run={tmp_path / 'run'}"]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith('gala: error: masked_envs:Late: info["action_mask"] came with step()') and err.count("\n") == 1
    )
    assert not (tmp_path / "run").exists()


EMPTY = "masked_envs:Empty, row 0: the action mask allows nothing; allow an action, or end the episode"


@pytest.mark.long
def test_a_faulty_mask_in_a_training_is_one_line_and_a_traceback_is_asked_for(tmp_path):
    words = ("env.id=masked_envs:Empty", "envs_per_learner=1", "algo=a2c", *SHORT)
    code, _, err = Gala(tmp_path / "run", *words).end()
    assert code == 1 and err == f"\nlearner 0 failed; the run has ended.\n{EMPTY}\n"
    code, _, err = Gala(tmp_path / "other", *words, "--traceback").end()
    assert code == 1 and "Traceback (most recent call last)" in err and err.endswith(f"EnvError: {EMPTY}\n")


def test_a_faulty_mask_is_one_line_of_a_child_and_of_the_command(tmp_path, capsys, monkeypatch):
    for error, cause in ((EnvError(EMPTY), None), (EnvError(EMPTY), KeyError("x")), (EnvError(f"{EMPTY}\nx"), None)):
        try:
            raise error from cause
        except EnvError as caught:
            whole = "Traceback (most" in Failure.of(caught).traceback
        assert whole == (cause is not None)
    monkeypatch.setenv(TRACEBACK, "1")
    assert Failure.of(EnvError(EMPTY)).traceback == f"gala_envs.contract.EnvError: {EMPTY}\n"
    monkeypatch.delenv(TRACEBACK)
    run, _ = make_run(tmp_path / "played", "env.id=masked_envs:Empty", "env.action_masks=on")
    assert main(["eval", str(run.path), "episodes=40"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("gala: error: masked_envs:Empty, row ") and err.count("\n") == 1
    with pytest.raises(EnvError):
        main(["eval", str(run.path), "episodes=40", "--traceback"])


def test_random_actions_are_allowed_ones():
    config, _ = new_run.check(parse_config(["env.id=masked_envs:Doors"]))
    assert 0.3 * MEAN_LENGTH < random_return(config, 40) < 0.7 * MEAN_LENGTH


def test_random_actions_that_never_end_an_episode_are_one_line(monkeypatch):
    monkeypatch.setattr(judging, "LONGEST_EPISODE", 50)
    config, _ = new_run.check(parse_config(["env.id=helper_envs:Endless-v0"]))
    with pytest.raises(ValueError, match=r"has not ended after 50 decisions \(0 of 4 .* env.max_episode_steps=N"):
        random_return(config, 4)


@pytest.mark.long
@pytest.mark.parametrize("words", [("algo=a2c",), ("algo=gala", "learners=2", "env.vectorization=async")])
def test_a_run_with_masks_learns_is_judged_and_acts(tmp_path, capsys, words):
    path = tmp_path / "run"
    code, _, err = Gala(path, "env.id=masked_envs:Doors", "steps=40_000", "a2c.gamma=0.5", *words, *SHORT).end(200.0)
    assert (code, err) == (0, "")
    assert json.loads((path / "summary.json").read_text())["return_mean"] > 0.85 * MEAN_LENGTH
    assert main(["eval", str(path), "episodes=20"]) == 0
    agent, env = gala.Run(path).load(), Doors()
    obs, info = env.reset(seed=3)
    for _ in range(50):
        obs, reward, over, _, info = env.step(agent.act(obs, action_mask=info["action_mask"]))
        assert reward == 1.0
        if over:
            obs, info = env.reset()
    agent.save(tmp_path / "agent.safetensors")
    again = gala.load(tmp_path / "agent.safetensors")
    assert again.act(obs, action_mask=info["action_mask"]) == agent.act(obs, action_mask=info["action_mask"])
