"""EKFAC, K-FAC, SGD with momentum and Adam on a deep auto-encoder of scikit-learn's digits, at equal updates.

    python benchmarks/ekfac_autoencoder.py --out results.jsonl

The task of arXiv 1806.03884, section 5.1, at the size of a laptop: 64-32-8-32-64 units, sigmoids, binary cross-entropy
summed over pixels, 1797 images, batches of 256. Each optimiser at four learning rates, three seeds; one JSON line per
training with the loss of all images at the end and the processor's seconds, and one per optimiser for its best rate
(least mean loss). EKFAC and K-FAC have momentum 0.9 too, and the Fisher of targets drawn from the model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from gala.bench.machine import machine_facts
from gala.optim.ekfac import EKFAC
from gala.optim.update import LearningStep
from gala.supervised.comparison import digits
from gala.supervised.loop import endless_batches

WIDTHS = (64, 32, 8, 32, 64)
GRIDS: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "adam": (0.003, 0.01, 0.03, 0.1),
    "kfac": (0.003, 0.01, 0.03, 0.1),
    "ekfac": (0.003, 0.01, 0.03, 0.1),
}
BATCH, DAMPING, DECAY, BASIS_EVERY = 256, 0.01, 0.95, 10


def make_model(seed: int) -> nn.Sequential:
    """Sparse initialisation: 15 of a unit's inputs from N(0, 1), the others and the biases 0 (Martens 2010)."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for wide, next_wide in itertools.pairwise(WIDTHS):
        linear = nn.Linear(wide, next_wide)
        kept = torch.rand(next_wide, wide).argsort(1) < 15
        with torch.no_grad():
            linear.weight.copy_(torch.randn(next_wide, wide) * kept)
            linear.bias.zero_()
        layers += [linear, nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


def losses(logits: Tensor, images: Tensor) -> Tensor:
    """``[B]``, summed over pixels."""
    return cross_entropy(logits, images, reduction="none").sum(1)


def train(name: str, lr: float, seed: int, updates: int, images: Tensor) -> dict[str, Any]:
    """One row."""
    model, make = make_model(seed), torch.Generator().manual_seed(seed)
    ekfac = None
    if name in ("ekfac", "kfac"):
        ekfac = EKFAC(model, kind=name, damping=DAMPING, decay=DECAY, basis_every=BASIS_EVERY)  # type: ignore[arg-type]
    if name == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    step, batches = LearningStep(optimizer, precondition=ekfac), endless_batches(images, images, BATCH, make)
    started = time.process_time()
    try:
        for _ in range(updates):
            batch, _ = next(batches)
            if ekfac is not None:
                with ekfac.recording():
                    logits = model(batch)
                drawn = torch.bernoulli(logits.detach().sigmoid(), generator=make)
                ekfac.observe([losses(logits, drawn)], generator=make)
            optimizer.zero_grad()
            losses(model(batch), batch).mean().backward()
            step()
        loss = float(losses(model(images), images).mean().detach())
    except FloatingPointError:
        loss = math.inf
    seconds = time.process_time() - started
    row = {"optimizer": name, "lr": lr, "seed": seed, "updates": updates, "cpu_s": round(seconds, 3)}
    return {"benchmark": "ekfac_autoencoder", **row, "loss": round(loss, 4) if math.isfinite(loss) else None}


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best learning rate of each optimiser, its losses by seed, and the time of an update."""
    found = []
    for name, grid in GRIDS.items():
        candidates = [[r for r in rows if (r["optimizer"], r["lr"]) == (name, lr)] for lr in grid]
        chosen = min(candidates, key=mean_loss)
        ms = 1e3 * sum(r["cpu_s"] / r["updates"] for r in chosen) / len(chosen)
        row = {"optimizer": name, "lr": chosen[0]["lr"], "mean_loss": round(mean_loss(chosen), 4)}
        times = {"losses": [r["loss"] for r in chosen], "cpu_ms_per_update": round(ms, 2)}
        found.append({"benchmark": "ekfac_autoencoder_best", **row, **times})
    return found


def mean_loss(rows: list[dict[str, Any]]) -> float:
    """Infinite if a training has diverged."""
    return sum(math.inf if r["loss"] is None else r["loss"] for r in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="written anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits.load(0.2, 0)
    images = torch.cat([data.train_images, data.test_images]).flatten(1)
    grid = [(name, lr, seed) for name, lrs in GRIDS.items() for lr in lrs for seed in range(options.seeds)]
    rows = [train(name, lr, seed, options.updates, images) for name, lr, seed in grid]
    told = [{**row, "machine": machine_facts()} for row in best(rows)]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *told]))
    for row in told:
        print(
            f"{row['optimizer']:<6} lr {row['lr']:<6} loss {row['mean_loss']:<8} {row['cpu_ms_per_update']} ms/update"
        )


if __name__ == "__main__":
    main()
