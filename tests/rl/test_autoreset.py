"""A learner's advantages on a scripted environment: the same whatever the autoreset mode, and those of the script."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Counting
from gala_envs.gymnasium_backend import GymnasiumEnv
from test_autoreset_envs import GAMMA, NUM_ROWS, advantages_of_script

from gala.models.actor_critic import Outputs
from gala.rl.a2c import rollout_advantages
from gala.rl.rollout import Collector

STEPS, COMPLETE = 40, 33  # rollout length, and the transitions before its last complete episode
WEIGHTS = torch.tensor([1.0, 0.25, 4.0])


class FixedValue:
    """A policy that always plays action 0 and values an observation as the script's oracle does."""

    def __call__(self, obs, state, first, with_value=True):
        return Outputs(torch.zeros(len(obs), 1), obs @ WEIGHTS, state)

    def act(self, params, *, greedy, generator=None):
        return torch.zeros(len(params), dtype=torch.int64)

    def initial_state(self, batch, device="cpu"):
        return torch.zeros(batch, 0)

    def auxiliary_loss(self, obs, action, reward, known):
        return None


@pytest.fixture(scope="module", autouse=True)
def registered():
    gym.register("gala-rl-test/Counting-v0", Counting)
    yield
    gym.registry.pop("gala-rl-test/Counting-v0")


@pytest.mark.parametrize("autoreset", ["same-step", "next-step"])
def test_advantages_are_the_scripts(autoreset):
    env = GymnasiumEnv("gala-rl-test/Counting-v0", NUM_ROWS, autoreset=autoreset)
    collector = Collector(
        env,
        STEPS,
        device=torch.device("cpu"),
        generator=torch.Generator(),
        normalizer=None,
        shape_reward=lambda reward, done, valid: reward,
    )
    policy = FixedValue()
    collector.reset(policy, seed=5)
    rollout, episodes = collector.collect(policy)
    values = rollout.obs @ WEIGHTS
    advantages = rollout_advantages(rollout, values, GAMMA, 1.0)[:, 0][rollout.valid[:, 0]].numpy()
    complete = min(COMPLETE, int(rollout.valid[:, 0].sum()) - 6)
    np.testing.assert_allclose(advantages[:complete], advantages_of_script(STEPS, seed=5)[:complete], rtol=1e-5)
    assert episodes.returns[::NUM_ROWS][:5] == [10.0, 6.0, 21.0, 1.0, 15.0]
    assert episodes.rows[:NUM_ROWS] == list(range(NUM_ROWS))
    assert rollout.valid.all() == (autoreset == "same-step")
