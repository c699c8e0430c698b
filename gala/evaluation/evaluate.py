"""Play an exact number of whole episodes with a trained policy."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from gala.build.envs import Spaces, make_evaluation_env
from gala.build.policy import pick_device_to_play
from gala.evaluation.film import check_drawable, check_encoder, record_episode
from gala.evaluation.load import check_contexts, load_policy
from gala.evaluation.play import LONGEST_EPISODE, Mode, play
from gala.evaluation.student import t_quantile
from gala.processes.output import is_terminal
from gala.runs.run_dir import RunDir

MAX_PARALLEL = 16
_PROGRESS_S = 0.2
_CLEAR = "\x1b[K"
"""The rest of a terminal's line, emptied."""


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
    mode, returns, and video_problem if a video was asked for and there is none: why.

    Raises:
        ValueError: the environment is missing here, cannot be drawn for a video, or has an episode that does not end.
    """
    config = run_dir.config
    if video is not None:
        check_encoder()
        check_drawable(config)  # before the minutes that the episodes may take
    env = make_evaluation_env(config, min(episodes, MAX_PARALLEL))
    try:
        spaces = Spaces(env.obs_space, env.action_space, env.frames_per_step)
        policy, normalizer = load_policy(run_dir, config, spaces, checkpoint, learner)
        check_contexts(run_dir, env, checkpoint)
        policy.to(pick_device_to_play(config, device))
        longest = max(LONGEST_EPISODE, config.env.max_episode_steps)
        with _progress(episodes) as progress:
            returns, lengths = play(
                env, policy, normalizer, episodes, mode=mode, seed=seed, longest=longest, progress=progress
            )
    finally:
        env.close()
    problem = ""
    if video is not None:
        try:
            record_episode(config, policy, normalizer, video, greedy=mode == "greedy", seed=seed)
        except Exception as error:  # whatever it is, the episodes have been played and count
            problem = f"{video} was not written: {' '.join(str(error).split()) or type(error).__name__}"
    mean, std = float(np.mean(returns)), float(np.std(returns, ddof=1)) if episodes > 1 else 0.0
    half = t_quantile(0.95, episodes - 1) * std / math.sqrt(episodes) if episodes > 1 else math.nan
    return {
        "return_mean": mean,
        "return_std": std,
        "return_ci95": [mean - half, mean + half] if episodes > 1 else [None, None],
        "length_mean": float(np.mean(lengths)),
        "episodes": episodes,
        "seed": seed,
        "mode": mode,
        "returns": returns,
        **({"video_problem": problem} if problem else {}),
    }


def named_learner(text: str) -> int | str:
    """The rank, or the word, that ``learner=`` names."""
    return int(text) if text.isdigit() else text


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
    is_rank = isinstance(learner, Integral) and not isinstance(learner, bool) and learner in ranks
    if not is_rank and (not isinstance(learner, str) or learner != "consensus"):
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


def with_episode_limit(run_dir: RunDir, max_episode_steps: int) -> RunDir:
    """The run for an evaluation whose episodes are cut off after so many decisions; 0 keeps the run's own limit."""
    if not max_episode_steps:
        return run_dir
    env = dataclasses.replace(run_dir.config.env, max_episode_steps=max_episode_steps)
    return RunDir(run_dir.path, dataclasses.replace(run_dir.config, env=env))


@contextlib.contextmanager
def _progress(episodes: int) -> Iterator[Callable[[int, int], None]]:
    """What ``play`` calls after each decision: on a terminal, a line on standard error that is gone in the end."""
    if not is_terminal(sys.stderr):
        yield lambda done, decisions: None
        return
    shown = 0.0

    def show(done: int, decisions: int) -> None:
        nonlocal shown
        if (now := time.monotonic()) - shown > _PROGRESS_S:
            shown = now
            line = f"{done} of {episodes} episodes, {decisions:,} decisions of each simulator"
            print(f"\r{line}{_CLEAR}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print(f"\r{_CLEAR}", end="", file=sys.stderr, flush=True)
