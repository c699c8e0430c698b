"""Encoders against the same layers called one by one, and what an initialisation must be."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gala.config.schema import ModelConfig
from gala.models.actor_critic import build_actor_critic
from gala.models.encoders import encoder_for

VECTOR, DISCRETE = gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(4)
IMAGES = {
    "nature_cnn": (gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), [(32, 8, 4), (64, 4, 2), (32, 3, 1)], 512),
    "a3c_cnn": (gym.spaces.Box(0, 255, (2, 44, 44), np.uint8), [(16, 8, 4), (32, 4, 2)], 256),
    "minatar_cnn": (gym.spaces.Box(0, 1, (3, 10, 10), np.uint8), [(16, 3, 1)], 128),
}


@torch.no_grad()
@pytest.mark.parametrize("name", IMAGES)
def test_images_are_scaled_to_one_and_go_through_the_published_layers(name):
    space, convs, width = IMAGES[name]
    encoder = build_actor_critic(space, DISCRETE, ModelConfig(encoder=name)).encoder
    for layer in encoder.modules():  # no bias would hide a scale behind the ReLUs' homogeneity
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
    obs = torch.randint(0, int(space.high.max()) + 1, (3, *space.shape), dtype=torch.uint8)
    params = list(encoder.parameters())
    x = obs.float() / float(space.high.max())
    for i, (channels, kernel, stride) in enumerate(convs):
        assert params[2 * i].shape[0] == channels and params[2 * i].shape[2:] == (kernel, kernel)
        x = F.relu(F.conv2d(x, params[2 * i], params[2 * i + 1], stride))
    x = F.relu(F.linear(x.flatten(1), params[-2], params[-1]))
    assert x.shape == (3, width) and encoder.num_features == width
    torch.testing.assert_close(encoder(obs), x, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("activation", "function"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_a_dense_encoder_is_its_layers(activation, function):
    space = gym.spaces.Box(-1, 1, (2, 3))
    model = ModelConfig(encoder="mlp", hidden=(7, 6), activation=activation)
    encoder = build_actor_critic(space, DISCRETE, model).encoder
    obs = torch.randn(9, 2, 3)
    w1, b1, w2, b2 = encoder.parameters()
    wanted = function(function(obs.flatten(1) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(encoder(obs), wanted)
    assert encoder.num_features == 6


@torch.no_grad()
@pytest.mark.parametrize("model", [ModelConfig(hidden=(32, 16)), ModelConfig(encoder="minatar_cnn")])
def test_layers_start_orthogonal_with_the_published_gains(model):
    """Gain sqrt 2 before an activation, 1 for the value, 0.01 for the policy, which starts nearly uniform."""
    space = VECTOR if model.encoder != "minatar_cnn" else IMAGES["minatar_cnn"][0]
    policy = build_actor_critic(space, DISCRETE, model)
    gains = {id(policy.policy_head.weight): 0.01, id(policy.value_head.weight): 1.0}
    for name, p in policy.named_parameters():
        if p.dim() == 1:
            assert not p.any(), name
            continue
        rows = p.flatten(1) if p.shape[0] <= p[0].numel() else p.flatten(1).T
        gain = gains.get(id(p), 2**0.5)
        torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(len(rows)), rtol=1e-4, atol=1e-4 * gain**2)


def reached(policy, output):
    """Names of the encoders that the gradient of one output reaches."""
    policy.zero_grad()
    state, first = policy.initial_state(6), torch.zeros(6, dtype=torch.bool)
    getattr(policy(torch.randn(6, 5), state, first), output).square().sum().backward()
    encoders = {"encoder": policy.encoder, "critic": policy.critic_encoder}
    grads = {k: [p.grad for p in e.parameters()] for k, e in encoders.items() if e is not None}
    return {name for name, each in grads.items() if any(g is not None and g.any() for g in each)}


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"separate_critic": True}, {"critic"}),
        ({"separate_critic": False}, {"encoder"}),
        ({"separate_critic": True, "gru_size": 4}, {"encoder"}),
    ],
)
def test_a_separate_critic_reads_its_own_encoder(settings, value):
    """Without recurrence; a GRU serves both."""
    policy = build_actor_critic(VECTOR, DISCRETE, ModelConfig(hidden=(8,), **settings))
    assert reached(policy, "value") == value and reached(policy, "params") == {"encoder"}


def bounded(low, high, dtype, shape=(3, 12, 12)):
    return gym.spaces.Box(low, high, shape, dtype)


@torch.no_grad()
@pytest.mark.parametrize(
    "space",
    [
        bounded(0, 255, np.uint8),
        bounded(-np.inf, np.inf, np.float32),
        bounded(0, np.finfo(np.float32).max, np.float32),
        bounded(-1, 0, np.float32),
        bounded(0, 0, np.uint8),
        bounded(-5, 255, np.float32),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_standardised_images_reach_the_layers_as_they_are(space, precision):
    """``normalize.obs`` makes floats of about unit size, whatever the bounds of the space."""
    policy = build_actor_critic(space, DISCRETE, ModelConfig(encoder="minatar_cnn", precision=precision))
    obs, seen = torch.randn(2, 3, 12, 12), []
    policy.encoder.convs.register_forward_pre_hook(lambda _, args: seen.append(args[0].float()))
    policy(obs, policy.initial_state(2), torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(seen[0], obs.bfloat16().float() if precision == "bf16" else obs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("space", "value", "scaled"),
    [
        (bounded(0, 255, np.uint8), 51, 0.2),
        (bounded(0, 0, np.uint8), 0, 0.0),
        (bounded(-10, 10, np.int64), -5, -0.5),
        (bounded(-(2**62), 2**62, np.int64), 3, 3.0),
        (bounded(0, 1, bool), 1, 1.0),
    ],
)
def test_integers_are_scaled_by_bounds_that_say_something(space, value, scaled):
    encoder = build_actor_critic(space, DISCRETE, ModelConfig(encoder="minatar_cnn")).encoder
    obs = torch.from_numpy(np.full((1, *space.shape), value, space.dtype))
    torch.testing.assert_close(encoder.scaled(obs), torch.full(obs.shape, scaled))


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (bounded(0, 255, np.uint8), "minatar_cnn"),
        (bounded(0, 1, bool), "minatar_cnn"),
        (bounded(-1, 1, np.float32), "minatar_cnn"),
        (bounded(0, 1, np.float32, (3, 64, 64)), "nature_cnn"),
        (bounded(-np.inf, np.inf, np.float32), "mlp"),
        (bounded(0, np.finfo(np.float32).max, np.float32), "mlp"),
        (bounded(-np.finfo(np.float32).max, 0, np.float32), "mlp"),
        (bounded(0, 2**62, np.int64), "mlp"),
    ],
)
def test_bounds_as_wide_as_the_type_are_none(space, name):
    assert encoder_for(space) == name


def test_standardised_frames_to_be_predicted_are_not_scaled():
    space = bounded(0, 255, np.uint8)
    policy = build_actor_critic(space, DISCRETE, ModelConfig(encoder="minatar_cnn", dynamics_coef=1.0))
    features, action, obs = torch.randn(2, 128), torch.tensor([0, 3]), torch.randn(2, *space.shape)
    guess = policy.dynamics.layers(torch.cat([features, F.one_hot(action, 4).float()], 1))
    error = ((guess[:, :-1] - obs.flatten(1)) ** 2).mean(1) + guess[:, -1] ** 2
    torch.testing.assert_close(policy.dynamics(features, action, obs, torch.zeros(2)), error)


def test_pixels_to_be_predicted_are_scaled_as_the_encoder_scales_them():
    space = IMAGES["a3c_cnn"][0]
    policy = build_actor_critic(space, DISCRETE, ModelConfig(encoder="a3c_cnn", dynamics_coef=0.5))
    obs = torch.randint(0, 256, (2, 3, *space.shape), dtype=torch.uint8)
    action, reward = torch.tensor([[0, 3, 1], [2, 2, 2]]), torch.randn(2, 3)
    got = policy.auxiliary_loss(obs, action, reward, torch.tensor([[True, False, True]]))
    told = torch.cat([policy.encoder(obs[0]), F.one_hot(action[0], 4).float()], 1)
    guess = policy.dynamics.layers(told)
    error = ((guess[:, :-1] - obs[1].flatten(1) / 255) ** 2).mean(1) + (guess[:, -1] - reward[0]) ** 2
    torch.testing.assert_close(got, 0.5 * (error[0] + error[2]) / 2)
