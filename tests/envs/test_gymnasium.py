"""The Gymnasium backend: spaces, failures, time limits."""

import copy
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
from counting import Counting
from gala_envs.contract import EnvError, check_batched_env, row_seeds
from gala_envs.gymnasium_backend import GymnasiumEnv
from gala_envs.gymnasium_row import LastWords
from gala_envs.spaces import action_adapter, observation_adapter

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = multiprocessing.get_context().Lock()


class Spaces(gym.Env):
    """Emits samples of ``observation_space``; remembers the last action."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self._sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken = action
        return self._sample(), 1.0, False, False, {}

    def _sample(self):
        self.raw = self.observation_space.sample()
        return self.raw


MIXED_ACTIONS = gym.spaces.Tuple(
    [
        gym.spaces.Discrete(3, start=-1),
        gym.spaces.Dict(a=gym.spaces.MultiDiscrete([2, 4], start=[1, 0]), b=gym.spaces.MultiBinary(2)),
    ]
)


class Parted(gym.ObservationWrapper):
    """Its observation as one of two parts, the very array."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict(a=env.observation_space, b=gym.spaces.Discrete(2))

    def observation(self, observation):
        return {"a": observation, "b": 0}


def of_spaces(observation_space=None, action_space=None, rows=1, **options):
    observation_space = observation_space or gym.spaces.Box(-1, 1, (2,))
    action_space = action_space or gym.spaces.Discrete(2)
    return GymnasiumEnv(
        "Spaces", rows, make_env=lambda: copy.deepcopy(Spaces(observation_space, action_space)), **options
    )


CEILING = np.arange(1, 8 * 6 * 3 + 1, dtype=np.float32).reshape(8, 6, 3)
"""Each number of these images has a bound of its own."""


@pytest.mark.parametrize(
    ("space", "shape", "dtype", "convert"),
    [
        (gym.spaces.Box(-1, 1, (3,), np.float64), (3,), np.float32, lambda x: x),
        (gym.spaces.Box(0, 255, (8, 6, 3), np.uint8), (3, 8, 6), np.uint8, lambda x: np.moveaxis(x, 2, 0)),
        (gym.spaces.Box(0, 255, (4, 8, 6), np.uint8), (4, 8, 6), np.uint8, lambda x: x),
        (gym.spaces.Box(0, 255, (8, 6), np.uint8), (1, 8, 6), np.uint8, lambda x: x[None]),
        (gym.spaces.Box(0, 1, (8, 6, 3)), (3, 8, 6), np.float32, lambda x: np.moveaxis(x, 2, 0)),
        (gym.spaces.Box(CEILING * 0, CEILING), (3, 8, 6), np.float32, lambda x: np.moveaxis(x, 2, 0)),
        (gym.spaces.Box(0, 9, (8, 6, 3), np.int64), (3, 8, 6), np.float32, lambda x: np.moveaxis(x, 2, 0)),
        (gym.spaces.Box(0, 1, (8, 6)), (8, 6), np.float32, lambda x: x),
        (gym.spaces.Box(0, 1, (8, 6, 4), bool), (4, 8, 6), np.uint8, lambda x: np.moveaxis(x, 2, 0)),
        (gym.spaces.Box(0, 9, (2,), np.int64), (2,), np.float32, lambda x: x),
        (gym.spaces.Box(-1, 1, ()), (1,), np.float32, lambda x: np.reshape(x, 1)),
        (gym.spaces.Box(0, 255, (), np.uint8), (1,), np.uint8, lambda x: np.reshape(x, 1)),
        (gym.spaces.Discrete(4, start=2), (4,), np.float32, lambda x: np.arange(2, 6) == x),
    ],
)
def test_observations(space, shape, dtype, convert):
    env = of_spaces(space)
    obs = env.reset(0)
    inner = env._env.envs[0]
    assert env.obs_space.shape == shape and obs.dtype == env.obs_space.dtype == dtype
    for _ in range(5):
        np.testing.assert_array_equal(obs[0], convert(inner.raw).astype(dtype))
        obs = env.step(np.zeros(1, int)).obs
    if isinstance(space, gym.spaces.Box):
        np.testing.assert_array_equal(env.obs_space.high, convert(space.high))
    check_batched_env(env, num_steps=20)


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (gym.spaces.Discrete(3, start=-1), gym.spaces.Discrete(3)),
        (gym.spaces.MultiDiscrete([2, 3], start=[1, 1]), gym.spaces.MultiDiscrete([2, 3])),
        (gym.spaces.Box(-2, 2, (2,)), gym.spaces.Box(-2, 2, (2,))),
        (gym.spaces.Box(-2, 2, (2, 3)), gym.spaces.Box(-2, 2, (6,))),
        (gym.spaces.Box(-2, 2, ()), gym.spaces.Box(-2, 2, (1,))),
        (gym.spaces.MultiBinary(3), gym.spaces.MultiDiscrete([2, 2, 2])),
        (gym.spaces.MultiDiscrete([[2, 3], [4, 5]]), gym.spaces.MultiDiscrete([2, 3, 4, 5])),
        (MIXED_ACTIONS, gym.spaces.MultiDiscrete([3, 2, 4, 2, 2])),
    ],
)
@BOTH
def test_actions(space, shown, vectorization):
    env = of_spaces(action_space=space, rows=2, vectorization=vectorization)
    assert env.action_space == shown
    check_batched_env(env, num_steps=20)  # Spaces refuses an action outside its own space
    env.close()


