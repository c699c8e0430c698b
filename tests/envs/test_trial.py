"""Environments with one mistake each: the line that says what to write instead."""

import copy
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contract import EnvError
from gala_envs.gymnasium_backend import GymnasiumEnv
from gala_envs.registry import make
from gala_envs.trial import fault_of_reset, fault_of_step, try_environment

from gala.build import envs as build_envs
from gala.cli import main
from gala.config.parse import parse_config

BOX = gym.spaces.Box(-1, 1, (3,), np.float32)
PARTS = gym.spaces.Dict(a=BOX, b=gym.spaces.Tuple([gym.spaces.Discrete(2), BOX]))
ZERO = np.zeros(3, np.float32)
STEP = "step() must return (observation, reward, terminated, truncated, info)"


class Scripted(gym.Env):
    """Returns what it was given: ``good`` at first, ``later`` from the fifth step on."""

    observation_space, action_space = BOX, gym.spaces.Discrete(2)

    def __init__(self, later, good=(ZERO, 1.0, False, False, {}), first=(ZERO, {})):
        self.later, self.good, self.first, self.age = later, good, first, 0

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        self.age += 1
        return self.later if self.age >= 5 else self.good


class OldReset(Scripted):
    def reset(self):
        return ZERO


class Level(Scripted):
    def __init__(self, level):
        super().__init__(level)


class NoSpaces(gym.Env):
    pass


def broken():
    raise KeyError("the file\nis gone")


FAULTS = [
    ((ZERO, 1.0, False, {}), f"{STEP}, and returned 4 values: since Gymnasium 0.26 `done` is two"),
    (None, f"{STEP}, and returned None"),
    ((ZERO, None, False, False, {}), f"{STEP}, reward one number and not None"),
    ((ZERO, "one", False, False, {}), "reward one number and not a str"),
    ((ZERO, np.ones(2), False, False, {}), "reward one number and not an array of shape (2,) and type float64"),
    ((ZERO, float("inf"), False, False, {}), "the reward was inf"),
    ((ZERO, 1.0, np.ones(2, bool), False, {}), "terminated True or False and not an array of shape (2,) and type bool"),
    ((ZERO, 1.0, False, None, {}), "truncated True or False and not None"),
    ((ZERO, 1.0, False, False, None), "info a dict and not None"),
    ((np.zeros(4), 1.0, False, False, {}), "the observation of step() is an array of shape (4,) and type float64; "),
    ((None, 1.0, False, False, {}), "the observation of step() is None; observation_space wants a Box of shape (3,)"),
    (({"a": 1}, 1.0, False, False, {}), "the observation of step() is a dict of 1; "),
    ((ZERO * np.nan, 1.0, False, False, {}), "the observation of step() holds a number that is not finite"),
]


@pytest.mark.parametrize(("result", "told"), FAULTS)
def test_what_a_step_returns_is_named(result, told):
    assert told in fault_of_step(result, BOX)
    with pytest.raises(ValueError, match=re.escape(told)):
        try_environment(lambda: Scripted(None, good=result), "env.id=mine:Env")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(("result", "told"), [FAULTS[k] for k in (0, 1, 3, 6, 8, 9, 11)])
def test_what_a_simulator_returns_later_is_named_with_its_row(result, told, vectorization):
    env = make("Late", 2, make_env=lambda: Scripted(result), vectorization=vectorization)
    env.reset(0)
    wanted = re.escape(told) if vectorization == "sync" or "step() must" in told[:13] else "Late"
    with pytest.raises(EnvError, match=wanted) as failure:
        for _ in range(6):
            env.step(np.zeros(2, int))
    if vectorization == "sync":
        assert str(failure.value).startswith("Late, row 0: ")


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (ZERO, "reset() must return (observation, info), and returned an array of shape (3,) and type float32"),
        ((ZERO, None), "info a dict and not None"),
        ((np.zeros(7), {}), "the observation of reset() is an array of shape (7,)"),
    ],
)
def test_what_a_reset_returns_is_named(first, told):
    assert told in fault_of_reset(first, BOX)
    with pytest.raises(ValueError, match=re.escape(told)):
        try_environment(lambda: Scripted(None, first=first), "env.id=mine:Env")


