"""The words of ``gala compare``: whose each is, and the grid that they ask for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from gala.config.bounds import is_number_or_empty
from gala.config.own_words import take_paths
from gala.config.parse import parse_options, split_settings
from gala.config.preset_files import nearest_setting
from gala.config.schema import Config, flatten
from gala.experiments.algorithms import ALGORITHMS
from gala.experiments.algorithms import words as words_of
from gala.experiments.grid import Cell

USAGE = f"""usage: gala compare preset=NAME [algos=a2c,gala] [seeds=10] [envs=64]
                    [learners=4] [jobs=0] [SETTING=VALUE ...]
                    [--dry-run] [options]
       gala compare RUN RUN ... [options]
       gala compare --from results.jsonl ... [options]

Compares algorithms at equal simulators and equal env_steps, or any existing
runs, grouped by the settings in which they differ; or draws the report again
from rows alone. Give the same command again to go on with a grid that was cut
off: trainings resume where they were, finished ones are kept. One that fails
ends no other; the report names it, and the same command tries it again, last.

  algos      some of {", ".join(list(ALGORITHMS)[:5])},
             {", ".join(list(ALGORITHMS)[5:])}
  seeds      trainings of each algorithm, with seeds 1, 2, ...
  first_seed where these seeds begin, so that machines can share a grid: give
             each other seeds, and all their rows to --from (1)
  envs       simulators in all: 1 x 64 for a2c, 4 x 16 for the others
  jobs       trainings at a time, each with as many cores of its own;
             0: as many as there are cores for their learners
options:
  episodes   whole episodes by which each training is judged (100)
  mode       sampled, greedy or both: how the judged policies act
  baseline   what the others are compared with (a2c, or the first)
  threshold  return that counts as solved (the preset's)
  margin     share of the score range that counts as no worse (0.05)
  out        folder of report.html, report.json, figures and results.jsonl
  trust      true imports code that a RUN names and you have not trained with

All other words are settings of `gala train`, the same for all algorithms."""


@dataclass(frozen=True)
class Options:
    """What ``gala compare`` accepts beside the settings of the trainings."""

    algos: str = "a2c,gala"
    seeds: int = 10
    first_seed: int = 1
    envs: int = 64
    learners: int = 4
    jobs: int = 0
    episodes: int = 100
    mode: Literal["sampled", "greedy", "both"] = "sampled"
    baseline: str = ""
    threshold: str = ""
    margin: float = 0.05
    out: str = ""
    trust: bool = False

    @property
    def judged_by(self) -> str:
        """The mode that the verdict is of."""
        return "sampled" if self.mode == "both" else self.mode


class Words(NamedTuple):
    """The command line, sorted."""

    options: Options
    training: tuple[str, ...]
    """Settings of ``gala train``."""
    runs: tuple[Path, ...]
    rows: tuple[Path, ...]
    """Files of rows, after --from."""


_FIXED = {
    "algo": "algos=",
    "envs_per_learner": "envs=",
    "seed": "seeds= and first_seed=",
    "run": "out=",
    "overwrite": "out=",
}
"""Settings that the grid decides, and by what."""
_OF_TRAINING = ("algos", "seeds", "first_seed", "envs", "learners", "jobs")
_OF_JUDGING = ("episodes",)
"""Options of a grid, and of what plays episodes: not of runs and rows that exist."""


def sort_words(argv: Sequence[str]) -> Words:
    """Raises ValueError, in one line, for what cannot be meant."""
    from_rows = "--from" in argv
    plain, settings = take_paths([word for word in argv if word != "--from"])
    own, training, names = [], [], {field.name for field in dataclasses.fields(Options)}
    known = {*flatten(Config()), "preset", "topology"}
    for key, text in split_settings(settings):
        if key in names:
            own.append(f"{key}={text}")
        elif key == "cluster.address":
            _refuse_cluster(text)
        elif key in _FIXED:
            raise ValueError(f"{key}={text}: a comparison decides that by {_FIXED[key]}")
        elif key in known:
            training.append(f"{key}={text}")
        else:
            raise ValueError(f"unknown setting {key!r}{nearest_setting(key, [*names, *known])}")
    options = parse_options(Options, own)
    _check(options)
    if options.trust and (from_rows or not plain):
        raise ValueError("trust=true is for runs that name code; leave it out")
    if plain and training:
        raise ValueError(f"{training[0]} is a setting of training, which is over; leave it out")
    idle = (*_OF_TRAINING, *(_OF_JUDGING if from_rows else ()))
    if plain and (over := [word for word in own if word.split("=")[0] in idle]):
        raise ValueError(f"{over[0]} would change nothing in what is there already; leave it out")
    paths = tuple(map(Path, plain))
    if from_rows and not paths:
        raise ValueError("--from wants a file of rows: gala compare --from results.jsonl")
    if len(paths) == 1 and not from_rows:
        raise ValueError("one run cannot be compared; name two or more, or rows with --from")
    return Words(options, tuple(training), () if from_rows else paths, paths if from_rows else ())


def _check(options: Options) -> None:
    for name in ("seeds", "first_seed", "envs", "learners", "episodes"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)} must be at least 1")
    if options.jobs < 0:
        raise ValueError(f"jobs={options.jobs} must be 0 (as many as the cores allow) or more")
    if not (math.isfinite(options.margin) and options.margin >= 0):
        raise ValueError(f"margin={options.margin} must be 0 or more, a share of the score range")
    if not is_number_or_empty(options.threshold):
        raise ValueError(f"threshold={options.threshold} must be a number, the return that counts as solved")


def _refuse_cluster(address: str) -> None:
    if address:
        raise ValueError(
            f"cluster.address={address}: a comparison trains on this machine, run beside run; leave it out"
        )


def _prepared(by_name: Mapping[str, Sequence[str]]) -> dict[str, Config]:
    """Name of an algorithm -> its checked settings. Raises ValueError; what only some of them refuse says who, and
    that a grid of their own can do without it."""
    from gala.training.new_run import prepare

    configs, refused = dict[str, Config](), dict[str, str]()
    for name, given in by_name.items():
        try:
            configs[name] = prepare(given, start_processes=False)
        except ValueError as error:
            refused[name] = str(error)
    if not refused:
        return configs
    problem, who = next(iter(refused.values())), ", ".join(refused)
    if not configs:
        raise ValueError(problem)
    raise ValueError(f"algos={who}: {problem}; or train {who} without that in another out=, and compare by --from")


def cells(words: Words) -> list[Cell]:
    """The grid, seed by seed; each algorithm's settings are checked once. Raises ValueError in one line."""
    options, names = words.options, words.options.algos.split(",")
    if len(set(names)) < len(names):
        raise ValueError(f"algos={options.algos} names one twice")
    by_name = {name: (*words.training, *words_of(name, options.learners, options.envs)) for name in names}
    for name, (key, text) in product(names, split_settings(words.training)):
        own = ALGORITHMS[name].get(key, text)
        if own != text:
            raise ValueError(f"{key}={text}: {name} decides that itself ({own}); leave one of the two out")
    configs = _prepared(by_name)
    for config in configs.values():
        _refuse_cluster(config.cluster.address)  # a preset may have it
    return [
        Cell(name, seed, by_name[name], dataclasses.replace(configs[name], seed=seed))
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for name in names
    ]
