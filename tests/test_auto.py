"""Settings that are left to the environment: what is chosen, and that it is said."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

from gala.build import envs
from gala.build.auto import with_fitting_preset
from gala.build.envs import Spaces
from gala.cli import main
from gala.config.derived import gossips
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
    new_run.prepare(["env.id=ALE/Pong-v5", "preset=none"])
    said = capsys.readouterr().out
    assert said == (
        "starting 1 learner with 16 x ALE/Pong-v5 ...\n"
        "chosen: model.encoder=nature_cnn for uint8 [4, 84, 84]; "
        "normalize.reward=sign for Atari, lost lives end episodes\n"
        "1 learner: plain A2C, nobody to gossip with; learners=4 would gossip\n"
    )
    assert main(["train", "env.id=ALE/Pong-v5", "--dry-run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out.partition("\nlearners x")[0])
    assert (settings["model"]["encoder"], settings["normalize"]["reward"]) == ("nature_cnn", "sign")


@pytest.mark.parametrize(
    ("space", "words", "warned"),
    [
        (gym.spaces.Box(0, 255, (3, 12, 12), np.float32), [], True),
        (gym.spaces.Box(0, 255, (3, 12, 12), np.float32), ["normalize.obs=true"], False),
        (gym.spaces.Box(0, 1, (3, 12, 12), np.float32), [], False),
        (gym.spaces.Box(0, 255, (3, 12, 12), np.uint8), [], False),
        (gym.spaces.Box(0, 255, (3, 12, 12), np.uint8), ["model.encoder=mlp"], True),
        (gym.spaces.Box(0, 255, (3, 12, 12), np.uint8), ["model.encoder=mlp", "normalize.obs=true"], False),
        (gym.spaces.Box(0, 1, (3, 12, 12), np.uint8), ["model.encoder=mlp"], False),
        (gym.spaces.Box(0, 255, (12,), np.float32), [], False),
    ],
)
def test_images_of_large_numbers_that_nothing_scales_are_a_warning(space, words, warned, monkeypatch, capsys):
    spaces = Spaces(space, gym.spaces.Discrete(2), 1)
    for module in ("gala.build.envs", "gala.training.new_run"):
        monkeypatch.setattr(f"{module}.probe_spaces", lambda config: spaces, raising=False)
    assert main(["train", "env.id=helper_envs:Catch-v0", "preset=none", *words, "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    said = (
        "floats of images are not scaled, only integers" if space.dtype.kind == "f" else "mlp reads numbers up to 255"
    )
    assert len(lines) == warned and all(said in line and "; add normalize.obs=true" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        (["env.id=CartPole-v1"], "classic/cartpole"),
        (["env.id=seeds:Acrobot-v1"], "classic/acrobot"),
        (["env.id=ALE/Pong-v5"], "atari/pong"),
        (["env.id=ALE/Breakout-v5"], "atari/breakout"),
        (["env.id=ALE/Tennis-v5"], "atari/_common"),
        (["--env.id", "InvertedDoublePendulum-v5"], "mujoco/inverted_double_pendulum"),
        (["env.id=maze"], "overfit/maze"),
        (["env.id=Taxi-v4"], "any/_vector"),
        (["env.id=helper_envs:Mixed-v0"], "any/_vector"),
        (["env.id=helper_envs:Catch-v0"], "any/_image"),
        (["env.id=backgrounds:classic:CartPole-v1"], "any/_image"),  # pictures, which the preset of numbers cannot see
        (["env.id=classic:CartPole-v1"], "classic/cartpole"),
        (["env.id=ALE/Pong-v5", "preset=none"], ""),
        (["env.id=ALE/Pong-v5", "preset=atari/qbert"], ""),
        (["seed=3"], ""),
    ],
)
def test_an_environment_without_a_preset_gets_the_one_that_fits_it(words, preset):
    fitted, why = with_fitting_preset(words)
    assert fitted == ([f"preset={preset}", *words] if preset else words)
    assert why == (f"preset={preset} fits {words[-1].removeprefix('env.id=')}; preset=none is none" if preset else "")
    if preset:  # what was typed stands above what the preset says
        config = new_run.prepare([*words, "optim.lr=0.125", "steps=999"], start_processes=False)
        assert (config.preset, config.optim.lr, config.steps) == (preset, 0.125, 999)


def test_a_run_says_which_preset_it_has_taken(tmp_path, capsys):
    words = ["env.id=helper_envs:Mixed-v0", "steps=256", f"run={tmp_path / 'run'}", "log.panel=off", "learners=1"]
    assert main(["train", *words]) == 0
    assert "preset=any/_vector fits helper_envs:Mixed-v0; preset=none is none\n" in capsys.readouterr().out


def test_observations_and_actions_of_every_finite_kind_are_learned(tmp_path, capsys):
    """All four parts must be: three of them would earn 17.5."""
    words = ["env.id=helper_envs:Mixed-v0", "steps=30000", "torch_threads=1", "log.panel=off"]
    assert main(["train", *words, f"run={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "mode=greedy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["return_mean"] > 19


def test_the_preset_of_pong_is_what_the_published_run_used():
    """But for bfloat16, which needs a processor for it."""
    rows = [json.loads(line) for line in Path("benchmarks/results/learning.jsonl").read_text().splitlines()]
    command = next(row["command"] for row in rows if row["study"] == "pong" and row["algo"] == "a2c")
    used = parse_config(shlex.split(command)[2:])
    ours = parse_config(["preset=atari/pong"])
    assert (ours.optim, ours.a2c, ours.env, ours.normalize) == (used.optim, used.a2c, used.env, used.normalize)
    assert ours.envs_per_learner == used.envs_per_learner and used.learners == 1


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


@pytest.mark.parametrize(
    ("words", "learners", "said"),
    [
        (["preset=atari/pong"], 4, "4 learners gossip (preset=atari/pong); learners=1: plain A2C"),
        (
            ["preset=minatar/asterix", "algo=allreduce"],
            4,
            "4 learners average gradients (preset=minatar/asterix); learners=1",
        ),
        (["env.id=ALE/Tennis-v5"], 4, "4 learners gossip (preset=atari/_common); learners=1: plain A2C"),
        (["preset=atari/pong", "learners=2"], 2, ""),
        (["preset=atari/pong", "algo=a2c"], 1, "1 learner: plain A2C, nobody to gossip with; learners=4 would gossip"),
        (["preset=classic/cartpole"], 1, "1 learner: plain A2C, nobody to gossip with; learners=4 would gossip"),
        (["preset=atari/pong", "learners=1"], 1, ""),
    ],
)
def test_a_preset_says_how_many_learners_gossip_and_the_start_says_why(words, learners, said):
    config = parse_config(with_fitting_preset(words)[0])
    line = new_run.who_learns(config, words)
    assert config.learners == learners and line.startswith(said) and len(line) <= 80 * bool(said)
    assert gossips(config) == (learners > 1 and config.algo == "gala")


def test_a_command_builds_a_simulator_once_to_see_what_it_is_like(monkeypatch, capsys):
    """Each took its time for every question: one of a user's own that starts in five seconds took twenty."""
    built = []
    probe = envs._probe
    monkeypatch.setattr(envs, "_probe", lambda config: built.append(config.env.id) or probe(config))
    words = ["preset=classic/cartpole", "env.id=helper_envs:Walk-v0", "env.action_masks=off"]
    for _ in range(2):
        assert main(["train", *words, "--dry-run"]) == 0
    assert built == ["helper_envs:Walk-v0"] * 2, "and what a command has seen is forgotten with it"
    capsys.readouterr()
