"""Masked environments are learned, and no action that they do not allow is ever chosen: they raise at those."""

from __future__ import annotations

import json

import pytest
from masked_envs import Doors, TwoLocks
from small_training import greedy_reward
from training import Gala

import gala
from gala.cli import main
from gala.config.parse import parse_config
from gala.experiments.judging import random_return
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


def test_random_actions_are_allowed_ones():
    config, _ = new_run.check(parse_config(["env.id=masked_envs:Doors"]))
    assert 0.3 * MEAN_LENGTH < random_return(config, 40) < 0.7 * MEAN_LENGTH


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
