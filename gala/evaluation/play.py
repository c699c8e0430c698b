"""Whole episodes of a policy, an exact number of them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer

Mode = Literal["greedy", "sampled"]


@torch.no_grad()
def play(
    env: Any, policy: ActorCritic, normalizer: ObsNormalizer | None, episodes: int, *, mode: Mode, seed: int
) -> tuple[list[float], list[int]]:
    """Returns and lengths of ``episodes`` whole episodes, in the order of the simulators that played them.

    Each simulator has a fixed number of episodes to play; counting the first to finish would favour short ones.
    """
    n = env.num_envs
    quota = np.full(n, episodes // n) + (np.arange(n) < episodes % n)
    played: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    device = next(policy.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    obs, first = env.reset(seed), torch.ones(n, dtype=torch.bool, device=device)
    state = policy.initial_state(n, device)
    while any(len(done) < wanted for done, wanted in zip(played, quota, strict=True)):
        inputs = obs if normalizer is None else normalizer(obs)
        out = policy(torch.from_numpy(np.ascontiguousarray(inputs)).to(device), state, first)
        action = policy.act(out.params, greedy=mode == "greedy", generator=generator)
        step = env.step(action.cpu().numpy())
        obs, state, first = step.obs, out.state, torch.from_numpy(step.first).to(device)
        for row in np.flatnonzero(step.episode_over):
            if len(played[row]) < quota[row]:
                played[row].append((float(step.episode_return[row]), int(step.episode_length[row])))
    flat = [episode for row in played for episode in row]
    return [r for r, _ in flat], [length for _, length in flat]
