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

    @property
    def says_all(self) -> bool:
        """Whether the message has all that led to it: its first line says what was wrong, and the traceback of the
        environment's own code follows where there is one. A traceback of ours would only hide that."""
        return self.__cause__ is None


class Step(NamedTuple):
    """What one batched step returns; every field has a leading axis of ``num_envs`` rows.

    Attributes:
        obs: what the policy acts on next, in ``obs_space.dtype``.
        reward: float32, unclipped; 0 where ``valid`` is False.
        terminated: the MDP ended here (or a life was lost, where that counts as an end): the next value is 0.
        truncated: a time limit ended the episode: bootstrap from the value of ``final_obs``.
        first: ``obs`` opens a new episode (a recurrent state must be reset before ``obs`` is read). After a lost life
            that does not restart the game, this is the row of the loss itself, in both autoreset modes.
        valid: False on autoreset rows, which belong to no episode and must enter neither loss nor step counts.
        final_obs: where ``terminated | truncated``, the observation that the episode ended in; other rows are
            undefined. None if no row ended. May be the array ``obs`` itself.
        episode_over: a whole episode (a whole game, with all lives) ended in this row.
        episode_return: float64, undiscounted and unclipped sum of rewards, where ``episode_over``.
        episode_length: int64, agent decisions in that episode, where ``episode_over``.
        context: int64, index of the MDP that this step belonged to, in the environment's context set; None without one.
        success: bool, whether the task was solved, where ``episode_over``; None where the task does not define it.
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
    context: Array | None = None
    success: Array | None = None


@runtime_checkable
class BatchedEnv(Protocol):
    """``num_envs`` simulators of one task, stepped together.

    ``obs_space`` and ``action_space`` describe ONE simulator. ``frames_per_step`` is the action repeat (frames =
    env_steps x frames_per_step). Arrays that ``reset`` and ``step`` return belong to the caller and are never
    overwritten by a later step. Simulators that a resumed run can put back as they were have a state besides: see
    ``gala_envs.snapshots``.
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

    SAVED = ("_return", "_length")

    def __init__(self, num_envs: int) -> None:
        self._return = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)

    def reset(self) -> None:
        self._return[:] = 0.0
        self._length[:] = 0

    def update(self, reward: Array, valid: Array, over: Array) -> tuple[Array, Array]:
        """Returns (episode_return, episode_length), each [B], meaningful where ``over``; those restart at 0."""
        self._return += np.where(valid, reward, 0.0)
        self._length += valid
        returns, lengths = self._return.copy(), self._length.copy()
        self._return[over] = 0.0
        self._length[over] = 0
        return returns, lengths


def row_seeds(seed: int | None, num_envs: int) -> list[int]:
    """One well-mixed 32-bit seed per row; None draws fresh entropy.

    ``seed + i``, the usual choice, gives two learners with neighbouring seeds all but one of their episodes in common.
    """
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(num_envs)]


def to_bounds(actions: Array, space: gym.spaces.Box) -> Array:
    """Clipped to the bounds, as all continuous-control baselines do, and in the dtype of the space, rounded if that is
    an integer."""
    clipped = np.minimum(np.maximum(actions, space.low), space.high)  # np.clip, in a fifth of its time for a few rows
    whole = np.issubdtype(space.dtype, np.integer)
    return np.asarray(np.rint(clipped) if whole else clipped, space.dtype)


