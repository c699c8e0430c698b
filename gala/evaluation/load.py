"""The policy of a checkpoint: one learner's, or the consensus of all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gala.build.envs import Spaces, check_trained_on
from gala.build.learning import make_normalizer
from gala.build.policy import make_policy
from gala.config.derived import averages_parameters
from gala.config.schema import Config
from gala.gossip.flat import flatten_parameters
from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer, RunningMoments
from gala.runs.run_dir import RunDir

Slices = list[tuple[int, float]]
"""(length, PushSum weight) of consecutive slices of one learner's flat parameter vector."""


def load_policy(
    run_dir: RunDir, config: Config, spaces: Spaces, checkpoint: str, learner: int | str
) -> tuple[ActorCritic, ObsNormalizer | None]:
    """The policy in evaluation mode and its frozen observation normaliser.

    ``learner`` is a rank or "consensus": the mean of all learners' parameters, weighted by their PushSum weights; the
    first learner where the run does not average parameters (``averages_parameters``).

    Raises:
        ValueError: the checkpoint belongs to another observation or action space.
    """
    averaged = averages_parameters(config)
    meta = run_dir.checkpoint_meta(checkpoint)
    everyone = meta["ranks"]
    ranks = (everyone if averaged else everyone[:1]) if learner == "consensus" else [int(learner)]
    normalizer = make_normalizer(config, spaces)
    # Averaged networks were trained on all learners' statistics pooled, whichever learner is asked for.
    wanted = sorted({*ranks, *everyone}) if averaged and normalizer is not None else ranks
    parts = {rank: run_dir.load_part(checkpoint, f"learner{rank}") for rank in wanted}
    policy = make_policy(config, spaces)
    flat = flatten_parameters(policy.parameters())
    vectors: list[Tensor] = []
    try:
        for rank in ranks:
            tensors, _ = parts[rank]
            policy.load_state_dict(tensors["policy"])
            vectors.append(flat.clone())
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise ValueError(f"{run_dir.path}: the checkpoint does not fit this environment's spaces: {details}") from None
    flat.copy_(consensus(vectors, [_slices(parts[rank][1], flat.numel()) for rank in ranks]))
    if normalizer is not None:
        own = {rank: tensors["obs_moments"]["packed"].numpy() for rank, (tensors, _) in parts.items()}
        size = 1 + 2 * int(np.prod(normalizer.shape))
        gone = [np.asarray(row[:size]) for r, row in enumerate(meta["moments"]) if averaged and r not in own]
        normalizer.applied = RunningMoments.pooled(np.stack([*own.values(), *gone]), normalizer.shape)
    return policy.eval(), normalizer


def check_contexts(run_dir: RunDir, env: Any, checkpoint: str) -> None:
    """Raises ValueError if the file that the run names holds other MDPs, seen from here, than it was trained on; one
    that was asked for in its place may hold any."""
    named = run_dir.config.env.contexts
    if named and named == RunDir.open(run_dir.path).config.env.contexts:
        rank = run_dir.checkpoint_meta(checkpoint)["ranks"][0]
        check_trained_on(env, run_dir.load_part(checkpoint, f"learner{rank}")[1].get("contexts", {}))


def return_scale(run_dir: RunDir, checkpoint: str) -> float | None:
    """What V of a checkpoint is multiplied by, to be in units of the environment's rewards.

    The frozen standard deviation of ``ReturnScaler`` with ``normalize.reward=scale`` (see ``return_moments``), else 1;
    None for ``sign``: returns of signs of rewards cannot be turned into returns. Where rewards of ``scale`` were cut
    (``normalize.reward_clip``), V knows of the cut ones.
    """
    kind = run_dir.config.normalize.reward
    if kind == "scale":
        return float(return_moments(run_dir, checkpoint).std)
    return None if kind == "sign" else 1.0


def return_moments(run_dir: RunDir, checkpoint: str) -> RunningMoments:
    """The statistics by which rewards are scaled at a checkpoint of ``normalize.reward=scale``."""
    meta, averaged = run_dir.checkpoint_meta(checkpoint), averages_parameters(run_dir.config)
    ranks = meta["ranks"] if averaged else meta["ranks"][:1]
    parts = {rank: run_dir.load_part(checkpoint, f"learner{rank}")[0] for rank in ranks}
    return pooled_return_moments(meta, parts, averaged)


def pooled_return_moments(meta: dict[str, Any], parts: dict[int, Any], averaged: bool) -> RunningMoments:
    """What rewards were divided by: the moments of all learners pooled where they average, else the first one's."""
    packed = {rank: part["return_moments"]["packed"].numpy() for rank, part in parts.items()}
    size = len(next(iter(packed.values())))  # those of returns are the last of what a learner publishes
    gone = [np.asarray(row[-size:]) for rank, row in enumerate(meta["moments"]) if averaged and rank not in packed]
    return RunningMoments.pooled(np.stack([*packed.values(), *gone]), ())


def checkpoint_hash(run: RunDir, checkpoint: str) -> str:
    """A hash of the hashes of all files of a checkpoint."""
    files = run.checkpoint_meta(checkpoint)["files"]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def consensus(vectors: Sequence[Tensor], weights: Sequence[Slices]) -> Tensor:
    """``sum_i w_i z_i / sum_i w_i`` of the learners' parameters z_i [d], slice by slice: the exact PushSum average when
    no mass is in flight. Each shard of a sharded exchange is a slice with a weight of its own."""
    if len(vectors) == 1:
        return vectors[0]
    mean, start = torch.empty_like(vectors[0]), 0
    for slices in zip(*weights, strict=True):
        (length,) = {length for length, _ in slices}
        total = sum(weight for _, weight in slices)
        rows = torch.stack([vector[start : start + length] for vector in vectors])
        # None at all: of a run of copy-average by an earlier version, in which all had been restarted.
        shares = torch.tensor([weight / total if total else 1 / len(rows) for _, weight in slices], dtype=rows.dtype)
        mean[start : start + length] = shares @ rows
        start += length
    assert start == mean.numel()
    return mean


def _slices(part: dict[str, Any], numel: int) -> Slices:
    """As the learner's averager exported them; one slice of weight 1 where nothing is exchanged by messages."""
    whole = [(numel, part.get("gossip", {}).get("weight", 1.0))]  # all that checkpoints of version 0.1.0 say
    return [(int(length), float(weight)) for length, weight in part.get("slice_weights", whole)]
