"""One policy in one file: safetensors, with JSON in its metadata that says what the numbers are.

metadata["gala"]: {"format": 1, "gala": version, "env": id, "model": settings, "obs_space": ..., "action_space": ...,
                   "obs_clip": number or null}
metadata, each optional: "model_card.md", "config.yaml", "evaluations.json", "versions.json", which `gala export` adds
tensors: policy.<parameter>, and with a normaliser obs_moments.packed (count, mean and sum of squares, float64)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from gala_envs.spaces import describe_space, space_of
from safetensors import SafetensorError, safe_open

from gala import __version__
from gala.build.learning import normalizer_of
from gala.build.trust import check_trusted
from gala.config.schema import ModelConfig
from gala.files.plain_yaml import parse_json, shortened
from gala.files.whole import write_atomically
from gala.models.actor_critic import ActorCritic, build_actor_critic
from gala.rl.normalise import ObsNormalizer, RunningMoments
from gala.runs.checkpoints import pack

FORMAT = 1
CARD = "model_card.md"
ABOUT = (CARD, "config.yaml", "evaluations.json", "versions.json")
"""Texts beside the weights: for people and other programs, nothing that a policy is built from."""


class Description(NamedTuple):
    """What a policy is built from."""

    model: ModelConfig
    obs_space: gym.spaces.Box
    action_space: gym.Space
    env: str
    """The id of the environment that it was trained in, for the record."""
    about: Mapping[str, str] = {}
    """Texts by the names in ``ABOUT``."""


def check_new_file(path: Path, overwrite: bool, remedy: str = "overwrite=True") -> None:
    """Raises ValueError unless a file may be written to ``path``."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path} must be a file in a directory that exists")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} already exists; choose another name, or say {remedy}")


def write(
    path: Path, policy: ActorCritic, normalizer: ObsNormalizer | None, content: Description, overwrite: bool
) -> None:
    """See ``gala.Agent.save``."""
    check_new_file(path, overwrite)
    description = {
        "format": FORMAT,
        "gala": __version__,
        "env": content.env,
        "model": dataclasses.asdict(content.model),
        "obs_space": describe_space(content.obs_space),
        "action_space": describe_space(content.action_space),
        "obs_clip": None if normalizer is None else normalizer.clip,
    }
    tensors: dict[str, Any] = {"policy": policy.state_dict()}
    if normalizer is not None:
        tensors["obs_moments"] = {"packed": torch.from_numpy(normalizer.applied.pack())}
    write_atomically(path, pack(tensors, {**content.about, "gala": json.dumps(description, allow_nan=False)}))


def read(path: Path, trust: bool, asked: str = "") -> tuple[ActorCritic, ObsNormalizer | None, Description]:
    """See ``gala.load``. ``asked``: the arguments that led to ``path``, as Python has them, if they were others."""
    if path.is_dir():
        raise ValueError(f"{path} is a directory; of a run, gala.Run({str(path)!r}).load() makes an agent")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from None
    if "gala" not in metadata:
        raise ValueError(f"{path} was not written by gala.Agent.save: its metadata has no entry 'gala'")
    description = _description(path, metadata["gala"])
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has format {description.get('format')}; this version of gala reads {FORMAT}")
    model = description.get("model")
    name = str(model.get("encoder")) if isinstance(model, dict) else ""
    check_trusted(
        {"encoder": name} if ":" in name else {},
        path,
        trust=trust,
        remedy=f"gala.load({asked or repr(str(path))}, trust=True)",
    )
    about = {name: metadata[name] for name in ABOUT if name in metadata}
    try:
        return _built(tensors, description, about)
    except Exception as error:  # whatever a number, a name or a shape that was changed leads to
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged, or not for this version of gala: {shortened(text)}") from None


def _description(path: Path, text: str) -> dict[str, Any]:
    try:
        description = parse_json(text)
        if isinstance(description, dict):
            return description
    except ValueError:
        pass
    raise ValueError(f"{path} is damaged: its metadata is no JSON object")


def _built(
    tensors: dict[str, torch.Tensor], description: dict[str, Any], about: dict[str, str]
) -> tuple[ActorCritic, ObsNormalizer | None, Description]:
    model = ModelConfig(**description["model"] | {"hidden": tuple(description["model"]["hidden"])})
    obs_space, action_space = space_of(description["obs_space"]), space_of(description["action_space"])
    assert isinstance(obs_space, gym.spaces.Box)
    held = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("policy."))
    if ":" not in model.encoder:  # a changed width would ask for all memory there is
        with torch.device("meta"):
            wanted = sum(t.numel() for t in build_actor_critic(obs_space, action_space, model).state_dict().values())
        if wanted > 2 * held:
            raise ValueError(f"its model has {wanted:,} numbers, and {held:,} are here")
    policy = build_actor_critic(obs_space, action_space, model)
    policy.load_state_dict(
        {name.removeprefix("policy."): tensor for name, tensor in tensors.items() if name.startswith("policy.")}
    )
    normalizer = None
    if description["obs_clip"] is not None:
        normalizer = normalizer_of(obs_space, description["obs_clip"])
        normalizer.applied = RunningMoments.unpack(tensors["obs_moments.packed"].numpy(), normalizer.shape)
    return policy, normalizer, Description(model, obs_space, action_space, description["env"], about)
