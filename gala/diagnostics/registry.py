"""DIAGNOSTICS: what ``gala diagnose`` offers. Another one is a file with a ``judge``, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gala.diagnostics import gradient_diversity, gradient_noise, residual_blocks, sharpness
from gala.diagnostics.finding import Finding
from gala.evaluation.frozen import Frozen


class Diagnostic(NamedTuple):
    """``judge`` makes a finding of a checkpoint, or raises ValueError, which says why there is none, as ``check`` does
    at once; ``summary`` is its line of help."""

    judge: Callable[[Frozen], Finding]
    summary: str
    check: Callable[[Frozen], object] = lambda _: None


DIAGNOSTICS: dict[str, Diagnostic] = {
    "curvature": Diagnostic(sharpness.judge, "how sharply the loss bends, and how long the step is against that"),
    "noise": Diagnostic(gradient_noise.judge, "the noise of the gradient, and whether more simulators would help"),
    "diversity": Diagnostic(
        gradient_diversity.judge,
        "do learners' gradients differ more than those of A2C's simulators",
        gradient_diversity.check,
    ),
    "iterative": Diagnostic(
        residual_blocks.judge, "what each residual block does, and which of them are needed", residual_blocks.check
    ),
}
