"""EnvPool, where it is installed."""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("envpool")

from gala_envs.contract import check_batched_env
from gala_envs.envpool_backend import EnvPoolEnv
from gala_envs.registry import list_env_ids


@pytest.mark.parametrize(
    ("id", "options", "shape"),
    [
        ("CartPole-v1", {}, (4,)),
        ("Pendulum-v1", {"max_episode_steps": 30}, (3,)),
        ("FrozenLake-v1", {}, (16,)),
        ("Breakout-v5", {"image_size": 42, "frame_stack": 2, "sticky_actions": 0.25, "noop_max": 5}, (2, 42, 42)),
        ("Breakout-v5", {"full_action_space": True, "max_episode_steps": 40, "frame_skip": 2}, (4, 84, 84)),
    ],
)
def test_contract(id, options, shape):
    env = EnvPoolEnv(id, 2, threads=1, **options)
    assert env.obs_space.shape == shape
    assert env.frames_per_step == (options.get("frame_skip", 4) if "Breakout" in id else 1)
    check_batched_env(env, num_steps=120)
    env.close()
    env.close()


def test_dynamics_are_gymnasiums():
    """CartPole restarted from EnvPool's own observation moves as Gymnasium's does."""
    env, alone = EnvPoolEnv("CartPole-v1", 1, threads=1), gym.make("CartPole-v1").unwrapped
    obs = env.reset(0)
    alone.reset()
    alone.state = obs[0].astype(np.float64)
    for k in range(60):
        step = env.step(np.array([k % 3 % 2]))
        if step.valid[0]:
            expected, reward, terminated, _, _ = alone.step(k % 3 % 2)
            np.testing.assert_allclose(step.final_obs[0], expected, atol=1e-4)
            assert (step.reward[0], step.terminated[0]) == (reward, terminated)
        else:
            alone.reset()
            alone.state = step.obs[0].astype(np.float64)


def test_a_lost_life_ends_an_episode_but_not_the_game():
    runs = {}
    for ends in (True, False):
        env = EnvPoolEnv("Breakout-v5", 1, threads=1, life_loss_ends_episode=ends)
        env.reset(3)
        runs[ends] = [env.step(np.array([1 + k % 2 * 2])) for k in range(400)]
    lost = [k for k, s in enumerate(runs[True]) if s.terminated[0] and not s.episode_over[0]]
    games = [k for k, s in enumerate(runs[False]) if s.episode_over[0]]
    assert len(games) >= 2
    for start, end in zip([0, *games], games, strict=False):
        assert len([k for k in lost if start < k < end]) == 4  # Breakout has five lives; the fifth ends the game
    for with_lives, whole in zip(runs[True], runs[False], strict=True):
        np.testing.assert_array_equal(with_lives.obs, whole.obs)
        for field in ("reward", "valid", "episode_over", "episode_return", "episode_length"):
            np.testing.assert_array_equal(getattr(with_lives, field), getattr(whole, field))
    assert all(runs[True][k].first[0] for k in lost)


def test_rows_have_streams_of_their_own():
    obs = np.concatenate([EnvPoolEnv("CartPole-v1", 4, threads=1).reset(seed) for seed in (0, 1)])
    assert len(np.unique(obs[:, 0])) == 8


def test_an_option_that_does_not_apply():
    with pytest.raises(ValueError, match="frame_skip does not apply to EnvPool's CartPole-v1"):
        EnvPoolEnv("CartPole-v1", 1, frame_skip=2)
    with pytest.raises(ValueError, match="FlattenObservation"):
        EnvPoolEnv("MiniGrid-Empty-5x5-v0", 1)


def test_ids_are_listed():
    assert "Pong-v5" in list_env_ids("envpool")["envpool"]
