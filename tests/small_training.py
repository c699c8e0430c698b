"""A training of one learner in this process, in a second or two, and the greedy policy that comes of it."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import torch
from gala_envs.registry import make

from gala.build.auto import choose
from gala.build.envs import Spaces
from gala.build.learning import make_normalizer, make_reward_shaper
from gala.build.policy import make_policy
from gala.config.parse import parse_config
from gala.evaluation.play import play
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.optim.update import LearningStep
from gala.rl.actor_learner import ActorLearner
from gala.rl.rollout import Collector


def greedy_reward(make_env: Callable[[], gym.Env], *words: str, updates: int = 150) -> float:
    """The mean reward of a decision of the greedy policy, after Adam at 0.01 on rollouts of 8 simulators x 8 steps."""
    env = make("Small", 8, make_env=make_env)
    spaces = Spaces(env.obs_space, env.action_space, 1)
    config, _ = choose(parse_config(["env.backend=gymnasium", "envs_per_learner=8", "a2c.gamma=0.5", *words]), spaces)
    policy, normalizer = make_policy(config, spaces), make_normalizer(config, spaces)
    flat = flatten_parameters(policy.parameters())
    flatten_gradients(flat, policy)
    collector = Collector(
        env,
        8,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        normalizer=normalizer,
        shape_reward=make_reward_shaper(config)[0],
    )
    collector.reset(policy, 0)
    step = LearningStep(torch.optim.Adam([flat]), max_grad_norm=0.5)
    learner = ActorLearner(collector, policy, flat, step, config.a2c)
    for _ in range(updates):
        learner.update(lr=0.01, entropy_coef=0.01)
    returns, lengths = play(env, policy.eval(), normalizer, 40, mode="greedy", seed=7)
    env.close()
    return sum(returns) / sum(lengths)
