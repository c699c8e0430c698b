"""What a gap is divided by, and whether the agents have learned enough for it to mean anything.

The scale is J_reference - J_random on the test contexts, where a reference was played; else the return at which the
task counts as solved, less J_random. It is never what the agents reached themselves: at 30 of 500 they would have
learned all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEARNED = 0.25
"""Below this normalised train score there is no verdict: a gap of 0 then says nothing."""


class Scale(NamedTuple):
    """``divisor`` is 1 where gaps stay in units of return (``in_return``)."""

    divisor: float
    random: float | None
    reference: float | None
    in_return: bool
    warnings: list[str]

    def share(self, mean: float) -> float | None:
        """How much of the task a mean return is: 0 for the random policy's, 1 for the reference's."""
        return None if self.in_return else (mean - (self.random or 0.0)) / self.divisor

    def refusal(self, train_mean: float) -> str:
        """Why agents with this train score get no verdict; empty if they do."""
        share = self.share(train_mean)
        if share is not None and share < LEARNED:
            return f"it has learned {max(share, 0.0):.0%} of the task: what was not learned cannot be memorised"
        if share is None and self.random is not None and train_mean <= self.random:
            return f"on its training MDPs it is no better than the random policy ({self.random:g})"
        return ""


def scale_of(
    random: Mapping[str, float],
    reference: Mapping[str, float],
    known: tuple[float | None, float | None],
    test_ids: Sequence[str],
) -> Scale:
    """From returns by context of the random and the reference policy; ``known``: the return that counts as solved and
    the random policy's, where they were not played."""
    j_random, j_reference = mean(random, test_ids), mean(reference, test_ids)
    best = known[0] if j_reference is None else j_reference
    j_random = known[1] if j_random is None else j_random
    if best is not None and j_random is None:
        told = (
            f"nobody knows what random actions earn, and so not how much of {best:g} was learned: gaps are in units of "
        )
        return Scale(1.0, None, best, True, [told + "return, and none is NO-GAP; give random=RETURN, or rows of it"])
    if best is None:
        told = "nobody knows what return solves this task: gaps are in units of return, and none is small enough for "
        return Scale(1.0, j_random, None, True, [told + "NO-GAP; give solved=RETURN, or reference=RUN"])
    divisor = best - (j_random or 0.0)
    if divisor > 0:
        return Scale(divisor, j_random, best, False, [])
    told = f"the best return ({best:g}) does not beat the random policy ({j_random:g}): gaps are in units of "
    return Scale(1.0, j_random, best, True, [told + "return, and say little"])


def mean(by_context: Mapping[str, float], ids: Sequence[str]) -> float | None:
    """Mean over those of ``ids`` that are there; None without any."""
    values = [by_context[c] for c in ids if c in by_context]
    return float(np.mean(values)) if values else None
