"""Video models of a trained agent's rollouts: is the ball seen five frames ahead, and what do sticky actions add?

    python benchmarks/video_rollouts.py --part breakout                  25 minutes on two cores
    python benchmarks/video_rollouts.py --part sticky --seeds 1          15 minutes for each seed
    python benchmarks/video_rollouts.py --part pong --seeds 1 --steps 2800000      two hours: the agent first

breakout, pong: an agent is trained (``--steps``), its episodes are recorded, a model of them is trained and its best
samples of twenty are looked at: in how many held-out videos is the ball where it was, or anywhere, one to five frames
ahead; a picture of truth above best sample beside the results. sticky: the same agent of MinAtar's Breakout is recorded
with sticky actions and without, its cells are drawn as squares of two pixels a side, and a model is trained on each.
What stickiness injects is known: the entropy of the paddle's next place, given all that was seen and the action chosen,
by an exact filter. The model's KL must rise by it. With one pixel a cell there is little to learn: a choice of one in
four costs 1.12 nats without a latent, and 0.74 with the best Gaussian one (``latent_choice.py``); of four pixels, 4.5
and 0.93.

Everything stands in ``--work``, and what is there is not made again: a call that was cut off goes on, trainings from
their last checkpoints. One JSON line per model, one per finding.
"""

from __future__ import annotations

import argparse
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from kept_rows import KeptRows
from numpy.typing import NDArray
from torch import Tensor

from gala import cli
from gala.models.vrnn import VRNN
from gala.reports.png import png
from gala.reports.video_page import paint
from gala.runs.checkpoints import Checkpoints
from gala.runs.rollout_writer import RolloutWriter
from gala.runs.rollouts import Chunk, open_rollouts
from gala.runs.run_dir import RunDir
from gala.supervised.video_checkpoint import FOLDER, LATEST, load_video_model
from gala.supervised.video_data import draw
from gala.supervised.video_eval import continuations, psnr
from gala.supervised.video_meters import auroc
from gala.supervised.video_rollouts import RecordedVideos
from gala.supervised.video_settings import read_settings

Row = dict[str, Any]
STICKY, SAMPLES, VIDEOS, AHEAD = 0.25, 20, 64, 5
SIDE = 2
"""Pixels a side of a cell, in the part on stickiness."""
LEFT, RIGHT = 1, 3
"""MinAtar's actions; no other moves the paddle of Breakout."""


class Game(NamedTuple):
    """How an agent and a model of its rollouts are trained, and where in a frame [C, H, W] the ball is."""

    agent: tuple[str, ...]
    record: tuple[str, ...]
    model: tuple[str, ...]
    ball: tuple[slice, slice, slice]


PLANES = (
    "preset=video/rollouts",
    "lr=1e-3",
    "frames=10",
    "context=3",
    "width=24",
    "scales=3",
    "warm_up=500",
    "iterations=3000",
)
SQUARES = (*PLANES, "frames=8", "width=16", "levels=1", "lr=3e-3")
ITERATIONS = {0.0: 1000, STICKY: 4000}
"""Without chance the frames are learned in a quarter of the time: by then the bound is 0.05 nats a frame."""
GAMES = {
    "breakout": Game(
        ("preset=minatar/breakout", "learners=2", "optim.lr=1e-3", "gossip.lr_scaling=none", "a2c.max_grad_norm=0.5"),
        ("episodes=400",),
        PLANES,
        (slice(1, 2), slice(None), slice(None)),
    ),
    "pong": Game(  # the ball is between the paddles and below the score
        ("preset=atari/pong", "algo=a2c", "learners=1", "model.precision=bf16"),  # 16.9 after 4M env_steps
        ("episodes=20", "size=42"),
        (*PLANES, "width=16", "scales=4", "batch_size=8", "iterations=9000", "lr=3e-3", "schedule=linear"),
        (slice(None), slice(8, 40), slice(6, 36)),
    ),
}


def call(*words: str) -> None:
    """A command of gala. Raises SystemExit: it failed, or was ended by a signal."""
    print("gala", *words, flush=True)
    if status := cli.main(list(words)):
        raise SystemExit(status)


def agent(game: str, work: Path, steps: int) -> Path:
    run = work / f"agent-{game}"
    if not (run / "config.yaml").exists():
        call("train", *GAMES[game].agent, f"steps={steps}", "seed=1", f"run={run}")
    elif not (run / "summary.json").exists() or RunDir.open(run).read_summary()["env_steps"] < steps:
        call("resume", str(run), f"steps={steps}")
    return run


def trained(data: Path, out: Path, words: tuple[str, ...], seed: int) -> VRNN:
    """A model of the rollouts in ``data``; its directory is ``out``."""
    if not (out / "config.yaml").exists():
        call("video", "train", f"data={data}", *words, f"seed={seed}", "log_every=500", "save_every=500", f"out={out}")
    elif not (names := Checkpoints(out / FOLDER).names()) or unfinished(out, names):
        call("video", "resume", str(out))
    return load_video_model(out)[1]


