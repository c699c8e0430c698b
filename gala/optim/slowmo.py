"""Slow momentum over any base optimiser (SlowMo, arXiv 1910.00643)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Buffers = Literal["reset", "maintain", "average"]


class SlowMo:
    """Every ``every`` updates: average the learners, then move along a slow momentum. Call ``step()`` after each
    ``optimizer.step()`` (and after the gossip, if there is any).

    With x_0 the parameters at the last slow step, x_tau those now, gamma the optimiser's learning rate, per parameter:

        x_tau <- mean over learners of x_tau          (left out if ``average`` is None)
        u <- momentum * u + (x_0 - x_tau) / gamma     (the division makes u independent of the schedule of gamma)
        x <- x_0 - lr * gamma * u                     (nesterov: momentum * u + (x_0 - x_tau) / gamma in place of u)

    Special cases: lr=1, momentum=0 is local SGD (every=1: large-batch SGD); momentum > 0 is BMUF; one learner with
    momentum=0, lr < 1 is Lookahead; ``nesterov`` is DiLoCo's outer step. ``average=None`` is the paper's no-average
    variant: purely local, so no learner waits for another, which is what fits on top of gossip.

    A parameter that the optimiser is given later (``add_param_group``) takes part from the next ``step()`` on: its x_0
    is its value then, its u is 0. Where learners average, all must be given it at the same update.

    Args:
        optimizer: the base optimiser; its parameters, as they are now, are x_0.
        every: updates between slow steps (the paper's tau: 12 for local SGD, 48 on top of gossip).
        lr: the paper's alpha; "1 is consistently the best".
        momentum: the paper's beta, in [0, 1); 0.4 to 0.8 there.
        average: averages a list of tensors over all learners, in place; None for no averaging.
        buffers: the base optimiser's state at a slow step: ``reset`` (the paper's choice for SGD with momentum),
            ``maintain`` (for Adam), or ``average`` it over the learners too.
        nesterov: look ahead along u.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        every: int,
        lr: float = 1.0,
        momentum: float = 0.6,
        average: Callable[[list[Tensor]], None] | None = None,
        buffers: Buffers = "maintain",
        nesterov: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 update, not {every}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), not {momentum}")
        if lr <= 0.0:
            raise ValueError(f"the slow lr must be positive, not {lr}")
        if buffers not in ("reset", "maintain", "average"):
            raise ValueError(f"buffers {buffers!r} is unknown; use reset, maintain or average")
        if buffers == "average" and average is None:
            raise ValueError("buffers=average needs an average to do it with")
        self.optimizer, self.average, self.buffers = optimizer, average, buffers
        self.every, self.lr, self.momentum, self.nesterov = every, lr, momentum, nesterov
        self.updates = 0
        self._known: list[Tensor] = []
        self._slow: list[Tensor] = []
        self._u: list[Tensor] = []
        self._params()

    @torch.no_grad()
    def step(self) -> bool:
        """Count one update; on every ``every``-th take the slow step. Returns whether it was taken.

        Raises:
            ValueError: the optimiser's parameters are others, or in another order, than they were.
        """
        params = self._params()
        self.updates += 1
        if self.updates % self.every:
            return False
        if self.average is not None:
            self.average([p.detach() for p in params])
        rates = [float(group["lr"]) for group in self.optimizer.param_groups for _ in group["params"]]
        for p, slow, u, gamma in zip(params, self._slow, self._u, rates, strict=True):
            change = slow - p
            moved = change + gamma * self.momentum * u  # gamma times the new u, which is finite even at gamma = 0
            u.mul_(self.momentum)
            if gamma > 0.0:
                u.add_(change, alpha=1.0 / gamma)
            slow.sub_(change + self.momentum * moved if self.nesterov else moved, alpha=self.lr)
            p.copy_(slow)
        self._handle_buffers()
        return True

    @torch.no_grad()
    def restart(self) -> None:
        """Begin a block at the parameters as they are now, with u = 0, as the first block does. For one whose
        parameters were replaced as a whole, by those of others: the way there is no movement for momentum to keep."""
        for p, slow, u in zip(self._params(), self._slow, self._u, strict=True):
            slow.copy_(p)
            u.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Update count, slow parameters and slow momentum, in the order of the optimiser's parameters."""
        self._params()
        return {"updates": self.updates, "slow": [x.clone() for x in self._slow], "u": [x.clone() for x in self._u]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            ValueError: it belongs to a model with other parameters.
        """
        if [x.shape for x in state["slow"]] != [p.shape for p in self._params()]:
            raise ValueError("this SlowMo state belongs to a model with other parameters")
        self.updates = int(state["updates"])
        for mine, saved in zip(self._slow + self._u, [*state["slow"], *state["u"]], strict=True):
            mine.copy_(saved)

    def tensors(self) -> dict[str, Tensor]:
        """``state_dict`` as named tensors, for a checkpoint."""
        state = self.state_dict()
        named = {f"{name}{i}": x for name in ("slow", "u") for i, x in enumerate(state[name])}
        return named | {"updates": torch.tensor(state["updates"])}

    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``. Raises ValueError as ``load_state_dict``."""
        count = (len(named) - 1) // 2
        lists = {name: [named[f"{name}{i}"] for i in range(count)] for name in ("slow", "u")}
        self.load_state_dict({"updates": int(named["updates"]), **lists})

    def _params(self) -> list[Tensor]:
        """The optimiser's parameters; those that are new begin here."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        if len(params) < len(self._known) or any(p is not q for p, q in zip(params, self._known, strict=False)):
            raise ValueError(
                "the optimiser's parameters were removed, replaced or reordered since SlowMo was built; parameters can "
                "only be added after the others (add_param_group): build SlowMo anew"
            )
        for p in params[len(self._known) :]:
            self._known.append(p)
            self._slow.append(p.detach().clone())
            self._u.append(torch.zeros_like(p.detach()))
        return params

    def _handle_buffers(self) -> None:
        if self.buffers == "reset":
            self.optimizer.state.clear()  # the optimiser makes its state anew at its next step
        elif self.buffers == "average" and self.average is not None:
            states = [self.optimizer.state[p] for p in self._params()]
            self.average([s[k] for s in states for k in sorted(s) if torch.is_tensor(s[k]) and s[k].dim() > 0])
