"""A set of contexts as a batched environment: which MDP each row plays next, noise, and autoreset."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from gala_envs.contexts import ContextSet, Family
from gala_envs.contract import Array, Autoreset, EpisodeTracker, Step, check_actions, row_seeds
from gala_envs.families import make_family
from gala_envs.splits import split

Order = Literal["uniform", "round-robin"]
Plan = Sequence[Sequence[tuple[int, int]]]
"""For each row, the episodes to play in turn: (index of the context, noise seed)."""


class ContextualEnv:
    """``num_envs`` rows that play the MDPs of a context set. See ``BatchedEnv``; autoreset is same-step.

    ``Step.context`` is the index, in the set, of the MDP that each row's step belonged to, also in the row where its
    episode ended; ``Step.success`` says there whether the task was solved, where the family defines that. ``episodes``
    counts the episodes begun on each context. ``simulators``: what the family made of the rows.

    An episode depends on nothing but its context, its noise seed and the actions: not on the row, the number of rows
    or what was played before.
    """

    autoreset: Autoreset = "same-step"
    SAVED = (
        *("simulators", "_streams", "_plans", "_noise", "_index", "_elapsed", "_dealt"),
        *("_last_action", "_tracker"),
    )

    def __init__(
        self,
        family: Family,
        contexts: ContextSet,
        num_envs: int,
        *,
        order: Order = "uniform",
        expose: bool = False,
        sticky_actions: float = 0.0,
        obs_noise: float | Array = 0.0,
        **limits: int,
    ) -> None:
        """Rows on the MDPs of ``contexts``.

        Args:
            order: uniform draws each episode's context anew; round-robin deals them out in turn.
            expose: the context's numbers are appended to the observation, scaled to [0, 1] by their ranges.
            sticky_actions: probability that a row's previous action is repeated, from the episode's noise.
            obs_noise: standard deviation of Gaussian noise on each observed number (scalar, or of the shape of obs).
            limits: ``max_episode_steps`` (0: the family's own), ``threads`` (0: as many as there are cores).

        Raises:
            ValueError: the set belongs to another family, or the family cannot do what is asked.
        """
        if contexts.family != family.name:
            raise ValueError(f"these contexts belong to the family {contexts.family}, not to {family.name}")
        self.family, self.contexts, self.num_envs, self.id = family, contexts, num_envs, family.name
        self._order, self._sticky, self._sigma = order, sticky_actions, np.asarray(obs_noise, np.float64)
        self._limit = limits.get("max_episode_steps", 0) or np.iinfo(np.int64).max
        self.simulators = family.simulators(contexts.contexts, num_envs, limits.get("threads", 0))
        self.frames_per_step, self.action_space = self.simulators.frames_per_step, self.simulators.action_space
        self._shown = _exposed(family, contexts) if expose else None
        self.obs_space = _wider(self.simulators.obs_space, self._shown)
        if self._sigma.any() and self.obs_space.dtype != np.float32:
            raise ValueError(f"obs_noise needs observations of floating point; those of {family.name} are not")
        self._plans: list[deque[tuple[int, int]]] | None = None
        self._streams: list[np.random.Generator] = []
        self._noise = [_Noise(0) for _ in range(num_envs)]  # one each: they are restored one by one
        self._index = np.zeros(num_envs, np.int64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._dealt = np.arange(num_envs)
        self._last_action: Array | None = None
        self._tracker = EpisodeTracker(num_envs)
        self.episodes = np.zeros(len(contexts), np.int64)

    def reset(self, seed: int | None = None) -> Array:
        """All rows anew, each with contexts and noise from its own stream."""
        self._streams = [np.random.default_rng(s) for s in row_seeds(seed, self.num_envs)]
        self._plans, self._dealt = None, np.arange(self.num_envs)
        return self._begin()

    def play(self, plan: Plan) -> Array:
        """All rows anew, each to play the episodes of ``plan[row]``; a row that has played them repeats the last."""
        assert len(plan) == self.num_envs and all(plan), "a plan has at least one episode for every row"
        self._plans = [deque(row) for row in plan]
        return self._begin()

    def _begin(self) -> Array:
        self._tracker.reset()
        self._last_action = None
        return self._start(np.arange(self.num_envs))

    def step(self, actions: Array) -> Step:
        actions = check_actions(actions, self.action_space, self.num_envs)
        if self._sticky:
            actions = self._stick(actions)
        t = self.simulators.step(actions)
        self._elapsed += 1
        obs = self._observe(t.obs, np.arange(self.num_envs))
        truncated = (t.truncated | (self._elapsed >= self._limit)) & ~t.terminated
        done = t.terminated | truncated
        played, final_obs = self._index.copy(), None
        success = None if t.success is None else t.success & done
        if done.any():
            rows = np.flatnonzero(done)
            final_obs, obs = obs, obs.copy()
            obs[rows] = self._start(rows)
        valid = np.ones(self.num_envs, bool)
        reward = t.reward.astype(np.float32)
        returns, lengths = self._tracker.update(reward, valid, done)
        return Step(
            obs, reward, t.terminated, truncated, done, valid, final_obs, done, returns, lengths, played, success
        )

    @property
    def playing(self) -> Array:
        """The index, in the set, of the MDP that each row plays now."""
        return self._index

    def _start(self, rows: Array) -> Array:
        for row in rows:
            self._index[row], noise_seed = self._next_episode(int(row))
            self._noise[row] = _Noise(noise_seed)
        np.add.at(self.episodes, self._index[rows], 1)
        self._elapsed[rows] = 0
        chosen = [self.contexts.contexts[i] for i in self._index[rows]]
        noise: Any = _Generators([self._noise[row] for row in rows])
        return self._observe(self.simulators.start(rows, chosen, noise), rows)

    def _next_episode(self, row: int) -> tuple[int, int]:
        if self._plans is not None:
            plan = self._plans[row]
            return plan.popleft() if len(plan) > 1 else plan[0]
        stream = self._streams[row]
        if self._order == "uniform":
            index = int(stream.integers(len(self.contexts)))
        else:
            index, self._dealt[row] = int(self._dealt[row] % len(self.contexts)), self._dealt[row] + self.num_envs
        return index, int(stream.integers(2**62))

    def _observe(self, obs: Array, rows: Array) -> Array:
        if self._sigma.any():
            noise = np.stack([self._noise[row].generator.standard_normal(obs.shape[1:]) for row in rows])
            obs = (obs + self._sigma * noise).astype(np.float32)
        if self._shown is not None:
            obs = np.concatenate([obs, self._shown[self._index[rows]]], 1)
        return obs

    def _stick(self, actions: Array) -> Array:
        """A new episode has no previous action; the draw is made all the same, so that streams do not shift."""
        repeat = np.array([noise.generator.random() < self._sticky for noise in self._noise]) & (self._elapsed > 0)
        if self._last_action is not None:
            actions = np.where(repeat.reshape(-1, *[1] * (actions.ndim - 1)), self._last_action, actions)
        self._last_action = actions
        return actions

    def close(self) -> None:
        self.simulators.close()


class _Noise:
    """One episode's noise. Its generator is made when it is asked for: that takes longer than a step of families that
    have no noise."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @cached_property
    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self._seed)

    def get_state(self) -> dict[str, Any]:
        """See ``gala_envs.snapshots``."""
        return {"seed": self._seed, "generator": vars(self).get("generator")}

    def set_state(self, state: dict[str, Any]) -> None:
        """See ``gala_envs.snapshots``."""
        self._seed = state["seed"]
        vars(self).pop("generator", None)
        if state["generator"] is not None:
            vars(self)["generator"] = state["generator"]


