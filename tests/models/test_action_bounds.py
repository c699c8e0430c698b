"""Continuous actions are explored within their bounds, wherever these lie, and those that are clipped are counted."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.contract import check_actions
from gala_envs.mujoco_tasks import TASKS
from gala_envs.registry import make
from gala_envs.spaces import clip_actions

from gala.config.schema import ModelConfig
from gala.models.actor_critic import build_actor_critic
from gala.models.distributions import distribution_for, policy_range
from gala.rl.rollout import Collector
from gala.training.telemetry import CLIPPED_RECORDS, Telemetry

OUTSIDE_UNIT = math.erfc(1 / math.sqrt(2))
"""Probability that a standard normal number lies outside -1..1."""
FAR = {
    "0..1": gym.spaces.Box(0, 1, (2,)),
    "1000..2000": gym.spaces.Box(1000, 2000, (2,)),
    "tiny": gym.spaces.Box(-1e-3, 1e-3, (2,)),
    "integers": gym.spaces.Box(-90, 10, (2,), np.int32),
    "each its own": gym.spaces.Box(np.array([-50, 0], np.float32), np.array([-40, 7], np.float32)),
}


def draw(space, n=20_000):
    d = distribution_for(space)
    return d.sample(torch.zeros(n, 2 * space.shape[0]), torch.Generator().manual_seed(0)).numpy()


@pytest.mark.parametrize("name", FAR)
def test_a_new_policy_tries_all_of_the_bounds(name):
    space = FAR[name]
    drawn = draw(space)
    clipped = (drawn < space.low) | (drawn > space.high)
    assert abs(clipped.mean() - OUTSIDE_UNIT) < 0.02
    played = clip_actions(drawn, space)
    for column, low, high in zip(played.T, space.low, space.high, strict=True):
        counts, _ = np.histogram(column, 10, (float(low), float(high)))
        assert counts.min() > 0.03 * len(column), "a tenth of the range is hardly ever tried"
    np.testing.assert_array_equal(check_actions(drawn, space, len(drawn)), played)


@pytest.mark.parametrize("name", FAR)
def test_the_policy_learns_as_on_the_unit_range(name):
    """The gradient of the log-probability is that of the normal density in the policy's unit."""
    space = FAR[name]
    params = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    far, centre_half = distribution_for(space), policy_range(space)
    action = far.sample(params.detach(), torch.Generator().manual_seed(2))
    unit = (action - centre_half[0]) / centre_half[1]
    mean, log_std = params.chunk(2, -1)
    wanted = torch.distributions.Normal(mean, log_std.exp()).log_prob(unit).sum(-1)
    torch.testing.assert_close(far.log_prob(params, action), wanted, rtol=1e-3, atol=1e-3)
    grads = [torch.autograd.grad(x.sum(), params, retain_graph=True)[0] for x in (far.log_prob(params, action), wanted)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(far.mode(params), centre_half[0] + centre_half[1] * mean)


@pytest.mark.parametrize(
    "space",
    [make(task, 1, threads=1).action_space for task in TASKS]
    + [gym.spaces.Box(-2, 2, (1,)), gym.spaces.Box(-np.inf, np.inf, (1,)), gym.spaces.Box(0, np.inf, (1,))]
    + [gym.spaces.Box(-3e38, 3e38, (1,)), gym.spaces.Box(5, 5, (1,))],
)
def test_published_settings_and_spaces_without_bounds_stay_raw(space):
    centre, half = policy_range(space)
    assert not centre.any() and (half == 1).all()


def test_integers_are_rounded():
    space = gym.spaces.Box(0, 10, (2,), np.int64)
    given = np.array([[0.6, 9.4], [-3.0, 99.0]])
    assert check_actions(given, space, 2).tolist() == [[1, 9], [0, 10]] == clip_actions(given, space).tolist()


class Wide(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Box(1000, 2000, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.low, 0.0, False, False, {}


def test_clipped_actions_are_counted():
    env = make("Wide", 4, make_env=Wide)
    policy = build_actor_critic(env.obs_space, env.action_space, ModelConfig(dynamics_coef=0.1))
    generator, shape = torch.Generator().manual_seed(0), lambda reward, done, valid: reward
    device = torch.device("cpu")
    collector = Collector(env, 200, device=device, generator=generator, normalizer=None, shape_reward=shape)
    collector.reset(policy, 1)
    rollout, _ = collector.collect(policy)
    outside = (rollout.action < 1000) | (rollout.action > 2000)
    assert (collector.actions, collector.clipped_actions) == (outside.numel(), int(outside.sum()))
    assert abs(collector.clipped_actions / collector.actions - OUTSIDE_UNIT) < 0.05
    known = torch.ones(199, 4, dtype=torch.bool)
    assert policy.auxiliary_loss(rollout.obs, rollout.action, rollout.reward, known) < 10, "in the policy's unit"


def test_a_run_whose_actions_stay_clipped_is_told_once():
    telemetry = Telemetry(2, 1)

    def lines(*shares):
        for tags, share in zip(telemetry.latest, shares, strict=True):
            tags["charts/clipped_actions"] = share
        return telemetry.warnings()

    for _ in range(CLIPPED_RECORDS - 1):
        assert lines(0.9, 0.2) == []
    assert lines(0.4, 0.4) == [], "it does not stay"
    said = [line for _ in range(3 * CLIPPED_RECORDS) for line in lines(0.9, 0.3)]
    assert len(said) == 1 and said[0].startswith("warning: 60 % of the actions lie outside the bounds")
