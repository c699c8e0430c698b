"""Observation encoders: ``obs [N, ...] -> features [N, num_features]``. ENCODERS is the registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import gymnasium as gym
import numpy as np
import torch
from gala_envs.parts import FlatBox, Part
from torch import Tensor, nn

from gala.models.bagnet import BAGNET_KERNELS, bagnet_layers
from gala.models.by_parts import PartsEncoder, Read, rest_space
from gala.models.pooling import make_pooling
from gala.models.residual import Step, impala_layers, orthogonal_, steps_of
from gala.plugins import loading

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class EncoderSettings(Protocol):
    """What the encoders read; ``gala.config.schema.ModelConfig`` says what each means."""

    @property
    def encoder(self) -> str: ...
    @property
    def hidden(self) -> Sequence[int]: ...
    @property
    def activation(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def pooling(self) -> str: ...
    @property
    def pool_temperature(self) -> float: ...
    @property
    def pool_top_k(self) -> int: ...
    @property
    def receptive_field(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def shared_blocks(self) -> bool: ...
    @property
    def block_norm(self) -> str: ...
    @property
    def block_scale(self) -> float: ...


_LARGEST_VALUE = 1e6
"""Bounds beyond it (those of a type, say) do not tell how large the values are."""


def bounded_by(obs_space: gym.spaces.Box) -> float:
    """The largest absolute value within the bounds; infinite without."""
    return max(float(np.abs(bound.astype(np.float64)).max()) for bound in (obs_space.low, obs_space.high))


def unit_scale(obs_space: gym.spaces.Box) -> float:
    """What integer observations of this space are multiplied by to lie within [-1, 1]; 1 where its bounds do not tell.

    Floats are what the environment, or ``normalize.obs``, has made them: they take no scale.
    """
    if not np.issubdtype(obs_space.dtype, np.integer):
        return 1.0
    largest = bounded_by(obs_space)
    return 1.0 / largest if 1.0 <= largest <= _LARGEST_VALUE else 1.0


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


class ImageEncoder(nn.Module):
    """Layers over images ``[N, C, H, W]``, a pooling, and one dense layer; images of integers are scaled to [0, 1],
    those of floats (``normalize.obs`` makes such) are taken as they come."""

    def __init__(
        self, obs_space: gym.spaces.Box, layers: Sequence[nn.Module], num_features: int, model: EncoderSettings
    ) -> None:
        """``layers``: from the image's channels to the last maps."""
        super().__init__()
        self.scale = unit_scale(obs_space)
        self.convs = nn.Sequential(*layers)
        with torch.no_grad():
            try:
                maps = self.convs(torch.zeros(1, *obs_space.shape)).shape[1:]
            except RuntimeError as error:
                raise ValueError(
                    f"images of {obs_space.shape} are too small for model.encoder={model.encoder}; choose another"
                ) from error
        pool = make_pooling(model.pooling, tuple(maps), model.pool_temperature, model.pool_top_k)
        width = cast(int, pool.num_features)
        self.dense = nn.Sequential(pool, orthogonal_(nn.Linear(width, num_features), math.sqrt(2)), nn.ReLU())
        self.num_features = num_features
        # Measured on CPU: 10 to 20% faster convolutions; weights are stored so once, not permuted at every call.
        self.convs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def scaled(self, obs: Tensor) -> Tensor:
        """What the first layer sees."""
        device = obs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dense[1].weight.dtype
        # Permuting bytes before widening them, and scaling in the short type, saves a third of the encoder's time.
        x = obs.contiguous(memory_format=torch.channels_last).to(cast(torch.dtype, dtype))
        return x if self.scale == 1.0 or obs.is_floating_point() else x * self.scale

    def steps(self) -> list[Step]:
        """All that follows ``scaled``, each use of a residual block as a step of its own."""
        return [*steps_of(self.convs), Step(self.dense)]

    def forward(self, obs: Tensor) -> Tensor:
        return self.dense(self.convs(self.scaled(obs)))


def _image_channels(obs_space: gym.spaces.Box) -> int:
    if len(obs_space.shape) != 3:
        raise ValueError(
            f"a convolutional encoder wants [C, H, W] images, not {obs_space.shape}; use model.encoder=mlp"
        )
    return obs_space.shape[0]


def conv_net(
    obs_space: gym.spaces.Box, convs: Sequence[tuple[int, int, int]], num_features: int, model: EncoderSettings
) -> ImageEncoder:
    """``convs``: (channels, kernel, stride) of each layer, ReLU after each."""
    channels, layers = _image_channels(obs_space), list[nn.Module]()
    for out, kernel, stride in convs:
        layers += [orthogonal_(nn.Conv2d(channels, model.width * out, kernel, stride), math.sqrt(2)), nn.ReLU()]
        channels = model.width * out
    return ImageEncoder(obs_space, layers, num_features, model)


def impala(obs_space: gym.spaces.Box, model: EncoderSettings) -> ImageEncoder:
    """See ``gala.models.residual.impala_layers``."""
    layers = impala_layers(
        _image_channels(obs_space),
        [model.width * channels for channels in _IMPALA],
        blocks=model.blocks,
        shared=model.shared_blocks,
        norm=model.block_norm,
        scale=model.block_scale,
    )
    return ImageEncoder(obs_space, layers, 256, model)


