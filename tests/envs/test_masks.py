"""Masks of actions on their way from an environment to the vector that a policy reads."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contract import EnvError, check_batched_env
from gala_envs.gymnasium_backend import GymnasiumEnv
from gala_envs.masks import random_actions, read_mask
from gala_envs.parts import FlatBox, num_mask, with_mask, without_mask
from gala_envs.spaces import describe_space, space_of
from gala_envs.trial import try_environment
from masked_envs import Asked, Doors, Faulty, Late, Painted, TwoLocks

WALLS = {"Discrete": Doors, "MultiDiscrete": TwoLocks, "method": Asked, "image": Painted}


def batched(make, rows=3, **options):
    return GymnasiumEnv("Doors", rows, make_env=make, **options)


@pytest.mark.parametrize("autoreset", ["same-step", "next-step"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_mask_is_that_of_the_observation_that_is_answered(vectorization, autoreset):
    """Through many ends of episodes no row is told a mask that is not its own: the environment raises at walls."""
    for make in WALLS.values() if vectorization == "sync" else (TwoLocks,):
        env = batched(make, vectorization=vectorization, autoreset=autoreset)
        env.action_space.seed(0)
        obs, ended = env.reset(0), 0
        for _ in range(60):
            step = env.step(random_actions(env, obs))
            obs, ended = step.obs, ended + int(step.episode_over.sum())
        env.close()
        assert ended > 12


def test_the_mask_lies_behind_the_observation_and_the_rest_is_as_without():
    for make, width in ((Doors, 4), (TwoLocks, 5), (Asked, 4), (Painted, 4)):
        masked, plain = batched(make), batched(make, action_masks="off")
        assert num_mask(masked.obs_space) == width and not isinstance(plain.obs_space, FlatBox)
        assert without_mask(masked.obs_space) == plain.obs_space
        obs, wanted = masked.reset(5), plain.reset(5)
        np.testing.assert_array_equal(obs[:, :-width].reshape(wanted.shape), wanted)
        masks = [np.concatenate(row.simulator.masks) for row in masked._env.envs]
        np.testing.assert_array_equal(obs[:, -width:], masks)
        assert obs.dtype == plain.obs_space.dtype
        masked.close(), plain.close()


def test_only_environments_with_masks_have_them():
    env = batched(lambda: gym.make("CartPole-v1"))
    assert type(env.obs_space) is gym.spaces.Box and env.obs_space.shape == (4,)
    env.close()
    with pytest.raises(ValueError, match=r"env.action_masks=on masks discrete actions, not Box"):
        batched(lambda: gym.make("Pendulum-v1"), action_masks="on")
    taxi = batched(lambda: gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"))
    assert num_mask(taxi.obs_space) == 6
    taxi.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nothing", "Doors, row 0: the action mask allows nothing; allow an action, or end the episode"),
        ("missing", 'Doors, row 0: info["action_mask"] is missing; give one after every reset() and step()'),
        ("long", "Doors, row 0: the action mask is ndarray of (5,); the action space wants 4 numbers of 0 and 1"),
    ],
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_wrong_mask_is_one_line_that_names_the_row(fault, said, vectorization):
    env = batched(lambda: Faulty(fault), 1, vectorization=vectorization)
    obs = env.reset(0)
    with pytest.raises(EnvError, match=re.escape(said)) as raised:
        for _ in range(4):
            obs = env.step(random_actions(env, obs)).obs
    assert raised.value.says_all and "\n" not in str(raised.value)


def test_masks_that_come_with_steps_alone_are_one_line_and_off_is_off():
    with pytest.raises(
        ValueError, match=re.escape('Doors: info["action_mask"] came with step() and not with reset(); give')
    ):
        batched(Late)
    env = batched(Late, action_masks="off")
    env.reset(0)
    env.step(np.zeros(3, int))
    env.close()


def test_masks_by_parts():
    env = TwoLocks()
    both = read_mask(env, {"action_mask": ([0, 1], np.array([True, False, True]))}, (2, 3), False)
    assert both.tolist() == [False, True, True, False, True]
    assert read_mask(env, {"action_mask": (None, [0, 0, 1])}, (2, 3), False).tolist() == [
        True,
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(ValueError, match="allows nothing in part 1 of the action"):
        read_mask(env, {"action_mask": [1, 1, 0, 0, 0]}, (2, 3), False)
    with pytest.raises(ValueError, match=r"wants 5 numbers of 0 and 1 \(2 \+ 3\)"):
        read_mask(env, {"action_mask": [2, 1, 0, 0, 0]}, (2, 3), False)


def test_the_trial_of_an_own_environment_plays_what_is_allowed():
    for make in WALLS.values():
        for _ in range(4):
            try_environment(make, "env.id=masked_envs:Doors")
    early = Faulty("nothing")
    early.turns = 2
    with pytest.raises(
        ValueError, match=r"^env.id=x: the action mask allows nothing; allow an action, or end the episode$"
    ):
        try_environment(lambda: early, "env.id=x")


def test_masked_spaces_survive_json_and_the_contract():
    for space in (with_mask(gym.spaces.Box(0, 255, (2, 3, 4), np.uint8), 5), with_mask(gym.spaces.Box(-1, 2, (3,)), 2)):
        again = space_of(json.loads(json.dumps(describe_space(space))))
        assert again == space and again.parts == space.parts and again.num_mask == space.num_mask
    env = batched(lambda: gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"))
    check_batched_env(env, num_steps=20)
    env.close()
