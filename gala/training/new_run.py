"""From settings, as words, to a run that can begin: what can be refused is refused before a file is written."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gala.config.parse import parse_config, split_settings
from gala.config.schema import Config
from gala.config.validate import check_cluster, validate
from gala.plugins import loading
from gala.processes.output import forgiving_output, is_terminal
from gala.processes.resources import check_processes
from gala.processes.start import start_method
from gala.runs.run_dir import RunDir
from gala.training.filming import check_filming
from gala.training.tracking import check_tracker


def prepare(words: Sequence[str], start_processes: bool = True) -> Config:
    """The checked settings of a new run, with its directory named. Raises ValueError in one line."""
    from gala.build.auto import with_fitting_preset

    fitted, why = with_fitting_preset(words)
    config = parse_config(fitted)
    validate(config)
    if config.cluster.address in ("", "local"):
        check_processes(config.learners)
    if not config.run:
        config = dataclasses.replace(config, run=default_run(config, time.strftime("%Y%m%d-%H%M%S")))
    if start_processes:
        RunDir.check_new(Path(config.run), config.overwrite)  # before the seconds that the rest takes
    at_once = start_processes and is_terminal(sys.stdout)  # in a log, what is refused leaves no word of a start
    if at_once:
        say(starting(config))
    if start_processes and not config.cluster.address:
        start_method("gala.training.learner")  # its imports go on beside ours
    config, chosen = check(config)
    if start_processes and not at_once:
        say(starting(config))
    for line in filter(None, (why, chosen, who_learns(config, words))) if start_processes else ():
        say(line)
    return config


def say(line: str) -> None:
    """At once; nobody may be reading any more."""
    with forgiving_output():
        print(line, flush=True)


def starting(config: Config) -> str:
    """What a person reads in the seconds before the first record."""
    learners = "1 learner" if config.learners == 1 else f"{config.learners} learners"
    return f"starting {learners} with {config.envs_per_learner} x {config.env.id} ..."[:80]


def who_learns(config: Config, words: Sequence[str]) -> str:
    """How many learners there are, what they do with each other, and who says so; empty if ``words`` do."""
    if "learners" in dict(split_settings(words)):
        return ""
    if config.learners == 1:
        return "1 learner: plain A2C, nobody to gossip with; learners=4 would gossip"
    do = {"independent": "exchange nothing", "allreduce": "average gradients"}.get(config.algo, "gossip")
    return f"{config.learners} learners {do} (preset={config.preset}); learners=1: plain A2C"[:80]


def check(config: Config) -> tuple[Config, str]:
    """Refuse, before a file is written, what only environment, topology or place can tell.

    Returns the settings with what the environment decides, and that in words. Raises ValueError.
    """
    from gala.build.auto import choose
    from gala.build.envs import probe_spaces
    from gala.build.gossip import check_exchange
    from gala.build.learning import check_optimizer
    from gala.build.policy import make_policy, pick_device

    check_cluster(config)
    check_tracker(config.track)
    if config.cluster.address in ("", "local"):  # elsewhere, learners' machines may have what this one has not
        pick_device(config, 0)
    check_filming(config)
    spaces = probe_spaces(config)
    config, chosen = choose(config, spaces)
    validate(config)  # what was chosen may not go with the rest
    policy = make_policy(config, spaces)
    check_exchange(config, sum(p.numel() for p in policy.parameters()))
    check_diagnosis(config, policy)
    check_optimizer(config, policy)
    return config, chosen


def check_diagnosis(config: Config, policy: Any) -> None:
    """Raises ValueError if ``diagnose.*`` wants to know of the policy what it has not."""
    from gala.build.policy import has_relu, refuse_frozen

    if config.diagnose.dead_units and not has_relu(policy):
        raise ValueError(
            f"diagnose.dead_units counts units behind torch.nn.ReLU modules, and model.encoder={config.model.encoder} "
            "has none; set diagnose.dead_units=0"
        )
    if config.diagnose.curvature or config.diagnose.noise:
        refuse_frozen(policy, f"diagnose.{'curvature' if config.diagnose.curvature else 'noise'}")


def open_new(config: Config, words: Sequence[str]) -> RunDir:
    """The directory of a run that ``prepare`` has checked, whose ``config`` counts from here on: where ``words`` do not
    name it and another training has begun in the same second, it gets a number. Raises ValueError as ``RunDir.create``.
    """
    named = config.overwrite or "run" in dict(split_settings(words))
    first = config.run
    for i in range(2, 1000):
        try:
            return RunDir.create(config, words, config.overwrite)
        except ValueError:
            if named or not Path(config.run).exists():
                raise
            config = dataclasses.replace(config, run=f"{first}-{i}")
    raise ValueError(f"{config.run} and all before it exist; give another run=")


def default_run(config: Config, stamp: str) -> str:
    """runs/<environment>-<algo>-s<seed>-<time>."""
    env = config.env.id.rpartition(":")[2] if loading.is_path(config.env.id) else config.env.id
    return f"runs/{env.replace('/', '-').lower()}-{config.algo}-s{config.seed}-{stamp}"