def test_parts_of_an_action_reach_the_parts_of_the_simulators_action():
    env = of_spaces(action_space=MIXED_ACTIONS, rows=2)
    env.reset(0)
    env.step(np.array([[0, 1, 3, 0, 1], [2, 0, 0, 1, 1]]))
    for row, (first, second, bits) in enumerate([(-1, [2, 3], [0, 1]), (1, [1, 0], [1, 1])]):
        taken = env._env.envs[row].taken
        assert (taken[0], taken[1]["a"].tolist(), taken[1]["b"].tolist()) == (first, second, bits)


PARTS = {
    "image": gym.spaces.Box(0, 255, (2, 3), np.uint8),
    "pair": gym.spaces.Tuple([gym.spaces.Discrete(3, start=-1), gym.spaces.Box(-2, 2, (2,), np.float64)]),
    "switches": gym.spaces.MultiBinary([2, 2]),
    "wheels": gym.spaces.MultiDiscrete([2, 3]),
}


@BOTH
@pytest.mark.parametrize(
    ("space", "pixels"),
    [
        (gym.spaces.Dict(PARTS), 6),
        (gym.spaces.Tuple(PARTS.values()), 6),
        (PARTS["pair"], 0),
        (PARTS["switches"], 0),
        (PARTS["wheels"], 0),
    ],
)
def test_observations_of_parts_are_as_gymnasium_flattens_them(space, pixels, vectorization):
    """But for images, the first ``pixels`` numbers, which it leaves as 0 to 255."""
    env = of_spaces(space, rows=2, vectorization=vectorization)
    obs = env.reset(3)
    alone = [Spaces(copy.deepcopy(space), gym.spaces.Discrete(2)) for _ in range(2)]
    raw = [one.reset(seed=seed)[0] for one, seed in zip(alone, row_seeds(3, 2), strict=True)]
    for _ in range(3):
        expected = np.stack([gym.spaces.flatten(space, one) for one in raw]).astype(float)
        expected[:, :pixels] /= 255
        np.testing.assert_allclose(obs, expected, atol=1e-7)
        assert obs.dtype == env.obs_space.dtype and env.obs_space.shape == obs.shape[1:]
        obs = env.step(np.zeros(2, int)).obs
        raw = [one.step(0)[0] for one in alone]
    env.close()