def bagnet(obs_space: gym.spaces.Box, model: EncoderSettings) -> ImageEncoder:
    """See ``gala.models.bagnet.bagnet_layers``."""
    width = 32 * model.width
    layers = bagnet_layers(_image_channels(obs_space), width, BAGNET_KERNELS[model.receptive_field])
    return ImageEncoder(obs_space, layers, 256, model)


def by_parts(obs_space: gym.spaces.Box, model: EncoderSettings) -> nn.Module:
    """Each image through convolutions, all other parts through one MLP. ``model.encoder`` names those of all images, or
    is ``parts``: then each image gets the usual ones. An observation that is one array: the usual encoder.

    Raises:
        ValueError: convolutions are named, and no part is an image.
    """
    if not isinstance(obs_space, FlatBox):
        return ENCODERS[encoder_for(obs_space)](obs_space, model)
    reads, encoders = list[Read](), list[nn.Module]()
    rest: list[Part] = []
    for part in obs_space.parts:
        space = obs_space.part_space(part)
        usual = encoder_for(space)
        if usual == "mlp":
            rest.append(part)
        else:
            reads.append(Read((part,), usual if model.encoder == "parts" else model.encoder))
            encoders.append(ENCODERS[reads[-1].name](space, model))
    if not reads and model.encoder != "parts":
        raise ValueError(f"model.encoder={model.encoder} wants an image with bounds among the parts; use mlp")
    if rest:
        reads.append(Read(tuple(rest), "mlp"))
        encoders.append(ENCODERS["mlp"](rest_space(obs_space, rest), model))
    return PartsEncoder(reads, encoders)


# Mnih et al. 2015; with 6 actions and the value head 866,439 parameters in the GALA paper's width (64 -> 32 last maps).
_NATURE = [(32, 8, 4), (64, 4, 2), (32, 3, 1)]
_A3C_2016 = [(16, 8, 4), (32, 4, 2)]
_MINATAR = [(16, 3, 1)]  # Young and Tian 2019
_IMPALA = (16, 32, 32)  # with two blocks, images [3, 64, 64] and 15 actions 626,256 parameters

Encoder = Callable[[gym.spaces.Box, Sequence[int], str], nn.Module]
"""(observation space, ``model.hidden``, ``model.activation``) -> a module with the attribute ``num_features`` that maps
``obs [N, ...]``, in the dtype of the space or, with ``normalize.obs``, float32, to float features ``[N,
num_features]``. A class of such modules is one.

Its initial parameters may depend on torch's global generator and nothing else: all learners must start equal. Only
parameters are exchanged, so statistics kept in buffers (batch normalisation) would differ between learners."""

ENCODERS: dict[str, Callable[[gym.spaces.Box, EncoderSettings], nn.Module]] = {
    "mlp": lambda space, model: MLP(space, model.hidden, model.activation),
    "nature_cnn": lambda space, model: conv_net(space, _NATURE, 512, model),
    "a3c_cnn": lambda space, model: conv_net(space, _A3C_2016, 256, model),
    "minatar_cnn": lambda space, model: conv_net(space, _MINATAR, 128, model),
    "impala": impala,
    "bagnet": bagnet,
    "parts": by_parts,
}
"""gala's own, which read more settings than an ``Encoder`` is given."""


_NATURE_SIDE = 36
"""Pixels: below, the convolutions of the Nature network have nothing left to see."""


def encoder_for(obs_space: gym.Space) -> str:
    """The usual encoder: convolutions for images ``[C, H, W]`` whose values are bounded, else dense layers; ``parts``
    where there are such images among several things."""
    if isinstance(obs_space, FlatBox):
        return "parts" if any(encoder_for(obs_space.part_space(part)) != "mlp" for part in obs_space.parts) else "mlp"
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 3:
        return "mlp"
    if bounded_by(obs_space) > _LARGEST_VALUE or min(obs_space.shape[1:]) < 3:
        return "mlp"
    return "nature_cnn" if min(obs_space.shape[1:]) >= _NATURE_SIDE else "minatar_cnn"


def make_encoder(obs_space: gym.spaces.Box, model: EncoderSettings) -> nn.Module:
    """The encoder ``model.encoder``: of ``ENCODERS``, or ``module:attribute``.

    Raises:
        ValueError: there is none of that name, it cannot read this space, or it is not what ``Encoder`` says.
    """
    name = model.encoder
    if isinstance(obs_space, FlatBox) and name in ENCODERS and name != "mlp":
        return by_parts(obs_space, model)
    if name in ENCODERS:
        return ENCODERS[name](obs_space, model)
    encoder = loading.load(name, "model.encoder")
    try:
        module = encoder(obs_space, model.hidden, model.activation)
    except TypeError as error:
        raise ValueError(f"model.encoder={name} is called with (obs_space, hidden, activation): {error}") from error
    if not isinstance(module, nn.Module) or not isinstance(getattr(module, "num_features", None), int):
        raise ValueError(f"model.encoder={name} must make a torch.nn.Module with a whole number num_features")
    if others := {str(p.dtype) for p in module.parameters() if p.dtype != torch.float32}:
        raise ValueError(f"model.encoder={name} has parameters of {', '.join(sorted(others))}; make it .float()")
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
