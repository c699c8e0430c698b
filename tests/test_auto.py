"""Settings that are left to the environment: what is chosen, and that it is said."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import yaml

from gala.cli import main
from gala.config.parse import parse_config
from gala.models.encoders import encoder_for
from gala.training import new_run

CHOICES = {
    "env.id=ALE/Kangaroo-v5": ("nature_cnn", "sign"),
    "env.id=MinAtar/Breakout-v1": ("minatar_cnn", "none"),
    "env.id=helper_envs:Catch-v0": ("minatar_cnn", "none"),
    "env.id=CartPole-v1": ("mlp", "none"),
}


@pytest.mark.parametrize("word", CHOICES)
def test_the_environment_chooses_encoder_and_rewards(word):
    config, line = new_run.check(parse_config([word]))
    encoder, reward = CHOICES[word]
    assert (config.model.encoder, config.normalize.reward) == (encoder, reward)
    assert f"model.encoder={encoder} for {'float32' if encoder == 'mlp' else 'uint8'} [" in line
    assert ("normalize.reward=sign for Atari, lost lives end episodes" in line) == (reward == "sign")


def test_what_is_named_is_not_chosen():
    config, line = new_run.check(parse_config(["env.id=ALE/Pong-v5", "model.encoder=a3c_cnn", "normalize.reward=none"]))
    assert (config.model.encoder, config.normalize.reward, line) == ("a3c_cnn", "none", "")
    assert (
        "lost lives" not in new_run.check(parse_config(["env.id=ALE/Pong-v5", "env.life_loss_ends_episode=false"]))[1]
    )


@pytest.mark.parametrize(
    ("shape", "high", "dtype", "encoder"),
    [
        ((4, 84, 84), 255, np.uint8, "nature_cnn"),
        ((3, 36, 36), 1.0, np.float32, "nature_cnn"),
        ((3, 35, 80), 255, np.uint8, "minatar_cnn"),
        ((3, 80, 2), 255, np.uint8, "mlp"),
        ((3, 84, 84), np.inf, np.float32, "mlp"),
        ((128,), 255, np.uint8, "mlp"),
        ((84, 84), 255, np.uint8, "mlp"),
    ],
)
def test_encoders_by_space(shape, high, dtype, encoder):
    assert encoder_for(gym.spaces.Box(0, high, shape, dtype)) == encoder


def test_the_choice_is_said_and_recorded(monkeypatch, capsys):
    monkeypatch.setattr(new_run, "start_method", lambda module: None)  # processes that nobody would use
    new_run.prepare(["env.id=ALE/Pong-v5"])
    said = capsys.readouterr().out
    assert said == (
        "starting 1 learner with 16 x ALE/Pong-v5 ...\n"
        "chosen: model.encoder=nature_cnn for uint8 [4, 84, 84]; "
        "normalize.reward=sign for Atari, lost lives end episodes\n"
    )
    assert main(["train", "env.id=ALE/Pong-v5", "--dry-run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out.partition("\nlearners x")[0])
    assert (settings["model"]["encoder"], settings["normalize"]["reward"]) == ("nature_cnn", "sign")


def test_a_start_is_told_at_once_on_a_terminal_and_not_at_all_of_what_is_refused_in_a_log(monkeypatch, capsys):
    monkeypatch.setattr(new_run, "start_method", lambda module: None)
    told = []
    monkeypatch.setattr(new_run, "check", lambda config: (told.append(capsys.readouterr().out), (config, ""))[1])
    words = ["learners=4", "envs_per_learner=3"]
    new_run.prepare(words)
    assert told == [""] and capsys.readouterr().out == "starting 4 learners with 3 x CartPole-v1 ...\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    new_run.prepare(words)
    assert told[1] == "starting 4 learners with 3 x CartPole-v1 ...\n" and capsys.readouterr().out == ""
    new_run.prepare(words, start_processes=False)
    assert told[2] == "" and capsys.readouterr().out == ""
