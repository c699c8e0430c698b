"""Play an exact number of whole episodes with a trained policy."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gala.build.envs import Spaces, make_evaluation_env
from gala.build.learning import make_normalizer
from gala.build.policy import make_policy, pick_device
from gala.config.schema import Config
from gala.evaluation.film import check_encoder, record_episode
from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer, RunningMoments
from gala.runs.run_dir import RunDir

Mode = Literal["greedy", "sampled"]
MAX_PARALLEL = 16


def evaluate_run(
    run_dir: RunDir,
    *,
    checkpoint: str = "latest",
    learner: int | str = "consensus",
    episodes: int = 30,
    mode: Mode = "sampled",
    seed: int = 1000,
    device: str = "auto",
    video: Path | None = None,
) -> dict[str, Any]:
    """Returns, lengths and their statistics over exactly ``episodes`` whole episodes.

    ``learner`` is a rank, or "consensus": the mass-weighted mean of all learners' parameters (learner 0 where nothing
    was exchanged). Returns the keys return_mean, return_std, return_ci95 (low, high), length_mean, episodes, seed,
    mode, returns.
    """
    if video is not None:
        check_encoder()
    config = run_dir.config
    env = make_evaluation_env(config, min(episodes, MAX_PARALLEL))
    try:
        spaces = Spaces(env.obs_space, env.action_space, env.frames_per_step)
        policy, normalizer = load_policy(run_dir, config, spaces, checkpoint, learner)
        policy.to(pick_device(config if device == "auto" else _on(config, device), 0))
        returns, lengths = play(env, policy, normalizer, episodes, mode=mode, seed=seed)
    finally:
        env.close()
    if video is not None:
        record_episode(config, policy, normalizer, video, greedy=mode == "greedy", seed=seed)
    mean, std = float(np.mean(returns)), float(np.std(returns, ddof=1)) if episodes > 1 else 0.0
    half = 1.96 * std / math.sqrt(episodes)
    return {
        "return_mean": mean,
        "return_std": std,
        "return_ci95": [mean - half, mean + half],
        "length_mean": float(np.mean(lengths)),
        "episodes": episodes,
        "seed": seed,
        "mode": mode,
        "returns": returns,
    }


def _on(config: Config, device: str) -> Config:
    return dataclasses.replace(config, device=device)


def load_policy(
    run_dir: RunDir, config: Config, spaces: Spaces, checkpoint: str, learner: int | str
) -> tuple[ActorCritic, ObsNormalizer | None]:
    """The policy in evaluation mode and its frozen observation normaliser.

    Raises:
        ValueError: the checkpoint belongs to another observation or action space.
    """
    averaged = config.algo in ("gala", "allreduce")
    meta = run_dir.checkpoint_meta(checkpoint)
    everyone = meta["ranks"]
    ranks = (everyone if averaged else everyone[:1]) if learner == "consensus" else [int(learner)]
    parts = [run_dir.load_part(checkpoint, f"learner{rank}") for rank in ranks]
    weights = [float(part.get("gossip", {}).get("weight", 1.0)) for _, part in parts]
    policy = make_policy(config, spaces)
    try:
        policy.load_state_dict(weighted_mean([tensors["policy"] for tensors, _ in parts], weights))
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise ValueError(f"{run_dir.path}: the checkpoint does not fit this environment's spaces: {details}") from None
    normalizer = make_normalizer(config, spaces)
    if normalizer is not None:
        # Averaged networks were trained on all learners' statistics pooled, whichever learner is asked for.
        own = {
            rank: run_dir.load_part(checkpoint, f"learner{rank}")[0]["obs_moments"]["packed"].numpy()
            for rank in (everyone if averaged else ranks)
        }
        size = 1 + 2 * int(np.prod(normalizer.shape))
        gone = [np.asarray(row[:size]) for r, row in enumerate(meta["moments"]) if averaged and r not in own]
        normalizer.applied = RunningMoments.pooled(np.stack([*own.values(), *gone]), normalizer.shape)
    return policy.eval(), normalizer


def weighted_mean(states: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """``sum_i w_i state_i / sum_i w_i``, name by name: the exact PushSum average when no mass is in flight."""
    total = sum(weights)
    return {
        name: torch.stack([w / total * state[name] for w, state in zip(weights, states, strict=True)]).sum(0)
        for name in states[0]
    }


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
