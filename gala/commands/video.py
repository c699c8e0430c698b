"""``gala video train|resume|eval``: a model that predicts videos, with its bound, samples and checkpoints on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gala.config.own_words import asks_for_help
from gala.config.parse import override, parse_options, print_help
from gala.config.preset_files import nearest
from gala.config.video import VideoConfig, validate
from gala.files.whole import append_whole, write_atomically
from gala.processes.resources import check_processes
from gala.runs.checkpoints import Checkpoints
from gala.runs.writable import make_folder
from gala.supervised.video_records import METRICS, forget_after
from gala.supervised.video_settings import (
    DATA,
    MAY_CHANGE,
    SETTINGS,
    extension_lines,
    find_data,
    read_settings,
    refuse_used,
    with_absolute_data,
    write_settings,
)

if TYPE_CHECKING:
    from gala.models.vrnn import VRNN
    from gala.training.signals import EndRequest

USAGE = """usage: gala video train [preset=video/moving-digits] [learners=4]
                        [data=FOLDER] [key=value ...]
       gala video resume RUN [data=FOLDER] [key=value ...]
       gala video eval RUN [videos=64] [weights=20] [samples=20] [encoder=300]
                           [seed=1] [data=FOLDER]

train    learn to predict videos made by rule, or rollouts that `gala record`
         wrote; learners=N gossip in processes; Ctrl-C saves, `gala video train
         --help` lists the settings
resume   go on from RUN's checkpoint as if it had never stopped, or start anew
         if it has none yet; iterations, log_every and save_every may change
eval     the importance-weighted bound on new held-out videos, PSNR and SSIM of
         the best of some samples, their diversity, the KL beside the chance
         that is known, and a Frechet distance on an encoder trained here for
         so many updates (0: none), as JSON; RUN/eval.html shows the samples
         moving, beside the truth
data     for resume and eval: where the rollouts are now that RUN learned from,
         if they were moved; others, or changed ones, are refused"""
Record = Callable[[dict[str, Any]], None]
Draw = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """What ``gala video eval`` accepts."""

    videos: int = 64
    weights: int = 20
    samples: int = 20
    encoder: int = 300
    seed: int = 1
    data: str = ""
    """Where the rollouts were moved to."""


_WORDS = ("train", "resume", "eval")
SHOWN = 6
"""Videos on the page of ``gala video eval``."""


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 128 + the number of the signal that ended the training; ValueError for bad input."""
    words = list(argv)
    if not words or ({"-h", "--help"} & set(words) and words[0] != "train"):
        print(USAGE)
        return 0
    with _fitting_into_memory():
        if words[0] == "train":
            return _reporting(lambda: _train(words[1:]))
        if words[0] == "resume" and len(words) > 1:
            return _reporting(lambda: _resume(Path(words[1]), words[2:]))
        if words[0] == "eval" and len(words) > 1:
            return _evaluate(Path(words[1]), words[2:])
    hint = "" if words[0] in _WORDS else nearest(words[0], _WORDS)
    raise ValueError(f"gala video {' '.join(words[:2])}: give `train` with settings, `resume RUN` or `eval RUN`{hint}")


@contextlib.contextmanager
def _fitting_into_memory() -> Iterator[None]:
    """Raises ValueError in place of what NumPy and PyTorch raise of arrays that are too large."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in ("allocate", "overflow")):
            raise
        raise ValueError(
            "this does not fit into memory; lower batch_size, frames or width (of `gala video eval`: videos, weights "
            "or samples)"
        ) from None


def _reporting(train: Callable[[], int]) -> int:
    """``train``, or 1 after a learner's failure, which is shown."""
    from gala.supervised.video_team import LearnerFailed

    try:
        return train()
    except LearnerFailed as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1


def _train(words: Sequence[str]) -> int:
    if asks_for_help(words):
        print_help("gala video train", VideoConfig)
        return 0
    config = parse_options(VideoConfig, words)
    out = Path(config.out or time.strftime("runs/video-%Y%m%d-%H%M%S"))
    config = dataclasses.replace(config, out=str(out))
    _check(config)
    config = with_absolute_data(config)
    refuse_used(out)
    from gala.runs.lock import lock

    out.mkdir(parents=True, exist_ok=True)
    with lock(out):
        if (out / SETTINGS).exists():
            raise ValueError(f"another training has just begun in {out}; give another out=DIRECTORY")
        (out / DATA).unlink(missing_ok=True)  # of one that was killed before it had settings
        return _run(config, out, resumed=False)


def _resume(out: Path, words: Sequence[str]) -> int:
    from gala.runs.lock import lock
    from gala.supervised.video_checkpoint import FOLDER, LATEST

    read_settings(out)
    with lock(out):  # before anything is read: who trains here until then writes settings and checkpoints
        known = read_settings(out)
        config = override(known, words, MAY_CHANGE)
        found = find_data(out, known, config.data)
        config = dataclasses.replace(config, data=found.data, out=str(out))
        _check(config)
        checkpoints = Checkpoints(out / FOLDER)
        resumed = bool(checkpoints.names())
        if resumed:
            done = int(checkpoints.meta(LATEST)["iteration"])
            for line in extension_lines(out, known, config, done):
                print(line)
        else:
            print(f"{out} has no checkpoint yet: it starts anew")
            forget_after(out / METRICS, -1)
        return _run(config, out, resumed=resumed)


