"""Batched classic control against Gymnasium's own simulators, one by one: equal to the last bit."""

import gymnasium as gym
import numpy as np
import pytest
from gala_envs import snapshots
from gala_envs.classic_env import CLASSIC, ClassicEnv, is_stock
from gala_envs.contract import check_batched_env, row_seeds
from gala_envs.gymnasium_backend import GymnasiumEnv
from gala_envs.pictures import make_drawn
from gala_envs.registry import DEFAULTS, make, resolve_backend

ROWS, STEPS = 4, 1000


def random(rng, obs, space):
    if isinstance(space, gym.spaces.Box):
        return rng.uniform(1.5 * space.low, 1.5 * space.high, (len(obs), 1)).astype(np.float32)
    return rng.integers(space.n, size=len(obs))


def swinging(rng, obs, space):
    """Always with the motion, which is how to reach the goals that random actions do not; sometimes random."""
    speed = obs[:, -1]
    if isinstance(space, gym.spaces.Box):
        action = np.where(speed >= 0, space.high, space.low)[:, None]
    else:
        action = np.where(speed >= 0, space.n - 1, 0)
    return np.where(rng.random(action.shape) < 0.2, random(rng, obs, space), action)


@pytest.mark.parametrize("policy", [random, swinging])
@pytest.mark.parametrize("id", CLASSIC)
def test_a_thousand_steps_are_gymnasiums_to_the_last_bit(id, policy):
    """Observations, rewards, ends, last observations of episodes, and the states behind them, in float64."""
    limit = 30 if policy is random else 0
    rng, ends = np.random.default_rng(7), np.zeros(2, int)
    for seed in (0, 1, 2):
        env = make(id, ROWS, max_episode_steps=limit)
        assert isinstance(env, ClassicEnv)
        alone = [gym.make(id, disable_env_checker=True, max_episode_steps=limit or None) for _ in range(ROWS)]
        obs = env.reset(seed)
        for i, (one, its) in enumerate(zip(alone, row_seeds(seed, ROWS), strict=True)):
            np.testing.assert_array_equal(obs[i], one.reset(seed=its)[0].astype(np.float32))
        for _ in range(STEPS if (seed, policy) == (0, random) else STEPS // 5):
            action = policy(rng, obs, env.action_space)
            step = env.step(action)
            if isinstance(env.action_space, gym.spaces.Box):
                action = np.clip(action, env.action_space.low, env.action_space.high)
            for i, one in enumerate(alone):
                last, reward, terminated, truncated, _ = one.step(action[i])
                last = last.astype(np.float32)
                assert step.reward[i] == np.float32(reward)
                assert (step.terminated[i], step.truncated[i]) == (terminated, truncated)
                if terminated or truncated:
                    np.testing.assert_array_equal(step.final_obs[i], last)
                    last = one.reset()[0].astype(np.float32)
                state = np.asarray(one.unwrapped.state, np.float64)
                np.testing.assert_array_equal(step.obs[i], last)
                np.testing.assert_array_equal(env.get_state()["state"][i, : len(state)], state)
            ends += step.terminated.sum(), step.truncated.sum()
            obs = step.obs
        env.close()
    assert ends[0] > 0 or id == "Pendulum-v1" or policy is random
    assert ends[1] > 0 or policy is swinging


@pytest.mark.parametrize("id", CLASSIC)
def test_spaces_and_contract_are_those_of_the_gymnasium_backend(id):
    env, other = make(id, 3), make(id, 3, backend="gymnasium")
    assert isinstance(other, GymnasiumEnv)
    assert (env.obs_space, env.action_space) == (other.obs_space, other.action_space)
    assert env.frames_per_step == other.frames_per_step and env.autoreset == other.autoreset
    check_batched_env(env, num_steps=120)


@pytest.mark.parametrize("id", CLASSIC)
def test_episodes_are_summed_as_by_the_gymnasium_backend(id):
    env, other = (make(id, 3, backend=backend, max_episode_steps=23) for backend in ("auto", "gymnasium"))
    rng, obs = np.random.default_rng(0), env.reset(5)
    np.testing.assert_array_equal(obs, other.reset(5))
    for _ in range(60):
        action = random(rng, obs, env.action_space)
        one, two = env.step(action), other.step(action)
        for name in ("obs", "reward", "first", "valid", "episode_over", "episode_return", "episode_length"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
            assert getattr(one, name).dtype == getattr(two, name).dtype


@pytest.mark.parametrize("steps", [0, 1, 37])
@pytest.mark.parametrize("id", CLASSIC)
def test_what_gymnasiums_simulators_have_saved_goes_on(id, steps):
    """A run that was begun before there was this backend is resumed as if it had never stopped."""
    env, other = make(id, 2, backend="gymnasium", max_episode_steps=50), make(id, 2, max_episode_steps=50)
    rng, obs = np.random.default_rng(0), env.reset(5)
    plan = [random(rng, obs, env.action_space) for _ in range(steps + 60)]
    for action in plan[:steps]:
        env.step(action)
    other.set_state(snapshots.loads(snapshots.dumps(snapshots.get_state(env))))
    for action in plan[steps:]:
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one.obs, two.obs)
        np.testing.assert_array_equal(one.episode_return, two.episode_return)


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, "classic"),
        ({"max_episode_steps": 9, "threads": 2, "watchdog_s": 1.0, "autoreset": "same-step"}, "classic"),
        (DEFAULTS, "classic"),
        ({"vectorization": "async"}, "gymnasium"),
        ({"autoreset": "next-step"}, "gymnasium"),
        ({"make_env": lambda: gym.make("CartPole-v1")}, "gymnasium"),
    ],
)
def test_options_that_it_lacks_leave_the_task_to_gymnasium(options, backend):
    assert resolve_backend("CartPole-v1", "auto", options) == backend
    assert resolve_backend("CartPole-v1", "gymnasium", options) == "gymnasium"


@pytest.mark.parametrize(
    "changed",
    [
        {"kwargs": {"sutton_barto_reward": True}},
        {"entry_point": "helper_envs:Walk"},
        {"max_episode_steps": 7},
        {"additional_wrappers": (gym.envs.registration.WrapperSpec("x", "helper_envs:Walk", {}),)},
    ],
)
def test_a_task_that_somebody_has_changed_is_left_to_gymnasium(changed, monkeypatch):
    spec = gym.registry["CartPole-v1"]
    assert is_stock("CartPole-v1") and not is_stock("CartPole-v0")
    for name, value in changed.items():
        monkeypatch.setattr(spec, name, value)
    assert not is_stock("CartPole-v1") and resolve_backend("CartPole-v1") == "gymnasium"


def test_an_unknown_task_is_one_line():
    with pytest.raises(ValueError, match="unknown classic control task 'Hopper-v5'; choose one of CartPole-v1"):
        ClassicEnv("Hopper-v5", 1)


def test_films_are_drawn_by_gymnasium():
    pytest.importorskip("pygame")
    env, picture = make_drawn("CartPole-v1", **DEFAULTS)
    assert picture(env.reset(0)[0]).shape == (400, 600, 3)
    np.testing.assert_array_equal(env.reset(3), make("CartPole-v1", 1).reset(3))
    env.close()
