"""The contract between a learner and its simulators, and the check that every backend passes.

Autoreset in one sentence: a finished row restarts by itself, either in the same step (``obs`` is already the new
episode's first observation) or in the next one (that next row is marked ``valid=False``: its action was ignored and its
reward is 0); in both cases ``final_obs`` holds the observation in which the episode really ended.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Autoreset = Literal["same-step", "next-step"]
Array = NDArray


class EnvError(RuntimeError):
    """A simulator failed or hung. The message names the environment, the row where known, and the way out."""


class Step(NamedTuple):
    """What one batched step returns; every field has a leading axis of ``num_envs`` rows.

    Attributes:
        obs: what the policy acts on next, in ``obs_space.dtype``.
        reward: float32, unclipped; 0 where ``valid`` is False.
        terminated: the MDP ended here (or a life was lost, where that counts as an end): the next value is 0.
        truncated: a time limit ended the episode: bootstrap from the value of ``final_obs``.
        first: ``obs`` opens a new episode (a recurrent state must be reset before ``obs`` is read).
        valid: False on autoreset rows, which belong to no episode and must enter neither loss nor step counts.
        final_obs: where ``terminated | truncated``, the observation that the episode ended in; other rows are
            undefined. None if no row ended. May be the array ``obs`` itself.
        episode_over: a whole episode (a whole game, with all lives) ended in this row.
        episode_return: float64, undiscounted and unclipped sum of rewards, where ``episode_over``.
        episode_length: int64, agent decisions in that episode, where ``episode_over``.
    """

    obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    valid: Array
    final_obs: Array | None
    episode_over: Array
    episode_return: Array
    episode_length: Array


@runtime_checkable
class BatchedEnv(Protocol):
    """``num_envs`` simulators of one task, stepped together.

    ``obs_space`` and ``action_space`` describe ONE simulator. ``frames_per_step`` is the action repeat (frames =
    env_steps x frames_per_step). Arrays that ``reset`` and ``step`` return belong to the caller and are never
    overwritten by a later step.
    """

    num_envs: int
    obs_space: gym.Space
    action_space: gym.Space
    frames_per_step: int
    autoreset: Autoreset

    def reset(self, seed: int | None = None) -> Array:
        """Start all rows anew; row i draws from its own stream derived from ``seed``. Returns obs [B, ...]."""
        ...

    def step(self, actions: Array) -> Step:
        """Advance every row by one decision.

        Raises:
            ValueError: an action outside ``action_space`` (named with its row), before it reaches the simulator.
            EnvError: the simulator raised or did not answer in time.
        """
        ...

    def close(self) -> None:
        """Release processes, threads and memory. May be called twice."""
        ...


class EpisodeTracker:
    """Sums unclipped rewards and decisions per row until a whole episode is over."""

    def __init__(self, num_envs: int) -> None:
        self._return = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)

    def reset(self) -> None:
        self._return[:] = 0.0
        self._length[:] = 0

    def update(self, reward: Array, valid: Array, over: Array) -> tuple[Array, Array]:
        """Returns (episode_return, episode_length), each [B], meaningful where ``over``; those rows start again at 0."""
        self._return += np.where(valid, reward, 0.0)
        self._length += valid
        returns, lengths = self._return.copy(), self._length.copy()
        self._return[over] = 0.0
        self._length[over] = 0
        return returns, lengths


def check_actions(actions: Array, space: gym.Space, num_envs: int) -> Array:
    """Actions as the simulators want them (contiguous, the space's dtype), or a ValueError that names the first bad row.

    Discrete: [B] integers in [start, start + n). MultiDiscrete: [B, k]. Box: [B, ...] finite; values outside the bounds
    are clipped, as every continuous-control baseline does. C++ backends do not check: an index out of range is undefined
    behaviour in EnvPool and hangs ALE's vector environment for ever.
    """
    actions = np.asarray(actions)
    if actions.shape != (num_envs, *(space.shape or ())):
        raise ValueError(f"actions have shape {actions.shape}; this environment wants {(num_envs, *(space.shape or ()))}")
    if isinstance(space, gym.spaces.Box):
        if not np.isfinite(actions).all():
            row = int(np.argwhere(~np.isfinite(actions))[0][0])
            raise ValueError(f"row {row}: action {actions[row]} is not finite; the policy has probably diverged")
        return np.ascontiguousarray(np.clip(actions, space.low, space.high), dtype=space.dtype)
    if isinstance(space, gym.spaces.Discrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.n)
    elif isinstance(space, gym.spaces.MultiDiscrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.nvec)
    else:
        raise ValueError(f"action space {space} is not supported; use Discrete, MultiDiscrete or Box")
    if not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(f"actions are {actions.dtype}; {space} wants integers")
    bad = (actions < low) | (actions >= high)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(f"row {row}: action {actions[row]} is outside {space}")
    return np.ascontiguousarray(actions, dtype=space.dtype)


def check_batched_env(env: BatchedEnv, num_steps: int = 200, seed: int = 0) -> None:
    """Drive ``env`` with random actions and raise AssertionError at the first breach of the contract.

    Checks shapes, dtypes, finiteness, that returned arrays are not overwritten later, that autoreset rows follow the
    declared mode, that ``final_obs`` is present when a row ended, that episode sums equal the rewards, that two resets with
    one seed replay the same episode, and that an action out of range is refused.
    """
    rng = np.random.default_rng(seed)
    n = env.num_envs
    env.action_space.seed(seed)
    plan = [np.stack([np.asarray(env.action_space.sample()) for _ in range(n)]) for _ in range(num_steps)]
    first_pass = _drive(env, plan, seed)
    for a, b in zip(first_pass, _drive(env, plan, seed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg="two resets with one seed gave different trajectories")
    if isinstance(env.action_space, gym.spaces.Discrete):
        bad = plan[0].copy()
        bad[rng.integers(n)] = env.action_space.start + env.action_space.n
        try:
            env.step(bad)
        except ValueError:
            pass
        else:
            raise AssertionError("an action outside the space was accepted")


def _drive(env: BatchedEnv, plan: list[Array], seed: int) -> list[Array]:
    n, space = env.num_envs, env.obs_space
    obs = env.reset(seed)
    kept, copies, rewards = [obs], [obs.copy()], []
    total, length = np.zeros(n), np.zeros(n, np.int64)
    ended = np.zeros(n, bool)
    for actions in plan:
        s = env.step(actions)
        assert s.obs.shape == (n, *space.shape) and s.obs.dtype == space.dtype, (s.obs.shape, s.obs.dtype, space)
        assert s.reward.shape == (n,) and s.reward.dtype == np.float32, (s.reward.shape, s.reward.dtype)
        for name in ("terminated", "truncated", "first", "valid", "episode_over"):
            flag = getattr(s, name)
            assert flag.shape == (n,) and flag.dtype == bool, (name, flag.shape, flag.dtype)
        assert np.isfinite(s.reward).all() and np.isfinite(s.obs).all()
        done = s.terminated | s.truncated
        assert not (s.episode_over & ~done).any(), "an episode was over without terminated or truncated"
        assert (s.reward[~s.valid] == 0).all() and not done[~s.valid].any(), "an autoreset row carries data"
        if env.autoreset == "same-step":
            assert s.valid.all() and (s.first == done).all(), "same-step autoreset: first must equal done"
        else:
            assert (~s.valid == ended).all(), "next-step autoreset: the row after an episode must be invalid"
            assert (s.first >= ~s.valid).all()
        ended = s.episode_over.copy()
        if done.any():
            assert s.final_obs is not None and s.final_obs.shape == s.obs.shape
            assert np.isfinite(s.final_obs[done]).all()
        total += np.where(s.valid, s.reward, 0.0)
        length += s.valid
        np.testing.assert_allclose(s.episode_return[s.episode_over], total[s.episode_over], rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(s.episode_length[s.episode_over], length[s.episode_over])
        total[s.episode_over], length[s.episode_over] = 0.0, 0
        kept.append(s.obs)
        copies.append(s.obs.copy())
        rewards.append(s.reward)
    for a, b in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="a returned observation was overwritten by a later step")
    return [*copies, *rewards]
