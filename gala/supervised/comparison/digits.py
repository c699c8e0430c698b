"""Handwritten digits: the 1797 images of scikit-learn (8 x 8, ten classes), which need no download, and a small CNN."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gala.config.extras import install


class Digits(NamedTuple):
    """Images are [N, 1, 8, 8] float32 in [0, 1], labels [N] int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(test_fraction: float, split_seed: int) -> Digits:
    """The data, split at random by ``split_seed``.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(f"the digits need scikit-learn: {install('supervised')}") from None
    raw = load_digits()
    images = torch.from_numpy(raw.images).float().div_(16.0).unsqueeze(1)
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(split_seed))
    num_test = max(1, round(test_fraction * len(labels)))
    test, train = order[:num_test], order[num_test:]
    return Digits(images[train], labels[train], images[test], labels[test])


def make_cnn(seed: int) -> nn.Module:
    """15,338 parameters, the same in every learner: [B, 1, 8, 8] -> logits [B, 10]. No batch norm, whose running
    statistics gossip would not carry."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(128, 10)),
        )
