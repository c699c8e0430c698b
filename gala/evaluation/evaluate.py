"""Play an exact number of whole episodes with a trained policy."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from gala.build.envs import Spaces, make_evaluation_env
from gala.build.policy import pick_device
from gala.config.schema import Config
from gala.evaluation.film import check_encoder, record_episode
from gala.evaluation.load import load_policy
from gala.evaluation.play import Mode, play
from gala.runs.run_dir import RunDir

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


def check_request(
    run_dir: RunDir,
    checkpoint: str,
    learner: int | str,
    episodes: int = 1,
    seed: int = 0,
    video: str = "",
    mode: str = "sampled",
) -> None:
    """Raises ValueError, in one line, for what ``evaluate_run`` cannot do, before anything is loaded."""
    ranks = run_dir.checkpoint_meta(checkpoint)["ranks"]
    if learner != "consensus" and learner not in ranks:
        raise ValueError(f"learner={learner}: wants consensus or one of {', '.join(map(str, ranks))}")
    for name, number in (("episodes", episodes), ("seed", seed)):
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{name}={number!r} must be a whole number")
    if episodes < 1:
        raise ValueError(f"episodes={episodes} must be at least 1")
    if mode not in ("greedy", "sampled"):
        raise ValueError(f"mode={mode}: wants greedy or sampled")
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or more")
    if video and not video.endswith(".mp4"):
        raise ValueError(f"video={video} must end in .mp4")


def _on(config: Config, device: str) -> Config:
    return dataclasses.replace(config, device=device)
