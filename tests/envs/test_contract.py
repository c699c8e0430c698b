"""The contract check itself: it passes a faithful environment and catches each way of breaking the contract."""

import gymnasium as gym
import numpy as np
import pytest
from counting import Counting
from gala_envs.contract import BatchedEnv, check_actions, check_batched_env, row_seeds
from gala_envs.gymnasium_backend import GymnasiumEnv


class Tampered:
    """A faithful counting environment whose steps pass through ``tamper(step, inner)``."""

    def __init__(self, tamper, autoreset="same-step"):
        self.inner = GymnasiumEnv("Counting", 2, autoreset=autoreset, make_env=Counting)
        self.tamper = tamper
        for name in ("num_envs", "obs_space", "action_space", "frames_per_step", "autoreset"):
            setattr(self, name, getattr(self.inner, name))

    def reset(self, seed=None):
        self.buffer = self.inner.reset(seed)
        return self.buffer

    def step(self, actions):
        return self.tamper(self.inner.step(actions), self)

    def close(self):
        self.inner.close()


def overwrites(step, env):
    env.buffer[:] = step.obs
    return step._replace(obs=env.buffer)


def random_reset(step, env):
    return step._replace(obs=np.random.random(step.obs.shape).astype(np.float32))


def cut_return(step, env):
    return step._replace(episode_return=step.episode_return - 1.0)


def wrong_length(step, env):
    return step._replace(episode_length=step.episode_length + 1)


SAME_STEP_BREACHES = {
    "overwritten obs": overwrites,
    "missing final_obs": lambda s, e: s._replace(final_obs=None),
    "wrong first": lambda s, e: s._replace(first=np.zeros(2, bool)),
    "float64 obs": lambda s, e: s._replace(obs=s.obs.astype(np.float64)),
    "wrong shape": lambda s, e: s._replace(obs=s.obs[:, :2]),
    "float64 reward": lambda s, e: s._replace(reward=s.reward.astype(np.float64)),
    "integer flag": lambda s, e: s._replace(terminated=s.terminated.astype(int)),
    "infinite obs": lambda s, e: s._replace(obs=s.obs / 0),
    "NaN reward": lambda s, e: s._replace(reward=s.reward * np.float32("nan")),
    "invalid row": lambda s, e: s._replace(valid=np.zeros(2, bool)),
    "not reproducible": random_reset,
    "wrong return": cut_return,
    "wrong length": wrong_length,
    "over without end": lambda s, e: s._replace(episode_over=np.ones(2, bool)),
}
NEXT_STEP_BREACHES = {
    "autoreset row marked valid": lambda s, e: s._replace(valid=np.ones(2, bool)),
    "reward in an autoreset row": lambda s, e: s._replace(reward=s.reward + ~s.valid),
    "end in an autoreset row": lambda s, e: s._replace(truncated=s.truncated | ~s.valid),
    "first never set": lambda s, e: s._replace(first=np.zeros(2, bool)),
    "first set too early": lambda s, e: s._replace(first=s.terminated | s.truncated),
}


@pytest.mark.parametrize("autoreset", ["same-step", "next-step"])
def test_a_faithful_environment_passes(autoreset):
    env = Tampered(lambda s, e: s, autoreset)
    assert isinstance(env, BatchedEnv)
    check_batched_env(env, num_steps=50)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("name", SAME_STEP_BREACHES)
def test_a_breach_is_caught_in_the_same_step(name):
    with pytest.raises(AssertionError):
        check_batched_env(Tampered(SAME_STEP_BREACHES[name]), num_steps=50)


@pytest.mark.parametrize("name", NEXT_STEP_BREACHES)
def test_a_breach_is_caught_in_the_next_step(name):
    with pytest.raises(AssertionError):
        check_batched_env(Tampered(NEXT_STEP_BREACHES[name], "next-step"), num_steps=50)


class Forgiving(Tampered):
    """Turns bad actions into good ones, or lets them reach the simulator and complains afterwards."""

    def __init__(self, after):
        super().__init__(lambda s, e: s)
        self.after = after

    def step(self, actions):
        good = np.resize(np.clip(actions, 0, 2), 2)
        step = self.inner.step(good)
        if self.after and not np.array_equal(good, actions):
            raise ValueError("too late")
        return step


def test_an_accepted_bad_action_is_caught():
    with pytest.raises(AssertionError, match="accepted"):
        check_batched_env(Forgiving(after=False), num_steps=20)


@pytest.mark.parametrize(
    ("space", "good", "bad", "message"),
    [
        (gym.spaces.Discrete(3), [0, 2], [0, 3], r"row 1: action 3"),
        (gym.spaces.Discrete(3, start=5), [5, 7], [4, 7], r"row 0: action 4"),
        (gym.spaces.Discrete(3), [0, 2], [0.0, 1.0], "wants integers"),
        (gym.spaces.Discrete(3), [0, 2], [0, 1, 2], "have shape"),
        (gym.spaces.MultiDiscrete([2, 3]), [[1, 2], [0, 0]], [[1, 2], [2, 0]], "row 1"),
        (gym.spaces.Box(-1, 1, (1,)), [[0.5], [-1]], [[0.5], [np.nan]], "row 1.*not finite"),
        (gym.spaces.MultiBinary(2), None, [[0, 1], [1, 1]], "not supported"),
    ],
)
def test_actions_are_checked(space, good, bad, message):
    if good is not None:
        checked = check_actions(np.array(good), space, 2)
        np.testing.assert_array_equal(checked, good)
        assert checked.dtype == space.dtype
    with pytest.raises(ValueError, match=message):
        check_actions(np.array(bad), space, 2)


def test_box_actions_are_clipped():
    space = gym.spaces.Box(-1, 1, (1,))
    np.testing.assert_array_equal(check_actions(np.array([[3.0], [-0.5]]), space, 2), [[1.0], [-0.5]])


def test_neighbouring_seeds_share_no_row():
    seeds = [set(row_seeds(seed, 64)) for seed in range(8)]
    assert len(set.union(*seeds)) == 8 * 64
    assert row_seeds(3, 64) == row_seeds(3, 64) != row_seeds(None, 64)
