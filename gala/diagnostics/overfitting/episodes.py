"""Scores of a policy, context by context: exactly as many episodes on each, however long they are."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family

from gala.diagnostics.overfitting.policies import JudgedPolicy

Row = dict[str, Any]
MAX_ROWS = 64


def noise_seed(seed: int, context: Context, episode: int) -> int:
    """An episode's seed: the same for every policy, batch and order, so that policies are compared on equal luck."""
    return int(np.random.SeedSequence([seed, int(context.uid, 16), episode]).generate_state(1, np.uint64)[0] >> 2)


def evaluate(
    policy: JudgedPolicy, contexts: ContextSet, *, episodes: int, seed: int, gamma: float = 0.99, **options: Any
) -> list[Row]:
    """Plays exactly ``episodes`` whole episodes on each context.

    Every simulator has its own list of episodes; taking the first to finish would favour short ones.

    Args:
        gamma: of the discounted return that is set beside V(s0).
        options: of ``ContextualEnv``: sticky_actions, obs_noise, expose, max_episode_steps.

    Returns:
        A row per episode, in the order of the contexts: set, context, episode, return, length, success, value (V(s0)),
        discounted, entropy (mean over the episode), params. What a policy or family does not have is None.
    """
    total = len(contexts) * episodes
    n = min(total, MAX_ROWS)
    env = ContextualEnv(make_family(contexts.family), contexts, n, **options)
    try:
        jobs = [(index, k) for k in range(episodes) for index in range(len(contexts))]
        plans = [jobs[row::n] for row in range(n)]
        played = _play(env, policy, plans, seed, gamma)
    finally:
        env.close()
    return [played[index, k] for index in range(len(contexts)) for k in range(episodes)]


def _play(
    env: ContextualEnv, policy: JudgedPolicy, plans: list[list[tuple[int, int]]], seed: int, gamma: float
) -> dict[tuple[int, int], Row]:
    contexts, n = env.contexts.contexts, env.num_envs
    seeds = [[noise_seed(seed, contexts[i], k) for i, k in plan] for plan in plans]
    obs = env.play([[(i, s) for (i, _), s in zip(*pair, strict=True)] for pair in zip(plans, seeds, strict=True)])
    first, state = np.ones(n, bool), None
    at = np.zeros(n, np.int64)
    noise = [_policy_noise(row[0]) for row in seeds]
    sums = _Sums(n, gamma)
    played: dict[tuple[int, int], Row] = {}
    left = sum(map(len, plans))
    while left:
        decision = policy.act(obs, state, first, noise)
        step = env.step(decision.action)
        sums.add(step.reward, first, decision.value, decision.entropy)
        obs, state, first = step.obs, decision.state, step.first
        for row in np.flatnonzero(step.episode_over):
            if at[row] < len(plans[row]):
                index, k = plans[row][at[row]]
                success = None if step.success is None else bool(step.success[row])
                head = {"set": env.contexts.split, "context": contexts[index].uid, "episode": k}
                tail = {"length": int(step.episode_length[row]), "success": success, **sums.read(int(row))}
                played[index, k] = head | {"return": float(step.episode_return[row])} | tail
                played[index, k]["params"] = dict(contexts[index].params)
                left -= 1
            at[row] += 1
            if at[row] < len(plans[row]):
                noise[row] = _policy_noise(seeds[row][at[row]])
    return played


class _Sums:
    """Per row: V(s0), the discounted return and the mean entropy of the episode that is being played."""

    def __init__(self, n: int, gamma: float) -> None:
        self._gamma, self._discount = gamma, np.ones(n)
        self._discounted, self._entropy, self._steps = np.zeros(n), np.zeros(n), np.zeros(n)
        self._value, self._has_value, self._has_entropy = np.zeros(n), False, False

    def add(self, reward: Any, first: Any, value: Any, entropy: Any) -> None:
        for array, start in ((self._discount, 1.0), (self._discounted, 0.0), (self._entropy, 0.0), (self._steps, 0.0)):
            array[first] = start
        self._discounted += self._discount * reward
        self._discount *= self._gamma
        self._steps += 1
        self._has_value, self._has_entropy = value is not None, entropy is not None
        if value is not None:
            self._value[first] = value[first]
        if entropy is not None:
            self._entropy += entropy

    def read(self, row: int) -> Row:
        return {
            "value": float(self._value[row]) if self._has_value else None,
            "discounted": float(self._discounted[row]),
            "entropy": float(self._entropy[row] / self._steps[row]) if self._has_entropy else None,
        }


def _policy_noise(seed: int) -> np.random.Generator:
    """Another stream than the simulator's own, which has the bare seed."""
    return np.random.default_rng([seed, zlib.crc32(b"policy")])
