"""``gala overfit report STUDY surprise=VIDEO_RUN``: a model of videos looks at training and at held-out MDPs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gala_envs.contexts import ContextSet

from gala.build.envs import Spaces, make_evaluation_env
from gala.commands.trusted import check_run
from gala.config.video import VideoConfig
from gala.evaluation.frames import framing
from gala.evaluation.load import checkpoint_hash, load_policy
from gala.evaluation.record import MAX_PARALLEL, describe_actions, play_chunk
from gala.overfit.judging import episodes_each
from gala.overfit.leakage import check_training
from gala.overfit.study import Study, read_sets
from gala.runs.rollouts import RolloutFacts, Rollouts, open_rollouts
from gala.runs.run_dir import RunDir
from gala.supervised.video_settings import find_data, read_settings

SEED = 3000
"""Far from that of `gala record`: these are other episodes than the model has learned from."""


WINDOWS = 256
"""Videos in memory at a time."""
AS_RECORDED = ("sticky_actions", "max_episode_steps")
"""Settings of the environment in which a recording may differ from its run, and the sets do not."""


def measure(study: Study, video_run: Path, folder: str, trust: bool) -> list[dict[str, Any]]:
    """Play the policy that the video run has learned from on the study's sets, in ``folder``, and see how much each
    episode surprises the model: rows {set, context, nats, frames}, nats per predicted frame. Episodes of fewer frames
    than the model's videos have are left out.

    Raises:
        ValueError: the model was not made of recorded rollouts; they, or their policy, are gone or have changed; it, or
            the model, has seen MDPs outside the train set; no episode is long enough.
    """
    moved = f"where it was moved, `gala video resume {video_run} data=FOLDER` notes the place"
    video, sets = find_data(video_run, read_settings(video_run), remedy=moved), read_sets(folder, trust=trust)
    facts = open_rollouts(video.data).facts
    run, checkpoint = RunDir.open(facts.source["run"]), facts.source["checkpoint"]
    check_run(run, trust, "overfit", ["report", str(study.path), f"surprise={video_run}", f"sets={folder}"])
    if checkpoint_hash(run, checkpoint) != facts.source["checkpoint_sha256"]:
        raise ValueError(
            f"{run.path} has changed since {video.data} was recorded; record it again, into another folder"
        )
    _check_sets(study, sets, facts, video)
    check_training(run, checkpoint, sets)
    rows = []
    for name in ("train", "test"):
        rollouts = _play(run, facts, Path(folder) / f"{name}.json", sets[name])
        rows += [{"set": name, **row} for row in _surprise(video, video_run, rollouts)]
    return rows


def _check_sets(study: Study, sets: Mapping[str, ContextSet], facts: RolloutFacts, video: VideoConfig) -> None:
    for name, known in study.meta["sets"].items():
        if name in sets and sets[name].sha256 != known["sha256"] and not study.meta.get("budget"):
            raise ValueError(f"sets={name}.json is another {name} set than the study's; name the folder of its own")
    if foreign := set(facts.contexts) - set(sets["train"].uids):
        raise ValueError(f"{video.data} holds {len(foreign)} MDPs outside the train set ({min(foreign)}, ...)")
    if not facts.contexts:
        raise ValueError(f"{video.data} was recorded without contexts; nobody can tell train from test in it")


def _play(run: RunDir, facts: RolloutFacts, file: Path, contexts: ContextSet) -> Rollouts:
    """Every MDP of a set, at least once, by the recorded policy."""
    recorded = {name: facts.source["env"][name] for name in AS_RECORDED}
    env_config = dataclasses.replace(run.config.env, contexts=str(file), order="round-robin", **recorded)
    config = dataclasses.replace(run.config, env=env_config)
    env = make_evaluation_env(config, min(len(contexts), MAX_PARALLEL))
    try:
        spaces = Spaces(env.obs_space, env.action_space, env.frames_per_step)
        frames = framing(config, spaces.obs, facts.source["size"])
        if (frames.shape, describe_actions(spaces.action)) != (facts.frame, facts.action):
            raise ValueError(f"{file} has other frames or actions than the recorded rollouts")
        policy = load_policy(run, config, spaces, facts.source["checkpoint"], facts.source["learner"])
        episodes = len(contexts) * episodes_each(contexts)
        chunk = play_chunk(env, policy, frames, episodes, seed=SEED, mode=facts.source["mode"])
    finally:
        env.close()
    return Rollouts(file, dataclasses.replace(facts, contexts=contexts.uids), [chunk])


def _surprise(video: VideoConfig, video_run: Path, rollouts: Rollouts) -> list[dict[str, Any]]:
    import torch

    from gala.supervised.video_checkpoint import load_video_model
    from gala.supervised.video_rollouts import RecordedVideos

    (_, model), recorded = load_video_model(video_run), RecordedVideos(rollouts)
    step, rows = video.frames - video.context, []
    generator = torch.Generator().manual_seed(SEED)
    for start, end in zip(rollouts.episode_starts[:-1], rollouts.episode_starts[1:], strict=True):
        starts = np.arange(start, end - video.frames + 1, step)  # every frame is predicted once, but for the first ones
        if not len(starts):
            continue
        bounds = list[torch.Tensor]()
        for part in np.split(starts, range(WINDOWS, len(starts), WINDOWS)):
            videos = recorded.windows(part, video.frames)
            with torch.no_grad():
                bounds.append(model(videos.frames, videos.actions, generator).bound)
        bound = torch.cat(bounds)
        if not bound.isfinite().all():
            raise ValueError(f"{video_run} has diverged: its bound is not finite; train another with a lower lr")
        context = rollouts.facts.contexts[int(rollouts.context[start])]
        rows.append({"context": context, "nats": -bound.mean().item() / step, "frames": len(bound) * step})
    if not rows:
        raise ValueError(f"no episode has frames={video.frames}, as the video model wants; train one of fewer frames")
    return rows
