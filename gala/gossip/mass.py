"""What one learner holds: its parameters z, and the weight w with which they count."""

from __future__ import annotations

import warnings

from torch import Tensor

from gala.gossip.message import Message, Roster
from gala.gossip.push_sum import UNIT_BITS, absorb_, in_unit

_ROUNDS_WITHOUT_WEIGHT = 20  # what is on its way between two processes has not died


class Mass:
    """(z, w) of ``rank``: z is ``flat`` [d], changed in place. The weight counts in ``unit``, in which the mean weight
    is near 1: see ``in_unit``. Without a ``roster`` there are no others."""

    def __init__(self, flat: Tensor, rank: int, roster: Roster | None) -> None:
        self.flat, self.weight, self.unit = flat, 1.0, 0
        self.new_starts = 0
        self._rank, self._roster = rank, roster
        self._weightless_rounds = 0

    def publish(self) -> None:
        """Tell the others what dies with this learner."""
        if self._roster is not None:
            self._roster.publish(self.weight, self.unit)

    def count_in(self, unit: int) -> None:
        """Count the weight in ``unit`` from now on, unless that is a larger one."""
        if unit > self.unit:
            self.weight, self.unit = in_unit(self.weight, self.unit, unit), unit
            self.publish()

    def count_as_others(self) -> None:
        """Count in the smallest unit that anybody has taken."""
        if self._roster is not None:
            self.count_in(self._roster.highest_unit())

    def begin_with_none(self) -> None:
        """As one that joins: the others' average does not move."""
        self.weight = 0.0
        self.count_as_others()
        self.publish()

    def mean_weight(self) -> float:
        """Weight per learner, after a look whether the unit is still right. If none is left anywhere, all that held
        mass have died: those that are left start anew, with equal weights."""
        assert self._roster is not None, "there are others"
        self.count_as_others()
        mean = self._roster.mean_weight()
        if 0.0 < mean < 2.0**-UNIT_BITS:
            self.count_in(self.unit + 1)
            mean = self._roster.mean_weight()
        self._start_anew_if_all_died(mean)
        return mean

    def _start_anew_if_all_died(self, mean: float) -> None:
        rounds = self._weightless_rounds
        self._weightless_rounds = 0 if mean > 0.0 else rounds + 1
        another_did = mean > 0.0 and self.weight == 0.0 and rounds > _ROUNDS_WITHOUT_WEIGHT // 2
        if another_did or self._weightless_rounds > _ROUNDS_WITHOUT_WEIGHT:
            text = f"all learners that held PushSum weight have died; learner {self._rank} starts anew with weight 1"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            self.new_starts += 1
            self.weight, self._weightless_rounds = 1.0, 0
            self.publish()

    def absorb(self, message: Message) -> None:
        """Add what a message brings."""
        self.count_in(message.unit)
        numerator, factor = message.numerator.to(self.flat.device), in_unit(1.0, message.unit, self.unit)
        self.weight = absorb_(self.flat, self.weight, numerator, message.weight, factor)
