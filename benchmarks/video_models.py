"""Video models of processes whose entropy is known: surprise, levels, priors, warm-up, width.

    python benchmarks/video_models.py --out benchmarks/results/video_models.jsonl    an hour on one core

A coin and its deterministic twin (one number a frame), a sprite that turns at random at walls only (16 x 16), and
moving digits (32 x 32, ``--digits ITERATIONS``), three seeds each, single learners. One JSON line per training: minus
the evidence lower bound and the KL in nats per frame on held-out videos, beside the entropy of the law that drew them.
One line per finding, after arXiv 1904.12165 and the processes' closed forms. Trainings that are there are kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept_rows import KeptRows
from scipy import stats

from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.models.vrnn import VRNN
from gala.supervised import video
from gala.supervised.video_data import draw

Row = dict[str, Any]
SEEDS = (1, 2, 3)
WALL = (
    "preset=video/wall-bounce",
    "width=16",
    "frames=12",
    "batch_size=16",
    "iterations=800",
    "warm_up=300",
    "scales=3",
)
DIGITS = ("preset=video/moving-digits", "width=16", "frames=10", "batch_size=8", "scales=4")
VARIANTS: dict[str, tuple[str, ...]] = {
    "coin": ("preset=video/coin-flip",),
    "twin": ("preset=video/coin-flip", "data=alternating"),
    "wall": WALL,
    "wall-cold": (*WALL, "warm_up=0"),
    "wall-narrow": (*WALL, "width=8"),
    "wall-levels": (*WALL, "levels=2"),
    "wall-fixed": (*WALL, "learned_prior=false"),
}
OF_DIGITS: dict[str, tuple[str, ...]] = {
    "digits-levels": (*DIGITS, "levels=2"),
    "digits-one": (*DIGITS, "levels=1"),
    "digits-fixed": (*DIGITS, "levels=1", "learned_prior=false"),
}
ACTIVE = 0.01
"""Variance over videos of a latent unit's posterior mean above which it carries something (arXiv 1509.00519)."""


def train(name: str, settings: Sequence[str], seed: int) -> Row:
    config = parse_options(VideoConfig, [*settings, f"seed={seed}", "log_every=1000000"])
    torch.manual_seed(seed)
    model, rows = video.make_model(config), list[Row]()
    began = time.monotonic()
    for _ in video.train(config, video.make_learner(config, model), 0, rows.append):
        pass
    took_s = time.monotonic() - began
    row = {"variant": name, "seed": seed, "settings": " ".join(settings), "iterations": config.iterations}
    row |= {"parameters": sum(p.numel() for p in model.parameters()), "seconds": round(took_s, 1)}
    row |= {
        "train_nats": video.judge(config, model, "train")["nats"],
        **{k: rows[-1][k] for k in ("nats", "bits_per_dim")},
    }
    row |= {"kl": rows[-1]["kl"], "nats_if_known": rows[-1].get("nats_if_known")}
    return row | seen(config, model)


@torch.no_grad()
def seen(config: VideoConfig, model: VRNN) -> Row:
    """On 256 other held-out videos: active units, the KL where the law has entropy and where it has none, how well the
    KL tells the two apart (AUROC), and the bound of the same videos with their frames in a random order."""
    drawn = draw(config.data, "test", 256, config.frames, config.seed + 1000)
    trace = model(drawn.frames, drawn.actions, torch.Generator().manual_seed(0))
    predicted = len(trace.log_prob)
    order = torch.randperm(config.frames, generator=torch.Generator().manual_seed(0))
    mixed = model(drawn.frames[order], None, torch.Generator().manual_seed(0)).bound.mean().item() / predicted
    row: Row = {"shuffled_nats": -mixed, "active_units": active_units(config, model)}
    if drawn.entropy is None:
        return row
    kl, uncertain = trace.kl.sum(1).flatten().numpy(), (drawn.entropy[config.context :] > 0.1).flatten().numpy()
    if uncertain.any() and not uncertain.all():
        ranks = stats.rankdata(kl)
        n, m = int(uncertain.sum()), int((~uncertain).sum())
        auroc = float((ranks[uncertain].sum() - n * (n + 1) / 2) / (n * m))
        row |= {"kl_uncertain": float(kl[uncertain].mean()), "kl_certain": float(kl[~uncertain].mean()), "auroc": auroc}
    return row