def _evaluate(out: Path, words: Sequence[str]) -> int:
    options = parse_options(EvalOptions, words)
    for name, least in (("videos", 2), ("weights", 1), ("samples", 1), ("encoder", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
    config = find_data(out, read_settings(out), options.data)
    _check(config)
    make_folder(out)
    from gala.reports.video_page import video_page
    from gala.supervised.video import make_model
    from gala.supervised.video_checkpoint import load_consensus
    from gala.supervised.video_data import open_source
    from gala.supervised.video_eval import evaluate, films

    model = make_model(config)
    iteration = load_consensus(config, out, model)
    asked = {name: value for name, value in vars(options).items() if name != "data"}
    report = {"iteration": iteration, **evaluate(config, model, **asked)}
    write_atomically(out / "eval.json", json.dumps(report, indent=2, allow_nan=False).encode())
    print(json.dumps(report, indent=2, allow_nan=False))
    if open_source(config.data).real:
        print("no page: these are numbers, not pictures", file=sys.stderr)
        return 0
    shown = films(config, model, min(SHOWN, options.videos), options.samples, options.seed)
    page = video_page(f"{out.name}: {Path(config.data).name}", shown.numpy(), config.context, report)
    write_atomically(out / "eval.html", page.encode())
    print(f"page: {out / 'eval.html'}", file=sys.stderr)
    return 0


def _check(config: VideoConfig) -> None:
    """All that can be known before the start. Raises ValueError."""
    validate(config)
    check_processes(config.learners)
    from gala.gossip.graphs.topology import get_topology
    from gala.supervised.video import make_model
    from gala.supervised.video_data import draw

    make_model(config)
    get_topology(config.topology, max(2, config.learners))  # its name, where one learner asks for none
    for split in ("train", "test"):
        draw(config.data, split, 1, config.frames, 0)


def _run(config: VideoConfig, out: Path, *, resumed: bool) -> int:
    """Train in ``out``, which is locked."""
    from gala.commands.video_pictures import draw_missing, draw_samples
    from gala.supervised import video
    from gala.supervised.video_checkpoint import FOLDER, load_consensus, restore
    from gala.training.signals import EndRequest
    from gala.training.video_panel import VideoPanel

    model, request = video.make_model(config), EndRequest()
    start = load_consensus(config, out, model) if resumed else 0
    several = f", {config.learners} learners" if config.learners > 1 else ""
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters{several}, from iteration {start}")
    before_s = 0.0
    if resumed:
        first = restore(Checkpoints(out / FOLDER), 0, video.make_learner(config, video.make_model(config), start))
        before_s = forget_after(out / METRICS, int(first["iteration"]))
        draw_missing(config, out, model, start)
    make_folder(out / FOLDER)
    write_settings(out, config)
    panel = VideoPanel(config)

    def record(row: dict[str, Any]) -> None:
        row = row | {"wall_s": before_s + row["wall_s"]}
        append_whole(out / METRICS, (json.dumps(row, allow_nan=False) + "\n").encode())
        panel.update(row)

    run = _run_team if config.learners > 1 else _run_alone
    try:
        with request.listen():
            done = run(
                config, out, model, resumed, record, lambda done: draw_samples(config, out, model, done), request
            )
    finally:
        panel.close()
    if done < config.iterations:
        print(f"stopped after {done} of {config.iterations}; `gala video resume {out}` goes on")
    return 0 if request.signal is None else 128 + request.signal


def _run_alone(
    config: VideoConfig, out: Path, model: VRNN, resumed: bool, record: Record, draw: Draw, request: EndRequest
) -> int:
    """Train in this process; returns the iterations that are done and saved."""
    from gala.supervised import video
    from gala.supervised.video_checkpoint import FOLDER, LATEST, STAGING, identity, restore, stage

    checkpoints = Checkpoints(out / FOLDER)
    start = checkpoints.meta(LATEST)["iteration"] if resumed else 0
    learner = video.make_learner(config, model, start)
    if resumed:
        restore(checkpoints, 0, learner)

    def save(iteration: int) -> None:
        checkpoints.discard(STAGING)
        stage(checkpoints, 0, learner, {"iteration": iteration})
        checkpoints.commit(STAGING, [LATEST], {"iteration": iteration} | identity(config))

    done = saved = start
    for done in video.train(config, learner, start, record, lambda: request.signal is None):
        if done % config.save_every == 0 or done == config.iterations:
            save(done)
            draw(done)
            saved = done
    if request.signal is not None:
        print(request.message.partition(";")[0], flush=True)
    if saved < done:
        save(done)
    return int(done)


def _run_team(
    config: VideoConfig, out: Path, model: VRNN, resumed: bool, record: Record, draw: Draw, request: EndRequest
) -> int:
    """Train in a process for each learner; returns the iterations that the slowest has done, all saved."""
    from gala.supervised.video_checkpoint import load_consensus
    from gala.supervised.video_team import VideoTeam

    told = False

    def goes_on() -> bool:
        nonlocal told
        if request.signal is not None and not told:
            print(request.message, flush=True)
            told = True
        return not told

    def saved(done: int) -> None:
        load_consensus(config, out, model)
        draw(done)

    numel = sum(p.numel() for p in model.parameters())
    with VideoTeam(config, out, numel, resumed) as team:
        return team.train(record, goes_on, saved)
