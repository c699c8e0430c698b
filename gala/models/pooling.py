"""From maps of features to one vector: ``[N, C, H, W] -> [N, num_features]``. POOLING is the registry.

What the choice does where an object covers little of an image: Pawlowski et al. 2019 (arXiv 1908.06037). All but
flatten forget where something is, and make the dense layer that follows H x W times smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_ATTENTION_WIDTH = 128


class Pooling(nn.Module):
    """A function of the locations, ``pool([N, C, L]) -> [N, num_features]``."""

    def __init__(self, num_features: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_features, self._pool = num_features, pool

    def forward(self, maps: Tensor) -> Tensor:
        return self._pool(maps.flatten(2))


class Attention(nn.Module):
    """The mean over locations, weighted by how relevant each looks: softmax over locations of q . tanh(W x + b).

    Ilse, Tomczak and Welling 2018 (arXiv 1802.04712), equation 8. A query of zeros gives the mean.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels
        self.look = nn.Linear(channels, _ATTENTION_WIDTH)
        self.query = nn.Linear(_ATTENTION_WIDTH, 1, bias=False)
        nn.init.orthogonal_(self.look.weight)
        nn.init.zeros_(self.look.bias)
        nn.init.orthogonal_(self.query.weight, 0.01)

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.flatten(2).transpose(1, 2)
        weight = torch.softmax(self.query(torch.tanh(self.look(x))), 1)
        return (weight * x).sum(1)


def log_mean_exp(x: Tensor, r: float) -> Tensor:
    """``(1/r) log mean_l exp(r x_l)`` over the last dimension: the mean for r -> 0, the maximum for r -> infinity, and
    never more than log(L) / r below it. The published code leaves out the mean's 1/L, which adds log(L) / r."""
    top = x.detach().amax(-1, keepdim=True)  # the result does not depend on it: no gradient
    return top.squeeze(-1) + torch.log1p(torch.expm1(r * (x - top)).mean(-1)) / r  # log and exp of small r cancel


def top_k_mean(x: Tensor, k: int) -> Tensor:
    """The mean of the ``k`` largest values over the last dimension."""
    return x.topk(k, -1).values.mean(-1)


Maker = Callable[[int, int, float, int], nn.Module]
"""(channels, locations, temperature, k) -> a module with ``num_features`` that maps maps to vectors."""

POOLING: dict[str, Maker] = {
    "flatten": lambda channels, locations, r, k: Pooling(channels * locations, lambda x: x.flatten(1)),
    "mean": lambda channels, locations, r, k: Pooling(channels, lambda x: x.mean(-1)),
    "max": lambda channels, locations, r, k: Pooling(channels, lambda x: x.amax(-1)),
    "logsumexp": lambda channels, locations, r, k: Pooling(channels, lambda x: log_mean_exp(x, r)),
    "attention": lambda channels, locations, r, k: Attention(channels),
    "top_k": lambda channels, locations, r, k: Pooling(channels, lambda x: top_k_mean(x, k)),
}


def make_pooling(name: str, maps: tuple[int, int, int], temperature: float, k: int) -> nn.Module:
    """The pooling ``name`` of maps ``(C, H, W)``.

    Raises:
        ValueError: the maps are empty, or have fewer than ``k`` locations to take the mean of.
    """
    locations = maps[1] * maps[2]
    if name == "top_k" and k > locations:
        raise ValueError(
            f"model.pool_top_k={k} is more than the {maps[1]} x {maps[2]} locations of these maps; lower it"
        )
    return POOLING[name](maps[0], locations, temperature, k)
