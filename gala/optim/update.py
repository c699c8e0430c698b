"""The learning step that all loops share: reduce, precondition, clip, step, average, slow step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gala.optim import eager


class NotFinite(FloatingPointError):
    """A training has diverged, or an environment returned what no network can read."""

    says_all = True
    """See ``gala.processes.child.Failure``: none of the code that the traceback would show is at fault."""


class Step(Protocol):
    """Moves parameters once per update: an averager (``gala.gossip.averager.GossipAverager``). One that knows
    learners that join has ``slice_weights``: 0 where its parameters have yet to become those of others."""

    def step(self) -> object: ...


class SlowStep(Protocol):
    """Moves parameters along what many updates have moved them: ``gala.optim.slowmo.SlowMo``."""

    def step(self) -> object: ...

    def restart(self) -> None: ...


class LearningStep:
    """What follows ``backward`` in every loop, in this order and nowhere else.

    1. reduce: gradients become their mean over learners (synchronous data-parallel training), before anything that is
       not linear in them, so that all learners take the same step;
    2. precondition: gradients are rewritten (EKFAC, say);
    3. clip: their common 2-norm is at most ``max_grad_norm``;
    4. the optimiser's step, at the learning rate of this update;
    5. the averager's step: parameters are exchanged after the step ("adapt, then combine");
    6. the slow step, after the exchange; begun anew when a learner that joins gets its first mass, by which its
       parameters become those of others at once.

    Args:
        optimizer: over the parameters whose ``.grad`` is rewritten; its state stays local.
        reduce_gradients: averages a list of tensors over all learners, in place.
        precondition: rewrites the gradients in place, given the learning rate.
        max_grad_norm: 0 is no limit.
        averager: gossip; the model does not know that it exists.
        slowmo: slow momentum.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        reduce_gradients: Callable[[list[Tensor]], None] | None = None,
        precondition: Callable[[float], None] | None = None,
        max_grad_norm: float = 0.0,
        averager: Step | None = None,
        slowmo: SlowStep | None = None,
    ) -> None:
        self.optimizer, self.reduce_gradients, self.precondition = optimizer, reduce_gradients, precondition
        self.max_grad_norm, self.averager, self.slowmo = max_grad_norm, averager, slowmo
        self._empty = 0  # slices without weight, as far as it is known
        self.exchange_s = 0.0
        """Seconds spent in the averager and in the slow step, so far."""
        self.clip_factor = 1.0
        """What the last step's gradient was multiplied by to keep ``max_grad_norm``."""

    def __call__(self, lr: float | None = None) -> Tensor:
        """One step at learning rate ``lr`` (None: the optimiser's own). Returns the gradient's norm before clipping.

        Raises:
            NotFinite: the gradient is not finite; the parameters are untouched.
        """
        groups = self.optimizer.param_groups
        if lr is not None:
            for group in groups:
                group["lr"] = lr
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if self.reduce_gradients is not None:
            self.reduce_gradients(gradients)
        if self.precondition is not None:
            self.precondition(groups[0]["lr"])
        norm = clip_(gradients, self.max_grad_norm)
        if not math.isfinite(size := norm.item()):
            raise NotFinite(f"the gradient's norm is {size:g}: not finite; lower the learning rate")
        self.clip_factor = clip_factor(size, self.max_grad_norm)
        eager.step(self.optimizer)
        started = time.perf_counter()
        self._average()
        self.exchange_s += time.perf_counter() - started
        return norm

    def notice_first_mass(self) -> None:
        """The slow step begins anew where a learner that joins has got its first mass since the last update. Noticed in
        each update; to be called after a drain whose result is saved."""
        before, self._empty = self._empty, self._count_empty()
        if self.slowmo is not None and self._empty < before:
            self.slowmo.restart()

    def _average(self) -> None:
        self._empty = max(self._empty, self._count_empty())
        if self.averager is not None:
            self.averager.step()
        self.notice_first_mass()
        if self.slowmo is not None:
            self.slowmo.step()

    def _count_empty(self) -> int:
        slices = getattr(self.averager, "slice_weights", None)
        return sum(not weight for _, weight in slices()) if slices and self.slowmo is not None else 0


def clip_factor(norm: float, max_norm: float) -> float:
    """What a gradient of this 2-norm is multiplied by so that it has at most ``max_norm`` (0: no limit)."""
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0


def clip_(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Scale ``gradients`` in place so that their common 2-norm is at most ``max_norm`` (0: no limit); smaller ones stay
    as they are. Returns the norm before, a scalar."""
    norms = [gradient.norm() for gradient in gradients]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if max_norm > 0:
        scale = clip_factor(norm.item(), max_norm)
        for gradient in gradients:
            gradient.mul_(scale)
    return norm
