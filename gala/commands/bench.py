"""``gala bench throughput|roofline``: what this machine does with a task, and how far that is from what it could do."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gala.config.bounds import check_bounds
from gala.config.own_words import asks_for_help, divided
from gala.config.parse import parse_options
from gala.config.preset_files import nearest
from gala.config.schema import Config
from gala.config.validate import validate
from gala.files.whole import write_atomically

USAGE = """usage: gala bench throughput preset=NAME [algos=a2c,allreduce,...]
                       [learners=1,2,4,8] [envs=64] [rounds=7] [block_s=8]
                       [out=FOLDER] [--json] [SETTING=VALUE ...]
       gala bench roofline preset=NAME [rounds=3] [--json] [SETTING=VALUE ...]

throughput  Trains several variants of a preset with the same number of
            simulators, in turns, and compares their rates with each other
            and with the roofline. algos: a2c, two-pass (A2C with a second
            pass over the rollout), textbook (that, without gala's memory
            setting), allreduce, independent, gala. Writes record.json,
            figures and report.html to out= (runs/bench-... by default).
roofline    Measures simulators, forward and backward passes alone, each at
            its best batch and threads: the highest rate that A2C could reach.

Other settings are those of `gala train`."""
WIDTH = 80


@dataclass(frozen=True)
class Options:
    """What ``gala bench`` accepts beside the settings of a training."""

    algos: str = "a2c,allreduce,independent,gala"
    learners: str = "1,2,4,8"
    envs: int = 64
    rounds: int = 0
    block_s: float = 8.0
    out: str = ""
    overwrite: bool = False


def main(argv: Sequence[str]) -> int:
    """Exit status 0, 1 if a learner failed, or 128 + n if signal n has ended it."""
    words = [word for word in argv if word != "--json"]
    if not words or asks_for_help(words):
        print(USAGE)
        return 0
    kind, words = words[0], words[1:]
    if kind not in KINDS:
        raise ValueError(f"gala bench {kind}: wants one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    options, config = parse(words)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gala.bench.job import BenchFailed
    from gala.processes.ending import Ended, ending_signals

    try:
        with ending_signals():  # so that what was measured with is put away
            record = KINDS[kind](config, options, lambda text: print(text, file=sys.stderr, flush=True))
    except Ended as end:
        return 128 + end.number
    except BenchFailed as failure:
        print(f"gala bench: {failure}", file=sys.stderr)
        return 1
    from gala.bench.machine import machine_facts

    command = shlex.join(["gala", "bench", kind, *(word for word in words if not word.startswith("out="))])
    record |= {"command": command, "machine": machine_facts()}
    if len(words) < len(argv) - 1:
        print(json.dumps(record))
    return show(kind, record, options, quiet="--json" in argv)


def parse(words: Sequence[str]) -> tuple[Options, Config]:
    """Splits the words between the two. Raises ValueError in one line."""
    own, settings = divided(words, Options)
    options = parse_options(Options, own)
    check_bounds(options)
    if options.envs < 1 or options.rounds < 0 or options.block_s < 1:
        raise ValueError("envs must be at least 1, rounds 0 (the default) or more, block_s at least 1 second")
    from gala.build.auto import fitted_config

    config = fitted_config(settings)
    validate(config)
    if config.cluster.address:
        raise ValueError("cluster.address: a benchmark runs on this machine only; leave it empty")
    return options, config


def throughput(config: Config, options: Options, say: Any) -> dict[str, Any]:
    """Measures algorithms and numbers of learners side by side; returns the record, with the place for its page."""
    from gala.bench import throughput
    from gala.reports import figures

    out = Path(options.out or time.strftime("runs/bench-%Y%m%d-%H%M%S"))
    check_out(out, options.overwrite)
    figures.check_matplotlib()
    try:
        counts = sorted({int(n) for n in options.learners.split(",")})
    except ValueError:
        raise ValueError(f"learners={options.learners}: wants whole numbers with commas between them") from None
    jobs = throughput.variants(config, options.envs, options.algos.split(","), counts)
    from gala.training.new_run import check

    jobs = {name: check(job)[0] for name, job in jobs.items()}
    plan = throughput.Plan(rounds=options.rounds or throughput.Plan.rounds, block_s=options.block_s)
    return throughput.run(jobs, plan, say) | {"out": str(out)}


def roofline(config: Config, options: Options, say: Any) -> dict[str, Any]:
    """Measures what the machine could do at best; returns the record."""
    from gala.bench.roofline import Roofline, average
    from gala.training.new_run import check

    config, _ = check(config)
    say("trying batches and threads")
    roof = Roofline(config)
    try:
        ceiling = average(roof.measure(options.block_s) for _ in range(options.rounds or 3))
    finally:
        roof.close()
    best = {part: setting._asdict() for part, setting in roof.best.items()}
    return {"core_s_per_env_step": ceiling.core_s, "env_steps_per_s": ceiling.env_steps_per_s, "best": best}


KINDS = {"throughput": throughput, "roofline": roofline}


def check_out(out: Path, overwrite: bool) -> None:
    """Raises ValueError if results would be written over something."""
    if (
        out.exists()
        and (not out.is_dir() or any(out.iterdir()))
        and not (overwrite and (out / "record.json").is_file())
    ):
        raise ValueError(f"{out} already exists; give another out=FOLDER" + ", or add overwrite=true" * out.is_dir())


def show(kind: str, record: dict[str, Any], options: Options, quiet: bool) -> int:
    """Prints, and for throughput writes the files."""
    if kind == "roofline":
        if not quiet:
            for part, core_s in record["core_s_per_env_step"].items():
                s = record["best"][part]
                print(
                    f"{part:<9} {1e6 * core_s:8,.0f} core-microseconds per env_step, best with "
                    f"{s['processes']} x {s['threads']} threads, batch {s['batch']}"
                )
            print(f"roofline  {record['env_steps_per_s']:8,.0f} env_steps/s with all cores busy")
        return 0
    from rich.console import Console

    from gala.reports import throughput as report

    out = Path(record.pop("out"))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "record.json", json.dumps(record, indent=1).encode())
    report.page(record, report.figures(record, out), out / "report.html")
    if not quiet:
        Console(width=WIDTH, highlight=False).print(report.rich_table(record))
        print(f"{report.plain(record)}\n{out / 'report.html'}")
    return 0
