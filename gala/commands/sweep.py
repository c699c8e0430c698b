"""``gala sweep``: a search for settings with Optuna, which can be cut off at any time and goes on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options, split_settings
from gala.config.preset_files import nearest_setting
from gala.config.schema import Config, flatten
from gala.experiments.ranges import Range, parse_range
from gala.experiments.search import Search, Trials, best, check_optuna, command_of, open_study
from gala.processes.output import forgiving_output

USAGE = """usage: gala sweep preset=NAME KEY=RANGE ... [trials=20] [jobs=0] [pruning=true]
                  [sampler_seed=0] [out=DIRECTORY] [SETTING=VALUE ...]
       gala sweep out=DIRECTORY replay=N

Searches for the settings with the highest return of the last 100 training
episodes. Trials whose return lies below the median of the others' at the same
env_steps are ended early, unless pruning=false. The same command goes on with a
search that was cut off, and draws others in the place of trials that failed;
more trials= extend it. Quote the ranges:

  'optim.lr=log(1e-4,1e-2)'         evenly in the logarithm
  'a2c.gamma=uniform(0.9,0.999)'    evenly; whole numbers where the setting is
  'optim.name=choice(adam,rmsprop)' one of these

replay=N prints the `gala train` that repeats trial N. One training is one seed:
confirm what is found with `gala compare` on other seeds."""

EXIT_FAILED = 1
_FIXED = ("run", "overwrite", "cluster.address")


@dataclass(frozen=True)
class Options:
    """What ``gala sweep`` accepts beside settings and ranges."""

    trials: int = 20
    jobs: int = 0
    pruning: bool = True
    sampler_seed: int = 0
    out: str = ""
    replay: int = -1


def main(argv: Sequence[str]) -> int:
    """Returns 0 when there is a best trial, 1 if none has ended with a return, 128 + n if signal n has ended it."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options, words, ranges = sort_words(argv)
    check_optuna()
    if options.replay >= 0:
        print(command_of(open_study(Path(options.out)), options.replay))
        return 0
    if not ranges:
        raise ValueError("nothing to search; give a range, such as 'optim.lr=log(1e-4,1e-2)'")
    with forgiving_output():
        return _search(options, words, ranges, shlex.join(["gala", "sweep", *argv]))


def sort_words(argv: Sequence[str]) -> tuple[Options, tuple[str, ...], dict[str, Range]]:
    """(options, fixed settings, what is searched). Raises ValueError in one line."""
    own, fixed, ranges = [], {}, {}
    names, known = set(Options.__dataclass_fields__), {*flatten(Config()), "preset", "topology"}
    for key, text in split_settings(argv):
        if key in names:
            own.append(f"{key}={text}")
            continue
        if key in _FIXED:
            raise ValueError(f"{key}={text}: a search decides that itself; leave it out")
        if key not in known:
            raise ValueError(f"unknown setting {key!r}{nearest_setting(key, [*names, *known])}")
        chosen = parse_range(key, text)
        if chosen and key == "seed":
            raise ValueError(f"{key}={text}: the best seed is luck; compare seeds with gala compare")
        if key in ranges or (chosen and key in fixed):
            raise ValueError(f"{key} is given twice, once as a range; leave one out")
        if chosen:
            ranges[key] = chosen
        else:
            fixed[key] = f"{key}={text}"
    options = parse_options(Options, own)
    if options.trials < 1 or options.jobs < 0 or options.sampler_seed < 0:
        raise ValueError("trials must be at least 1, jobs and sampler_seed 0 or more")
    if options.replay < 0 and any(word.startswith("replay=") for word in own):
        raise ValueError(f"replay={options.replay}: trials count from 0")
    if options.replay >= 0 and not options.out:
        raise ValueError("replay=N wants the search: gala sweep out=DIRECTORY replay=N")
    return options, tuple(fixed.values()), ranges


def check_ends(words: Sequence[str], ranges: dict[str, Range]) -> Config:
    """The settings at the first value of each range. Raises ValueError if they, or any other end or name, cannot be."""
    from gala.training.new_run import prepare

    first = {key: chosen.values[0] for key, chosen in ranges.items()}
    config = prepare([*words, *(f"{k}={v}" for k, v in first.items())], start_processes=False)
    for key, chosen in ranges.items():
        for value in chosen.values[1:]:
            prepare([*words, *(f"{k}={v}" for k, v in (first | {key: value}).items())], start_processes=False)
    if config.cluster.address:
        raise ValueError(f"cluster.address={config.cluster.address}: trials train on this machine; leave it out")
    return config


def _search(options: Options, words: tuple[str, ...], ranges: dict[str, Range], command: str) -> int:
    from gala.processes.ending import Ended, ending_signals
    from gala.processes.resources import available_cores
    from gala.runs.lock import lock

    config = check_ends(words, ranges)
    preset = config.preset.removesuffix(".yaml") or config.env.id
    out = Path(options.out or f"runs/sweep-{preset.replace('/', '-').replace(':', '-').lower()}")
    out.mkdir(parents=True, exist_ok=True)
    held = lock(out)
    search = Search(out, words, ranges, options.sampler_seed)
    try:
        study = open_study(out, search)
        trials = Trials(search, study, options.trials, lambda text: print(text, flush=True), prunes=options.pruning)
        with ending_signals():
            trials.run(options.jobs or max(1, available_cores() // config.learners))
    except (Ended, KeyboardInterrupt) as end:
        print(f"stopped; this goes on where it was:\n{command}", flush=True)
        return 128 + end.number if isinstance(end, Ended) else 130
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return EXIT_FAILED
    finally:
        held.close()
    for reason, numbers in trials.failures.items():
        print(f"failed: trial {', '.join(map(str, numbers))} ({reason})", file=sys.stderr)
    if trials.failures:
        print("the same command draws others in their place", file=sys.stderr)
    found = best(study)
    if not found:
        print("no trial has ended with a return", file=sys.stderr)
        return EXIT_FAILED
    print(f"best: trial {found[0].number}, return {found[0].value:.2f}; one seed, so confirm it with gala compare")
    print(command_of(study, found[0].number))
    return 0