def test_the_last_observation_of_an_episode_is_kept_when_it_has_parts():
    """Counting's own array is written over by the reset."""
    env = GymnasiumEnv("Parts", 2, make_env=lambda: Parted(Counting()))
    env.reset(0)
    last = [env.step(np.zeros(2, int)) for _ in range(4)][-1]
    plain = GymnasiumEnv("Plain", 2, make_env=Counting)
    plain.reset(0)
    wanted = [plain.step(np.zeros(2, int)) for _ in range(4)][-1]
    assert last.first.all() and not np.array_equal(last.final_obs, last.obs)
    np.testing.assert_array_equal(last.final_obs[:, : wanted.obs.shape[1]], wanted.final_obs)


@pytest.mark.parametrize(
    "empty",
    [
        gym.spaces.Dict({}),
        gym.spaces.Tuple(()),
        gym.spaces.Box(0, 1, (0,)),
        gym.spaces.MultiDiscrete(np.zeros((0,), int)),
        gym.spaces.Dict(a=gym.spaces.Discrete(2), b=gym.spaces.Tuple(())),
    ],
    ids=str,
)
def test_a_space_without_a_number_is_refused_by_name(empty):
    with pytest.raises(ValueError, match=r"rooms: the observation space .* holds no number") as told:
        observation_adapter(empty, "rooms")
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"rooms: the action space .* holds no number"):
        action_adapter(empty, "rooms")


def test_a_space_of_many_values_takes_memory_for_the_batch_alone():
    space, convert = observation_adapter(gym.spaces.Discrete(1_000_000, start=5), "x")  # its square would be 4 TB
    codes = convert(np.array([5, 1_000_004, 17]))
    assert space.shape == (1_000_000,) and codes.shape == (3, 1_000_000) and codes.dtype == np.float32
    assert codes.argmax(1).tolist() == [0, 999_999, 12] and codes.sum() == 3.0


def test_unsupported_spaces_name_the_way_out():
    with pytest.raises(ValueError, match="Text observations are not supported; wrap the environment"):
        of_spaces(gym.spaces.Dict(a=gym.spaces.Text(3)))
    with pytest.raises(ValueError, match=r"Box actions are not supported; use .* or a Tuple or Dict of the discrete"):
        of_spaces(action_space=gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Box(0, 1)]))


def test_equals_gymnasium_alone():
    env = GymnasiumEnv("CartPole-v1", 2)
    obs, alone = env.reset(9), gym.make("CartPole-v1")
    expected, _ = alone.reset(seed=row_seeds(9, 2)[1])
    rng = np.random.default_rng(0)
    for _ in range(100):
        np.testing.assert_array_equal(obs[1], expected)
        actions = rng.integers(0, 2, 2)
        step = env.step(actions)
        expected, reward, terminated, truncated, _ = alone.step(actions[1])
        assert (step.reward[1], step.terminated[1], step.truncated[1]) == (reward, terminated, truncated)
        if terminated or truncated:
            np.testing.assert_array_equal(step.final_obs[1], expected)
            expected, _ = alone.reset()
        obs = step.obs


@pytest.mark.parametrize("how", [{}, {"make_env": lambda: gym.make("Pendulum-v1")}])
def test_time_limit(how):
    for limit, length in ((0, 200), (7, 7), (300, 300)):
        env = GymnasiumEnv("Pendulum-v1", 1, max_episode_steps=limit, **how)
        env.reset(0)
        steps = [env.step(np.zeros((1, 1), np.float32)) for _ in range(length)]
        assert [bool(s.truncated[0]) for s in steps] == [False] * (length - 1) + [True]
        assert steps[-1].episode_length[0] == length


@BOTH
@pytest.mark.parametrize("error", [ZeroDivisionError, Unpicklable])
def test_a_failure_names_its_row_with_the_traceback(vectorization, error, recwarn, capfd):
    built = iter(range(99))

    def build():
        return Counting(fail_at=4, error=error) if next(built) % 3 == 2 else Counting()

    def build_async():
        name = multiprocessing.current_process().name
        return Counting(fail_at=4, error=error) if name.endswith("-2") else Counting()

    env = GymnasiumEnv(
        "Fails",
        3,
        vectorization=vectorization,
        action_masks="off",
        make_env=build_async if vectorization == "async" else build,
    )
    env.reset(0)
    for _ in range(3):
        env.step(np.zeros(3, int))
    place = rf"{error.__name__}: scripted failure \(counting.py, line \d+\)\nTraceback"
    with pytest.raises(EnvError, match=rf"^Fails, row 2: step\(\) raised {place}") as info:
        env.step(np.zeros(3, int))
    assert str(info.value).count("Traceback") == 1
    assert not multiprocessing.active_children() and not recwarn.list and "scripted" not in capfd.readouterr().err
    env.close()


