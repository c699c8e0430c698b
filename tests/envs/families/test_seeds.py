"""Level seeds of Gymnasium environments, against those environments on their own."""

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import EnvError, check_batched_env
from gala_envs.families import make_family
from gala_envs.splits import split
from rows_agree import assert_rows_agree


def one(family, *seeds, **params):
    return ContextSet(tuple(Context.of(family.name, seed, **params) for seed in seeds), "train")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "Taxi-v4"])
def test_the_contract_holds_and_rows_agree(env_id):
    family = make_family(f"seeds:{env_id}")
    contexts = split(family, {"train": 5})["train"]
    env = ContextualEnv(family, contexts, 3, sticky_actions=0.25, max_episode_steps=40)
    check_batched_env(env, num_steps=100)
    env.close()
    assert_rows_agree(family, contexts, sticky_actions=0.25)


def test_an_episode_is_gymnasiums_with_the_level_seed():
    """Also in a second and third episode of a row, which would go on with the generator if they were not seeded."""
    family = make_family("seeds:CartPole-v1")
    env = ContextualEnv(family, one(family, 11, 12), 1)
    alone = gym.make("CartPole-v1", disable_env_checker=True)
    rng = np.random.default_rng(0)
    obs = env.play([[(0, 1), (1, 2), (0, 3)]])
    for seed in (11, 12, 11):
        np.testing.assert_array_equal(obs[0], alone.reset(seed=seed)[0])
        done = False
        while not done:
            action = int(rng.integers(2))
            o, r, terminated, truncated, _ = alone.step(action)
            s = env.step(np.array([action]))
            done = terminated or truncated
            assert (s.reward[0], s.terminated[0], s.truncated[0]) == (r, terminated, truncated)
            np.testing.assert_array_equal((s.final_obs if done else s.obs)[0], o)
        obs = s.obs


def test_the_initial_state_of_cartpole_is_multiplied():
    family = make_family("seeds:CartPole-v1")
    once, twice = (ContextualEnv(family, one(family, 0, init_mult=k), 1).play([[(0, 0)]])[0] for k in (1.0, 2.0))
    assert [round(float(x), 4) for x in (once[0], twice[0])] == [0.0137, 0.0274]
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"])
def test_the_initial_state_of_classic_control_is_multiplied(env_id):
    family = make_family(f"seeds:{env_id}")
    state = []
    for k in (1.0, 1.5):
        env = ContextualEnv(family, one(family, 3, init_mult=k), 1)
        env.reset(0)
        state.append(np.array(env.simulators._rows[0].unwrapped.state))
    assert state[0].any()
    np.testing.assert_allclose(state[1], 1.5 * state[0], rtol=1e-6)


def test_init_mult_of_mujoco_is_the_noise_around_the_pose_at_rest():
    pytest.importorskip("mujoco")
    family = make_family("seeds:Hopper-v5")
    env = ContextualEnv(family, ContextSet((*one(family, 3), *one(family, 3, init_mult=2.0)), "train"), 2)
    env.play([[(0, 0)], [(1, 0)]])
    simulators = [row.unwrapped for row in env.simulators._rows]
    for name, rest in (("qpos", simulators[0].init_qpos), ("qvel", simulators[0].init_qvel)):
        small, large = (getattr(s.data, name) - rest for s in simulators)
        assert small.any()
        np.testing.assert_allclose(large, 2 * small, rtol=1e-9)
    assert_rows_agree(family, split(family, {"train": 3})["train"], 8, 30)


def test_contexts_that_start_alike_are_one():
    family = make_family("seeds:CartPole-v1")
    a, b = one(family, 1, 2)
    assert family.fingerprint(a) != family.fingerprint(b)
    assert family.fingerprint(a) == family.fingerprint(a.with_params(init_mult=1.0))
    assert family.fingerprint(a) != family.fingerprint(a.with_params(init_mult=2.0))


@pytest.mark.parametrize(
    ("env_id", "settings", "message"),
    [
        ("CliffWalking-v1", {}, "there are only 1"),
        ("CartPole-v1", {"init_mult": 50.0}, "outside its observation space"),
        ("CartPole-v1", {"init_mult": -1.0}, "init_mult=-1.0 must be"),
        ("Taxi-v4", {"init_mult": 2.0}, "has no parameter 'init_mult'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(env_id, settings, message):
    with pytest.raises(ValueError, match=message):
        split(make_family(f"seeds:{env_id}"), {"train": 20}, **settings)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("NoSuchEnv-v0", "NoSuchEnv"),
        ("ALE/Pong-v5", "ALE seeds are not distinct MDPs"),
        ("nomodule:Env-v0", "nomodule"),
        ("helper_envs:Walk", "registered id.*seeds:helper_envs:Walk-v0"),
    ],
)
def test_an_environment_that_cannot_be_a_family_is_refused(env_id, message):
    with pytest.raises(ValueError, match=message):
        make_family(f"seeds:{env_id}")


def test_a_reacher_has_no_multiplier():
    pytest.importorskip("mujoco")
    assert "init_mult" not in make_family("seeds:Reacher-v5").parameters


class _Breaks(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        if action == 6:
            raise KeyError("broken")
        return np.full(2, action / 10, np.float32), 0.0, False, False, {}


def test_a_row_that_fails_is_named_and_actions_are_shifted():
    gym.register("Breaks-v0", _Breaks)
    try:
        family = make_family("seeds:Breaks-v0")
        env = ContextualEnv(family, one(family, 1, 2), 2)
        env.reset(0)
        np.testing.assert_array_equal(env.step(np.array([0, 0])).obs, np.full((2, 2), 0.5, np.float32))
        with pytest.raises(EnvError, match="seeds:Breaks-v0, row 1: KeyError"):
            env.step(np.array([0, 1]))
    finally:
        gym.registry.pop("Breaks-v0")


def test_discretised_actions_are_the_middles_of_equal_parts_and_the_rest_is_gymnasiums():
    family = make_family("seeds:Pendulum-v1")
    contexts = split(family, {"train": 3}, action_bins=5)["train"]
    env = ContextualEnv(family, contexts, 1)
    assert env.action_space.nvec.tolist() == [5]
    for k, torque in enumerate((-1.6, -0.8, 0.0, 0.8, 1.6)):
        env.play([[(1, 0)]])
        oracle = gym.make("Pendulum-v1")
        oracle.reset(seed=contexts.contexts[1].seed)
        for _ in range(3):
            step = env.step(np.array([[k]]))
            obs, reward, *_ = oracle.step(np.array([torque], np.float32))
        np.testing.assert_allclose(step.obs[0], obs, atol=1e-5)
        assert step.reward[0] == pytest.approx(reward, abs=1e-5)
    with pytest.raises(ValueError, match="is for continuous actions"):
        cartpole = make_family("seeds:CartPole-v1")
        ContextualEnv(cartpole, split(cartpole, {"train": 2}, action_bins=3)["train"], 1)
