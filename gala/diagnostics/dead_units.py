"""How many rectified units of a network have stopped to say anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gala.models.actor_critic import ActorCritic
from gala.rl.rollout import Rollout


@torch.no_grad()
def dead_share(policy: ActorCritic, rollout: Rollout) -> float | None:
    """The share of units behind a ReLU that are 0 for every observation of ``rollout``; None of a network without any
    ``torch.nn.ReLU``.

    A unit is one number of a vector or one channel of a map. Such a unit gets no gradient from these observations
    (Sokar et al. 2023, "The dormant neuron phenomenon", with a threshold of 0). The network runs once more, and is left
    as it was.
    """
    alive: list[Tensor] = []

    def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
        alive.append((output > 0).transpose(0, 1).flatten(1).any(1))

    hooks = [module.register_forward_hook(look) for module in policy.modules() if isinstance(module, nn.ReLU)]
    try:
        policy.unroll(rollout.obs, rollout.state, rollout.first)
    finally:
        for hook in hooks:
            hook.remove()
    return 1.0 - float(torch.cat(alive).float().mean()) if alive else None