@pytest.mark.parametrize(
    ("space", "obs", "told"),
    [
        (gym.spaces.Discrete(3), 3, "is 3, outside of observation_space Discrete(3)"),
        (gym.spaces.Discrete(3, start=1), 0, "is 0, outside of observation_space Discrete(3, start=1)"),
        (gym.spaces.MultiDiscrete([3, 3]), np.array([2, -1]), "is [2, -1], outside of observation_space"),
        (gym.spaces.MultiBinary(2), [0, 2], "is [0, 2], outside of observation_space MultiBinary(2)"),
        (gym.spaces.Box(0, 255, (3,), np.uint8), ZERO, "is of type float32; observation_space wants uint8: set"),
        (gym.spaces.Box(0, 255, (3,), np.uint8), np.zeros(3, int), "int64; observation_space wants uint8: set the dt"),
        (gym.spaces.MultiBinary(3), ZERO, "is of type float32; observation_space wants int8: set the dtype"),
    ],
)
def test_what_gymnasium_cannot_convert_and_what_has_no_code_is_named(space, obs, told):
    assert told in fault_of_reset((obs, {}), space)
    assert fault_of_reset((space.sample(), {}), space) == ""


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("outside", [3, -1])
def test_a_number_without_a_code_is_named_whenever_it_comes(outside, vectorization):
    """-1 would be the last one's code."""
    scripted = Scripted((outside, 1.0, False, False, {}), (1, 1.0, False, False, {}), (2, {}))
    scripted.observation_space = gym.spaces.Discrete(3)
    env = make("Late", 2, make_env=lambda: copy.copy(scripted), vectorization=vectorization)
    np.testing.assert_array_equal(env.reset(0), [[0, 0, 1]] * 2)
    with pytest.raises(EnvError, match=rf"^Late, row 0: the observation \[{outside}\] is not in Discrete\(3\)$"):
        for _ in range(6):
            env.step(np.zeros(2, int))
    env.close()


def test_what_is_wrong_with_a_mask_is_told_without_a_place_in_our_code():
    masked = Scripted(None, first=(ZERO, {"action_mask": np.zeros(2, int)}))
    with pytest.raises(ValueError) as refused:
        try_environment(lambda: masked, "env.id=mine:Env")
    told = "env.id=mine:Env: the action mask allows nothing; allow an action, or end the episode"
    assert str(refused.value) == told


def test_a_mask_that_came_with_the_first_reset_must_go_on_coming():
    first = (ZERO, {"action_mask": np.ones(2, int)})
    with pytest.raises(ValueError, match=r'^x: info\["action_mask"\] is missing; give one after every reset\(\) and'):
        try_environment(lambda: Scripted(None, first=first), "x")


@pytest.mark.parametrize("mask", [None, np.zeros(2, int), np.ones(3, int)])
def test_masks_that_are_not_used_are_not_judged(mask, tmp_path, monkeypatch):
    """The line that refuses them says env.action_masks=off."""
    monkeypatch.setattr(
        build_envs, "own_env", lambda config: lambda: Scripted(None, first=(ZERO, {"action_mask": mask}))
    )
    words = ["env.id=mine:Env", "env.backend=gymnasium"]
    with pytest.raises(ValueError, match=r"action.mask"):
        build_envs.probe_spaces(parse_config(words))
    assert build_envs.probe_spaces(parse_config([*words, "env.action_masks=off"])).obs.shape == (3,)