def check_actions(actions: Array, space: gym.Space, num_envs: int) -> Array:
    """Actions as the simulators want them (contiguous, the space's dtype), or a ValueError naming the first bad row.

    Discrete: [B] integers in [start, start + n). MultiDiscrete: [B, k]. Box: [B, ...] finite; values outside the bounds
    are clipped, as every continuous-control baseline does. C++ backends do not check: an index out of range is
    undefined behaviour in EnvPool and hangs ALE's vector environment for ever.
    """
    actions = np.asarray(actions)
    wanted = (num_envs, *(space.shape or ()))
    if actions.shape != wanted:
        raise ValueError(f"actions have shape {actions.shape}; this environment wants {wanted}")
    if isinstance(space, gym.spaces.Box):
        if not np.isfinite(actions).all():
            row = int(np.argwhere(~np.isfinite(actions))[0][0])
            raise ValueError(f"row {row}: action {actions[row]} is not finite; the policy has probably diverged")
        return np.ascontiguousarray(to_bounds(actions, space))
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
    declared mode, that ``final_obs`` is present when a row ended, that episode sums equal the rewards, that two resets
    with one seed replay the same episode, and that a bad action is refused before it reaches the simulator.
    """
    n = env.num_envs
    env.action_space.seed(seed)
    plan = [np.stack([np.asarray(env.action_space.sample()) for _ in range(n)]) for _ in range(num_steps)]
    first_pass = _drive(env, plan, seed)
    for a, b in zip(first_pass, _drive(env, plan, seed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg="two resets with one seed gave different trajectories")
    for bad in _bad_actions(plan[0], env.action_space):
        try:
            env.step(bad)
        except ValueError:
            continue
        raise AssertionError(f"an action outside the space was accepted: {bad}")
    for actions in plan:  # leave the third pass to start where a row may be waiting for its next episode
        step = env.step(actions)
        if (step.terminated | step.truncated).any():
            break
    for a, b in zip(first_pass, _drive(env, plan, seed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg="a refused action or an unfinished autoreset left its mark")


def _bad_actions(good: Array, space: gym.Space) -> list[Array]:
    """Batches whose last row is outside ``space``, and one of the wrong size."""
    if isinstance(space, gym.spaces.Box):
        values = [np.full(space.shape, np.nan, good.dtype)]
    elif isinstance(space, gym.spaces.Discrete):
        values = [space.start + space.n, space.start - 1]
    else:
        values = [space.start + space.nvec, space.start - 1]  # type: ignore[attr-defined]
    return [np.concatenate([good[:-1], np.asarray(v)[None].astype(good.dtype)]) for v in values] + [good[:-1]]


def _drive(env: BatchedEnv, plan: list[Array], seed: int) -> list[Array]:
    """One pass of ``plan``; returns copies of all observations, final observations and rewards."""
    n = env.num_envs
    obs = env.reset(seed)
    _check_obs(env, obs)
    kept, out = [(obs, obs.copy())], [obs.copy()]
    total, length = np.zeros(n), np.zeros(n, np.int64)
    waiting = np.zeros(n, bool)
    for actions in plan:
        s = env.step(actions)
        _check_step(env, s, waiting)
        done = s.terminated | s.truncated
        waiting = done & ~s.first
        total += s.reward
        length += s.valid
        np.testing.assert_allclose(s.episode_return[s.episode_over], total[s.episode_over], rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(s.episode_length[s.episode_over], length[s.episode_over])
        total[s.episode_over], length[s.episode_over] = 0.0, 0
        kept.append((s.obs, s.obs.copy()))
        out += [kept[-1][1], s.reward]
        if s.final_obs is not None:
            kept.append((s.final_obs, s.final_obs.copy()))
            out.append(s.final_obs[done])
    for now, then in kept:
        np.testing.assert_array_equal(now, then, err_msg="a returned observation was overwritten by a later step")
    return out


def _check_obs(env: BatchedEnv, obs: Array) -> None:
    assert obs.shape == (env.num_envs, *(env.obs_space.shape or ())), (obs.shape, env.obs_space)
    assert obs.dtype == env.obs_space.dtype, (obs.dtype, env.obs_space)
    assert np.isfinite(obs).all(), "an observation is not finite"


def _check_step(env: BatchedEnv, s: Step, waiting: Array) -> None:
    """``waiting``: rows whose episode ended in the step before and whose next episode has not begun."""
    n = env.num_envs
    _check_obs(env, s.obs)
    assert s.reward.shape == (n,) and s.reward.dtype == np.float32, (s.reward.shape, s.reward.dtype)
    assert np.isfinite(s.reward).all(), "a reward is not finite"
    for name in ("terminated", "truncated", "first", "valid", "episode_over"):
        flag = getattr(s, name)
        assert flag.shape == (n,) and flag.dtype == bool, (name, flag.shape, flag.dtype)
    for name, dtype in (("episode_return", np.float64), ("episode_length", np.int64)):
        value = getattr(s, name)
        assert value.shape == (n,) and value.dtype == dtype, (name, value.shape, value.dtype)
    done = s.terminated | s.truncated
    assert not (s.episode_over & ~done).any(), "an episode was over without terminated or truncated"
    assert (s.reward[~s.valid] == 0).all() and not done[~s.valid].any(), "an autoreset row carries data"
    if env.autoreset == "same-step":
        assert s.valid.all() and (s.first == done).all(), "same-step autoreset: first must equal done"
    else:
        # A lost life that does not restart the game opens its next episode in the very row that ended the last one.
        assert (~s.valid == waiting).all(), "next-step autoreset: the row after an episode must be invalid"
        assert (s.first == (~s.valid | (done & ~s.episode_over))).all(), (
            "next-step autoreset: first must mark new episodes"
        )
    if done.any():
        assert s.final_obs is not None and s.final_obs.shape == s.obs.shape, "final_obs is missing"
        assert s.final_obs.dtype == s.obs.dtype and np.isfinite(s.final_obs[done]).all()
