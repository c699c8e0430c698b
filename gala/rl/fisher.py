"""The Fisher matrix of an actor-critic on a rollout, as losses for ``gala.optim.ekfac.EKFAC.observe``."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gala.optim.ekfac import EKFAC
from gala.rl.buffers import buffers_kept
from gala.rl.rollout import Outputs, Policy, Rollout

Fisher = Literal["sampled", "empirical", "exact"]


def fisher_losses(
    policy: Policy,
    out: Outputs,
    action: Tensor,
    fisher: Fisher,
    critic_sigma: float,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Losses ``[T, B]`` of which the sum of gg^T, g being the gradients, is the Fisher matrix of each observation.

    The network is taken for a distribution of (action, return): the policy, and beside it, independent, a Gaussian
    return N(V(s), ``critic_sigma``^2), so that the Fisher of V(s) is 1 / critic_sigma^2. The loss
    ``value_coef (R - V)^2`` has that curvature for critic_sigma = 1 / sqrt(2 value_coef): 1 for the usual 0.5.
    (ACKTR's published code draws N(V, 1), but leaves the 1/2 out of its loss: critic_sigma = 1/2 here.)

    sampled: one loss, of an action and a return drawn from the network (unbiased).
    empirical: the same with the rollout's own ``action``; a return is drawn all the same.
    exact: no draws; one loss for each column of the distribution's ``fisher_root``, and one for the value.
    """
    if fisher == "exact":
        columns = policy.distribution.fisher_root(out.params.detach()).unbind(-1)
        return [*((column * out.params).sum(-1) for column in columns), out.value / critic_sigma]
    if fisher == "sampled":
        action = policy.distribution.sample(out.params.detach(), generator)
    noise = torch.randn(out.value.shape, generator=generator, device=out.value.device)
    return [noise / critic_sigma * out.value - policy.distribution.log_prob(out.params, action)]


class RolloutFisher:
    """Shows an ``EKFAC`` each rollout, by a pass of its own over it, which leaves buffers as they are. Rows of an
    autoreset do not count."""

    def __init__(
        self, ekfac: EKFAC, fisher: Fisher, critic_sigma: float, generator: torch.Generator | None = None
    ) -> None:
        self.ekfac, self.fisher, self.critic_sigma, self.generator = ekfac, fisher, critic_sigma, generator

    def __call__(self, policy: Policy, r: Rollout) -> None:
        with buffers_kept(policy):
            with self.ekfac.recording():
                out = policy.unroll(r.obs, r.state, r.first)
            losses = fisher_losses(policy, out, r.action, self.fisher, self.critic_sigma, self.generator)
            self.ekfac.observe(losses, r.valid, self.generator)
