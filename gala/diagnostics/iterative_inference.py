"""What each residual block does to a policy: does it go down the gradient of the loss, and what is lost without it?

After Jastrzebski et al. 2018 (arXiv 1710.04773). In h_{i+1} = h_i + F_i(h_i), to first order
L(h_L) = L(h_i) + sum_{j >= i} F_j(h_j) . dL/dh_j, so learning pushes each update F_j against the gradient dL/dh_j. All
functions are pure: of a list of steps (``gala.models.residual.Step``), what they start from, and a loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gala.models.actor_critic import ActorCritic, Outputs
from gala.models.encoders import ImageEncoder
from gala.models.residual import Step, run_steps
from gala.rl.a2c import Coefficients, rollout_loss
from gala.rl.rollout import Rollout


class Update(NamedTuple):
    """One block's update F of its input h, row by row.

    ``norm_ratio [N]``: |F| / |h|. For each loss, ``cosine [N]`` of F and dL/dh (negative: down the gradient; 0 where
    one of them is 0), and ``first_order [N]``: F . dL/dh, what the block adds to the loss to first order.
    """

    stage: int
    block: int
    norm_ratio: Tensor
    cosine: dict[str, Tensor]
    first_order: dict[str, Tensor]


@torch.enable_grad()
def block_updates(steps: Sequence[Step], h: Tensor, losses: Callable[[Tensor], Mapping[str, Tensor]]) -> list[Update]:
    """An ``Update`` of each residual step, from one pass forward and one backward for each loss.

    Args:
        h: ``[N, ...]``, what the first step is given.
        losses: what the last step makes -> named scalars, sums or means over rows that do not mix them.
    """
    residual, inputs, updates = [step for step in steps if step.is_residual], list[Tensor](), list[Tensor]()
    h = h.detach().requires_grad_()
    for step in steps:
        if step.is_residual:
            inputs.append(h)
            updates.append(step.run(h))
            h = h + updates[-1]
        else:
            h = step.run(h)
    grads = {name: torch.autograd.grad(loss, inputs, retain_graph=True) for name, loss in losses(h).items()}
    rows = []
    for i, step in enumerate(residual):
        update, at = updates[i].detach().flatten(1), inputs[i].detach().flatten(1)
        dots = {name: (update * grad[i].flatten(1)).sum(1) for name, grad in grads.items()}
        sizes = {name: update.norm(dim=1) * grad[i].flatten(1).norm(dim=1) for name, grad in grads.items()}
        cosine = {name: _ratio(dot, sizes[name]) for name, dot in dots.items()}
        rows.append(Update(step.stage, step.block, _ratio(update.norm(dim=1), at.norm(dim=1)), cosine, dots))
    return rows


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where ``b`` is 0."""
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))


def early_exit(steps: Sequence[Step], stage: int, block: int) -> list[Step]:
    """The steps without those blocks of ``stage`` that follow ``block``; later stages, of other shapes, stay whole."""
    return [step for step in steps if step.stage != stage or step.block <= block]


def without(steps: Sequence[Step], stage: int, block: int) -> list[Step]:
    """The steps without one block."""
    return [step for step in steps if (step.stage, step.block) != (stage, block)]


def unrolled(steps: Sequence[Step], stage: int, extra: int, scale: float = 1.0) -> list[Step]:
    """The last block of ``stage`` used ``extra`` times more, each of these updates times ``scale``."""
    last = max(i for i, step in enumerate(steps) if step.stage == stage)
    step = steps[last]
    again = [Step(lambda h: scale * step.run(h), stage, step.block + 1 + i) for i in range(extra)]
    return [*steps[: last + 1], *again, *steps[last + 1 :]]


class Change(NamedTuple):
    """An altered network beside the whole one, on the same observations.

    ``kl``: mean KL(whole || altered) of the policies. ``agreement``: share of rows with the same most probable action
    (NaN: actions are real numbers, which are never quite the same). ``value_r2``: share of the variance of the whole
    network's values that the altered one's explain (NaN: there is none). ``loss``: the altered network's total loss.
    """

    kl: float
    agreement: float
    value_r2: float
    loss: float


class Block(NamedTuple):
    """One block, in means over the rows of a rollout: see ``Update`` and ``Change``."""

    stage: int
    block: int
    norm_ratio: float
    cosine: dict[str, float]
    """For the losses policy, value and total."""
    exit: Change
    """The other blocks of its stage left out."""
    dropped: Change
    """This block left out."""


def residual_encoder(policy: ActorCritic) -> ImageEncoder:
    """The policy's encoder. Raises ValueError: it has no residual blocks."""
    encoder = policy.encoder
    if not isinstance(encoder, ImageEncoder) or not any(step.is_residual for step in encoder.steps()):
        raise ValueError("there are no residual blocks to look at; train with model.encoder=impala")
    return encoder


class Batch:
    """A network, a frozen rollout, and the loss that it is judged by. The network should be in evaluation mode.

    Raises:
        ValueError: the encoder has no residual blocks.
    """

    def __init__(self, policy: ActorCritic, rollout: Rollout, coefficients: Coefficients, entropy_coef: float) -> None:
        encoder = residual_encoder(policy)
        self.steps, self.start = encoder.steps(), encoder.scaled(policy.seen(rollout.obs.flatten(0, 1)))
        self._policy, self._rollout = policy, rollout
        self._coefficients, self._entropy_coef = coefficients, entropy_coef

    def outputs(self, features: Tensor) -> Outputs:
        """What heads, and a GRU, make of ``features [T x B, F]``, as ``[T, B]``."""
        r = self._rollout
        return self._policy.unroll_features(features, r.obs, r.state, r.first)

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """policy, value and total; advantages come from these features' own values."""
        rollout = dataclasses.replace(self._rollout, acting=self.outputs(features))
        loss = rollout_loss(self._policy, rollout, self._coefficients, self._entropy_coef).loss
        return {"policy": loss.policy, "value": loss.value, "total": loss.total}

    @torch.no_grad()
    def change(self, steps: Sequence[Step]) -> Change:
        """What the network does with ``steps`` in place of its own."""
        whole, features = self.outputs(run_steps(self.steps, self.start)), run_steps(steps, self.start)
        other, distribution = self.outputs(features), self._policy.distribution
        mode, same = distribution.mode(whole.params), float("nan")
        if not mode.is_floating_point():
            equal = mode == distribution.mode(other.params)
            same = equal.reshape(*whole.value.shape, -1).all(-1).float().mean().item()
        error = (other.value - whole.value).square().sum()
        variance = (whole.value - whole.value.mean()).square().sum()
        return Change(
            distribution.kl(whole.params, other.params).mean().item(),
            same,
            (1 - error / variance).item() if variance > 0 else float("nan"),
            self.losses(features)["total"].item(),
        )


def blocks(batch: Batch) -> list[Block]:
    """A row for each residual block, from the first to the last."""
    return [
        Block(
            update.stage,
            update.block,
            update.norm_ratio.mean().item(),
            {name: cosine.mean().item() for name, cosine in update.cosine.items()},
            batch.change(early_exit(batch.steps, update.stage, update.block)),
            batch.change(without(batch.steps, update.stage, update.block)),
        )
        for update in block_updates(batch.steps, batch.start, batch.losses)
    ]


def unrolling(batch: Batch, stage: int, extra: Sequence[int], scale: float = 1.0) -> list[Change]:
    """The last block of ``stage`` used so many times more, for each of ``extra``."""
    return [batch.change(unrolled(batch.steps, stage, n, scale)) for n in extra]
