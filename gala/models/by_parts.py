"""An encoder of its own for each image in an observation of several parts, and one for all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from gala_envs.parts import FlatBox, Part
from torch import Tensor, nn


class Read(NamedTuple):
    """What one encoder reads: some parts, and the encoder's name."""

    parts: tuple[Part, ...]
    name: str

    @property
    def is_image(self) -> bool:
        return self.name != "mlp"


def image_shape(part: Part) -> tuple[int, ...]:
    """[C, H, W] of an image, however it lies."""
    return (part.shape[2], *part.shape[:2]) if part.channels_last else part.shape


class PartsEncoder(nn.Module):
    """``obs [N, W]``, a vector of parts -> the features of all that is read, one after the other: ``[N, F]``."""

    def __init__(self, reads: Sequence[Read], encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.reads, self.encoders = tuple(reads), nn.ModuleList(encoders)
        self.num_features = sum(cast(int, encoder.num_features) for encoder in encoders)

    def forward(self, obs: Tensor) -> Tensor:
        pairs = zip(self.encoders, self.reads, strict=True)
        return torch.cat([encoder((_image if read.is_image else _rest)(obs, read)) for encoder, read in pairs], 1)

    def summary(self) -> str:
        """Which parts go through what, and to how many features."""
        said = []
        for read, encoder in zip(self.reads, self.encoders, strict=True):
            shape = image_shape(read.parts[0]) if read.is_image else (sum(part.size for part in read.parts),)
            names = " + ".join(part.name for part in read.parts)
            said.append(f"{names} {list(shape)} by {read.name} ({encoder.num_features})")
        return "; ".join(said)


def _image(obs: Tensor, read: Read) -> Tensor:
    (part,) = read.parts
    image = obs[:, part.start : part.start + part.size].unflatten(1, part.shape)
    return image.permute(0, 3, 1, 2) if part.channels_last else image


def _rest(obs: Tensor, read: Read) -> Tensor:
    return torch.cat([obs[:, part.start : part.start + part.size] for part in read.parts], 1)


def rest_space(space: FlatBox, parts: Sequence[Part]) -> FlatBox:
    """The space of ``parts`` alone, one after the other."""
    boxes = [space.part_space(part) for part in parts]
    low, high = (
        torch.cat([torch.from_numpy(getattr(b, end)).flatten() for b in boxes]).numpy() for end in ("low", "high")
    )
    return FlatBox(low, high, space.dtype.type, ())
