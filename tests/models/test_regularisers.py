"""What else a network can be trained with: a model of the dynamics, dropout, L2."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gala.build.envs import Spaces, make_env
from gala.build.learning import make_reward_shaper
from gala.build.policy import make_policy
from gala.config import derived
from gala.config.parse import parse_config
from gala.config.validate import validate
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.models.actor_critic import build_actor_critic
from gala.optim.update import LearningStep
from gala.rl.a2c import unbroken
from gala.rl.actor_learner import ActorLearner
from gala.rl.rollout import Collector

SMALL = ("env.id=CartPole-v1", "model.hidden=8", "envs_per_learner=3", "a2c.num_steps=40", "a2c.max_grad_norm=0")


@pytest.fixture(autouse=True)
def one_thread():
    """Layers of eight units are a hundred times slower where two threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learner(*words, keep_graph=False):
    config = parse_config([*SMALL, *words])
    env = make_env(config, 3)
    policy = make_policy(config, Spaces(env.obs_space, env.action_space, 1))
    flat = flatten_parameters(list(policy.parameters()))
    flatten_gradients(flat, policy)
    collector = Collector(
        env,
        40,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(3),
        normalizer=None,
        shape_reward=make_reward_shaper(config)[0],
        keep_graph=keep_graph,
    )
    collector.reset(policy, 5)
    step = LearningStep(torch.optim.SGD([flat]), max_grad_norm=config.a2c.max_grad_norm)
    return ActorLearner(collector, policy, flat, step, config.a2c)


def test_the_dynamics_loss_is_the_error_of_a_loop_over_transitions_within_episodes():
    one = learner("model.dynamics_coef=0.5", "env.max_episode_steps=15")
    rollout, _ = one.collector.collect(one.policy)
    known = unbroken(rollout)
    assert 0 < int((~known).sum()) < known.numel() / 4  # episodes end in it
    got = one.policy.auxiliary_loss(rollout.obs, rollout.action, rollout.reward, known)
    errors = []
    for t in range(39):
        for row in range(3):
            if rollout.terminated[t, row] or rollout.truncated[t, row]:
                continue
            features = one.policy.encoder(rollout.obs[t, row][None])
            told = F.one_hot(rollout.action[t, row], 2).float()
            guess = one.policy.dynamics.layers(torch.cat([features[0], told]))
            error = ((guess[:4] - rollout.obs[t + 1, row]) ** 2).mean() + (guess[4] - rollout.reward[t, row]) ** 2
            errors.append(error)
    assert got.item() == pytest.approx(0.5 * torch.stack(errors).mean().item(), rel=1e-5)


def test_dynamics_are_learned_and_their_gradient_reaches_the_encoder():
    one = learner("model.dynamics_coef=1", "a2c.value_coef=0", "a2c.entropy_coef=0")
    before = one.policy.encoder.layers[1].weight.detach().clone()
    losses = []
    for _ in range(40):
        one.update(lr=0.05, entropy_coef=0.0)
        rollout, _ = one.collector.collect(one.policy)
        known = unbroken(rollout)
        losses.append(one.policy.auxiliary_loss(rollout.obs, rollout.action, rollout.reward, known).item())
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:2])
    assert not torch.equal(before, one.policy.encoder.layers[1].weight)
    with pytest.raises(ValueError, match="without a GRU"):
        validate(parse_config(["model.dynamics_coef=1", "model.gru_size=8"]))


def test_l2_adds_its_multiple_of_the_parameters_to_the_gradient():
    plain, pulled = learner(), learner("a2c.l2=0.3")
    plain.update(lr=0.0, entropy_coef=0.01)
    pulled.update(lr=0.0, entropy_coef=0.01)
    torch.testing.assert_close(pulled.flat.grad, plain.flat.grad + 0.3 * plain.flat.detach())


def test_dropout_leaves_features_out_in_training_and_none_in_evaluation():
    config = parse_config(["model.dropout=0.5", "model.hidden=1000", "model.encoder=mlp"])
    space = gym.spaces.Box(-1, 1, (4,), np.float32)
    policy = build_actor_critic(space, gym.spaces.Discrete(2), config.model)
    obs = torch.randn(200, 4)
    torch.manual_seed(0)
    features = policy._encode(policy.encoder, obs)
    policy.eval()
    whole = policy._encode(policy.encoder, obs)
    kept = features != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(features[kept], 2 * whole[kept])
    assert derived.is_one_pass(config) and not derived.is_one_pass(parse_config(["model.encoder=mlp"]))
