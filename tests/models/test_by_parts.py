"""Observations of images and other things: an encoder for each."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.parts import FlatBox, with_mask
from gala_envs.spaces import describe_space, observation_adapter, space_of, stack_observations
from small_training import greedy_reward

from gala.cli import main
from gala.config.schema import ModelConfig
from gala.models.actor_critic import build_actor_critic
from gala.models.by_parts import PartsEncoder
from gala.models.encoders import encoder_for, make_encoder

CAMERA = gym.spaces.Box(0, 255, (40, 44, 3), np.uint8)
MAP = gym.spaces.Box(0, 255, (12, 10), np.uint8)
SPACE = gym.spaces.Dict(
    camera=CAMERA,
    floor=gym.spaces.Discrete(3, start=1),
    hand=gym.spaces.Tuple([gym.spaces.Box(-2, 2, (3,), np.float64), MAP]),
    speed=gym.spaces.Box(-np.inf, np.inf, (2,)),
)


def samples(space, n=4):
    space.seed(0)
    return [space.sample() for _ in range(n)]


def test_features_are_those_of_each_image_and_of_the_rest():
    """By hand: the raw camera through its own network, channels first and scaled, and so on."""
    rows = samples(SPACE)
    seen, convert = observation_adapter(SPACE, "x")
    assert isinstance(seen, FlatBox) and encoder_for(seen) == "parts"
    encoder = make_encoder(seen, ModelConfig(encoder="parts", hidden=(7,)))
    assert isinstance(encoder, PartsEncoder)
    obs = torch.from_numpy(convert(stack_observations(SPACE, rows)))
    camera, floor_map, rest = encoder.encoders
    pictures = torch.from_numpy(np.stack([row["camera"] for row in rows])).permute(0, 3, 1, 2).float() / 255
    maps = torch.from_numpy(np.stack([row["hand"][1] for row in rows]))[:, None].float() / 255
    others = [
        np.concatenate([np.eye(3)[row["floor"] - 1], row["hand"][0], row["speed"]]).astype(np.float32) for row in rows
    ]
    wanted = [camera(pictures), floor_map(maps), rest(torch.from_numpy(np.stack(others)))]
    torch.testing.assert_close(encoder(obs), torch.cat(wanted, 1))
    assert encoder.num_features == 512 + 128 + 7 == encoder(obs).shape[1]
    assert encoder.summary() == (
        "camera [3, 40, 44] by nature_cnn (512); hand.1 [1, 12, 10] by minatar_cnn (128); "
        "floor + hand.0 + speed [8] by mlp (7)"
    )


def test_a_named_encoder_reads_all_images_and_mlp_reads_one_vector():
    seen, _ = observation_adapter(SPACE, "x")
    named = make_encoder(seen, ModelConfig(encoder="minatar_cnn"))
    assert [read.name for read in named.reads] == ["minatar_cnn", "minatar_cnn", "mlp"]
    flat = make_encoder(seen, ModelConfig(encoder="mlp", hidden=(5,)))
    assert flat.layers[1].in_features == seen.shape[0] == 40 * 44 * 3 + 3 + 3 + 120 + 2
    with pytest.raises(ValueError, match=r"images of \(1, 12, 10\) are too small for model.encoder=nature_cnn"):
        make_encoder(seen, ModelConfig(encoder="nature_cnn"))


def test_without_images_all_is_one_vector_as_before():
    seen, _ = observation_adapter(gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (3, 2)), b=gym.spaces.Discrete(2)), "x")
    assert type(seen) is gym.spaces.Box and encoder_for(seen) == "mlp"
    unbounded = gym.spaces.Dict(a=gym.spaces.Box(-np.inf, np.inf, (40, 40, 3)), b=gym.spaces.Discrete(2))
    seen, _ = observation_adapter(unbounded, "x")
    assert encoder_for(seen) == "mlp"
    with pytest.raises(ValueError, match=r"model.encoder=impala wants an image with bounds among the parts; use mlp"):
        make_encoder(seen, ModelConfig(encoder="impala"))


def test_parts_and_masks_go_together_and_survive_json():
    seen, convert = observation_adapter(SPACE, "x")
    space = with_mask(seen, 4)
    again = space_of(describe_space(space))
    assert again == space and again.parts == space.parts
    obs = torch.from_numpy(convert(stack_observations(SPACE, samples(SPACE))))
    torch.manual_seed(0)
    plain = build_actor_critic(seen, gym.spaces.Discrete(4), ModelConfig(hidden=(7,)))
    torch.manual_seed(0)
    masked = build_actor_critic(again, gym.spaces.Discrete(4), ModelConfig(hidden=(7,)))
    mask = torch.tensor([[1.0, 0, 1, 1]] * 4)
    state, first = plain.initial_state(4), torch.zeros(4, dtype=torch.bool)
    a, b = plain(obs, state, first), masked(torch.cat([obs, mask], 1), state, first)
    torch.testing.assert_close(a.value, b.value)
    torch.testing.assert_close(a.params[:, [0, 2, 3]], b.params[:, [0, 2, 3]])


class Lamps(gym.Env):
    """Two lamps: one in a picture, one a number. An action names both; each that is right earns a half."""

    observation_space = gym.spaces.Dict(
        number=gym.spaces.Box(-1, 1, (1,)), view=gym.spaces.Box(0, 255, (6, 6, 3), np.uint8)
    )
    action_space = gym.spaces.MultiDiscrete([2, 2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 8
        return self._observe(), {}

    def step(self, action):
        self.left -= 1
        reward = float((action == self.lamps).mean())
        return self._observe(), reward, False, not self.left, {}

    def _observe(self):
        self.lamps = self.np_random.integers(0, 2, 2)
        view = self.np_random.integers(0, 50, (6, 6, 3), np.uint8)
        view[:, :, 2] += 150 * self.lamps[0].astype(np.uint8)
        return {"number": np.array([self.lamps[1] - 0.5], np.float32), "view": view}


def test_an_image_and_a_number_are_learned_together():
    """Who reads only one of them earns 0.75."""
    assert greedy_reward(Lamps, "model.hidden=16", updates=60) > 0.95


def test_the_start_says_who_reads_what(capsys):
    assert main(["train", f"env.id={Path(__file__)}:Lamps", "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "view [3, 6, 6] by minatar_cnn (128); number [1] by mlp (64)" in out and "preset: any/_image" in out
