"""The supervised loop: any model, any data set, any optimiser, with the parts of gossip and of SlowMo as options."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gala.optim.update import LearningStep

Batch = tuple[Tensor | tuple[Tensor | None, ...], Tensor]
"""(inputs [B, ...], or a tuple of the model's arguments; targets [B, ...])."""


class SupervisedLearner:
    """One learner: ``batch -> loss -> backward -> learning step``.

    Args:
        model: build ``averager`` with its parameters first, and the optimiser too if it copies them.
        batches: an endless iterator of batches.
        loss: (outputs, targets) -> scalar.
        learning_step: what follows the backward pass; its optimiser is over the model's parameters.
        observe: is shown each batch's inputs before the pass over them: what EKFAC learns a curvature from.
        compute_s: an iteration's forward and backward pass are stretched to this many seconds by sleeping, so that
            communication can be studied beside the compute of a larger model or of a slower machine.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[Batch],
        loss: Callable[[Any, Tensor], Tensor],
        learning_step: LearningStep,
        *,
        observe: Callable[..., None] | None = None,
        compute_s: float = 0.0,
    ) -> None:
        self.model, self.batches, self.loss, self.learning_step = model, batches, loss, learning_step
        self.observe, self.compute_s = observe, compute_s
        self.busy_s = 0.0
        """Seconds really spent in forward and backward passes, so far."""
        self.late = 0
        """Iterations whose passes took longer than ``compute_s``."""

    def update(self, lr: float | None = None) -> Tensor:
        """One iteration, at the given learning rate if there is one; returns the loss of its batch, detached."""
        started = time.monotonic()
        inputs, targets = next(self.batches)
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        if self.observe is not None:
            self.observe(*arguments)
        outputs = self.model(*arguments)
        loss = self.loss(outputs, targets)
        self.learning_step.optimizer.zero_grad()
        loss.backward()
        self._stretch(time.monotonic() - started)
        self.learning_step(lr)
        return loss.detach()

    def _stretch(self, spent_s: float) -> None:
        self.busy_s += spent_s
        if spent_s < self.compute_s:
            time.sleep(self.compute_s - spent_s)
        else:
            self.late += 1


def endless_batches(inputs: Any, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Shuffled batches of ``batch_size`` for ever; each example once per pass, and batches may span two passes.

    ``inputs`` has a length, and gives the tensor [n, ...] of the examples that an index tensor [n] names.

    Raises:
        ValueError: there are fewer examples than one batch.
    """
    if len(inputs) < batch_size:
        raise ValueError(f"a shard of {len(inputs)} examples holds no batch of {batch_size}; use a smaller batch_size")

    def batches() -> Iterator[Batch]:
        order = torch.empty(0, dtype=torch.long)
        while True:
            if len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(inputs), generator=generator)])
            chosen, order = order[:batch_size], order[batch_size:]
            yield inputs[chosen], targets[chosen]

    return batches()
