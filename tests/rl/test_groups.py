"""Groups of simulators that take turns: the same games as by themselves, and the network acts while they step."""

import threading

import numpy as np
import pytest
import torch
from gala_envs.groups import GroupedEnv
from gala_envs.registry import make

from gala.build.envs import episodes_by_context, make_training_env
from gala.config.parse import parse_config
from gala.config.schema import ModelConfig
from gala.config.validate import validate
from gala.models.actor_critic import ActorCritic, build_actor_critic
from gala.rl.rollout import Collector


def _collector(env, num_steps: int = 6) -> tuple[Collector, ActorCritic]:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = ModelConfig(hidden=(8,), separate_critic=False, gru_size=4)
    policy = build_actor_critic(env.obs_space, env.action_space, model)
    collector = Collector(
        env,
        num_steps,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        normalizer=None,
        shape_reward=lambda reward, done, valid: 2 * reward,
    )
    return collector, policy


class Watched:
    """CartPole that remembers its first seed."""

    def __init__(self, rows: int, **options: int) -> None:
        self._env = make("CartPole-v1", rows, **options)

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self._env, name)

    def reset(self, seed):  # type: ignore[no-untyped-def]
        self.seed = seed
        return self._env.reset(seed)


def test_each_group_plays_what_its_simulators_play_by_themselves():
    sizes, limit = (3, 2, 4), {"max_episode_steps": 9}
    groups = [Watched(size, **limit) for size in sizes]
    collector, policy = _collector(GroupedEnv(groups))
    collector.reset(policy, 7)
    alone = [make("CartPole-v1", size, **limit) for size in sizes]
    obs = np.concatenate([env.reset(group.seed) for env, group in zip(alone, groups, strict=True)])
    assert len({group.seed for group in groups}) == 3
    first, returns, truncations = np.ones(9, bool), [], 0
    for _ in range(5):
        rollout, episodes = collector.collect(policy)
        returns += episodes.returns
        out = policy.unroll(rollout.obs, rollout.state, rollout.first)
        for t in range(6):
            assert np.array_equal(rollout.obs[t], obs) and np.array_equal(rollout.first[t], first)
            splits = np.split(rollout.action[t].numpy(), [3, 5])
            steps = [env.step(actions) for env, actions in zip(alone, splits, strict=True)]
            obs, first, reward, terminated, truncated = (
                np.concatenate([getattr(step, name) for step in steps])
                for name in ("obs", "first", "reward", "terminated", "truncated")
            )
            assert np.array_equal(rollout.reward[t], 2 * reward)
            assert np.array_equal(rollout.terminated[t], terminated)
            assert np.array_equal(rollout.truncated[t], truncated) and rollout.valid[t].all()
            truncations += int(truncated.sum())
            assert np.array_equal(rollout.v_final[t] != 0, truncated & ~terminated)
        last = policy(torch.from_numpy(obs), out.state, torch.from_numpy(first)).value
        assert torch.allclose(rollout.last_value, last, atol=1e-6)
    assert truncations > 5 and set(returns) == {9.0}


def test_a_collector_goes_on_from_where_another_stood():
    """The second rollout, by a new collector on the same simulators, is that of one that never ended."""
    rollouts = []
    for renewed in (False, True):
        env = GroupedEnv([make("CartPole-v1", 3, max_episode_steps=9), make("CartPole-v1", 2, max_episode_steps=9)])
        collector, policy = _collector(env)
        collector.reset(policy, 7)
        collector.collect(policy)
        if renewed:
            standing = {name: tensor.clone() for name, tensor in collector.standing().items()}
            generator = collector.generator.get_state()
            collector, _ = _collector(env)
            collector.generator.set_state(generator)
            collector.go_on(policy, standing)
        rollouts.append(collector.collect(policy)[0])
    whole, halves = rollouts
    for name in ("obs", "first", "action", "reward", "truncated", "state", "last_value"):
        assert torch.equal(getattr(whole, name), getattr(halves, name)), name
    assert whole.truncated.any() and whole.state.abs().sum() > 0


def test_the_network_acts_for_one_group_while_the_other_steps():
    calls, heard = [0], threading.Condition()

    class Waiting(Watched):
        """Each step ends when the network has acted once more than for it."""

        def step(self, actions):  # type: ignore[no-untyped-def]
            self.steps += 1
            with heard:
                assert heard.wait_for(lambda: calls[0] >= 2 * self.steps, timeout=250), "the network waited for this"
            return self._env.step(actions)

    first = Waiting(2)
    first.steps = 0
    collector, policy = _collector(GroupedEnv([first, Watched(2)]), num_steps=3)
    collector.reset(policy, 0)

    def count(*_: object) -> None:
        with heard:
            calls[0] += 1
            heard.notify()

    policy.register_forward_hook(count)
    collector.collect(policy)
    assert first.steps == 3 and calls == [8]


@pytest.mark.long
def test_groups_share_the_counts_of_episodes_and_divide_the_simulators():
    words = ["env.id=maze", "preset=overfit/maze", "algo=a2c", "envs_per_learner=6", "env_groups=3"]
    with pytest.raises(ValueError, match=r"^env_groups=4 must divide envs_per_learner=6$"):
        validate(parse_config([*words, "env_groups=4"]))
    env = make_training_env(parse_config(words), 0)
    try:
        assert env.num_envs == 6 and [g.rows for g in env.groups] == [slice(0, 2), slice(2, 4), slice(4, 6)]
        for group in env.groups:
            group.reset(1)
        assert sum(episodes_by_context(env).values()) == 6
    finally:
        env.close()


def test_an_error_of_a_step_reaches_the_learner_and_a_reset_forgets_a_step_under_way():
    group = GroupedEnv([make("CartPole-v1", 2)]).groups[0]
    group.reset(0)
    group.send(np.array([0, 7]))
    with pytest.raises(ValueError, match="row 1"):
        group.recv()
    group.send(np.array([0, 1]))
    obs = group.reset(3)
    assert np.array_equal(obs, make("CartPole-v1", 2).reset(3))
    group.send(np.array([0, 1]))
    assert group.recv().obs.shape == (2, 4)
    group.close()
