"""Adam for learners whose parameters are averaged: each sees one gradient of many, and steps as if it saw the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gala.optim.closure import evaluated

SIGNAL_BETA = 0.99


def mean_square(
    v: Tensor, s: Tensor, t: float, learners: int, beta2: float, signal_beta: float = SIGNAL_BETA
) -> Tensor:
    """u of ``MeanAdam``, a new tensor like ``v``, from its running means as they are kept, after ``t`` steps."""
    v_start = 1 - beta2**t
    u = s.square().mul_(v_start / (1 - signal_beta**t) ** 2)  # on the scale of v, which is not corrected yet
    return torch.minimum(u, v, out=u).mul_((1 - 1 / learners) / v_start).add_(v, alpha=1 / (learners * v_start))


class MeanAdam(Optimizer):
    """Adam that divides by the second moment of the mean gradient of ``learners`` learners, of which it sees one.

        m <- b1 m + (1 - b1) g;    v <- b2 v + (1 - b2) g^2;    s <- b3 s + (1 - b3) g        corrected for their start
        u = v / n + (1 - 1 / n) min(s^2, v)
        p <- p - lr m / (sqrt(u) + eps)

    A gradient is signal and noise, E[g^2] = signal^2 + noise^2, and the mean of n has signal^2 + noise^2 / n, which is
    u: s, a mean over a hundred gradients by default, is the signal. Where a parameter's gradient is all signal the step
    is Adam's; where it is all noise it is sqrt(n) times as long, so that the mean of n such steps advances as far, and
    wanders as far, as one step of Adam on all n batches. sqrt(n) times the learning rate (``gossip.lr_scaling=sqrt``)
    lengthens the first kind too. With n = 1 it is Adam (arXiv 1412.6980).

    Args:
        params: of any shapes; m, v and s have theirs.
        betas: b1 and b2, as Adam's.
        learners: n, those whose parameters are averaged.
        signal_beta: b3, the nearer to 1 the longer what is a signal must last.

    Raises:
        ValueError: a number is out of its bounds.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        learners: int,
        signal_beta: float = SIGNAL_BETA,
    ) -> None:
        if not (lr >= 0 and eps > 0 and learners >= 1 and all(0 <= b < 1 for b in (*betas, signal_beta))):
            raise ValueError(
                f"MeanAdam wants lr >= 0, 0 <= betas and signal_beta < 1, eps > 0, learners >= 1; got {lr}, {betas}, "
                f"{signal_beta}, {eps}, {learners}"
            )
        own = {"learners": learners, "signal_beta": signal_beta}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, p.grad, group)
        return loss

    def _step_one(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (b1, b2), b3, n, state = group["betas"], group["signal_beta"], group["learners"], self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state |= {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq", "signal")}
        state["step"] += 1
        t = state["step"].item()
        m = state["exp_avg"].lerp_(gradient, 1 - b1)
        s = state["signal"].lerp_(gradient, 1 - b3)
        v = state["exp_avg_sq"].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        u = mean_square(v, s, t, n, b2, b3)
        p.addcdiv_(m, u.sqrt_().add_(group["eps"]), value=-group["lr"] / (1 - b1**t))
