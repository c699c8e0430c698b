"""Checkpoints of CleanRL and Stable-Baselines3 whose policy is a multilayer perceptron, read without their code.

CleanRL (``torch.save(agent.state_dict())``): ``actor.N`` or ``actor_mean.N`` with ``actor_logstd``. Stable-Baselines3
(PPO and A2C with MlpPolicy): ``policy.pth`` in the zip, ``mlp_extractor.policy_net.N``, ``action_net``, ``log_std``.
Only tensors are read (``weights_only``); what is pickled beside them is not, so hidden layers are taken to be tanh, as
both have them by default, and an observation normaliser that was kept elsewhere (VecNormalize) is not known.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gala.diagnostics.overfitting.policies import Decision, Noise, sample
from gala.diagnostics.overfitting.torch_modules import read_checkpoint, torch_load

_LAYOUTS = (
    (r"mlp_extractor\.policy_net\.(\d+)", "action_net", "log_std"),
    (r"actor\.(\d+)", "", ""),
    (r"actor_mean\.(\d+)", "", "actor_logstd"),
)
"""(hidden layers, output layer or empty if it is the last of them, log of the standard deviation)."""


class MlpPolicy:
    """tanh layers and a linear one; actions are sampled, as in training."""

    def __init__(self, layers: list[tuple[NDArray, NDArray]], log_std: NDArray | None, space: gym.Space) -> None:
        self.layers, self.log_std, self.space = layers, log_std, space

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        x = np.asarray(obs, np.float32).reshape(len(obs), -1)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        params = x @ self.layers[-1][0].T + self.layers[-1][1]
        if self.log_std is not None:
            params = np.concatenate([params, np.broadcast_to(self.log_std, params.shape)], 1)
        action = sample(self.space, params, noise)
        if isinstance(self.space, gym.spaces.Box):
            action = np.clip(action, self.space.low, self.space.high)
        return Decision(action, params=params)


def mlp_policy(path: str, space: gym.Space) -> MlpPolicy:
    """Raises ValueError if the file is no such checkpoint, or its policy has other actions than ``space``."""
    tensors = _tensors(Path(path))
    for hidden, output, log_std in _LAYOUTS:
        weights = sorted(
            (int(m[1]), k.removesuffix(".weight")) for k in tensors if (m := re.fullmatch(hidden + r"\.weight", k))
        )
        names = [name for _, name in weights] + ([output] if output and f"{output}.weight" in tensors else [])
        if not weights or (output and names[-1] != output):
            continue
        layers = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in names]
        if any(w.ndim != 2 for w, _ in layers):
            raise ValueError(f"{path}: its policy has layers that are not linear; write act(obs, state, rng) for it")
        spread = tensors.get(log_std)
        box = isinstance(space, gym.spaces.Box)
        wanted = int(np.prod(space.shape or ())) if box else int(getattr(space, "n", -1))
        if len(layers[-1][1]) != wanted or box != (spread is not None):
            raise ValueError(f"{path}: its policy has {len(layers[-1][1])} outputs; this family's actions are {space}")
        return MlpPolicy(layers, None if spread is None else spread.reshape(-1), space)
    raise ValueError(
        f"{path} holds no policy of CleanRL or Stable-Baselines3's MlpPolicy; its tensors: {min(tensors)}, ..."
    )


def _tensors(path: Path) -> dict[str, NDArray]:
    def read(raw: bytes) -> Any:
        with zipfile.ZipFile(io.BytesIO(raw)) as zipped:
            raw = zipped.read("policy.pth") if "policy.pth" in zipped.namelist() else raw
        return torch_load(io.BytesIO(raw))

    loaded = read_checkpoint(path, read)
    found = {k: v.numpy() for k, v in loaded.items() if isinstance(v, torch.Tensor)} if isinstance(loaded, dict) else {}
    if not found:
        raise ValueError(f"{path} holds no tensors by name; save agent.state_dict()")
    return found
