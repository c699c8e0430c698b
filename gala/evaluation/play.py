"""Whole episodes of a policy, an exact number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer
from gala.rl.simulators import Playable

Mode = Literal["greedy", "sampled"]
LONGEST_EPISODE = 200_000
"""Decisions; the longest of the known simulators' episodes are Atari's, of at most 108,000."""


def quotas(episodes: int, num_envs: int) -> NDArray[np.int64]:
    """[num_envs]: how many of ``episodes`` each simulator plays; as equal as can be, the first ones more."""
    return np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)


def refuse_endless(waited: int, longest: int, done: int, episodes: int) -> None:
    """Raises ValueError if an episode that counts goes on for more than ``longest`` decisions."""
    if waited > longest:
        raise ValueError(
            f"an episode has not ended after {longest:,} decisions ({done} of {episodes} episodes "
            "are done); cut episodes off with env.max_episode_steps=N"
        )


@torch.no_grad()
def play(
    env: Playable,
    policy: ActorCritic,
    normalizer: ObsNormalizer | None,
    episodes: int,
    *,
    mode: Mode,
    seed: int,
    longest: int = LONGEST_EPISODE,
    progress: Callable[[int, int], None] = lambda done, decisions: None,
) -> tuple[list[float], list[int]]:
    """Returns and lengths of ``episodes`` whole episodes, in the order of the simulators that played them.

    Each simulator has a fixed number of episodes to play; counting the first to finish would favour short ones.
    ``progress`` is called with the episodes that are done and the decisions of each simulator, after every one.

    Raises:
        ValueError: an episode that counts has not ended after ``longest`` decisions.
    """
    n = env.num_envs
    quota = quotas(episodes, n)
    played: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    begun = np.zeros(n, np.int64)  # the decision after which each row's episode began
    device = next(policy.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    obs, first = env.reset(seed), torch.ones(n, dtype=torch.bool, device=device)
    state = policy.initial_state(n, device)
    decisions = 0
    while (unfinished := np.array([len(done) for done in played]) < quota).any():
        refuse_endless((decisions - begun)[unfinished].max(), longest, sum(map(len, played)), episodes)
        inputs = obs if normalizer is None else normalizer(obs)
        out = policy(torch.from_numpy(np.ascontiguousarray(inputs)).to(device), state, first)
        action = policy.act(out.params, greedy=mode == "greedy", generator=generator)
        step = env.step(action.cpu().numpy())
        decisions += 1
        obs, state, first = step.obs, out.state, torch.from_numpy(step.first).to(device)
        for row in np.flatnonzero(step.episode_over):
            begun[row] = decisions
            if len(played[row]) < quota[row]:
                played[row].append((float(step.episode_return[row]), int(step.episode_length[row])))
        progress(sum(map(len, played)), decisions)
    flat = [episode for row in played for episode in row]
    return [r for r, _ in flat], [length for _, length in flat]
