"""``gala needle sweep|report``: how small may an object be, and what does that depend on?"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options, split_settings
from gala.config.preset_files import nearest, nearest_setting
from gala.config.schema import flatten
from gala.config.supervised import SupervisedConfig, method_names, validate
from gala.experiments.needle_grid import AXES, Axes, NeedleCell, NeedleGrid, cells
from gala.processes.output import is_terminal

USAGE = """usage: gala needle sweep preset=tiny/digits [AXIS=VALUES ...] [control=true]
                  [out=runs/needle] [threads=0] [SETTING=VALUE ...] [--dry-run]
       gala needle report out=DIRECTORY

Trains a classifier for every combination of the axes and of seeds=, and writes
a report: the limit ratio, at which test accuracy falls half-way to chance, how
it moves, and the findings of arXiv 1908.06037. The axes and their defaults:

  ratios=0.25,0.0625,0.015625   area of the object over that of the image
  train_sizes=1000,10000        images; all trainings have as many updates
  poolings=max,mean             and logsumexp, attention, top_k, flatten
  receptive_fields=9            pixels: 3, 5, 9, 13 or 17, see model.strides
  widths=16                     channels
  updates=600                   of batch_size images each
  seeds=1,2,3                   digits, images, parameters and batches

The same command goes on with a sweep that was cut off. Other axes may be added
to the same out=; settings are those of `gala supervised`."""
_DECIDED = {"out", "overwrite", "seeds", "split_seed", "learners", "slowmo", "epochs", "compute_ms", "straggler"}
REPORT = "report.html"


@dataclass(frozen=True)
class Options:
    """What ``gala needle`` accepts beside axes and settings."""

    out: str = "runs/needle"
    threads: int = 0
    """0: all cores that there are."""


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 128 + n if signal n has ended it. Raises ValueError for bad input."""
    words = [word for word in argv if word != "--dry-run"]
    if not words or asks_for_help(words):
        print(USAGE)
        return 0
    if words[0] == "report":
        return _report(
            NeedleGrid([], Path(parse_options(Options, words[1:]).out)), shlex.join(["gala", "needle", *argv])
        )
    if words[0] != "sweep":
        raise ValueError(f"gala needle {words[0]}: give `sweep` or `report`; `gala needle --help` says more")
    options, axes, base = sort_words(words[1:])
    planned = cells(base, axes)
    for cell in planned:
        _check(cell)
    grid = NeedleGrid(planned, Path(options.out))
    grid.check()
    if len(words) < len(argv):
        print("\n".join(plan_lines(grid)))
        return 0
    return _sweep(grid, options, shlex.join(["gala", "needle", *words]))


def sort_words(words: Sequence[str]) -> tuple[Options, Axes, SupervisedConfig]:
    """(options, axes, all other settings). Raises ValueError in one line."""
    sorted_words: dict[str, list[str]] = {"own": [], "axes": [], "settings": []}
    own, axes = ({field.name for field in dataclasses.fields(cls)} for cls in (Options, Axes))
    known = {*flatten(SupervisedConfig()), "preset"}
    for key, text in split_settings(words):
        varied = {setting: axis for axis, setting in AXES.items()}
        if key in varied:
            raise ValueError(f"{key} is varied by {varied[key]}=; give {varied[key]}={text}")
        if key in _DECIDED - own - axes:
            raise ValueError(f"{key}={text}: a sweep trains one learner at a time; leave it out")
        if key not in own | axes | known:
            raise ValueError(
                f"unknown setting {key!r}{nearest(key, sorted(own | axes)) or nearest_setting(key, known)}"
            )
        group = "own" if key in own else "axes" if key in axes else "settings"
        sorted_words[group].append(f"{key}={text}")
    options = parse_options(Options, sorted_words["own"])
    base = parse_options(SupervisedConfig, sorted_words["settings"])
    if options.threads < 0:
        raise ValueError(f"threads={options.threads} must be 0 or more")
    if base.data == "digits":
        raise ValueError("gala needle wants images with a small object: give preset=tiny/digits or tiny/glyphs")
    validate(base)
    method_names(base)
    return options, parse_options(Axes, sorted_words["axes"]), base