@torch.no_grad()
def active_units(config: VideoConfig, model: VRNN) -> int:
    """Of all latents' units at all places, after the last frame."""
    frames = draw(config.data, "test", 256, config.frames, config.seed + 1000).frames
    state, means = model.initial(frames.shape[1]), []
    generator = torch.Generator().manual_seed(0)
    for t, frame in enumerate(frames):
        state, step = model.observe(state, frame, generator=generator)
        if t >= config.context:
            means = [posterior.mean.flatten(1) for posterior in step.posteriors]
    return int((torch.cat(means, 1).var(0) > ACTIVE).sum())


def findings(rows: Sequence[Row]) -> list[Row]:
    found = []

    def of(name: str, key: str) -> np.ndarray:
        values = [r[key] for r in sorted(rows, key=lambda r: r["seed"]) if r["variant"] == name]
        return np.array([sum(v) if isinstance(v, list) else v for v in values], float)

    def add(text: str, values: np.ndarray, wanted: str, low: float = -np.inf, high: float = np.inf) -> None:
        if len(values):
            holds = bool(((values >= low) & (values <= high)).all())
            found.append(
                {"finding": text, "seeds": [float(f"{v:.4g}") for v in values], "wanted": wanted, "holds": holds}
            )

    def differ(text: str, a: str, b: str, key: str, wanted: str) -> None:
        if len(of(a, key)) and len(of(b, key)):
            add(text, of(a, key) - of(b, key), wanted, high=0.0)

    add("KL of a fair coin", of("coin", "kl"), "0.64 to 2 (ln 2 = 0.69)", 0.64, 2)
    add("KL of its deterministic twin", of("twin", "kl"), "<= 0.05", high=0.05)
    for name in ("coin", "twin"):
        add(f"-ELBO less the entropy, {name}", of(name, "nats") - of(name, "nats_if_known"), ">= -0.02", low=-0.02)
    add("KL after a hit of the wall (entropy ln 4 = 1.39)", of("wall", "kl_uncertain"), ">= 1.2", low=1.2)
    add("KL elsewhere (entropy 0)", of("wall", "kl_certain"), "<= 0.15", high=0.15)
    add("AUROC of the KL for a hit", of("wall", "auroc"), ">= 0.95", low=0.95)
    differ("-ELBO of two levels less that of one, wall", "wall-levels", "wall", "nats", "<= 0")
    differ("-ELBO with a learned prior less that with a fixed one, wall", "wall", "wall-fixed", "nats", "<= 0")
    differ("active units without warm-up less those with it", "wall-cold", "wall", "active_units", "<= 0")
    differ("training -ELBO of twice the width less that of the width", "wall", "wall-narrow", "train_nats", "<= 0")
    differ("-ELBO of two levels less that of one, digits", "digits-levels", "digits-one", "nats", "<= 0")
    differ(
        "-ELBO with a learned prior less that with a fixed one, digits", "digits-one", "digits-fixed", "nats", "<= 0"
    )
    for name in ("wall", "digits-levels"):
        add(
            f"-ELBO of frames in a random order less that in order, {name}",
            of(name, "shuffled_nats") - of(name, "nats"),
            "> 0",
            0,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, default=0, help="iterations of moving digits; 0: none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "video_models.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = KeptRows(options.out, ("variant", "seed"))
    digits = {name: (*words, f"iterations={options.digits}") for name, words in OF_DIGITS.items() if options.digits}
    for seed in SEEDS:
        for name, settings in (VARIANTS | digits).items():
            if kept.lacks(name, seed):
                kept.add(train(name, settings, seed))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
