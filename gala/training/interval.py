"""When a learner reports, and what it sums up between two reports."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from gala.rl.actor_learner import ActorLearner, UpdateResult
from gala.rl.returns import explained_variance


def interval_at(age_s: float, most_s: float) -> float:
    """Seconds to the next record of a run that has trained for ``age_s``: ``most_s``, or the half, the quarter ... of
    it while that is more than a fortieth of its age, and a tenth of a second. So a training of a few seconds has a
    curve, too; one of hours has a hundred records more."""
    fits = most_s / max(age_s / 40, 0.1)
    return most_s / 2 ** max(0, int(math.log2(max(fits, 1.0))))


class LogGrid:
    """Moments at which a learner publishes its parameters, the same ones for all learners, so that parameters of one
    moment can be compared: in lock-step every so many updates, a power of two; else when the wall clock, which all
    machines share, passes a multiple of the interval.

    Args:
        interval_s: at most so long from one to the next, as far as updates allow; see ``interval_at``.
        updates: that this learner has done by now.
    """

    def __init__(self, interval_s: float, lock_step: bool, updates: int) -> None:
        self._most_s, self._lock_step = interval_s, lock_step
        self._period_updates = 1
        self._began_s = self._last_s = time.monotonic()
        self._last_updates, self._last_asked = updates, time.time()

    def stamp(self, updates: int) -> float:
        """The moment of what a learner publishes after so many updates: their number, or the time in seconds."""
        return float(updates) if self._lock_step else time.time()

    def reached(self, updates: int) -> bool:
        """Asked after each update: whether to report now."""
        interval_s = interval_at(time.monotonic() - self._began_s, self._most_s)
        if not self._lock_step:
            before, self._last_asked = self._last_asked, time.time()
            return int(before / interval_s) != int(self._last_asked / interval_s)
        passed_s = max(time.monotonic() - self._last_s, 1e-9)
        fits = 2 ** int(math.log2(max((updates - self._last_updates) * interval_s / passed_s, 1.0)))
        if passed_s > interval_s:  # it has become slower
            self._period_updates = min(self._period_updates, fits)
        if updates % self._period_updates:
            return False
        self._period_updates, self._last_s, self._last_updates = fits, time.monotonic(), updates
        return True


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
