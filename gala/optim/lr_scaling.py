"""How a learning rate changes with the number of simulators: pure arithmetic; ``gala suggest-lr`` says it in words."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Rule = Literal["linear", "sqrt"]
EXPONENTS: dict[Rule, float] = {"linear": 1.0, "sqrt": 0.5}


class Suggestion(NamedTuple):
    """Learning rates: by the rule alone, where gradients stop being noisy, where a step overshoots (infinite where
    nothing is known), and what is left of them. ``decided_by``: rule, noise or curvature."""

    by_rule: float
    noise_cap: float
    curvature_cap: float
    lr: float
    decided_by: str


def suggest(
    lr: float,
    batch: int,
    new_batch: int,
    rule: Rule,
    noise_scale: float = math.inf,
    sharpness: float = 0.0,
    stable_product: float = 2.0,
) -> Suggestion:
    """The learning rate for ``new_batch`` simulators of a setting that is known to train with ``lr`` at ``batch``.

    - rule: lr (B'/B)^a, with a = 1 for SGD, which keeps lr / B and with it the temperature of SGD (arXiv 1711.04623,
      section 2), and a = 1/2 where the optimiser divides the gradient by its own root mean square.
    - noise: the best step of batch B is lr_max / (1 + N/B)^a, N being the noise scale (arXiv 1812.06162, eq. 2.6), so
      that from B to B' it grows by ((1 + N/B) / (1 + N/B'))^a: as the rule while B' is far below N, not at all above.
    - curvature: ``stable_product`` / ``sharpness``, the largest eigenvalue of the Hessian as the optimiser scales
      gradients. Where ``lr`` itself lies above it, it bounds nothing: training sharpens its loss up to 2 / lr and goes
      on there (Cohen et al. 2021, arXiv 2103.00065; for Adam Cohen et al. 2022, arXiv 2207.14484).

    Args:
        batch, new_batch: simulators whose gradients are averaged, whatever the number of steps of each.
        noise_scale: in simulators; infinite where no signal has shown.
        sharpness: NaN where it is not known, which caps nothing, as none above 0 does.
        stable_product: of learning rate and sharpness, see the function.

    Raises:
        ValueError: a number is not positive.
    """
    if not (lr > 0 and batch > 0 and new_batch > 0 and noise_scale >= 0):
        raise ValueError(
            f"lr={lr}, batches {batch} and {new_batch} must be above 0, noise scale {noise_scale} not below"
        )
    exponent = EXPONENTS[rule]
    caps = {
        "rule": lr * (new_batch / batch) ** exponent,
        "noise": math.inf,
        "curvature": stable_product / sharpness if 0 < sharpness * lr < stable_product else math.inf,
    }
    if math.isfinite(noise_scale):
        caps["noise"] = lr * ((1 + noise_scale / batch) / (1 + noise_scale / new_batch)) ** exponent
    least = min(caps, key=lambda name: caps[name])  # the rule, where they are equal
    return Suggestion(caps["rule"], caps["noise"], caps["curvature"], caps[least], least)


def stable_product(memory: float) -> float:
    """Largest product of learning rate and curvature at which descent converges on a quadratic, for steps along a
    running mean of gradients that keeps the share ``memory`` per update (Adam's beta1; 0 is plain descent):
    2 (1 + memory) / (1 - memory) (arXiv 2207.14484, section 2)."""
    return 2 * (1 + memory) / (1 - memory)


def is_sgd(optimizer: str) -> bool:
    """Whether an ``optim.name`` is that of descent along the gradient as it is, a user's own: ``torch.optim:SGD``."""
    return optimizer.rpartition(":")[2].lower().endswith("sgd")


def rule_of(optimizer: str) -> Rule:
    """The rule for an ``optim.name``. SGD's step is linear in the gradient, as is that of ekfac: its Fisher matrix does
    not depend on the batch. rmsprop, adam and, for want of knowledge, all others divide by the gradient's size."""
    return "linear" if optimizer == "ekfac" or is_sgd(optimizer) else "sqrt"
