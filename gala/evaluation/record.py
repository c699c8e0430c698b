"""A trained policy's episodes, written down frame by frame: what a model of videos learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gala_envs.contract import BatchedEnv, Step, check_actions
from numpy.typing import NDArray

from gala.build.envs import Spaces, make_evaluation_env
from gala.build.policy import pick_device_to_play
from gala.config.schema import Config
from gala.evaluation.frames import Framing, framing
from gala.evaluation.load import check_contexts, checkpoint_hash, load_policy
from gala.evaluation.play import LONGEST_EPISODE, Mode, play, quotas
from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer
from gala.runs.rollout_writer import RolloutWriter
from gala.runs.rollouts import Chunk, RolloutFacts
from gala.runs.run_dir import RunDir

MAX_PARALLEL, EPISODES_PER_CHUNK = 16, 32
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Recording:
    """What ``record_run`` is asked for."""

    episodes: int = 200
    checkpoint: str = "latest"
    learner: int | str = "consensus"
    mode: Mode = "sampled"
    seed: int = 2000
    size: int = 42
    """Largest side of a picture of 256 values, in pixels."""
    device: str = "auto"


class _Episode:
    """Lists of one entry per frame."""

    def __init__(self, frame: NDArray, no_action: NDArray) -> None:
        self.frames, self.actions, self.rewards, self.terminated = [frame], [no_action], [0.0], False
        self.context = -1

    def add(self, frame: NDArray, action: NDArray, reward: float) -> None:
        self.frames.append(frame)
        self.actions.append(action)
        self.rewards.append(reward)


class RecordedEnv:
    """Simulators behind the ``BatchedEnv`` contract that keep the first ``episodes`` whole episodes, as ``play``
    counts them: each row its share."""

    def __init__(self, env: BatchedEnv, make_frames: Callable[[NDArray], NDArray], episodes: int) -> None:
        self._env, self._make_frames, self.num_envs = env, make_frames, env.num_envs
        self._quota = quotas(episodes, env.num_envs)
        self._open: list[_Episode | None] = [None] * env.num_envs
        self.episodes: list[list[_Episode]] = [[] for _ in range(env.num_envs)]

    def reset(self, seed: int | None = None) -> NDArray:
        obs: NDArray = self._env.reset(seed)
        self._begin(np.arange(self.num_envs), self._make_frames(obs))
        return obs

    def step(self, actions: NDArray) -> Step:
        step: Step = self._env.step(actions)
        taken = check_actions(actions, self._env.action_space, self.num_envs)  # as the simulators got them
        frames = self._make_frames(step.obs)
        done = step.terminated | step.truncated
        ends = self._make_frames(step.final_obs) if step.final_obs is not None and done.any() else frames
        for row in np.flatnonzero(step.valid):
            if (episode := self._open[row]) is None:
                continue
            episode.add((ends if done[row] else frames)[row], taken[row], float(step.reward[row]))
            if step.context is not None:
                episode.context = int(step.context[row])
            if step.episode_over[row]:
                episode.terminated = bool(step.terminated[row])
                self.episodes[row].append(episode)
                self._open[row] = None
        self._begin(np.flatnonzero(step.first), frames)
        return step

    def _begin(self, rows: NDArray, frames: NDArray) -> None:
        space = self._env.action_space
        for row in rows:
            if self._open[row] is None and len(self.episodes[row]) < self._quota[row]:
                self._open[row] = _Episode(frames[row], np.zeros(space.shape or (), space.dtype))

    def chunk(self) -> Chunk:
        """The whole episodes so far, row by row."""
        episodes = [episode for row in self.episodes for episode in row]
        lengths = [len(e.frames) for e in episodes]
        opens, closes = np.cumsum([0, *lengths[:-1]]), np.cumsum(lengths) - 1
        first, terminated = np.zeros(sum(lengths), bool), np.zeros(sum(lengths), bool)
        first[opens], terminated[closes] = True, [e.terminated for e in episodes]
        return Chunk(
            np.stack([frame for e in episodes for frame in e.frames]),
            np.stack([action for e in episodes for action in e.actions]),
            np.array([reward for e in episodes for reward in e.rewards], np.float32),
            first,
            terminated,
            np.repeat(np.array([e.context for e in episodes], np.int32), lengths),
        )


def play_chunk(
    env: BatchedEnv,
    policy: tuple[ActorCritic, ObsNormalizer | None],
    frames: Framing,
    episodes: int,
    *,
    seed: int,
    mode: Mode = "sampled",
    longest: int = LONGEST_EPISODE,
    progress: Progress = lambda done, decisions: None,
) -> Chunk:
    """Play and record exactly ``episodes`` whole episodes. Raises ValueError as ``play`` does."""
    recorded = RecordedEnv(env, frames.make, episodes)
    play(recorded, *policy, episodes, mode=mode, seed=seed, longest=longest, progress=progress)
    return recorded.chunk()


def record_run(
    run_dir: RunDir, out: Path, asked: Recording, progress: Progress = lambda done, decisions: None
) -> Iterator[int]:
    """Record episodes of a run's policy into ``out``; yields the number that is there, at first and after every chunk.

    Chunk k depends on the seed and on k only, so a recording that was cut off goes on as if it had not been. What
    ``run_dir.config.env`` says is played, to the end of the game; ``progress`` is that of ``play``, of one chunk.

    Raises:
        ValueError: ``out`` holds something else, or more episodes than asked for; the policy does not fit the
            environment; an episode does not end.
    """
    config = run_dir.config
    env = make_evaluation_env(config, min(asked.episodes, MAX_PARALLEL))
    try:
        spaces = Spaces(env.obs_space, env.action_space, env.frames_per_step)
        frames = framing(config, spaces.obs, asked.size)
        check_contexts(run_dir, env, asked.checkpoint)
        contexts = tuple(env.contexts.uids) if hasattr(env, "contexts") else ()
        source = _source(run_dir, asked) | ({"contexts_sha256": env.contexts.sha256} if contexts else {})
        facts = RolloutFacts(source, frames.shape, frames.dtype, frames.top, describe_actions(spaces.action), contexts)
        writer = RolloutWriter(out, facts)
        if writer.episodes > asked.episodes:
            raise ValueError(f"{out} holds {writer.episodes} episodes already, more than episodes={asked.episodes}")
        yield writer.episodes
        if writer.episodes == asked.episodes:
            return
        policy, normalizer = load_policy(run_dir, config, spaces, asked.checkpoint, asked.learner)
        policy.to(pick_device_to_play(config, asked.device))
        longest = max(LONGEST_EPISODE, config.env.max_episode_steps)
        while (left := asked.episodes - writer.episodes) > 0:
            seed = int(np.random.SeedSequence([asked.seed, len(writer.chunks)]).generate_state(1)[0])
            writer.append(
                play_chunk(
                    env,
                    (policy, normalizer),
                    frames,
                    min(left, EPISODES_PER_CHUNK),
                    seed=seed,
                    mode=asked.mode,
                    longest=longest,
                    progress=progress,
                )
            )
            yield writer.episodes
    finally:
        env.close()


def describe_actions(space: gym.Space) -> dict[str, Any]:
    """``RolloutFacts.action``. Raises ValueError for spaces that no policy here can have."""
    if isinstance(space, gym.spaces.Discrete):
        return {"kind": "discrete", "sizes": [int(space.n)], "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"kind": "multi-discrete", "sizes": [int(n) for n in space.nvec]}
    if isinstance(space, gym.spaces.Box):
        return {"kind": "box", "sizes": [int(np.prod(space.shape))]}
    raise ValueError(f"actions of {space} cannot be recorded; Discrete, MultiDiscrete and Box can")


def _source(run_dir: RunDir, asked: Recording) -> dict[str, Any]:
    config: Config = run_dir.config
    return {
        "run": str(run_dir.path.resolve()),
        "identity": run_dir.identity(),
        "checkpoint": asked.checkpoint,
        "checkpoint_sha256": checkpoint_hash(run_dir, asked.checkpoint),
        "learner": asked.learner,
        "mode": asked.mode,
        "seed": asked.seed,
        "size": asked.size,
        "env": dataclasses.asdict(config.env),
    }
