"""Policies on a CPU without modules, autograd and a second pass: small ones in a third of the time.

A policy of dense layers, or of convolutions and dense layers, is computed in the memory of its parameters. Its
gradient, written out by hand, goes straight into the memory of theirs, from the layers' outputs that were kept when
actions were chosen: those of a whole rollout at once, where autograd goes back through one graph for each of its steps.
``gala.build.policy.make_lean`` is the door.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.rl.a2c import A2CLoss, Coefficients, RolloutLoss
from gala.rl.lean_actions import family_of
from gala.rl.lean_layers import Net, Seen, joined_if_small
from gala.rl.rollout import ActionDistribution, Rollout


class LeanOutputs(NamedTuple):
    """As ``Outputs``; ``params``: what ``LeanPolicy.act`` wants; ``hidden``: outputs of the policy's dense layers,
    behind what the first of them read where there are convolutions; ``seen``: their maps, see ``Net.read``."""

    params: Tensor
    value: Tensor
    state: Tensor
    hidden: list[NDArray]
    seen: list[Seen]


class LeanPolicy:
    """A policy with dense encoders (``gala.models.encoders.MLP``), or one of convolutions without padding, their maps
    as they are, and dense layers; without recurrence, dropout or auxiliary losses.

    It acts as the ``Policy`` that it is made of. Parameters may change in place at any time (optimiser, gossip, a
    checkpoint), since there is no copy of them; they and their ``.grad`` must not be replaced.

    Args:
        module: an ``ActorCritic`` on the CPU, in float32, whose parameters have gradients.
        space: of its actions.
        stretch: (centre, half width) of a Box, see ``gala.rl.lean_actions.family_of``.
    """

    def __init__(self, module: Any, space: gym.Space, stretch: Sequence[Tensor] = ()) -> None:
        self.module, self._family = module, family_of(space, module.log_std, stretch)
        self._shared = module.critic_encoder is None  # always, where there are convolutions
        self._actor = Net(module.encoder, module.policy_head)
        self._critic = Net(module.encoder if self._shared else module.critic_encoder, module.value_head)

    @property
    def distribution(self) -> ActionDistribution:
        return self.module.distribution

    def __call__(self, obs: Tensor, state: Tensor, first: Tensor, with_value: bool = True) -> LeanOutputs:
        x, seen = self._read(obs)
        hidden = self._actor.hidden(x)
        value = self._values(x, hidden) if with_value else hidden[-1][:0, 0]
        params = self.module.allowed_only(torch.from_numpy(self._actor.head(hidden[-1])), obs)
        return LeanOutputs(params, torch.from_numpy(value), state, hidden if seen else hidden[1:], seen)

    def _read(self, obs: Tensor) -> tuple[NDArray, list[Seen]]:
        """What the encoders make of ``obs [N, ...]`` for their dense layers, see ``Net.read``."""
        return self._actor.read(self.module.seen(obs).numpy())

    def _values(self, x: NDArray, hidden: list[NDArray]) -> NDArray:
        return self._critic.head(hidden[-1] if self._shared else self._critic.hidden(x)[-1])[:, 0]

    def act(self, params: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        head = params.numpy()
        return torch.from_numpy(self._family.mode(head) if greedy else self._family.sample(head, generator))

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return self.module.initial_state(batch, device)

    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Any:
        return self.module.unroll(obs, state, first)

    def auxiliary_loss(self, obs: Tensor, action: Tensor, reward: Tensor, known: Tensor) -> Tensor | None:
        return self.module.auxiliary_loss(obs, action, reward, known)

    def stack(self, groups: Sequence[Sequence[LeanOutputs]]) -> LeanOutputs:
        """T consecutive calls for each group of rows as one: arrays of T x B rows; without values."""

        def joined(pick: Callable[[LeanOutputs], NDArray]) -> NDArray:
            parts = [np.stack([pick(out) for out in steps]) for steps in groups]
            rows = parts[0] if len(parts) == 1 else np.concatenate(parts, 1)
            return rows.reshape(-1, rows.shape[2])

        first = groups[0][0]
        hidden = [joined(lambda out, i=i: out.hidden[i]) for i in range(len(first.hidden))]  # type: ignore[misc]
        state = torch.cat([steps[-1].state for steps in groups])
        seen = [batch for step in zip(*groups, strict=True) for out in step for batch in out.seen]
        params = torch.from_numpy(joined(lambda out: out.params.numpy()))
        return LeanOutputs(params, first.value, state, hidden, joined_if_small(seen))

    @np.errstate(over="ignore", invalid="ignore")  # as PyTorch; a gradient that is not finite is refused
    def set_gradient(self, rollout: Rollout, coefficients: Coefficients, entropy_coef: float) -> RolloutLoss:
        """``gala.rl.a2c.rollout_loss`` of a rollout that this policy has acted in, and its gradient in the parameters'
        ``.grad``, in place of what was there."""
        c, out = coefficients, rollout.acting
        assert isinstance(out, LeanOutputs), "the rollout was collected by another policy, or without keep_graph"
        hidden, shape = out.hidden, rollout.reward.shape
        if not out.seen:  # as they are: nothing to keep
            hidden = [self._read(rollout.obs.flatten(0, 1))[0], *hidden]
        judged = hidden if self._shared else self._critic.hidden(hidden[0])
        value = self._critic.head(judged[-1]).reshape(shape)
        advantage = _advantages(rollout, value, c)
        target, valid = advantage + value, rollout.valid.numpy()
        if c.normalize_advantages and valid.any():
            rows = advantage[valid]
            advantage = (advantage - rows.mean()) / (rows.std() + 1e-8)
        weight = (valid / np.float32(max(1, int(valid.sum())))).ravel()
        a, b = -weight * advantage.ravel(), np.float32(-entropy_coef) * weight
        action = rollout.action.numpy()
        terms = self._family.terms(out.params.numpy(), action.reshape(-1, *action.shape[2:]), a, b)
        error = (value - target).ravel()
        policy_loss, value_loss = (a * terms.log_prob).sum(), (weight * error * error).sum()
        bonus = (weight * terms.entropy).sum()
        total = policy_loss + c.value_coef * value_loss - entropy_coef * bonus
        self._backward(out.seen, hidden, judged, terms.gradient, (2 * c.value_coef) * weight * error)
        losses = torch.from_numpy(np.array([total, policy_loss, value_loss, bonus], np.float32))
        return RolloutLoss(A2CLoss(*losses.unbind()), torch.from_numpy(target), torch.from_numpy(value))

    def _backward(
        self, seen: list[Seen], hidden: list[NDArray], judged: list[NDArray], head: NDArray, value: NDArray
    ) -> None:
        """From the gradients of the policy head's outputs ``[N, outputs]`` and of the values ``[N]``."""
        acted = self._actor.head_backward(hidden, head)
        valued = self._critic.head_backward(judged, value[:, None])
        if self._shared:
            acted += valued
        else:
            self._critic.backward([], judged, valued)
        self._actor.backward(seen, hidden, acted)


def _advantages(r: Rollout, value: NDArray, c: Coefficients) -> NDArray:
    """``gala.rl.a2c.rollout_advantages`` of values ``[T, B]``."""
    terminated, truncated = r.terminated.numpy(), r.truncated.numpy()
    v_next = np.concatenate([value[1:], r.last_value.numpy()[None]])
    discount = np.float32(c.gamma) * ~terminated
    delta = r.reward.numpy() + discount * np.where(truncated, r.v_final.numpy(), v_next) - value
    decay = np.float32(c.gae_lambda) * discount * ~truncated
    for t in range(len(delta) - 2, -1, -1):
        delta[t] += decay[t] * delta[t + 1]
    return delta