def unfinished(out: Path, names: list[str]) -> bool:
    done = Checkpoints(out / FOLDER).meta(LATEST)["iteration"] if LATEST in names else 0
    return bool(done < read_settings(out).iterations)


@torch.no_grad()
def look(game: str, out: Path, model: VRNN, picture: Path) -> Row:
    """Where the ball is in the best of ``SAMPLES`` continuations of held-out videos."""
    config = read_settings(out)
    videos = draw(config.data, "test", VIDEOS, config.frames, config.seed + 1000)
    truth = videos.frames[config.context :]
    imagined = continuations(config, model, videos, SAMPLES, torch.Generator().manual_seed(0))
    best = psnr(imagined, truth.unsqueeze(2)).mean(0).argmax(1)
    sample = imagined[:, torch.arange(VIDEOS), best]
    at, anywhere = ball_seen(truth, sample, videos.frames.flatten(0, 1).median(0).values, GAMES[game].ball)
    strip(picture, videos.frames[:, :4], torch.cat([videos.frames[: config.context], sample])[:, :4])
    return {"ball_at_its_place": at[:AHEAD], "ball_anywhere": anywhere[:AHEAD]}


def ball_seen(
    truth: Tensor, sample: Tensor, background: Tensor, where: tuple[slice, slice, slice]
) -> tuple[list[float], list[float]]:
    """In which share of the videos [S, B, C, H, W] a sample shows the ball, by frame: within a pixel of where it was,
    and anywhere in ``where``. The ball is what differs most from the ``background``, and it is shown if half of that
    difference is there while the rest of ``where`` is near the background. Frames without a ball do not count."""
    real, made = (((x - background).abs()[:, :, *where]).amax(2) for x in (truth, sample))
    size = real.flatten(2).amax(2)
    around = torch.nn.functional.max_pool2d(made, 3, 1, 1).flatten(2)
    at = around.gather(2, real.flatten(2).argmax(2, keepdim=True))[..., 0]
    there, clear = size > 0.05, made.mean((2, 3)) < size / 8
    shares = [
        ((x >= size / 2) & clear & there).sum(1) / there.sum(1).clamp(min=1) for x in (at, made.flatten(2).amax(2))
    ]
    return shares[0].tolist(), shares[1].tolist()


