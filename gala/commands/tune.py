"""``gala tune``: the fastest number of learners, threads, passes and groups for a preset on this machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gala.config.bounds import check_bounds
from gala.config.own_words import asks_for_help, divided
from gala.config.parse import dump_tree, parse_options, split_settings
from gala.config.validate import validate
from gala.files.whole import write_atomically

USAGE = """usage: gala tune preset=NAME [envs=N] [minutes=2] [SETTING=VALUE ...]

Trains the preset with several numbers of learners, threads, passes and groups
of simulators, in turns, and keeps the fastest for this machine; it is used by
`gala train preset=NAME learners=auto`. envs= is the number of simulators in
all, the preset's own by default. minutes= counts from when all have started.
Settings that change the task or the network count as part of the preset only if
they are given to `gala train` again."""


@dataclass(frozen=True)
class Options:
    """What ``gala tune`` accepts beside the settings of a training."""

    envs: int = 0
    minutes: float = 2.0


def main(argv: Sequence[str]) -> int:
    """Exit status 0, 1 if all that was tried has failed, or 128 + n if signal n has ended it."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    own, given = divided(argv, Options)
    options = parse_options(Options, own)
    from gala.build.auto import fitted_config

    config = fitted_config(given)
    validate(config)
    check_bounds(options)
    if options.minutes <= 0 or options.envs < 0:
        raise ValueError("minutes must be greater than 0, and envs 0 (the preset's own) or more")
    if config.cluster.address:
        raise ValueError("cluster.address: only this machine can be tuned; leave it empty")
    if config.algo == "a2c":
        raise ValueError("algo=a2c has one learner; tune algo=gala, independent or allreduce")
    from gala.training.new_run import check

    config, _ = check(config)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gala.bench.job import BenchFailed
    from gala.bench.tune import label, settings, tune
    from gala.config.tuned import tuned_path
    from gala.processes.ending import Ended, ending_signals

    try:
        envs = options.envs or config.learners * config.envs_per_learner
        with ending_signals():  # so that what was measured with is put away
            (best, rate), *_ = tune(config, envs, 60 * options.minutes, lambda text: print(text, flush=True))
    except Ended as end:
        return 128 + end.number
    except BenchFailed as failure:
        print(f"gala tune: {failure}", file=sys.stderr)
        return 1
    path = tuned_path(config.preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump_tree(settings(best)).encode())
    print(f"fastest: {label(best)}, {rate:,.0f} env_steps/s\nkept in {path}")
    task = [f"{key}={text}" for key, text in split_settings(given) if key in ("preset", "env.id")]
    print(f"use it: gala train {shlex.join([*task, 'learners=auto'])}")
    return 0
