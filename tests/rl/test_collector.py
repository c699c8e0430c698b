"""A collector against a loop that plays the same simulators by hand: bootstraps, normalisation, times."""

import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.contract import Step
from gala_envs.groups import GroupedEnv
from gala_envs.registry import make

from gala.config.schema import ModelConfig
from gala.models.actor_critic import Outputs, build_actor_critic
from gala.rl.normalise import ObsNormalizer
from gala.rl.rollout import Collector

ROWS, STEPS, LIMIT = 3, 8, 5


class Taped:
    """CartPole with a short time limit that remembers what it returned."""

    def __init__(self, rows=ROWS, pause_s=0.0):
        self._env, self._pause_s, self.steps = make("CartPole-v1", rows, max_episode_steps=LIMIT), pause_s, []

    def __getattr__(self, name):
        return getattr(self._env, name)

    def reset(self, seed):
        self.seed, self.start = seed, self._env.reset(seed)
        return self.start.copy()

    def step(self, actions):
        time.sleep(self._pause_s)
        self.steps.append((actions.copy(), self._env.step(actions)))
        return self.steps[-1][1]


def start(env, seed=11, **settings):
    torch.manual_seed(0)
    model = ModelConfig(hidden=(8,), separate_critic=False, gru_size=4)
    policy = build_actor_critic(env.obs_space, env.action_space, model)
    torch.nn.init.normal_(policy.policy_head.weight)
    settings = {"normalizer": None, "shape_reward": lambda reward, done, valid: reward} | settings
    generator = torch.Generator().manual_seed(0)
    collector = Collector(env, STEPS, device=torch.device("cpu"), generator=generator, **settings)
    collector.reset(policy, seed)
    return collector, policy


@torch.no_grad()
@pytest.mark.parametrize("keep_graph", [False, True])
def test_a_rollout_is_what_a_loop_by_hand_plays(keep_graph):
    """With a recurrent network and a running normaliser. The last observation of an episode that a time limit ended is
    valued with the state of its own episode, and is not learned from: the normaliser counts what the policy acts on."""
    normalizer, env = ObsNormalizer((4,), 2.0), Taped()
    shape = lambda reward, done, valid: 2 * reward + 10 * done + 100 * valid  # noqa: E731
    collector, policy = start(env, normalizer=normalizer, shape_reward=shape, keep_graph=keep_graph)
    assert env.seed == 11
    own, noise = ObsNormalizer((4,), 2.0), torch.Generator().manual_seed(0)
    own.update(env.start)
    x, state, first = torch.from_numpy(own(env.start)), torch.zeros(ROWS, 4), torch.ones(ROWS, dtype=torch.bool)
    truncations = 0
    for _ in range(2):
        env.steps.clear()
        rollout, episodes = collector.collect(policy)
        assert torch.equal(rollout.state, state)
        returns, lengths = [], []
        for t in range(STEPS):
            out = policy(x, state, first)
            action = policy.act(out.params, greedy=False, generator=noise)
            played, step = env.steps[t]
            assert np.array_equal(played, action.numpy()) and torch.equal(rollout.action[t], action)
            assert torch.equal(rollout.obs[t], x) and torch.equal(rollout.first[t], first)
            done = step.terminated | step.truncated
            np.testing.assert_array_equal(rollout.reward[t], 2 * step.reward + 10 * done + 100 * step.valid)
            for name in ("terminated", "truncated", "valid"):
                np.testing.assert_array_equal(getattr(rollout, name)[t], getattr(step, name))
            v_final = np.zeros(ROWS, np.float32)
            for row in np.flatnonzero(step.truncated & ~step.terminated):
                last = torch.from_numpy(own(step.final_obs[row : row + 1]))
                v_final[row] = policy(last, out.state[row : row + 1], torch.zeros(1, dtype=torch.bool)).value
                truncations += 1
            np.testing.assert_allclose(rollout.v_final[t], v_final, rtol=1e-5, atol=1e-7)
            own.update(step.obs)
            x, state, first = torch.from_numpy(own(step.obs)), out.state, torch.from_numpy(step.first)
            returns += step.episode_return[step.episode_over].tolist()
            lengths += step.episode_length[step.episode_over].tolist()
        torch.testing.assert_close(rollout.last_value, policy(x, state, first).value)
        assert episodes[:2] == (returns, lengths) and len(lengths) >= ROWS
        np.testing.assert_allclose(normalizer.own.pack(), own.own.pack(), rtol=1e-12)
        assert (rollout.acting is not None) == keep_graph
    assert truncations >= 2 * ROWS and normalizer.own.count == ROWS * (1 + 2 * STEPS)