def test_parts_of_an_observation_are_named():
    good = {"a": ZERO, "b": (1, ZERO)}
    assert fault_of_reset((good, {}), PARTS) == ""
    assert "is a dict of 1; observation_space wants a dict of a, b" in fault_of_reset(({"a": ZERO}, {}), PARTS)
    assert "wants a tuple of 2" in fault_of_reset((good | {"b": ZERO}, {}), PARTS)
    told = fault_of_reset((good | {"b": (1, np.zeros(4))}, {}), PARTS)
    assert told.startswith("the observation of reset(), part 'b', part 1 is an array of shape (4,)")


@pytest.mark.parametrize(
    ("make_one", "told"),
    [
        (lambda: sys.exit(0), r"making it raised SystemExit: 0 \(test_trial.py"),
        (lambda: OldReset(None), r"unexpected keyword argument 'seed'; write def reset\(self, \*, seed=None"),
        (Level, r"making it raised TypeError: .* 1 required positional argument: 'level'"),
        (broken, r"making it raised KeyError: 'the file\\nis gone' \(test_trial.py, line \d+\)$"),
        (NoSpaces, r"has no observation_space: set self.observation_space to a gymnasium.spaces.Space"),
    ],
)
def test_an_exception_is_one_line_with_the_place_that_it_came_from(make_one, told):
    with pytest.raises(ValueError, match=told) as refused:
        try_environment(make_one, "env.id=mine:Env")
    assert str(refused.value).startswith("env.id=mine:Env") and "\n" not in str(refused.value)


def test_what_gymnasium_takes_is_taken():
    """Lists, NumPy's own numbers, an episode that ends at once, and Gymnasium's tasks."""
    for result in (
        ([0, 0, 0], np.float32(1), np.bool_(True), False, {}),
        (ZERO.astype(np.float64), np.int64(1), 0, 1, {}),
        (ZERO + 5, np.array(1.0), False, False, {}),
    ):
        assert fault_of_step(result, BOX) == ""
        try_environment(lambda result=result: Scripted(None, good=result), "env.id=mine:Env")
    for name in ("CartPole-v1", "Taxi-v4", "FrozenLake-v1", "Blackjack-v1", "Pendulum-v1"):
        try_environment(lambda name=name: gym.make(name), name)
        GymnasiumEnv(name, 1).close()


def test_an_environment_that_takes_long_is_named_while_it_is_waited_for(capsys, tmp_path, monkeypatch):
    (tmp_path / "slow_env.py").write_text(
        "import time\nimport gymnasium\n\n\ndef make():\n    time.sleep(0.3)\n"
        "    return gymnasium.make('CartPole-v1')\n"
    )
    monkeypatch.chdir(tmp_path)
    config = parse_config(["env.id=slow_env:make"])
    monkeypatch.setattr(build_envs, "_LONG_S", 0.05)
    assert build_envs.probe_spaces(config).obs.shape == (4,)
    line = "env.id=slow_env:make: its first calls (making it, reset, step) have taken 0.05 s; Ctrl-C ends the wait\n"
    assert capsys.readouterr().err == line
    monkeypatch.setattr(build_envs, "_LONG_S", 60.0)
    build_envs.probe_spaces(config)
    assert capsys.readouterr().err == ""


def test_the_command_tells_it_in_one_line_and_its_origin_if_asked(capsys, tmp_path, monkeypatch):
    (tmp_path / "own_env.py").write_text(
        "import gymnasium as gym\n\n\ndef make():\n    raise RuntimeError('no licence')\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["train", "env.id=own_env:make", "preset=classic/cartpole", f"run={tmp_path / 'run'}"]
    assert main(words) == 2
    line = "gala: error: env.id=own_env:make: making it raised RuntimeError: no licence (own_env.py, line 5)\n"
    assert capsys.readouterr().err == line
    assert main([*words, "--traceback"]) == 2
    told = capsys.readouterr().err
    assert told.endswith(line) and "Traceback (most recent call last)" in told and "raise RuntimeError" in told
    assert not (tmp_path / "run").exists()
