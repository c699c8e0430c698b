"""RMSprop as TensorFlow 1 computed it, which is what the published A2C results were trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gala.optim.closure import evaluated


class RMSpropTF(Optimizer):
    """RMSprop with epsilon inside the root and second moments that start at 1.

        s <- alpha s + (1 - alpha) g^2;    p <- p - lr g / sqrt(s + eps)

    ``torch.optim.RMSprop`` has eps outside the root and s = 0 at the start: with eps = 1e-5 its steps on small
    gradients are hundreds of times larger, and A2C curves differ even on CartPole.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 7e-4, alpha: float = 0.99, eps: float = 1e-5) -> None:
        if lr < 0 or not 0 <= alpha < 1 or eps <= 0:
            raise ValueError(f"RMSpropTF wants lr >= 0, 0 <= alpha < 1, eps > 0; got {lr}, {alpha}, {eps}")
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["square_avg"] = torch.ones_like(p)
                square = state["square_avg"].mul_(group["alpha"]).addcmul_(p.grad, p.grad, value=1 - group["alpha"])
                p.addcdiv_(p.grad, square.add(group["eps"]).sqrt_(), value=-group["lr"])
        return loss
