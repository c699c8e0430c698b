"""Any PyTorch network as a policy: ``torch:module:make?file=policy{run}.pt``, with weights that were saved anywhere.

``make`` is a class or a function that returns a ``torch.nn.Module``; other words after the ``?`` are its arguments. The
module gets a batch of observations ``[B, ...]`` (float64 as float32, all else as it is) and returns, first or alone,
what its actions are drawn from: logits ``[B, A]`` for discrete actions, or ``[B, 2 d]`` for a box of d numbers, means
and then logs of standard deviations. A memory is not kept: write ``act(obs, state, rng)`` for a recurrent network.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from gala.diagnostics.overfitting.policies import Decision, Noise, sample
from gala.plugins.loading import FAULTS


class TorchModulePolicy:
    """See the top of the file. Actions are sampled, from the generator of each row; those of a box are clipped."""

    def __init__(self, module: torch.nn.Module, space: gym.Space, name: str) -> None:
        self.module, self.space, self.name = module.eval(), space, name

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        x = np.ascontiguousarray(obs, np.float32 if obs.dtype == np.float64 else obs.dtype)
        try:
            with torch.no_grad():
                out = self.module(torch.from_numpy(x))
        except FAULTS as error:
            text = str(error).partition("\n")[0]
            raise ValueError(
                f"policy={self.name} failed on observations of shape {x.shape[1:]}: {type(error).__name__}: {text}"
            ) from error
        params = self._params(out[0] if isinstance(out, tuple | list) else out, len(obs))
        action = sample(self.space, params, noise)
        if isinstance(self.space, gym.spaces.Box):
            action = np.clip(action, self.space.low, self.space.high).reshape(len(obs), *self.space.shape)
        return Decision(action, params=params)

    def _params(self, out: Any, rows: int) -> NDArray:
        """float32 ``[rows, P]``. Raises ValueError for anything else that was returned."""
        width = 2 * int(np.prod(self.space.shape or ())) if isinstance(self.space, gym.spaces.Box) else self._choices()
        if not isinstance(out, torch.Tensor) or tuple(out.shape) != (rows, width):
            told = f"shape {list(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            raise ValueError(
                f"policy={self.name} returned {told}; for actions of {self.space} it must be [{rows}, {width}]"
            )
        if not bool(out.isfinite().all()):
            raise ValueError(f"policy={self.name} returned numbers that are not finite")
        return out.float().numpy()

    def _choices(self) -> int:
        return int(np.sum(self.space.nvec if isinstance(self.space, gym.spaces.MultiDiscrete) else self.space.n))  # type: ignore[attr-defined]


def torch_module_policy(make: Any, arguments: Mapping[str, Any], space: gym.Space, name: str) -> TorchModulePolicy:
    """The policy of ``make(**arguments)`` with the weights in ``arguments["file"]``, which is not passed on.

    Raises:
        ValueError: there is no file, it holds other tensors than the module has, or ``make`` returns no module.
    """
    rest = {key: value for key, value in arguments.items() if key != "file"}
    if "file" not in arguments:
        raise ValueError(f"policy={name} needs the file of its weights: torch:module:make?file=policy{{run}}.pt")
    try:
        module = make(**rest)
    except FAULTS as error:
        raise ValueError(f"policy={name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"policy={name} is a {type(module).__name__}, and no torch.nn.Module")
    path = Path(str(arguments["file"]))
    try:
        module.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not fit policy={name}: {text}") from None
    return TorchModulePolicy(module, space, name)


def torch_load(file: IO[bytes]) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain data; nothing else is unpickled."""
    return torch.load(file, map_location="cpu", weights_only=True)


def read_checkpoint(path: Path, read: Callable[[bytes], Any]) -> Any:
    """``read`` of the file's bytes. Raises ValueError in one line: there is no such file, or ``read`` failed."""
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        return read(path.read_bytes())
    except Exception as error:
        text = str(error).partition("\n")[0][:80]
        raise ValueError(f"{path}: not a checkpoint of tensors ({type(error).__name__}: {text})") from error


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, from a safetensors file or one of ``torch.save``; nothing that is pickled beside them is read.

    Raises:
        ValueError: there is no such file, or it holds anything but tensors by name.
    """
    safe = path.suffix == ".safetensors"
    found = read_checkpoint(path, load if safe else lambda raw: torch_load(io.BytesIO(raw)))
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ValueError(f"{path} must hold tensors by name, and nothing else; save module.state_dict()")
    return found
