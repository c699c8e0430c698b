import numpy as np
import pytest
import torch
from gala_envs.registry import make

from gala.config.schema import ModelConfig
from gala.models.actor_critic import build_actor_critic
from gala.rl.rollout import Collector


class Spoiled:
    """CartPole with one number of one observation or reward replaced, from the third step on."""

    def __init__(self, what, value):
        self._env, self._what, self._value, self._steps = make("CartPole-v1", 3), what, value, 0
        self.num_envs = 3

    def reset(self, seed):
        return self._env.reset(seed)

    def step(self, actions):
        step, self._steps = self._env.step(actions), self._steps + 1
        if self._steps >= 3:
            values = getattr(step, self._what).copy()
            values[1, ...] = self._value
            step = step._replace(**{self._what: values})
        return step


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("what", "named"), [("obs", "observation"), ("reward", "reward")])
def test_what_is_not_finite_is_named_with_its_row_before_it_is_learned_from(what, named, value):
    env = Spoiled(what, value)
    model = ModelConfig(hidden=(8,), separate_critic=False)
    policy = build_actor_critic(env._env.obs_space, env._env.action_space, model)
    collector = Collector(
        env,
        2,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        normalizer=None,
        shape_reward=lambda reward, done, valid: reward,
    )
    collector.reset(policy, 0)
    rollout, _ = collector.collect(policy)
    assert rollout.obs.isfinite().all() and rollout.reward.isfinite().all()
    with pytest.raises(
        FloatingPointError, match=f"^the environment returned an? {named} that is not finite, in row 1$"
    ):
        collector.collect(policy)