def test_times_of_simulators_and_network_are_disjoint_parts_of_the_whole():
    env = Taped(pause_s=0.004)
    collector, policy = start(env)
    policy.register_forward_pre_hook(lambda *_: time.sleep(0.003))
    begun = time.perf_counter()
    for _ in range(2):
        collector.collect(policy)
    whole_s = time.perf_counter() - begun
    assert collector.simulate_s >= 2 * STEPS * 0.004 and collector.act_s >= 2 * STEPS * 0.003
    assert collector.simulate_s + collector.act_s <= whole_s


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_a_row_that_is_not_finite_is_named_by_its_place_among_all_groups(what):
    class Spoiled(Taped):
        def step(self, actions):
            step = super().step(actions)
            field = {"observation": "obs", "reward": "reward"}[what]
            values = getattr(step, field).copy()
            values[1] = np.nan
            return step._replace(**{field: values})

    collector, policy = start(GroupedEnv([Taped(4), Spoiled(2)]))
    with pytest.raises(FloatingPointError, match=f"{what} that is not finite, in row 5$"):
        collector.collect(policy)


def test_a_last_observation_that_is_not_finite_is_named_by_its_row_too():
    """It is row 2 of the second group, of which rows 1 and 2 are cut off."""

    class Spoiled(Taped):
        def step(self, actions):
            step, cut = super().step(actions), np.array([False, True, True])
            final = step.obs.copy()
            final[2] = np.nan
            return step._replace(terminated=~cut & False, truncated=cut, final_obs=final)

    collector, policy = start(GroupedEnv([Taped(4), Spoiled(3)]))
    with pytest.raises(FloatingPointError, match=r"observation that is not finite, in row 6$"):
        collector.collect(policy)


def test_a_start_and_a_resumption_leave_running_statistics_as_they_are():
    env = Taped()
    model = ModelConfig(hidden=(8,), separate_critic=False, encoder="test_during_training:Normed")
    policy = build_actor_critic(env.obs_space, env.action_space, model)
    before = [buffer.clone() for buffer in policy.buffers()]
    parts = {"device": torch.device("cpu"), "generator": torch.Generator(), "normalizer": None}
    collector = Collector(env, STEPS, shape_reward=lambda reward, done, valid: reward, **parts)
    collector.reset(policy, 1)
    collector.go_on(policy, collector.standing())
    assert all(torch.equal(*each) for each in zip(before, policy.buffers(), strict=True))
    collector.collect(policy)
    assert not torch.equal(before[0], next(policy.buffers()))


