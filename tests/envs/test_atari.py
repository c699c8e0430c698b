"""ale-py behind the contract: lives, unclipped rewards, refused actions, the watchdog, threads."""

import time

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ale_py")

from gala_envs.atari import AtariEnv
from gala_envs.contract import EnvError, check_batched_env

AUTORESETS = ("same-step", "next-step")


@pytest.fixture
def atari():
    """Makes games and closes them."""
    made = []

    def make(game, num_envs, **options):
        made.append(AtariEnv(f"ALE/{game}-v5", num_envs, **{"threads": 1, **options}))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize(
    ("game", "limit", "lives"), [("Pong", 50, False), ("Breakout", 0, True), ("Breakout", 0, False)]
)
def test_the_contract_holds(atari, game, limit, lives, autoreset):
    env = atari(game, 3, autoreset=autoreset, life_loss_ends_episode=lives, max_episode_steps=limit)
    check_batched_env(env, num_steps=120 if limit else 260)


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("lives", [True, False])
def test_a_game_of_breakout_has_five_lives_and_one_return(atari, lives, autoreset):
    """Oracle: the emulator's own frame counter and lives, and the rewards summed here."""
    env = atari("Breakout", 2, autoreset=autoreset, life_loss_ends_episode=lives)
    rng = np.random.default_rng(0)
    env.reset(3)
    ends, total, length, games = np.zeros(2, int), np.zeros(2), np.zeros(2, int), 0
    for _ in range(900):
        s = env.step(rng.integers(env.action_space.n, size=2))
        ends += s.terminated
        total += s.reward
        length += s.valid
        for row in np.flatnonzero(s.episode_over):
            assert ends[row] == (5 if lives else 1) and s.terminated[row] and not s.truncated[row]
            assert (s.episode_return[row], s.episode_length[row]) == (total[row], length[row])
            ends[row] = total[row] = length[row] = 0
            games += 1
    assert games >= 4


def test_truncation_is_counted_in_decisions_and_keeps_the_last_picture(atari):
    same, after = (atari("Pong", 2, autoreset=mode, max_episode_steps=50) for mode in AUTORESETS)
    for env in (same, after):
        env.reset(0)
    for t in range(1, 51):
        a, b = same.step(np.zeros(2, int)), after.step(np.zeros(2, int))
        assert (a.truncated == (t == 50)).all() and (b.truncated == (t == 50)).all() and not a.terminated.any()
    assert (a.episode_length == 50).all() and a.final_obs is not None
    np.testing.assert_array_equal(a.final_obs, b.obs)
    assert not (a.obs == a.final_obs).all()


def test_rewards_are_the_games_own(atari):
    env = atari("Qbert", 4)
    env.reset(0)
    rng = np.random.default_rng(0)
    rewards = np.concatenate([env.step(rng.integers(env.action_space.n, size=4)).reward for _ in range(150)])
    assert rewards.max() >= 25  # a cube is worth 25 points; clipped, it would be 1


def test_the_action_sets(atari):
    assert atari("Breakout", 1).action_space.n == 4
    assert atari("Breakout", 1, full_action_space=True).action_space.n == 18


@pytest.mark.parametrize("action", [-1, 4])
def test_a_bad_action_is_refused_and_the_game_goes_on(atari, action):
    env = atari("Breakout", 2)
    env.reset(0)
    with pytest.raises(ValueError, match=f"^row 1: action {action} is outside"):
        env.step(np.array([0, action]))
    env.step(np.array([0, 3]))


def test_an_emulator_that_hangs_is_given_up(atari):
    """An index that reaches the emulator's threads unchecked makes ale-py wait for ever."""
    env = atari("Breakout", 2, watchdog_s=5.0)
    env.reset(0)
    env.action_space = gym.spaces.Discrete(1000)
    started = time.monotonic()
    with pytest.raises(EnvError, match=r"ALE/Breakout-v5: .* did not answer for 5 s"):
        env.step(np.array([0, 999]))
    assert time.monotonic() - started >= 5.0


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_games_are_the_same_at_any_number_of_threads_and_differ_by_their_seed(atari, sticky):
    one, two = (atari("Breakout", 4, threads=threads, sticky_actions=sticky) for threads in (1, 2))
    np.testing.assert_array_equal(one.reset(7), two.reset(7))
    rng = np.random.default_rng(0)
    first = []
    for _ in range(120):
        actions = rng.integers(4, size=4)
        a, b = one.step(actions), two.step(actions)
        for name in a._fields:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        first.append(a.obs)
    assert any((obs[0] != obs[1]).any() for obs in first)  # rows have streams of their own
    assert (two.reset(8) != one.reset(7)).any()


@pytest.mark.parametrize("name", ["ALE/Pnog-v5", "ALE/Pong"])
def test_an_unknown_game_is_refused_with_the_nearest_names(name):
    with pytest.raises(ValueError, match=r"unknown Atari game .*ALE/Pong-v5"):
        AtariEnv(name, 1)
