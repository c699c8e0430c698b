"""Nudged SGD: a smaller, or larger, step along the sharpest directions only (arXiv 1807.05031, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class NudgedSGD(Optimizer):
    """Wraps any optimiser, and is one of the same parameter groups and state. Of the wrapped one's step u, the part
    along the orthonormal sharpest directions e_i is scaled by gamma:

        u <- u + (gamma - 1) sum_i <e_i, u> e_i

    The paper takes plain SGD, the top 5 or 10 eigenvectors, once an epoch, and gamma of 0.01 to 5.

        params = list(model.parameters())
        hessian = lambda: hessian_product(lambda: F.cross_entropy(model(x), y), params)
        sharpest = lambda: top_eigenpairs(hessian(), flat(params), 5).vectors
        optimizer = NudgedSGD(torch.optim.SGD(params, lr=0.01), sharpest, gamma=0.1, every=100)

    Args:
        optimizer: its parameters, in their order, are what the directions are about.
        sharpest: () -> orthonormal directions ``[d, K]`` at the parameters as they are. It leaves ``.grad`` alone.
        gamma: 1 leaves the step as it is, 0 does not move along the directions at all.
        every: steps between two calls of ``sharpest``; the first comes before the first step.
    """

    def __init__(self, optimizer: Optimizer, sharpest: Callable[[], Tensor], *, gamma: float, every: int) -> None:
        if gamma < 0 or every < 1:
            raise ValueError(f"NudgedSGD wants gamma >= 0 and every >= 1; got {gamma}, {every}")
        self.optimizer, self.sharpest, self.gamma, self.every = optimizer, sharpest, gamma, every
        self.steps = 0
        self.directions: Tensor | None = None
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the wrapped optimiser, nudged. Returns what ``closure`` does."""
        self._share()
        if self.steps % self.every == 0 or self.directions is None:
            self.directions = self.sharpest()  # before the step: at the parameters that the gradient is of
        self.steps += 1
        params = [p for group in self.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in params]
        loss = self.optimizer.step(closure)
        if self.gamma == 1.0:
            return loss
        with torch.no_grad():
            moved = torch.cat([(p - x).reshape(-1) for p, x in zip(params, before, strict=True)])
            nudge = self.directions @ (self.directions.T @ moved) * (self.gamma - 1.0)
            for p, part in zip(params, nudge.split([p.numel() for p in params]), strict=True):
                p.add_(part.view_as(p))
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """To the wrapped optimiser; directions are sought anew at the next step."""
        if self.param_groups is self.optimizer.param_groups:
            self.optimizer.add_param_group(param_group)
            self.directions = None
        else:  # they are being shown to the base class, which builds its own list
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimiser's, with the number of ``steps`` and the ``directions`` as they are."""
        return self.optimizer.state_dict() | {"steps": self.steps, "directions": self.directions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; of the wrapped optimiser alone, its steps begin at 0."""
        directions = state_dict.get("directions")
        self.optimizer.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._share()
        self.steps = int(state_dict.get("steps", 0))
        self.directions = None if directions is None else directions.clone().to(self.param_groups[0]["params"][0])

    def _share(self) -> None:
        """Loading replaces an optimiser's groups and state: they are the wrapped one's, whoever loaded them."""
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
