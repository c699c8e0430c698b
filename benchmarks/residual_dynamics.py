"""What residual blocks do, and when they can be shared: the findings of arXiv 1710.04773 on scikit-learn's digits.

    python benchmarks/residual_dynamics.py --out benchmarks/results/residual_dynamics.jsonl   half an hour on one core

A convolution to 16 channels, ten residual blocks, a mean over places and a linear layer; Adam, 40 epochs, three seeds,
with blocks of their own, or one block in ten uses: as it is (naive), with a scale of each use that begins at 0.1, with
group norms of each use, and with both. One JSON line per training and one per finding; trainings that are there are not
run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from kept_rows import KeptRows
from torch import Tensor, nn
from torch.nn import functional as F

from gala.diagnostics.iterative_inference import block_updates, early_exit, unrolled, without
from gala.models.residual import ResidualStack, Step, run_steps, steps_of
from gala.supervised.comparison import digits
from gala.supervised.loop import endless_batches

Row = dict[str, Any]
SEEDS, BLOCKS, CHANNELS, BATCH, EPOCHS, EXTRA = (1, 2, 3), 10, 16, 64, 40, 20


class Variant(NamedTuple):
    shared: bool
    norm: str
    scale: float


VARIANTS = {
    "unshared": Variant(False, "group", 0.0),
    "shared-naive": Variant(True, "none", 0.0),
    "shared-scale": Variant(True, "none", 0.1),
    "shared-norm": Variant(True, "group", 0.0),
    "shared-both": Variant(True, "group", 0.1),
}


def layers_of(variant: Variant, seed: int) -> nn.ModuleList:
    torch.manual_seed(seed)
    stack = ResidualStack(CHANNELS, BLOCKS, shared=variant.shared, norm=variant.norm, scale=variant.scale)
    head = nn.Linear(CHANNELS, 10)
    return nn.ModuleList(
        [nn.Conv2d(1, CHANNELS, 3, padding=1), stack, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
    )


def train(layers: nn.ModuleList, data: digits.Digits, seed: int) -> None:
    """Leaves the layers as they were at the last finite loss."""
    steps, params = steps_of(layers), list(layers.parameters())
    optimizer = torch.optim.Adam(params, 2e-3)
    batches = endless_batches(data.train_images, data.train_labels, BATCH, torch.Generator().manual_seed(seed))
    for _ in range(EPOCHS * len(data.train_labels) // BATCH):
        inputs, targets = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(run_steps(steps, inputs), targets).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()


@torch.no_grad()
def accuracy(steps: Sequence[Step], images: Tensor, labels: Tensor) -> float:
    return float((run_steps(steps, images).argmax(1) == labels).float().mean())


@torch.no_grad()
def growth(layers: nn.ModuleList, images: Tensor, scale: float) -> float:
    """|h| after ``EXTRA`` more uses of the last block, over |h| before them."""
    stack = layers[1]
    h = layers[0](images)
    before = stack(h)
    after = before
    for _ in range(EXTRA):
        after = after + scale * stack.update(BLOCKS - 1, after)
    return float((after.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)).mean())


def measure(name: str, seed: int) -> Row:
    """A training, and all that is asked of it on the test images."""
    data, layers = digits.load(0.2, 0), layers_of(VARIANTS[name], seed)
    train(layers, data, seed)
    steps, x, y = steps_of(layers), data.test_images, data.test_labels
    updates = block_updates(steps, x, lambda out: {"loss": F.cross_entropy(out, y)})
    cut = [accuracy(without(steps, 0, k), x, y) for k in range(BLOCKS)]
    naive, gentle = (accuracy(unrolled(steps, 0, EXTRA, scale), x, y) for scale in (1.0, 0.1))
    more = block_updates(unrolled(steps, 0, EXTRA, 0.1), x, lambda out: {"loss": F.cross_entropy(out, y)})[BLOCKS:]
    return {
        "variant": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in layers.parameters()),
        "train": accuracy(steps, data.train_images, data.train_labels),
        "test": accuracy(steps, x, y),
        "cosine": _round(float(u.cosine["loss"].mean()) for u in updates),
        "norm_ratio": _round(float(u.norm_ratio.mean()) for u in updates),
        "exits": _round(accuracy(early_exit(steps, 0, k), x, y) for k in range(BLOCKS)),
        "without": _round(cut),
        "unrolled": {
            "naive": naive,
            "scaled": gentle,
            "cosine": float(np.mean([float(u.cosine["loss"].mean()) for u in more])),
        },
        "growth": {"naive": growth(layers, x, 1.0), "scaled": growth(layers, x, 0.1)},
    }


def _round(values: Any) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def findings(rows: Sequence[Row]) -> list[Row]:
    """The paper's findings, with each seed's number."""
    by = {name: [r for r in rows if r["variant"] == name] for name in VARIANTS}
    own = by["unshared"]

    def found(text: str, seeds: Sequence[float], wanted: str, holds: bool) -> Row:
        return {"finding": text, "seeds": _round(seeds), "wanted": wanted, "holds": bool(holds)}

    down = [sum(c < 0 for c in r["cosine"]) for r in own]
    late = [np.mean(r["cosine"][-3:]) - np.mean(r["cosine"][:3]) for r in own]
    first = [r["norm_ratio"][0] / np.median(r["norm_ratio"]) for r in own]
    lost = [100 * (r["test"] - r["without"][0]) for r in own]
    late_lost = [100 * (r["test"] - float(np.median(r["without"][4:]))) for r in own]
    falls = [100 * max(0.0, *(a - b for a, b in zip(r["exits"][4:], r["exits"][5:], strict=False))) for r in own]
    ends = {name: [r["test"] for r in by[name]] for name in VARIANTS}
    mean = {name: float(np.mean(x)) for name, x in ends.items()}
    grown = [r["growth"]["naive"] for r in own]
    calm = [r["growth"]["scaled"] for r in own]
    kept = [100 * (r["unrolled"]["scaled"] - r["test"]) for r in own]
    slope = [r["unrolled"]["cosine"] for r in own]
    return [
        found("blocks of ten whose update goes down the gradient", down, "mean >= 8", float(np.mean(down)) >= 8),
        found("cosine of the last three blocks less that of the first three", late, "< 0", max(late) < 0),
        found("norm ratio of the first block over the median", first, ">= 3", min(first) >= 3),
        found("points of test accuracy lost without the first block", lost, ">= 10", min(lost) >= 10),
        found("points lost without one of blocks 5 to 10, median", late_lost, "<= 3", max(late_lost) <= 3),
        found("largest fall in points from one early exit to the next, blocks 5 to 10", falls, "<= 2", max(falls) <= 2),
        found("growth of |h| in 20 more uses of the last block, as they are", grown, ">= 5", min(grown) >= 5),
        found("growth of |h| in 20 more uses, a tenth each", calm, "<= 2", max(calm) <= 2),
        found("points gained by them", kept, "mean within 1", abs(float(np.mean(kept))) <= 1),
        found("cosine of their updates", slope, "<= 0", max(slope) <= 0),
        found(
            "test accuracy: shared, naive",
            ends["shared-naive"],
            "< with a scale",
            mean["shared-naive"] < mean["shared-scale"],
        ),
        found(
            "test accuracy: shared, scale",
            ends["shared-scale"],
            "< with norms",
            mean["shared-scale"] < mean["shared-norm"],
        ),
        found(
            "test accuracy: shared, norms of each use",
            ends["shared-norm"],
            "mean within 2 points of unshared",
            mean["shared-norm"] >= mean["unshared"] - 0.02,
        ),
        found("test accuracy: shared, norms and scale", ends["shared-both"], "no gate", True),
        found("test accuracy: unshared", ends["unshared"], "no gate", True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "residual_dynamics.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = KeptRows(options.out, ("variant", "seed"))
    for name in VARIANTS:
        for seed in SEEDS:
            if kept.lacks(name, seed):
                kept.add(measure(name, seed))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
