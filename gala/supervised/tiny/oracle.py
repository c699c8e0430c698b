"""What a linear classifier that knows where to look reaches: the check that the images hold what is asked of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gala.supervised.tiny.images import TinyImages

_L2 = 1e-3


def oracle_accuracy(train: TinyImages, test: TinyImages) -> float:
    """The share of ``test`` that logistic regression gets right from the pixels of the object, or of what stands for
    it, alone; fitted to ``train``."""
    x, mean, scale = _standardised(_crops(train))
    y = train.labels.double()
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = F.binary_cross_entropy_with_logits(x @ weights[1:] + weights[0], y)
        loss = fit + _L2 * weights[1:].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        logits = (_crops(test) - mean) / scale @ weights[1:] + weights[0]
    return float(((logits > 0).long() == test.labels).double().mean())


def _crops(images: TinyImages) -> Tensor:
    return torch.cat([images.crops(part) for part in images.chunks()]).flatten(1).double()


def _standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, scale = x.mean(0), x.std(0) + 1e-9
    return (x - mean) / scale, mean, scale
