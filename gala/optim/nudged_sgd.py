"""Nudged SGD: a smaller, or larger, step along the sharpest directions only (arXiv 1807.05031, section 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class NudgedSGD:
    """Wraps any optimiser: of its step u, the part along the orthonormal sharpest directions e_i is scaled by gamma.

        u <- u + (gamma - 1) sum_i <e_i, u> e_i

    The paper takes plain SGD, the top 5 or 10 eigenvectors, once an epoch, and gamma of 0.01 to 5.

        params = list(model.parameters())
        hessian = lambda: hessian_product(lambda: F.cross_entropy(model(x), y), params)
        sharpest = lambda: top_eigenpairs(hessian(), flat(params), 5).vectors
        optimizer = NudgedSGD(torch.optim.SGD(params, lr=0.01), sharpest, gamma=0.1, every=100)

    Args:
        optimizer: its parameters, in their order, are what the directions are about.
        sharpest: () -> orthonormal directions ``[d, K]`` at the parameters as they are.
        gamma: 1 leaves the step as it is, 0 does not move along the directions at all.
        every: steps between two calls of ``sharpest``; the first comes before the first step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, sharpest: Callable[[], Tensor], *, gamma: float, every: int
    ) -> None:
        if gamma < 0 or every < 1:
            raise ValueError(f"NudgedSGD wants gamma >= 0 and every >= 1; got {gamma}, {every}")
        self.optimizer, self.sharpest, self.gamma, self.every = optimizer, sharpest, gamma, every
        self.steps = 0
        self.directions: Tensor | None = None

    @property
    def param_groups(self) -> list[dict]:
        """The wrapped optimiser's."""
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The wrapped optimiser's."""
        self.optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """One step of the wrapped optimiser, nudged."""
        if self.steps % self.every == 0:
            self.directions = self.sharpest()  # before the step: at the parameters that the gradient is of
        self.steps += 1
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in params]
        self.optimizer.step()
        if self.gamma == 1.0:
            return
        assert self.directions is not None
        with torch.no_grad():
            moved = torch.cat([(p - x).reshape(-1) for p, x in zip(params, before, strict=True)])
            nudge = self.directions @ (self.directions.T @ moved) * (self.gamma - 1.0)
            for p, part in zip(params, nudge.split([p.numel() for p in params]), strict=True):
                p.add_(part.view_as(p))
