"""What a comparison trains on, and with which network: scikit-learn's digits, or images with one small object."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gala.config.supervised import SupervisedConfig, TinyConfig, geometry
from gala.models.bagnet import bagnet_layers, kernels_by_receptive_field
from gala.models.pooling import make_pooling
from gala.models.receptive_field import receptive_field
from gala.supervised.comparison import digits
from gala.supervised.tiny import glyphs
from gala.supervised.tiny.images import TinyImages

Images = Tensor | TinyImages
_CHUNK = 256


class DataSet(NamedTuple):
    """Images [N, 1, H, W] float32 in [0, 1], which may be rendered only when they are asked for; labels [N] int64."""

    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor


def load(config: SupervisedConfig) -> DataSet:
    """The training and the test set, which share no digit; they depend on ``split_seed`` and not on ``seeds``.

    Raises:
        ValueError: scikit-learn or matplotlib, whichever has the digits, is not installed.
    """
    if config.data == "digits":
        return DataSet(*digits.load(config.test_fraction, config.split_seed))
    t, seed = config.tiny, config.split_seed
    p, side = geometry(config.data, t)
    if config.data == "tiny-digits":
        pools = glyphs.handwritten(t.target, config.test_fraction, seed)
    else:
        pools = glyphs.rendered(t.target, p, config.test_fraction, seed)
    n = num_clutter(t, p, side)
    train = TinyImages(pools.train, side, n, size=t.train_images, split="train", seed=seed)
    test = TinyImages(pools.test, side, n, size=t.test_images, split="test", seed=seed)
    labels = train.labels
    if t.permuted_labels:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    return DataSet(train, labels, test, test.labels)


def pack(data: DataSet) -> tuple[Any, ...]:
    """The same without tensors; ``unpack`` is its inverse."""
    return tuple(x.numpy() if isinstance(x, Tensor) else x for x in data)


def unpack(packed: tuple[Any, ...]) -> DataSet:
    """The data set that was packed as arrays, for another process."""
    return DataSet(*(torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in packed))


def num_clutter(config: TinyConfig, p: int, side: int) -> int:
    """Pieces of clutter in an image with the object: ``coverage`` of its area, if none overlapped; at least one."""
    return max(1, round(config.coverage * side**2 / p**2))


def subset(images: Images, indices: Tensor) -> Images:
    """The images at ``indices [n]``, in that order."""
    return images.take(indices) if isinstance(images, TinyImages) else images[indices]


def make_model(config: SupervisedConfig, seed: int) -> nn.Module:
    """The network [B, 1, H, W] -> logits, the same in every learner. Raises ValueError for settings that cannot be.

    For images with a small object a BagNet, a pooling over all places, and a linear layer (arXiv 1908.06037, section
    3.2). No batch norm, whose running statistics gossip would not carry.
    """
    if config.data == "digits":
        return digits.make_cnn(seed)
    m = config.model
    kernels = kernels_by_receptive_field(m.strides)
    if m.receptive_field not in kernels:
        raise ValueError(
            f"model.receptive_field={m.receptive_field}: with model.strides={','.join(map(str, m.strides))} it can be "
            + ", ".join(map(str, kernels))
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(*bagnet_layers(1, m.channels, kernels[m.receptive_field], m.strides))
        side = -(-geometry(config.data, config.tiny)[1] // receptive_field(layers).stride)
        pool = make_pooling(m.pooling, (m.channels, side, side), m.pool_temperature, m.pool_top_k)
        model = nn.Sequential(layers, pool, nn.Linear(int(pool.num_features), 2))  # type: ignore[arg-type]
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def judge(model: nn.Module, images: Images, labels: Tensor) -> tuple[float, float]:
    """(accuracy in [0, 1], mean cross-entropy)."""
    logits = torch.cat([model(images[at : at + _CHUNK]) for at in range(0, len(labels), _CHUNK)])
    return float((logits.argmax(1) == labels).float().mean()), float(nn.functional.cross_entropy(logits, labels))