def test_seeds_are_of_30_bits_and_each_groups_own_and_a_reset_draws_nothing():
    env = Taped()
    start(env, seed=2**30 + 5)
    assert env.seed == 5
    groups = [Taped(2), Taped(1), Taped(3)]
    several, policy = start(GroupedEnv(groups), seed=7)
    wanted = [int(s) % 2**30 for s in np.random.SeedSequence(7).generate_state(3)]
    assert [group.seed for group in groups] == wanted
    before = torch.get_rng_state()
    several.reset(policy, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_stay_bytes_and_a_kept_graph_ends_with_the_rollout():
    env = make("MinAtar/Breakout-v1", 2)
    torch.manual_seed(0)
    policy = build_actor_critic(env.obs_space, env.action_space, ModelConfig(encoder="minatar_cnn", gru_size=4))
    settings = {"normalizer": None, "shape_reward": lambda reward, done, valid: reward, "keep_graph": True}
    collector = Collector(env, 3, device=torch.device("cpu"), generator=torch.Generator(), **settings)
    collector.reset(policy, 0)
    for _ in range(2):
        rollout, _ = collector.collect(policy)
        assert rollout.obs.dtype == torch.uint8 and rollout.action.dtype == torch.int64
        assert rollout.acting.params.requires_grad and rollout.acting.value.shape == (3, 2)
        assert not rollout.state.requires_grad and not rollout.v_final.requires_grad


def test_two_groups_are_joined_and_values_are_computed_where_they_are_needed_only():
    collector, policy = start(GroupedEnv([Taped(2), Taped(4)]))
    rollout, _ = collector.collect(policy)
    assert rollout.last_value.shape == (6,) and rollout.state.shape == (6, 4)
    env = Taped()
    env._env = make("CartPole-v1", ROWS, max_episode_steps=1000)
    collector, policy = start(env)
    values = []
    policy.value_head.register_forward_hook(lambda *_: values.append(1))
    rollout, _ = collector.collect(policy)
    assert len(values) == 1 and not rollout.truncated.any(), "the last one, to bootstrap from"


class Still:
    """Two simulators of which nothing is asked but that they take actions of two numbers, each with its own bounds."""

    num_envs, action_space = 2, gym.spaces.Box(np.array([-1, -2], np.float32), np.array([1, 0.5], np.float32))
    obs = np.zeros((2, 1), np.float32)

    def reset(self, seed):
        return self.obs

    def step(self, actions):
        no = np.zeros(2, bool)
        return Step(self.obs, np.zeros(2, np.float32), no, no, no, ~no, None, no, np.zeros(2), np.zeros(2, np.int64))


class Reads:
    """A policy that plays these actions [rows, 2], one after the other."""

    def __init__(self, *actions):
        self.actions = [torch.tensor(action) for action in actions]

    def __call__(self, obs, state, first, with_value=True):
        return Outputs(torch.zeros(len(obs), 2), torch.zeros(len(obs)), state)

    def act(self, params, *, greedy, generator=None):
        return params if greedy else self.actions.pop(0)

    def initial_state(self, batch, device="cpu"):
        return torch.zeros(batch, 0)


def _still(env, policy, num_steps):
    parts = {"device": torch.device("cpu"), "generator": torch.Generator(), "normalizer": None}
    collector = Collector(env, num_steps, shape_reward=lambda reward, done, valid: reward, **parts)
    collector.reset(policy, 0)
    return collector


def test_numbers_of_actions_outside_their_own_bounds_are_counted_on_either_side_and_over_rollouts():
    inside, low, high = [[1.0, 0.5], [-1.0, -2.0]], [[-1.5, -1.5], [0.0, -2.5]], [[0.9, 0.9], [1.5, 9.0]]
    policy = Reads(inside, low, high, high)
    collector = _still(Still(), policy, 2)
    collector.collect(policy)
    assert (collector.actions, collector.clipped_actions) == (8, 2)
    collector.collect(policy)
    assert (collector.actions, collector.clipped_actions) == (16, 2 + 3 + 3)
    collector, policy = start(Taped())
    collector.collect(policy)
    assert (collector.actions, collector.clipped_actions) == (0, 0), "choices have no bounds"


def test_every_step_of_every_group_is_a_sign_of_life():
    """The watchdog takes a learner without any for one whose simulator has stopped."""
    collector, policy = start(GroupedEnv([Taped(2), Taped(1), Taped(3)]))
    signs = []
    collector.on_step = lambda: signs.append(1)
    for _ in range(2):
        collector.collect(policy)
    assert len(signs) == 2 * 3 * STEPS