def test_a_hang_ends_within_the_watchdog():
    def build():
        return Counting(hang_at=3) if multiprocessing.current_process().name.endswith("-1") else Counting()

    env = GymnasiumEnv("Hangs", 2, vectorization="async", watchdog_s=3.0, make_env=build)
    env.reset(0)
    env.step(np.zeros(2, int))
    env.step(np.zeros(2, int))
    with pytest.raises(EnvError, match=r"rows \[1\] did not answer for 3 s"):
        env.step(np.zeros(2, int))  # row 1 sleeps for ten minutes
    assert not multiprocessing.active_children()
    env.close()


def test_a_killed_simulator_is_an_error():
    env = GymnasiumEnv("CartPole-v1", 2, vectorization="async")
    env.reset(0)
    os.kill(env._env.processes[1].pid, signal.SIGKILL)
    with pytest.raises(EnvError, match=r"rows \[1\] died"):
        for _ in range(3):
            env.step(np.zeros(2, int))
    assert not multiprocessing.active_children()


class Crashing(Counting):
    def __init__(self, where):
        super().__init__()
        self.where = where
        self.crash("init")

    def crash(self, where):
        if where == self.where and multiprocessing.parent_process() is not None:
            ctypes.string_at(0)

    def reset(self, **kwargs):
        self.crash("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.crash("step")
        return super().step(action)


@pytest.mark.parametrize(
    ("where", "whose"),
    [
        ("step", r"the process of rows \[.*\] died: killed by SIGSEGV"),
        ("reset", r"the process of rows \[.*\] died: killed by SIGSEGV"),
        ("init", "a process died as it was made"),
    ],
)
def test_of_simulators_that_crash_at_once_one_tells_where_it_stood(where, whose, capfd):
    with pytest.raises(EnvError, match=f"^Crashes: {whose}") as info:
        env = GymnasiumEnv("Crashes", 4, vectorization="async", action_masks="off", make_env=lambda: Crashing(where))
        env.reset(0)
        env.step(np.zeros(4, int))
    assert str(info.value).count("Segmentation fault") == 1 and '.py", line' in str(info.value)
    assert f"in {'__init__' if where == 'init' else where}" in str(info.value)
    assert not multiprocessing.active_children() and "Segmentation" not in capfd.readouterr().err


def crash(file):
    faulthandler.enable(file.open())
    ctypes.string_at(0)


@pytest.mark.parametrize("way", ["open already", "by its path"])
def test_last_words_are_told_where_one_of_two_ways_is_closed(way):
    words = LastWords()
    file = words.told_to._replace(path="/nowhere") if way == "open already" else words.told_to._replace(identity=(0, 0))
    process = multiprocessing.get_context("fork").Process(target=crash, args=(file,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGSEGV and "in crash" in words.read()
    words.close()


def test_ctrl_c_does_not_reach_the_simulators():
    env = GymnasiumEnv("CartPole-v1", 1, vectorization="async")
    env.reset(0)
    os.kill(env._env.processes[0].pid, signal.SIGINT)
    time.sleep(0.2)
    env.step(np.zeros(1, int))
    env.close()
    env.close()
    assert not multiprocessing.active_children()


@BOTH
def test_one_that_cannot_be_built(vectorization):
    with pytest.raises(EnvError, match=r"CartPole-v1: TypeError.*no_such_option"):
        GymnasiumEnv("CartPole-v1", 1, vectorization=vectorization, no_such_option=1)
    with pytest.raises(EnvError, match="NoSuchGame"):
        GymnasiumEnv("NoSuchGame-v1", 1, vectorization=vectorization)
