"""What one learner has learned: all of its state but the simulators' and the exchange's."""

from __future__ import annotations

import torch

from gala.optim.ekfac import EKFAC
from gala.optim.slowmo import SlowMo
from gala.optim.state import load_state_tensors, state_tensors
from gala.rl.normalise import Normalizers

Tensors = dict[str, dict[str, torch.Tensor]]
"""Group -> name -> tensor, as in a checkpoint's part."""


class LearnerState:
    """Parameters, optimiser, slow momentum, curvature and normalisers: what a checkpoint keeps and a newcomer is given.

    Args:
        policy: its parameters are views of one flat vector. ``optimizer`` has either that vector or them.
    """

    def __init__(
        self,
        policy: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        slowmo: SlowMo | None,
        normalizers: Normalizers,
        ekfac: EKFAC | None = None,
    ) -> None:
        self.policy, self.optimizer, self.slowmo, self.normalizers = policy, optimizer, slowmo, normalizers
        self.ekfac = ekfac

    def tensors(self) -> Tensors:
        """All of it, as it is now; tensors may share memory with the learner's."""
        tensors: Tensors = {"policy": dict(self.policy.state_dict())}
        tensors["optimizer"] = state_tensors(self.optimizer)
        if self.slowmo is not None:
            tensors["slowmo"] = self.slowmo.tensors()
        if self.ekfac is not None:
            tensors["ekfac"] = self.ekfac.tensors()
        for name, part in self.normalizers.parts.items():
            tensors[name] = {"packed": torch.from_numpy(part.own.pack())}
        return tensors

    def load(self, tensors: Tensors) -> None:
        """Take up what ``tensors`` gave."""
        self.load_network(tensors)
        if self.normalizers:
            packed = [tensors[name]["packed"] for name in self.normalizers.parts]
            self.normalizers.restore(torch.cat(packed).numpy())

    def load_network(self, tensors: Tensors) -> None:
        """The same without the normalisers: a newcomer has seen other observations than the learner it starts from."""
        self.policy.load_state_dict(tensors["policy"])
        if tensors.get("optimizer"):
            load_state_tensors(self.optimizer, tensors["optimizer"])
        if self.slowmo is not None:
            self.slowmo.load_tensors(tensors["slowmo"])
        if self.ekfac is not None:
            self.ekfac.load_tensors(tensors["ekfac"])
