"""``gala diagnose RUN iterative=true``: do the residual blocks refine one answer, and which are needed?"""

from __future__ import annotations

import math

from gala.diagnostics import iterative_inference as ii
from gala.diagnostics.finding import Curves, Finding
from gala.evaluation.frozen import Frozen


def check(frozen: Frozen) -> None:
    """Raises ValueError: the encoder has no residual blocks."""
    ii.residual_encoder(frozen.policy)


def judge(frozen: Frozen) -> Finding:
    """Means over all rollouts, block by block.

    Raises:
        ValueError: the encoder has no residual blocks.
    """
    batches = [
        ii.Batch(frozen.policy, rollout, frozen.coefficients, frozen.entropy_coef) for rollout in frozen.rollouts
    ]
    found = [ii.blocks(batch) for batch in batches]
    names = [f"{block.stage}.{block.block}" for block in found[0]]

    def mean(value: str, part: str = "", loss: str = "") -> list[float]:
        rows = []
        for i in range(len(names)):
            picked = [getattr(blocks[i], value) for blocks in found]
            picked = [getattr(x, part) if part else x[loss] if loss else x for x in picked]
            rows.append(sum(picked) / len(picked))
        return rows

    cosine, ratio = mean("cosine", loss="total"), mean("norm_ratio")
    kl, agreement = mean("dropped", "kl"), mean("dropped", "agreement")
    down = sum(value < 0 for value in cosine)
    most = max(range(len(names)), key=lambda i: kl[i])
    rows, told = zip(names, ratio, cosine, kl, agreement, strict=True), not math.isnan(agreement[0])
    places = list(range(1, len(names) + 1))
    parts = ("kl", *(["agreement"] * told), "value_r2", "loss")
    return Finding(
        "Iterative inference in the residual blocks",
        [
            f"{down} of {len(names)} blocks move their input down the gradient of the loss (cosine below 0): they "
            "improve the answer that the blocks before them have given.",
            f"The policy changes most without block {names[most]} (KL {kl[most]:.3g}); a block whose update is small "
            "against its input, and without which nothing changes, could go.",
        ],
        [
            [
                "block",
                "|update| / |input|",
                "cosine to the gradient",
                "KL without it",
                *(["same action without it"] * told),
            ],
            *([n, f"{r:.3g}", f"{c:.3g}", f"{k:.3g}", *([f"{a:.1%}"] * told)] for n, r, c, k, a in rows),
        ],
        [
            Curves("Cosine of each block's update to the gradient", "block", "cosine", {"total": (places, cosine)}),
            Curves("What is lost without each block", "block", "KL to the whole network", {"dropped": (places, kl)}),
        ],
        {
            "blocks": names,
            "norm_ratio": ratio,
            "cosine": {loss: mean("cosine", loss=loss) for loss in ("policy", "value", "total")},
            "dropped": {part: mean("dropped", part) for part in parts},
            "exit": {part: mean("exit", part) for part in parts},
        },
    )
