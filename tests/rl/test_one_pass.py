"""Backward through the acting passes' own graphs: the same gradient as a second pass over the rollout, for less."""

import pytest
import torch

from gala.build.envs import Spaces, make_training_env
from gala.build.learning import make_reward_shaper
from gala.build.policy import make_policy
from gala.config.parse import parse_config
from gala.config.schema import Config
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.optim.update import LearningStep
from gala.rl.actor_learner import ActorLearner
from gala.rl.rollout import Collector

TASKS = {
    "vectors": ["preset=classic/cartpole", "a2c.num_steps=32"],
    "recurrent": ["preset=classic/cartpole", "model.gru_size=8", "a2c.num_steps=40"],
    "continuous": ["preset=mujoco/inverted_pendulum", "normalize.obs=false"],
    "images": ["preset=atari/pong", "envs_per_learner=2"],
    "shared": ["preset=minatar/breakout", "env.max_episode_steps=7"],
    "groups": ["preset=mujoco/inverted_pendulum", "normalize.obs=false", "env_groups=2"],
    "recurrent groups": ["preset=classic/cartpole", "model.gru_size=8", "a2c.num_steps=40", "env_groups=4"],
}


def _learner(config: Config, keep_graph: bool) -> ActorLearner:
    env = make_training_env(config, 0)
    policy = make_policy(config, Spaces(env.obs_space, env.action_space, env.frames_per_step))
    flat = flatten_parameters(list(policy.parameters()))
    flatten_gradients(flat, policy)
    collector = Collector(
        env,
        config.a2c.num_steps,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(3),
        normalizer=None,
        shape_reward=make_reward_shaper(config)[0],
        keep_graph=keep_graph,
    )
    collector.reset(policy, 5)
    step = LearningStep(torch.optim.SGD([flat]), max_grad_norm=config.a2c.max_grad_norm)
    return ActorLearner(collector, policy, flat, step, config.a2c)


@pytest.mark.parametrize("task", TASKS)
def test_one_pass_gives_the_gradient_of_two(task):
    config = parse_config([*TASKS[task], "algo=a2c"])
    learners = [_learner(config, keep_graph) for keep_graph in (False, True)]
    for _ in range(3):  # at a learning rate of 0 both walk the same trajectory; episodes end on the way
        two, one = (learner.update(lr=0.0, entropy_coef=0.01) for learner in learners)
        expected, found = (learner.flat.grad for learner in learners)
        scale = max(expected.norm().item(), config.a2c.max_grad_norm)  # of what float32 has summed and cancelled
        assert expected.norm() > 1e-3 and (found - expected).norm() <= 1e-5 * scale
        assert one.loss.total.item() == pytest.approx(two.loss.total.item(), rel=1e-5, abs=1e-6)
        assert one.episodes == two.episodes
    for learner in learners:
        learner.collector.env.close()


def test_no_graph_outlives_its_update():
    learner = _learner(parse_config([*TASKS["recurrent"], "algo=a2c"]), keep_graph=True)
    for _ in range(2):
        learner.update(lr=1e-3, entropy_coef=0.01)  # a graph of the last rollout would be freed by now, and raise
        assert not learner.collector._turns[0].state.requires_grad
    learner.collector.env.close()