def _check(cell: NeedleCell) -> None:
    """Raises ValueError for what only the network can tell, before anything starts."""
    from gala.supervised.comparison.data import make_model

    make_model(cell.config, 0)
    if cell.config.tiny.train_images < cell.config.batch_size:
        raise ValueError(
            f"train_sizes={cell.config.tiny.train_images} is less than batch_size={cell.config.batch_size}"
        )


def plan_lines(grid: NeedleGrid) -> list[str]:
    """What would be trained, in lines of at most 80 columns."""
    left = {cell.name for cell in grid.left()}
    lines = [f"{len(grid.cells)} trainings, {len(grid.cells) - len(left)} of them done, in {grid.results.parent}"]
    return [*lines, *(f"  {cell.name}{'' if cell.name in left else ': done'}" for cell in grid.cells)]


def _sweep(grid: NeedleGrid, options: Options, command: str) -> int:
    import torch

    from gala.processes.ending import Ended, ending_signals
    from gala.processes.resources import threads_each
    from gala.reports.figures import check_matplotlib
    from gala.runs.lock import lock
    from gala.runs.units import clock
    from gala.supervised.comparison.alone import train_alone

    check_matplotlib()
    out = grid.results.parent
    out.mkdir(parents=True, exist_ok=True)
    held = lock(out)
    torch.set_num_threads(options.threads or threads_each())
    total, in_place = len(grid.cells), is_terminal(sys.stdout)

    def said(cell: NeedleCell, row: dict[str, Any], left: int, seconds_left: float) -> None:
        text = (
            f"{total - left:>3}/{total} {cell.name}: test {row['test_accuracy']:.1%}, train {row['train_accuracy']:.1%}"
        )
        print(f"\r\x1b[K{text}" if in_place else text, flush=True)
        if left:
            text = f"{left} left, ETA {clock(seconds_left)}"
            print(text if in_place else f"        {text}", end="" if in_place else "\n", flush=True)

    failures: list[str] = []

    def failed(cell: NeedleCell, why: str) -> None:
        failures.append(cell.name)
        text = textwrap.fill(f"{cell.name} failed: {why}", 80, subsequent_indent="  ")
        print(f"\r\x1b[K{text}" if in_place else text, flush=True)

    print(f"{len(grid.left())} of {total} trainings to do; Ctrl-C loses the one that runs, no other", flush=True)
    try:
        with ending_signals():
            grid.run(train_alone, said, failed)
    except (Ended, KeyboardInterrupt) as end:
        print(f"\nstopped; this goes on where it was:\n{command}", flush=True)
        return 128 + end.number if isinstance(end, Ended) else 130
    finally:
        held.close()
    if grid.rows() or not failures:
        _report(grid, command)
    if failures:
        print(f"{len(failures)} of {total} trainings failed, see above; the same command tries them again")
    return int(bool(failures))


def _report(grid: NeedleGrid, command: str) -> int:
    from gala.reports.figures import check_matplotlib
    from gala.reports.needle import plain, write_report

    rows = grid.rows()
    if not [row for row in rows if not row["axes"]["tiny.permuted_labels"]]:
        raise ValueError(f"{grid.results} holds no trainings; run `gala needle sweep out={grid.results.parent}` first")
    check_matplotlib()
    analysis = write_report(rows, examples(rows), grid.results.parent, command)
    print(plain(analysis))
    print(f"report: {grid.results.parent / REPORT}")
    return 0


def examples(rows: Sequence[dict[str, Any]]) -> list[tuple[str, Any, tuple[int, int], int]]:
    """(title, picture [side, side], corner, side of the object): the first image with the object of every ratio."""
    from gala.config.parse import override
    from gala.supervised.comparison.data import load
    from gala.supervised.tiny.images import TinyImages

    found = {}
    for row in sorted(rows, key=lambda row: -row["ratio"]):
        if row["ratio"] in found:
            continue
        settings = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in row["settings"].items()}
        words = [f"{k}={v}" for k, v in settings.items()]
        config = override(SupervisedConfig(), [*words, f"split_seed={row['seed']}"])
        images = load(config).test_images
        assert isinstance(images, TinyImages)
        y, x = images.scene(slice(0, 1)).corners[0, 0]
        title = f"{100 * row['ratio']:.3g} % ({images.object_px} of {images.side} px)"
        found[row["ratio"]] = (title, images[:1][0, 0].numpy(), (int(y), int(x)), images.object_px)
    return list(found.values())
