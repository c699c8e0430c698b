"""Where SGD goes: sharpness by learning rate and batch size, edge of stability, width of minima, memorisation.

    python benchmarks/sgd_dynamics.py --out benchmarks/results/sgd_dynamics.jsonl    about ten minutes on one core

Small networks on scikit-learn's digits, plain SGD, three seeds. Sharpness is the largest eigenvalue of the Hessian of
the loss of all training images. One JSON line per training, and at the end one per finding of arXiv 1807.05031
(sharpness peaks lower for larger steps and smaller batches; steps lie along the sharpest direction), 2103.00065 (full-
batch gradient descent settles where the largest eigenvalue is about 2 / lr), and 1711.04623 (minima are wider and
memorise less where lr / batch is larger), with what was measured. Trainings that are there are not run again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept_rows import KeptRows
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from gala.diagnostics.curvature import flat, hessian_product, top_eigenpairs, trace
from gala.supervised.comparison import digits
from gala.supervised.loop import endless_batches

Row = dict[str, Any]
SEEDS = (1, 2, 3)
PEAKS = ((0.1, 128), (0.3, 128), (1.0, 128), (0.1, 32), (0.1, 8))
EPOCHS = 100
GRID = tuple((lr, batch) for lr in (0.03, 0.1, 0.3) for batch in (8, 32, 128))
NOISY = ((0.1, 128), (0.1, 32), (0.1, 8), (0.3, 8))
EDGES = (0.1, 0.2)
EQUAL_LOSS, EQUAL_ACCURACY, NOISE = 0.05, 0.85, 0.25


def network(seed: int, activation: type[nn.Module] = nn.ReLU, width: int = 32) -> nn.Sequential:
    """64 - width - width - 10."""
    torch.manual_seed(seed)
    layers = [nn.Linear(64, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 10)]
    return nn.Sequential(*layers)


def data(seed: int, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [N, 64] and labels, of which a share ``noise`` is drawn at random, and clean test ones."""
    d = digits.load(0.2, 0)
    labels, generator = d.train_labels.clone(), torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(labels), generator=generator)[: round(noise * len(labels))]
    labels[drawn] = torch.randint(0, 10, (len(drawn),), generator=generator)
    return d.train_images.flatten(1), labels, d.test_images.flatten(1), d.test_labels


def sgd(
    model: nn.Module, x: Tensor, y: Tensor, lr: float, batch: int, seed: int, loss: Callable = F.cross_entropy
) -> Iterator[Tensor]:
    """Endless updates; yields each one's gradient [d], after the step."""
    batches = endless_batches(x, y, batch, torch.Generator().manual_seed(seed))
    params = list(model.parameters())
    while True:
        inputs, targets = next(batches)
        grads = torch.autograd.grad(loss(model(inputs), targets), params)
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p.sub_(lr * g)
        yield flat(grads)


def sharpest(model: nn.Module, loss: Callable[[], Tensor], start: Tensor | None) -> tuple[float, Tensor]:
    params = list(model.parameters())
    pair = top_eigenpairs(hessian_product(loss, params), flat(params).detach(), 1, start, tolerance=1e-3)
    return float(pair.values[0]), pair.vectors[:, 0]


