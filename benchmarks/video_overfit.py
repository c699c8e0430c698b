"""Perception and policy told apart: a video model's surprise beside the gap of returns, on mazes and on backgrounds.

    python benchmarks/video_overfit.py --part maze             15 minutes on two cores
    python benchmarks/video_overfit.py --part backgrounds      an hour; a call that was cut off goes on

Three agents are trained on ten MDPs and judged on these and on others (``gala overfit``); the first one's episodes on
the training MDPs are recorded, video models of them are trained with three seeds, and each looks at that agent's
episodes on both sets (``gala overfit report STUDY surprise=VIDEO_RUN``). Mazes differ in what is seen and in what must
be done; backgrounds differ in what is seen alone. One JSON line per model: the gap of the bound in nats per frame with
its 95% interval, beside the gap of returns.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from kept_rows import KeptRows

from gala import cli
from gala.diagnostics.overfitting.surprise import summarise
from gala.files.plain_yaml import read_json
from gala.reports.overfitting import judged
from gala.runs.checkpoints import Checkpoints
from gala.supervised.video_settings import read_settings

Row = dict[str, Any]
RUNS = 3


class Part(NamedTuple):
    """The words of ``gala overfit split`` and ``train``, and of ``gala video train``."""

    sets: tuple[str, ...]
    agent: tuple[str, ...]
    steps: int
    model: tuple[str, ...]


VIDEO = ("preset=video/rollouts", "lr=1e-3", "frames=8", "context=3", "warm_up=300")
PARTS = {
    "maze": Part(
        ("maze", "size=5", "bads=1", "limit=50"),
        ("preset=overfit/maze", "algo=a2c"),
        300_000,
        (*VIDEO, "scales=2", "width=24", "iterations=1500"),
    ),
    "backgrounds": Part(
        ("backgrounds:classic:CartPole-v1", "background=image", "force=10", "length=0.5", "mass=0.1"),
        ("algo=a2c", "envs_per_learner=32", "a2c.num_steps=16", "optim.lr=2e-3"),
        2_000_000,
        (*VIDEO, "likelihood=disc-logistic", "scales=4", "width=16", "batch_size=8", "iterations=600"),
    ),
}


def call(*words: str) -> None:
    """A command of gala. Raises SystemExit: it failed, or was ended by a signal."""
    print("gala", *words, flush=True)
    if (status := cli.main(list(words))) not in (0, *VERDICTS):
        raise SystemExit(status)


VERDICTS = (3, 4)
"""Exit statuses of ``gala overfit`` that say what was found, not that something failed."""


def study(part: str, steps: int, work: Path) -> Path:
    """The study of ``RUNS`` agents; what is there is not made again."""
    sets, runs, out = work / "sets", work / "runs", work / "study"
    if not (sets / "train.json").is_file():
        call("overfit", "split", *PARTS[part].sets, "train=10", "test=50", f"out={sets}")
    words = (*PARTS[part].agent, f"steps={steps}", f"runs={RUNS}")
    call("overfit", "train", f"sets={sets}", *words, f"out={runs}")
    if not (out / "report.html").is_file():
        shutil.rmtree(out, ignore_errors=True)
        call("overfit", "eval", *(str(runs / f"run{k}") for k in range(RUNS)), f"sets={sets}", f"out={out}")
    return out


def surprise(part: str, seed: int, work: Path, words: tuple[str, ...]) -> Row:
    """A video model of the first agent, and the report with its surprise."""
    data, out, report = work / "rollouts", work / f"video-{seed}", work / "study"
    call("record", str(work / "runs" / "run0"), "episodes=200", f"out={data}")
    names = Checkpoints(out / "checkpoints").names() if (out / "config.yaml").is_file() else []
    if not (out / "config.yaml").is_file():
        model = (*PARTS[part].model, *words, f"seed={seed}", "save_every=100")
        call("video", "train", f"data={data}", *model, f"out={out}")
    elif "latest" not in names or done(out) < read_settings(out).iterations:
        call("video", "resume", str(out))
    call("overfit", "report", str(report), f"surprise={out}", f"sets={work / 'sets'}")
    rows = [json.loads(line) for line in (report / "rows.jsonl").read_text().splitlines()]
    group = judged(rows, read_json(report / "study.json"))["groups"][0]
    seen = summarise(json.loads(line) for line in (report / "surprise.jsonl").read_text().splitlines())
    assert seen is not None
    return {
        "part": part,
        "seed": seed,
        "surprise_gap": list(seen.gap),
        "nats_train": float(seen.train.mean()),
        "nats_test": float(seen.test.mean()),
        "verdict": group.verdict,
        "return_gap": list(group.judged),
    }


def done(out: Path) -> int:
    return int(Checkpoints(out / "checkpoints").meta("latest")["iteration"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--seeds", default="1,2,3", help="of the video models, with commas between")
    parser.add_argument("--steps", type=int, default=0, help="env_steps of each agent; 0: the part's own")
    parser.add_argument("--words", default="", help="settings of gala video train, in place of this script's own")
    parser.add_argument("--work", type=Path, default=Path("runs/video_overfit"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "video_overfit.jsonl")
    options = parser.parse_args()
    work = options.work / options.part
    work.mkdir(parents=True, exist_ok=True)
    kept = KeptRows(options.out, ("part", "seed"))
    study(options.part, options.steps or PARTS[options.part].steps, work)
    for seed in map(int, options.seeds.split(",")):
        if kept.lacks(options.part, seed):
            kept.add(surprise(options.part, seed, work, tuple(options.words.split())))
    kept.conclude([])


if __name__ == "__main__":
    main()
