"""THE loop of one actor-learner: collect, returns, loss, backward, clip, optimiser step, gossip, slow step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gala.rl.a2c import A2CLoss, a2c_loss, normalize
from gala.rl.returns import generalized_advantages
from gala.rl.rollout import Collector, Episodes, Policy, Rollout


class Averager(Protocol):
    """Exchanges parameters with peers; ``gala.gossip.averager.GossipAverager`` is one."""

    def step(self) -> None: ...


class SlowStep(Protocol):
    """Moves the parameters along a slow momentum; ``gala.optim.slowmo.SlowMo`` is one."""

    def step(self) -> object: ...


class Coefficients(Protocol):
    """The numbers of the loss; ``gala.config.schema.A2CConfig`` has them."""

    @property
    def gamma(self) -> float: ...
    @property
    def gae_lambda(self) -> float: ...
    @property
    def value_coef(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def normalize_advantages(self) -> bool: ...
    @property
    def l2(self) -> float: ...


class UpdateResult:
    """What one update leaves behind for the log. Scalars stay tensors: reading them would stall an accelerator.

    target, value: value targets and values [T, B], of which ``valid`` rows count.
    """

    __slots__ = ("episodes", "grad_norm", "loss", "target", "valid", "valid_steps", "value")

    def __init__(
        self, loss: A2CLoss, grad_norm: Tensor, target: Tensor, value: Tensor, rollout: Rollout, episodes: Episodes
    ) -> None:
        self.loss, self.grad_norm, self.target, self.value = loss, grad_norm, target, value
        self.valid, self.episodes, self.valid_steps = rollout.valid.clone(), episodes, int(rollout.valid.sum())


class ActorLearner:
    """One learner: its simulators, its copy of the policy, its optimiser. The policy does not know that gossip exists.

    Args:
        collector: simulators and buffers.
        policy: network whose parameters and gradients are views of ``flat`` and ``flat_grad`` (one vector each, so that
            clipping, the optimiser and gossip are single operations).
        optimizer: over ``[flat]``; its state is local and never exchanged.
        coefficients: see ``Coefficients``.
        reduce_gradient: None, or what makes data-parallel A2C synchronous (an all-reduce mean of ``flat_grad``).
        averager: None, or what exchanges parameters after each step.
        slowmo: None, or what takes a slow step now and then, after the exchange.
    """

    def __init__(
        self,
        collector: Collector,
        policy: Policy,
        flat: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        coefficients: Coefficients,
        reduce_gradient: Callable[[Tensor], None] | None = None,
        averager: Averager | None = None,
        slowmo: SlowStep | None = None,
    ) -> None:
        assert flat.grad is not None, "the flat parameter vector needs its flat gradient"
        self.collector, self.policy, self.flat, self.optimizer = collector, policy, flat, optimizer
        self.coefficients, self.reduce_gradient, self.averager = coefficients, reduce_gradient, averager
        self.slowmo = slowmo
        self.learn_s = self.gossip_s = 0.0

    def update(self, lr: float, entropy_coef: float) -> UpdateResult:
        """One rollout, one step. Raises FloatingPointError, the parameters untouched, if the gradient is not finite."""
        rollout, episodes = self.collector.collect(self.policy)
        started = time.perf_counter()
        loss, target, value = self._loss(rollout, entropy_coef)
        grad = self.flat.grad
        assert grad is not None
        grad.zero_()
        loss.total.backward()
        if self.coefficients.l2:
            grad.add_(self.flat.detach(), alpha=self.coefficients.l2)
        if self.reduce_gradient is not None:
            self.reduce_gradient(grad)
        grad_norm = clip_(grad, self.coefficients.max_grad_norm)
        if not torch.isfinite(grad_norm):
            raise FloatingPointError(f"loss {loss.total.item():g}, gradient norm {grad_norm.item():g}: not finite")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        learned = time.perf_counter()
        if self.averager is not None:
            self.averager.step()
        if self.slowmo is not None:
            self.slowmo.step()
        self.learn_s += learned - started
        self.gossip_s += time.perf_counter() - learned
        return UpdateResult(loss, grad_norm, target, value, rollout, episodes)

    def _loss(self, r: Rollout, entropy_coef: float) -> tuple[A2CLoss, Tensor, Tensor]:
        """(loss, value targets [T, B], values [T, B])."""
        c = self.coefficients
        out = self.policy.unroll(r.obs, r.state, r.first) if r.acting is None else r.acting
        v_tm1 = out.value.detach()
        advantage = rollout_advantages(r, v_tm1, c.gamma, c.gae_lambda)
        target = advantage + v_tm1
        if c.normalize_advantages:
            advantage = normalize(advantage, r.valid)
        distribution = self.policy.distribution  # type: ignore[attr-defined]
        loss = a2c_loss(
            distribution.log_prob(out.params, r.action),
            distribution.entropy(out.params),
            out.value,
            target,
            advantage,
            r.valid,
            value_coef=c.value_coef,
            entropy_coef=entropy_coef,
        )
        extra = self.policy.auxiliary_loss(r.obs, r.action, r.reward, unbroken(r))
        return loss if extra is None else loss._replace(total=loss.total + extra), target, v_tm1


def rollout_advantages(r: Rollout, v_tm1: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Advantages ``[T, B]`` of a rollout, given its values ``v_tm1 [T, B]``; those of autoreset rows mean nothing."""
    v_next = torch.cat([v_tm1[1:], r.last_value.unsqueeze(0)])
    v_t = torch.where(r.truncated, r.v_final, v_next)
    discount_t = gamma * (~r.terminated).float()
    continue_t = (~(r.terminated | r.truncated)).float()
    return generalized_advantages(r.reward, discount_t, continue_t, v_tm1, v_t, lambda_)


def unbroken(r: Rollout) -> Tensor:
    """bool ``[T - 1, B]``: steps whose successor in the rollout is the observation that they led to."""
    return (r.valid & ~(r.terminated | r.truncated))[:-1]


def clip_(grad: Tensor, max_norm: float) -> Tensor:
    """Scale ``grad`` in place so that its 2-norm is at most ``max_norm`` (0: no limit). Returns the norm before."""
    norm = grad.norm()
    if max_norm > 0:
        grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
