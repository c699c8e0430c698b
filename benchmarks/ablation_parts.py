"""What `benchmarks/ablations.py` puts in the place of gossip's own parts; learners import it by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from gala.gossip import TOPOLOGIES, Topology
from gala.gossip.graphs.topology import scheduled

UPDATES = 244
"""Of each learner in a training of the study."""

NOBODY = Topology("nobody sends", lambda rank, round, n: [])
LAST_TENTH = scheduled({0: NOBODY, round(0.9 * UPDATES): TOPOLOGIES["ring"]})
FIRST_HALF = scheduled({0: TOPOLOGIES["ring"], UPDATES // 2: NOBODY})

NOISE_PER_LR = 26.0
"""Length of a noise step over the learning rate. Gossip's corrections on a ring, half the difference to one peer, have
1 / sqrt(2) of the RMS distance from the mean, and that is 37 times the learning rate there: `distance_per_lr` of the
rows of the ring, their median."""


class NoisyAdam(torch.optim.Adam):
    """Adam, as in the preset, after each of whose steps the parameters move in a random direction."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, lr, eps=1e-5)
        self._generator = torch.Generator()
        self._generator.seed()  # each learner's own noise

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        for group in self.param_groups:
            scale = NOISE_PER_LR * float(group["lr"]) / math.sqrt(sum(p.numel() for p in group["params"]))
            for p in group["params"]:
                p.add_(torch.randn(p.shape, generator=self._generator), alpha=scale)
        return found
