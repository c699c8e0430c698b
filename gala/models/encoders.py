"""Observation encoders: ``obs [N, ...] -> features [N, num_features]``. ENCODERS is the registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from gala.plugins import loading

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def orthogonal_(layer: nn.Module, gain: float) -> nn.Module:
    """Orthogonal weights and zero biases, the initialisation behind the published A2C scores."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Flattens the observation and applies ``hidden`` dense layers."""

    def __init__(self, obs_space: gym.spaces.Box, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        width = math.prod(obs_space.shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for out in hidden:
            layers += [orthogonal_(nn.Linear(width, out), math.sqrt(2)), ACTIVATIONS[activation]()]
            width = out
        self.layers = nn.Sequential(*layers)
        self.num_features = width

    def forward(self, obs: Tensor) -> Tensor:
        return self.layers(obs.float())


class ConvNet(nn.Module):
    """Convolutions and one dense layer over images ``[N, C, H, W]``; integer images are scaled to [0, 1]."""

    def __init__(self, obs_space: gym.spaces.Box, convs: Sequence[tuple[int, int, int]], num_features: int) -> None:
        """``convs``: (channels, kernel, stride) of each layer, ReLU after each."""
        super().__init__()
        if len(obs_space.shape) != 3:
            raise ValueError(
                f"a convolutional encoder wants [C, H, W] images, not {obs_space.shape}; use model.encoder=mlp"
            )
        self.scale = 1.0 / float(obs_space.high.max())
        channels = obs_space.shape[0]
        layers: list[nn.Module] = []
        for out, kernel, stride in convs:
            layers += [orthogonal_(nn.Conv2d(channels, out, kernel, stride), math.sqrt(2)), nn.ReLU()]
            channels = out
        self.convs = nn.Sequential(*layers)
        with torch.no_grad():
            flat = self.convs(torch.zeros(1, *obs_space.shape)).numel()
        self.dense = nn.Sequential(nn.Flatten(), orthogonal_(nn.Linear(flat, num_features), math.sqrt(2)), nn.ReLU())
        self.num_features = num_features
        # Measured on CPU: 10 to 20% faster convolutions; weights are stored so once, not permuted at every call.
        self.convs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: Tensor) -> Tensor:
        device = obs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        # Permuting bytes before widening them, and scaling in the short type, saves a third of the encoder's time.
        x = obs.contiguous(memory_format=torch.channels_last).to(dtype)
        return self.dense(self.convs(x if self.scale == 1.0 else x * self.scale))


# Mnih et al. 2015; with 6 actions and the value head 866,439 parameters in the GALA paper's width (64 -> 32 last maps).
_NATURE = [(32, 8, 4), (64, 4, 2), (32, 3, 1)]
_A3C_2016 = [(16, 8, 4), (32, 4, 2)]
_MINATAR = [(16, 3, 1)]  # Young and Tian 2019

Encoder = Callable[[gym.spaces.Box, Sequence[int], str], nn.Module]
"""(observation space, ``model.hidden``, ``model.activation``) -> a module with the attribute ``num_features`` that maps
``obs [N, ...]``, in the dtype of the space, to float features ``[N, num_features]``. A class of such modules is one.

Its initial parameters may depend on torch's global generator and nothing else: all learners must start equal. Only
parameters are exchanged, so statistics kept in buffers (batch normalisation) would differ between learners."""

ENCODERS: dict[str, Encoder] = {
    "mlp": MLP,
    "nature_cnn": lambda space, hidden, activation: ConvNet(space, _NATURE, 512),
    "a3c_cnn": lambda space, hidden, activation: ConvNet(space, _A3C_2016, 256),
    "minatar_cnn": lambda space, hidden, activation: ConvNet(space, _MINATAR, 128),
}


_NATURE_SIDE = 36
"""Pixels: below, the convolutions of the Nature network have nothing left to see."""


def encoder_for(obs_space: gym.Space) -> str:
    """The usual encoder: convolutions for images ``[C, H, W]`` whose values have an upper bound, else dense layers."""
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 3:
        return "mlp"
    if not np.isfinite(obs_space.high).all() or min(obs_space.shape[1:]) < 3:
        return "mlp"
    return "nature_cnn" if min(obs_space.shape[1:]) >= _NATURE_SIDE else "minatar_cnn"


def make_encoder(name: str, obs_space: gym.spaces.Box, hidden: Sequence[int], activation: str) -> nn.Module:
    """The encoder ``name``: of ``ENCODERS``, or ``module:attribute``.

    Raises:
        ValueError: there is none of that name, or it is not what ``Encoder`` says.
    """
    if name in ENCODERS:
        return ENCODERS[name](obs_space, hidden, activation)
    encoder = loading.load(name, "model.encoder")
    try:
        module = encoder(obs_space, hidden, activation)
    except TypeError as error:
        raise ValueError(f"model.encoder={name} is called with (obs_space, hidden, activation): {error}") from error
    if not isinstance(module, nn.Module) or not isinstance(getattr(module, "num_features", None), int):
        raise ValueError(f"model.encoder={name} must make a torch.nn.Module with a whole number num_features")
    _check_features(name, module, obs_space)
    return module


@torch.no_grad()
def _check_features(name: str, module: nn.Module, obs_space: gym.spaces.Box) -> None:
    batch = torch.from_numpy(np.zeros((2, *obs_space.shape), obs_space.dtype))
    try:
        features = module(batch)
    except Exception as error:
        raise ValueError(f"model.encoder={name} fails on {tuple(batch.shape)} {batch.dtype}: {error}") from error
    if not isinstance(features, Tensor) or features.shape != (2, module.num_features):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"model.encoder={name} makes {shape} of {tuple(batch.shape)}; with num_features={module.num_features} it "
            f"must be {(2, module.num_features)}"
        )
