"""``gala supervised``: gossip, all-reduce and local SGD compared on a classifier, with latency and stragglers."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gala.config.idle import refuse_idle
from gala.config.own_words import asks_for_help
from gala.config.parse import dump_config, parse_options, print_help
from gala.config.supervised import SupervisedConfig, validate
from gala.files.whole import write_atomically

if TYPE_CHECKING:
    from gala.supervised.comparison.data import DataSet

RESULTS, TABLE, SETTINGS = "results.jsonl", "table.md", "config.yaml"
WIDTH = 80


def main(argv: Sequence[str]) -> int:
    """Settings as ``key=value`` or ``--key value``, and ``--dry-run``. Exit status 0, 1 if a learner failed."""
    words = [word for word in argv if word != "--dry-run"]
    if asks_for_help(words):
        print_help("gala supervised", SupervisedConfig)
        return 0
    config = parse_options(SupervisedConfig, words)
    validate(config)
    refuse_idle(config)
    config = dataclasses.replace(config, out=config.out or time.strftime("runs/supervised-%Y%m%d-%H%M%S"))
    check_out(config)
    from gala.supervised.comparison import build
    from gala.supervised.comparison.data import load

    data = load(config)
    build.check(config, data)
    if len(words) < len(argv):
        print(dump_config(config))
        print(about(config, data))
        for job in build.jobs(config):
            print(f"{job.method:<12} SlowMo {job.slowmo:<11} seed {job.seed}  {build.injected_ms(config, job):.1f} ms")
        return 0
    return compare(config, data, make_out(config))


def about(config: SupervisedConfig, data: DataSet) -> str:
    """The images and the network, in lines of at most 80 columns."""
    from gala.models.receptive_field import receptive_field
    from gala.supervised.comparison.data import make_model
    from gala.supervised.tiny.images import TinyImages
    from gala.supervised.tiny.oracle import oracle_accuracy

    model = make_model(config, 0)
    network = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    train, test = data.train_images, data.test_images
    if not isinstance(train, TinyImages) or not isinstance(test, TinyImages):
        return f"{len(train)} digits of {train[:1].shape[-1]} px, {len(test)} for test; {network}"
    p, side, (sees, stride) = train.object_px, train.side, receptive_field(model)
    oracle = f"{100 * oracle_accuracy(train, test):.1f} %"
    return "\n".join(
        [
            f"objects of {p} px in images of {side}: {100 * p**2 / side**2:.3g} % of the image, "
            f"{_counted(train.num_clutter, 'piece')} of clutter",
            f"{len(train)} images for training, {len(test)} for test; linear, knowing the place: {oracle}",
            f"network: {network}; one place sees {sees} px, places lie {stride} px apart",
            *(["the training labels are shuffled"] if config.tiny.permuted_labels else []),
        ]
    )


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def check_out(config: SupervisedConfig) -> None:
    """Raises ValueError if the directory of the results holds anything that is not to be overwritten."""
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not config.overwrite:
            raise ValueError(f"{out} already exists; give another out=DIRECTORY, or add overwrite=true")
        if not (out / RESULTS).is_file():
            raise ValueError(f"{out} holds no {RESULTS}, so overwrite=true leaves it alone")


def make_out(config: SupervisedConfig) -> Path:
    """The directory of the results, without those of an earlier call."""
    out = Path(config.out)
    for name in (RESULTS, TABLE, SETTINGS):
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / SETTINGS, dump_config(config).encode())
    (out / RESULTS).touch()
    return out


def compare(config: SupervisedConfig, data: DataSet, out: Path) -> int:
    """Train every variant on every seed; what is finished is on disk at once."""
    from rich.console import Console

    from gala.supervised.comparison import build, report
    from gala.supervised.comparison.launch import LearnerFailed, Team

    jobs, rows = build.jobs(config), []
    print(about(config, data))
    work = f"{_counted(len(jobs), 'training')} of {_counted(config.learners, 'learner')}"
    print(f"{work} on {len(data.train_images)} images; starting", flush=True)
    try:
        with Team(config, data) as team, (out / RESULTS).open("a") as file:
            for job in jobs:
                row = report.row(config, job, team.run(job), data)
                rows.append(row)
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                print(
                    f"{len(rows):>3}/{len(jobs)} {job.method:<12} SlowMo {job.slowmo:<11} seed {job.seed}: "
                    f"{row['test_accuracy']:.2%}, {row['ms_per_iteration']:.1f} ms",
                    flush=True,
                )
    except LearnerFailed as failure:
        print(f"\n{failure}\nWhat had finished is in {out / RESULTS}", file=sys.stderr)
        return 1
    notes = report.notes(config, rows)
    write_atomically(out / TABLE, (report.markdown(rows) + "\n" + notes + "\n").encode())
    Console(width=WIDTH, highlight=False).print(report.rich_table(rows))
    print(f"{notes}\nResults: {out / RESULTS}, {out / TABLE}")
    return 0
