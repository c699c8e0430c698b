"""``gala video train|resume|eval``: a model that predicts videos, with its bound, samples and checkpoints on disk."""

from __future__ import annotations

import dataclasses
import json
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gala.config.parse import dump_config, load_options, override, parse_options, print_help
from gala.config.video import VideoConfig, validate
from gala.runs.checkpoints import Checkpoints, append_whole, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

USAGE = """usage: gala video train [preset=video/moving-digits] [key=value ...]
       gala video resume RUN [key=value ...]
       gala video eval RUN [videos=64] [weights=20] [samples=20] [seed=1]

train    learn to predict videos made by rule; Ctrl-C saves, `gala video train --help` lists the settings
resume   go on from RUN's checkpoint as if it had never stopped; iterations, log_every and save_every may change
eval     the importance-weighted bound on new held-out videos, and PSNR and SSIM of the best of some samples, as JSON"""
METRICS, SETTINGS = "metrics.jsonl", "config.yaml"


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """What ``gala video eval`` accepts."""

    videos: int = 64
    weights: int = 20
    samples: int = 20
    seed: int = 1


_MAY_CHANGE = ("iterations", "log_every", "save_every")


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 128 + the number of the signal that ended the training; ValueError for bad input."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "train":
        return _train(words[1:])
    if words[0] == "resume" and len(words) > 1:
        return _resume(Path(words[1]), words[2:])
    if words[0] == "eval" and len(words) > 1:
        return _evaluate(Path(words[1]), words[2:])
    raise ValueError(f"gala video {' '.join(words[:2])}: give `train` with settings, `resume RUN` or `eval RUN`")


def _train(words: Sequence[str]) -> int:
    if "--help" in words or "-h" in words:
        print_help("gala video train", VideoConfig)
        return 0
    config = parse_options(VideoConfig, words)
    out = Path(config.out or time.strftime("runs/video-%Y%m%d-%H%M%S"))
    config = dataclasses.replace(config, out=str(out))
    _check(config)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists; give another out=DIRECTORY, or `gala video resume {out}`")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / SETTINGS, dump_config(config).encode())
    return _run(config, out, resumed=False)


def _resume(out: Path, words: Sequence[str]) -> int:
    config = override(_settings(out), words, _MAY_CHANGE)
    config = dataclasses.replace(config, out=str(out))
    _check(config)
    from gala.supervised.video_checkpoint import FOLDER, LATEST

    Checkpoints(out / FOLDER).meta(LATEST)
    write_atomically(out / SETTINGS, dump_config(config).encode())
    return _run(config, out, resumed=True)


def _evaluate(out: Path, words: Sequence[str]) -> int:
    options = parse_options(EvalOptions, words)
    for name, least in (("videos", 2), ("weights", 1), ("samples", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
    config = _settings(out)
    _check(config)
    from gala.supervised.video import make_model
    from gala.supervised.video_checkpoint import load_consensus
    from gala.supervised.video_eval import evaluate

    model = make_model(config)
    report = {"iteration": load_consensus(config, out, model), **evaluate(config, model, **vars(options))}
    write_atomically(out / "eval.json", json.dumps(report, indent=2, allow_nan=False).encode())
    print(json.dumps(report, indent=2, allow_nan=False))
    return 0


def _settings(out: Path) -> VideoConfig:
    if not (out / SETTINGS).is_file():
        raise ValueError(f"{out} holds no {SETTINGS} of `gala video train`")
    return load_options(out / SETTINGS, VideoConfig)


def _check(config: VideoConfig) -> None:
    """All that can be known before the start. Raises ValueError."""
    validate(config)
    from gala.supervised.video import make_model
    from gala.supervised.video_data import draw

    make_model(config)
    for split in ("train", "test"):
        draw(config.data, split, 1, config.frames, 0)


def _run(config: VideoConfig, out: Path, *, resumed: bool) -> int:
    from gala.supervised import video
    from gala.supervised.video_checkpoint import FOLDER, LATEST, STAGING, restore, stage
    from gala.training.signals import EndRequest

    model = video.make_model(config)
    checkpoints = Checkpoints(out / FOLDER)
    start = checkpoints.meta(LATEST)["iteration"] if resumed else 0
    learner = video.make_learner(config, model, start)
    if resumed:
        restore(checkpoints, 0, learner)
        _forget_after(out / METRICS, start)
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters, from iteration {start}", flush=True)

    def record(row: dict[str, Any]) -> None:
        append_whole(out / METRICS, (json.dumps(row, allow_nan=False) + "\n").encode())
        kl = " ".join(f"{x:.3f}" for x in row["kl"])
        print(f"{row['iteration']:>7}  {row['nats']:.3f} nats per held-out frame, of these KL {kl}", flush=True)

    def save(iteration: int) -> None:
        checkpoints.discard(STAGING)
        stage(checkpoints, 0, learner, {"iteration": iteration})
        checkpoints.commit(STAGING, [LATEST], {"iteration": iteration})

    request, done, saved = EndRequest(), start, start
    with request.listen():
        for done in video.train(config, learner, start, record, lambda: request.signal is None):
            if done % config.save_every == 0 or done == config.iterations:
                save(done)
                write_atomically(out / f"samples-{done:07d}.png", _png(video.sample_grid(config, model)))
                saved = done
        if request.signal is not None:
            print(request.message.partition(";")[0], flush=True)
        if saved < done:
            save(done)
    if done < config.iterations:
        print(f"stopped after {done} of {config.iterations}; `gala video resume {out}` goes on")
    return 0 if request.signal is None else 128 + request.signal


def _forget_after(metrics: Path, iteration: int) -> None:
    """Records past the checkpoint are lived through again."""
    rows = metrics.read_bytes().splitlines(keepends=True) if metrics.is_file() else []
    write_atomically(metrics, b"".join(r for r in rows if json.loads(r)["iteration"] <= iteration))


def _png(picture: Tensor) -> bytes:
    """[H, W] in [0, 1] as a grey PNG (ISO 15948): one IDAT chunk, no filter."""
    pixels = (picture * 255).round().byte().numpy()
    height, width = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