class _Generators:
    """Those of some rows, as the sequence that ``Simulators.start`` wants."""

    def __init__(self, noise: list[_Noise]) -> None:
        self._noise = noise

    def __len__(self) -> int:
        return len(self._noise)

    def __getitem__(self, i: int) -> np.random.Generator:
        return self._noise[i].generator


def _exposed(family: Family, contexts: ContextSet) -> Array:
    """The numbers of each context, scaled to [0, 1] by their ranges: [contexts, k]."""
    ranged = {n: p for n, p in family.parameters.items() if np.isfinite(p.low) and np.isfinite(p.high)}
    if not ranged:
        raise ValueError(f"expose: {family.name} has no parameter with a range that could be shown to the policy")
    rows = [[(c.get(n, p.default) - p.low) / (p.high - p.low) for n, p in ranged.items()] for c in contexts]
    return np.array(rows, np.float32)


def _wider(space: gym.Space, shown: Array | None) -> gym.Space:
    if shown is None:
        return space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or space.dtype != np.float32:
        raise ValueError(f"expose needs observations that are float vectors, not {space}")
    k = shown.shape[1]
    return gym.spaces.Box(
        np.append(space.low, np.zeros(k, np.float32)), np.append(space.high, np.ones(k, np.float32)), dtype=np.float32
    )


DEFAULT_CONTEXTS = 200


def make_contextual(id: str, num_envs: int, *, contexts: str = "", **options: Any) -> ContextualEnv:
    """``num_envs`` rows of family ``id`` on the context set in the file ``contexts``; see ``ContextualEnv``.

    Without a file, on 200 contexts of the family's usual region drawn with seed 0, or half as many, and so on, where a
    family has fewer.
    """
    family = make_family(id)
    if contexts:
        return ContextualEnv(family, ContextSet.read(contexts), num_envs, **options)
    return ContextualEnv(family, default_set(family), num_envs, **options)


def default_set(family: Family) -> ContextSet:
    """A training set of the usual size, or of the largest that the family has: half of it, a quarter, ..."""
    size = DEFAULT_CONTEXTS
    while True:
        try:
            return split(family, {"train": size})["train"]
        except ValueError:
            if size == 1:
                raise
            size //= 2
