"""THE loop of one actor-learner: collect, loss, backward, learning step."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor, nn

from gala.optim.update import LearningStep, NotFinite
from gala.rl.a2c import A2CLoss, Coefficients, RolloutLoss, rollout_loss
from gala.rl.lean import LeanPolicy
from gala.rl.rollout import Collector, Episodes, Policy, Rollout


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
    """One learner: its simulators, its copy of the policy, its learning step.

    Args:
        collector: simulators and buffers; rollouts are ``[T, B, ...]``.
        policy: network whose parameters and gradients are views of ``flat`` and of its gradient (one vector each, so
            that clipping, the optimiser and gossip are single operations).
        learning_step: what follows the backward pass; its optimiser is over ``[flat]``.
        coefficients: see ``Coefficients``.
        observe: shown each rollout before the gradient is taken (for a preconditioner).
        lean: acts and is differentiated in ``policy``'s place; its collector keeps graphs.
    """

    def __init__(
        self,
        collector: Collector,
        policy: Policy,
        flat: Tensor,
        learning_step: LearningStep,
        coefficients: Coefficients,
        observe: Callable[[Policy, Rollout], None] | None = None,
        lean: LeanPolicy | None = None,
    ) -> None:
        assert flat.grad is not None, "the flat parameter vector needs its flat gradient"
        self.collector, self.policy, self.flat = collector, policy, flat
        self.learning_step, self.coefficients, self.observe = learning_step, coefficients, observe
        self.lean = lean
        params = list(policy.parameters()) if isinstance(policy, nn.Module) else []
        some_frozen = not all(p.requires_grad for p in params)
        self.decaying = [(p, p.grad) for p in params if p.requires_grad] if some_frozen else [(flat, flat.grad)]
        """Parameters and gradients to which l2 applies."""
        self.learn_s = 0.0
        self.on_rollout: Callable[[], None] = lambda: None
        self.inspect: Callable[[Policy, Rollout, float], None] | None = None
        """Shown each rollout, and the entropy coefficient, before anything is learned from it; must change nothing."""

    def update(self, lr: float, entropy_coef: float) -> UpdateResult:
        """One rollout, one step. Raises NotFinite, the parameters untouched, if the gradient is not finite."""
        rollout, episodes = self.collector.collect(self.lean or self.policy)
        self.on_rollout()
        if self.inspect is not None:
            self.inspect(self.policy, rollout, entropy_coef)
        started, exchanged_s = time.perf_counter(), self.learning_step.exchange_s
        if self.observe is not None:
            self.observe(self.policy, rollout)
        loss, target, value = self._set_gradient(rollout, entropy_coef)
        try:
            grad_norm = self.learning_step(lr)
        except NotFinite as error:
            raise NotFinite(f"loss {loss.total.item():g}: {error}, or scale the rewards") from None
        self.learn_s += time.perf_counter() - started - (self.learning_step.exchange_s - exchanged_s)
        return UpdateResult(loss, grad_norm, target, value, rollout, episodes)

    def _set_gradient(self, rollout: Rollout, entropy_coef: float) -> RolloutLoss:
        grad = self.flat.grad
        assert grad is not None
        if self.lean is not None:
            found = self.lean.set_gradient(rollout, self.coefficients, entropy_coef)
        else:
            found = rollout_loss(self.policy, rollout, self.coefficients, entropy_coef)
            grad.zero_()
            found.loss.total.backward()
        if self.coefficients.l2:
            for params, gradient in self.decaying:
                assert gradient is not None
                gradient.add_(params.detach(), alpha=self.coefficients.l2)
        return found