def strip(path: Path, truth: Tensor, sample: Tensor) -> None:
    """[T, V, C, H, W] each: for every video truth above sample, time from left to right."""
    pairs = np.stack([paint(truth.numpy()), paint(sample.numpy())], 2)  # [T, V, 2, H, W, 3]
    pairs = np.pad(pairs, [(0, 0)] * 3 + [(0, 1), (0, 1), (0, 0)], constant_values=90)
    pairs = pairs.repeat(max(1, 100 // pairs.shape[3]), 3).repeat(max(1, 100 // pairs.shape[4]), 4)
    path.write_bytes(png(_mosaic(pairs)))


def _mosaic(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[T, V, K, H, W, 3] -> [V K H, T W, 3]."""
    t, v, k, h, w, _ = tiles.shape
    return tiles.transpose(1, 2, 3, 0, 4, 5).reshape(v * k * h, t * w, 3)


def sticky_entropy(place: NDArray, chosen: NDArray, first: NDArray, sticky: float, last: int = 9) -> NDArray:
    """Entropy in nats of each frame's paddle place, given all frames and chosen actions before it and the one that
    leads to it; [N] each, rows of whole episodes; 0 for ``first`` frames.

    The executed action is the chosen one, or with probability ``sticky`` the one that was executed before. A filter
    keeps what is known of the latter: of stay, left and right, as no other difference is seen.
    """
    moves = np.array([0, -1, 1])
    kinds = np.select([chosen == LEFT, chosen == RIGHT], [1, 2], 0)
    nats, belief = np.zeros(len(place)), np.full(3, 1 / 3)
    for t in range(len(place)):
        if first[t]:
            belief = np.full(3, 1 / 3)  # that of the episode before
            continue
        executed = sticky * belief
        executed[kinds[t]] += 1 - sticky
        goes = np.clip(place[t - 1] + moves, 0, last)
        p = np.array([executed[goes == there].sum() for there in np.unique(goes)])
        p = p[p > 0]
        nats[t] = -(p * np.log(p)).sum()
        seen = executed * (goes == place[t])
        belief = seen / seen.sum() if seen.sum() > 0 else np.full(3, 1 / 3)
    return nats


def enlarged(data: Path, out: Path, side: int) -> Path:
    """The rollouts in ``data`` with each pixel drawn as a square of ``side`` pixels, as one chunk in ``out``."""
    known = open_rollouts(data)
    *shape, height, width = known.facts.frame
    out.mkdir(exist_ok=True)
    writer = RolloutWriter(out, dataclasses.replace(known.facts, frame=(*shape, side * height, side * width)))
    if not writer.episodes:
        frames = np.concatenate(known.frames).repeat(side, -2).repeat(side, -1)
        writer.append(Chunk(frames, *(getattr(known, name) for name in Chunk._fields[1:])))
    return out


@torch.no_grad()
def surprise(out: Path, model: VRNN, sticky: float) -> Row:
    """KL per frame of held-out windows, beside what stickiness has injected into them."""
    config = read_settings(out)
    rollouts = open_rollouts(config.data)
    recorded = RecordedVideos(rollouts)
    frames = np.concatenate([rollouts.rows(int(a), int(b - a)) for a, b in pairwise(rollouts.episode_starts)])
    nats = sticky_entropy(frames[:, 0, 9 * SIDE, ::SIDE].argmax(1), rollouts.action, rollouts.first, sticky)
    ends = rollouts.episode_starts
    starts = np.concatenate(
        [np.arange(ends[e], ends[e + 1] - config.frames + 1, config.frames) for e in recorded.episodes("test")]
    )[:512]
    videos = recorded.windows(starts, config.frames)
    trace = model(videos.frames, videos.actions, torch.Generator().manual_seed(0))
    kl = trace.kl.sum(1)
    injected = nats[starts + np.arange(config.frames)[:, None]][config.context :]
    row = {"windows": len(starts), "nats": float(-trace.bound.mean() / len(kl)), "kl": float(kl.mean())}
    row["injected"] = float(injected.mean())
    if injected.max() > 0.1:
        row["auroc"] = auroc(kl.flatten().numpy(), (injected > 0.1).flatten())
    return row


def sticky_part(kept: KeptRows, options: argparse.Namespace, words: tuple[str, ...]) -> None:
    run = agent("breakout", options.work, options.steps)
    for seed in map(int, options.seeds.split(",")):
        for sticky in (0.0, STICKY):
            data, out = options.work / f"sticky-{sticky}", options.work / f"model-sticky-{sticky}-{seed}"
            call("record", str(run), "episodes=400", f"env.sticky_actions={sticky}", f"out={data}")
            if kept.lacks("sticky", sticky, seed):
                drawn = enlarged(data, data.with_name(f"{data.name}-drawn"), SIDE)
                n = ITERATIONS[sticky]
                model = trained(drawn, out, (*SQUARES, f"iterations={n}", *words), seed)
                row = {"part": "sticky", "sticky": sticky, "seed": seed, "iterations": n}
                kept.add(row | surprise(out, model, sticky))


def game_part(kept: KeptRows, options: argparse.Namespace, words: tuple[str, ...]) -> None:
    run = agent(options.part, options.work, options.steps)
    data = options.work / f"rollouts-{options.part}"
    call("record", str(run), *GAMES[options.part].record, f"out={data}")
    recorded = open_rollouts(data)
    earned = recorded.reward.sum() / (len(recorded.episode_starts) - 1)
    for seed in map(int, options.seeds.split(",")):
        if kept.lacks(options.part, None, seed):
            out = options.work / f"model-{options.part}-{seed}"
            model = trained(data, out, (*GAMES[options.part].model, *words), seed)
            call("video", "eval", str(out), "videos=32", "weights=5")
            picture = options.out.with_name(f"video_{options.part}_{seed}.png")
            row = {"part": options.part, "sticky": None, "seed": seed, "agents_return": float(earned)}
            kept.add(row | look(options.part, out, model, picture))


def findings(rows: list[Row]) -> list[Row]:
    found = []
    for game in GAMES:
        seen = [row["ball_anywhere"][AHEAD - 1] for row in rows if row["part"] == game]
        if seen:
            text = f"{game}: share of best samples that show the ball {AHEAD} frames ahead"
            found.append({"finding": text, "seeds": seen, "wanted": ">= 0.5", "holds": min(seen) >= 0.5})
    of = {(row["sticky"], row["seed"]): row for row in rows if row["part"] == "sticky"}
    seeds = [seed for sticky, seed in of if sticky and (0.0, seed) in of]
    if seeds:
        rises = [(of[STICKY, s]["kl"] - of[0.0, s]["kl"]) / of[STICKY, s]["injected"] for s in seeds]
        text = "rise of the KL with sticky actions, over the entropy that they inject"
        found.append(
            {"finding": text, "seeds": rises, "wanted": "0.8 to 2", "holds": 0.8 <= min(rises) <= max(rises) <= 2}
        )
        told = [of[STICKY, s]["auroc"] for s in seeds]
        text = "AUROC of the KL for frames with a choice of stickiness"
        found.append({"finding": text, "seeds": told, "wanted": ">= 0.8", "holds": min(told) >= 0.8})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*GAMES, "sticky"), required=True)
    parser.add_argument("--seeds", default="1,2,3", help="of the models, with commas between")
    parser.add_argument("--steps", type=int, default=2_500_000, help="env_steps of the agent")
    parser.add_argument("--words", default="", help="settings of gala video train, in place of this script's own")
    parser.add_argument("--work", type=Path, default=Path("runs/video_rollouts"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "video_rollouts.jsonl")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kept = KeptRows(options.out, ("part", "sticky", "seed"))
    (sticky_part if options.part == "sticky" else game_part)(kept, options, tuple(options.words.split()))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
