"""What one learner sums up between two log records."""

from __future__ import annotations

import time
from typing import Any

import torch

from gala.rl.actor_learner import ActorLearner, UpdateResult
from gala.rl.returns import explained_variance


class IntervalStats:
    """Sums of one logging interval. Losses stay tensors until the interval ends."""

    def __init__(self) -> None:
        self.results: list[UpdateResult] = []
        self.started = time.monotonic()

    def add(self, result: UpdateResult) -> None:
        self.results.append(result)

    def close(self, learner: ActorLearner) -> dict[str, Any]:
        """The interval's record; starts the next one."""
        now = time.monotonic()
        record: dict[str, Any] = {"interval_s": now - self.started}
        record["interval_steps"] = sum(result.valid_steps for result in self.results)
        for name in ("returns", "lengths", "rows"):
            record[name] = [x for result in self.results for x in getattr(result.episodes, name)]
        if self.results:
            rows = [
                torch.stack([r.loss.policy, r.loss.value, r.loss.entropy, r.grad_norm]).detach() for r in self.results
            ]
            target, value, valid = (
                torch.cat([getattr(r, x) for r in self.results]) for x in ("target", "value", "valid")
            )
            means = [*torch.stack(rows).mean(0).tolist(), explained_variance(target[valid], value[valid]).item()]
            names = ("policy_loss", "value_loss", "entropy", "grad_norm", "explained_variance")
            record |= {f"losses/{name}": mean for name, mean in zip(names, means, strict=True)}
        c = learner.collector
        if c.actions:
            record["charts/clipped_actions"] = c.clipped_actions / c.actions
        c.actions = c.clipped_actions = 0
        record |= {"simulate_s": c.simulate_s, "act_s": c.act_s, "learn_s": learner.learn_s}
        record["gossip_s"] = learner.learning_step.exchange_s
        c.simulate_s = c.act_s = learner.learn_s = learner.learning_step.exchange_s = 0.0
        self.results, self.started = [], now
        return record
