"""Networks: the published size, unroll equal to stepping, gradients that reach every parameter."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from gala.config.schema import ModelConfig
from gala.models.actor_critic import build_actor_critic, num_parameters

IMAGE = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
VECTOR = gym.spaces.Box(-1, 1, (5,))


def test_atari_net_has_the_published_number_of_parameters():
    policy = build_actor_critic(IMAGE, gym.spaces.Discrete(6), ModelConfig(encoder="nature_cnn"))
    assert num_parameters(policy) == 866_439


@pytest.mark.parametrize("gru_size", [0, 8])
@pytest.mark.parametrize("action", [gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,))])
def test_unroll_equals_stepping(gru_size, action):
    torch.manual_seed(0)
    policy = build_actor_critic(VECTOR, action, ModelConfig(hidden=(16,), gru_size=gru_size))
    obs, first = torch.randn(6, 4, 5), torch.rand(6, 4) < 0.3
    state = start = torch.randn(4, gru_size)
    whole = policy.unroll(obs, start, first)
    for t in range(6):
        out = policy(obs[t], state, first[t])
        state = out.state
        torch.testing.assert_close(whole.params[t], out.params)
        torch.testing.assert_close(whole.value[t], out.value)
    torch.testing.assert_close(whole.state, state)


@pytest.mark.parametrize("log_std", [0.0, -0.7, 1.2])
def test_actions_spread_at_the_start_as_they_are_told_to(log_std):
    torch.manual_seed(0)
    policy = build_actor_critic(VECTOR, gym.spaces.Box(-1, 1, (3,)), ModelConfig(hidden=(16,), log_std_init=log_std))
    params = policy(torch.zeros(20_000, 5), policy.initial_state(20_000), torch.ones(20_000, dtype=torch.bool)).params
    actions = policy.distribution.sample(params, None)
    np.testing.assert_allclose(actions.std(0).detach().numpy(), np.exp(log_std), rtol=0.03)


def test_a_new_episode_forgets_the_old_state():
    policy = build_actor_critic(VECTOR, gym.spaces.Discrete(3), ModelConfig(hidden=(16,), gru_size=8))
    obs, opens = torch.randn(2, 5), torch.tensor([True, False])
    a = policy(obs, torch.randn(2, 8), opens).value
    b = policy(obs, torch.randn(2, 8), opens).value
    assert a[0] == b[0] and a[1] != b[1]


@pytest.mark.parametrize(
    ("space", "model"),
    [
        (VECTOR, ModelConfig()),
        (VECTOR, ModelConfig(separate_critic=False, gru_size=8)),
        (IMAGE, ModelConfig(encoder="nature_cnn")),
        (IMAGE, ModelConfig(encoder="a3c_cnn", precision="bf16")),
        (gym.spaces.Box(0, 1, (4, 10, 10), np.uint8), ModelConfig(encoder="minatar_cnn")),
    ],
)
def test_gradients_reach_every_parameter(space, model):
    policy = build_actor_critic(space, gym.spaces.Box(-1, 1, (2,)), model)
    obs = torch.from_numpy(np.stack([[space.sample() for _ in range(3)] for _ in range(2)]))
    out = policy.unroll(obs, policy.initial_state(3), torch.zeros(2, 3, dtype=torch.bool))
    ((out.params + 1).square().sum() + out.value.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def test_bf16_stays_close_to_fp32():
    nets = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        nets.append(
            build_actor_critic(IMAGE, gym.spaces.Discrete(6), ModelConfig(encoder="nature_cnn", precision=precision))
        )
    obs = torch.randint(0, 255, (8, 4, 84, 84), dtype=torch.uint8)
    args = obs, nets[0].initial_state(8), torch.zeros(8, dtype=torch.bool)
    torch.testing.assert_close(nets[0](*args).value, nets[1](*args).value, atol=0.02, rtol=0.05)


def test_convolutions_refuse_vectors():
    with pytest.raises(ValueError, match=r"model\.encoder=mlp"):
        build_actor_critic(VECTOR, gym.spaces.Discrete(2), ModelConfig(encoder="nature_cnn"))