def peak(lr: float, batch: int, seed: int) -> Row:
    """Sharpness over ``EPOCHS``, and how far along its direction the gradients lie."""
    x, y, _, _ = data(seed)
    model = network(seed)
    full = lambda: F.cross_entropy(model(x), y)  # noqa: E731
    value, vector = sharpest(model, full, None)
    curve, cosines = [value], []
    every = max(1, 2 * len(x) // batch)
    for i, gradient in enumerate(sgd(model, x, y, lr, batch, seed), 1):
        cosines.append(abs(float(gradient @ vector / gradient.norm())))
        if i % every == 0:
            value, vector = sharpest(model, full, vector)
            curve.append(value)
        if i >= EPOCHS * every // 2:
            break
    chance = math.sqrt(2 / (math.pi * flat(list(model.parameters())).numel()))
    return {"peak": max(curve), "last": curve[-1], "curve": _round(curve), "alignment": np.mean(cosines) / chance}


def edge(lr: float, batch: int, seed: int) -> Row:
    """Full-batch gradient descent on squared errors: lr x sharpness / 2 over the last third of 3,000 steps."""
    x, y, _, _ = data(seed)
    model, wanted = network(seed, nn.Tanh), F.one_hot(y, 10).float()
    squared = lambda outputs, targets: ((outputs - targets) ** 2).sum(1).mean()  # noqa: E731
    full = lambda: squared(model(x), wanted)  # noqa: E731
    value, vector = sharpest(model, full, None)
    curve = [value * lr / 2]
    for i, _ in enumerate(sgd(model, x, wanted, lr, len(x), seed, squared), 1):
        if i % 50 == 0:
            value, vector = sharpest(model, full, vector)
            curve.append(value * lr / 2)
        if i == 3000:
            break
    return {"settled": np.mean(curve[-len(curve) // 3 :]), "curve": _round(curve), "loss": float(full().detach())}


def width(lr: float, batch: int, seed: int) -> Row:
    """Sharpness and trace where the training loss first is ``EQUAL_LOSS``."""
    x, y, tx, ty = data(seed)
    model = network(seed)
    full = lambda: F.cross_entropy(model(x), y)  # noqa: E731
    for i, _ in enumerate(sgd(model, x, y, lr, batch, seed), 1):
        if i % 10 == 0 and (float(full().detach()) <= EQUAL_LOSS or i > 40_000):
            break
    params = list(model.parameters())
    product, like = hessian_product(full, params), flat(params).detach()
    value = float(top_eigenpairs(product, like, 1, tolerance=1e-3).values[0])
    total, _ = trace(product, like, 64, torch.Generator().manual_seed(0))
    return {
        "updates": i,
        "loss": float(full().detach()),
        "sharpness": value,
        "trace": total,
        "test": _accuracy(model, tx, ty),
    }


def memory(lr: float, batch: int, seed: int) -> Row:
    """Clean test accuracy where ``EQUAL_ACCURACY`` of the training labels, a quarter of them random, is reached."""
    x, y, tx, ty = data(seed, NOISE)
    model = network(seed, width=256)
    every, seen = max(1, len(x) // batch), [(0.0, 0.0)]
    for i, _ in enumerate(sgd(model, x, y, lr, batch, seed), 1):
        if i % every == 0:
            seen.append((_accuracy(model, x, y), _accuracy(model, tx, ty)))
            if seen[-1][0] >= EQUAL_ACCURACY or i >= 600 * every:
                break
    (a, before), (b, after) = seen[-2:]
    share = (EQUAL_ACCURACY - a) / (b - a) if b >= EQUAL_ACCURACY else math.nan
    return {
        "epochs": i // every,
        "train": b,
        "best_test": max(t for _, t in seen),
        "test": before + share * (after - before),
    }


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def _round(values: Sequence[float]) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


CHECKS = {
    "peak": (peak, PEAKS),
    "edge": (edge, tuple((lr, 0) for lr in EDGES)),
    "width": (width, GRID),
    "memory": (memory, NOISY),
}


def findings(rows: Sequence[Row]) -> list[Row]:
    """What was seen, with its range over seeds."""

    def of(check: str, key: str, lr: float, batch: int) -> np.ndarray:
        return np.array([r[key] for r in rows if (r["check"], r["lr"], r["batch"]) == (check, lr, batch)])

    found = []
    for text, a, b in (
        ("peak sharpness at lr 0.1 over that at 0.3, batch 128", (0.1, 128), (0.3, 128)),
        ("peak sharpness at batch 128 over that at 8, lr 0.1", (0.1, 128), (0.1, 8)),
    ):
        ratios = of("peak", "peak", *a) / of("peak", "peak", *b)
        found.append({"finding": text, "seeds": _round(ratios), "wanted": "> 1", "holds": bool((ratios > 1).all())})
    fall = np.array([r["last"] / r["peak"] for r in rows if r["check"] == "peak"])
    text = "sharpness at the end over its peak, all trainings"
    found.append(
        {
            "finding": text,
            "seeds": _round(fall),
            "wanted": "<= 1: it rises, then stops",
            "holds": bool((fall < 1).all()),
        }
    )
    aligned = np.array([r["alignment"] for r in rows if r["check"] == "peak"])
    text = "|cos(gradient, sharpest direction)| over that of a random direction"
    found.append({"finding": text, "seeds": _round(aligned), "wanted": ">= 10", "holds": bool((aligned >= 10).all())})
    settled = np.array([r["settled"] for r in rows if r["check"] == "edge"])
    ok = bool(((settled >= 0.9) & (settled <= 1.3)).all())
    found.append(
        {
            "finding": "sharpness of full-batch GD in units of 2 / lr",
            "seeds": _round(settled),
            "wanted": "0.9 to 1.3",
            "holds": ok,
        }
    )
    for key in ("sharpness", "trace"):
        wide = [r for r in rows if r["check"] == "width"]
        rhos = [
            float(
                stats.spearmanr(
                    [math.log(r["lr"] / r["batch"]) for r in wide if r["seed"] == s],
                    [r[key] for r in wide if r["seed"] == s],
                ).statistic
            )
            for s in SEEDS
        ]
        text = f"Spearman of {key} at equal training loss and log(lr / batch)"
        found.append({"finding": text, "seeds": _round(rhos), "wanted": "<= -0.7", "holds": max(rhos) <= -0.7})
    few, many = of("memory", "test", *NOISY[0]), of("memory", "test", *NOISY[-1])
    text = f"clean test accuracy at {EQUAL_ACCURACY:.0%} of noisy labels: lr / batch largest less smallest"
    found.append({"finding": text, "seeds": _round(many - few), "wanted": "> 0", "holds": bool((many > few).all())})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sgd_dynamics.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = KeptRows(options.out, ("check", "lr", "batch", "seed"))
    for name, (check, settings) in CHECKS.items():
        for lr, batch in settings:
            for seed in SEEDS:
                if kept.lacks(name, lr, batch, seed):
                    row = {"check": name, "lr": lr, "batch": batch, "seed": seed} | check(lr, batch, seed)
                    kept.add({k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()})
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
