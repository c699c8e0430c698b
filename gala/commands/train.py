"""``gala train``: settings -> a new run directory -> training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from gala.config.derived import is_lean, is_one_pass, network_threads, threads_per_learner
from gala.config.idle import idle_lines
from gala.config.own_words import asks_for_help
from gala.config.parse import dump_config, print_help, split_settings
from gala.config.schema import Config
from gala.config.tuned import tuned_path
from gala.processes.resources import available_cores
from gala.training.advice import advice
from gala.training.new_run import open_new, prepare


def main(argv: Sequence[str]) -> int:
    """Settings as ``key=value`` or ``--key value``, and ``--dry-run``. Returns the exit status of the training."""
    words = [word for word in argv if word != "--dry-run"]
    if asks_for_help(words):
        print_help("gala train")
        return 0
    from gala.build.envs import remembering_spaces

    with remembering_spaces():
        return _train(words, dry_run=len(words) < len(argv))


def _train(words: Sequence[str], dry_run: bool) -> int:
    config = prepare(words, start_processes=not dry_run)
    if dry_run:
        print(dump_config(config))
        print("\n".join([arithmetic(config), *notes(config, words)]))
        return 0
    for line in start_lines(config, words):
        print(line, flush=True)
    from gala.training import supervisor

    supervisor.connect_cluster(config)
    run_dir = open_new(config, words)
    return supervisor.train(run_dir.config, run_dir)


def notes(config: Config, words: Sequence[str]) -> list[str]:
    """What to mind about settings that are allowed, those hardly ever meant and those of ``words`` that do nothing; at
    most 80 columns."""
    return _filled([*advice(config), *idle_lines(config, [key for key, _ in split_settings(words)])])


def start_lines(config: Config, words: Sequence[str]) -> list[str]:
    """What was chosen for the user, and what to mind, before a training starts; at most 80 columns."""
    return [*notes(config, words), *_filled(_encoder_line(config))]


def _filled(lines: Sequence[str]) -> list[str]:
    return [
        textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for line in lines
    ]


def _encoder_line(config: Config) -> list[str]:
    from gala.models.encoders import ENCODERS

    if config.model.encoder not in ENCODERS or config.model.encoder == "mlp":
        return []
    from gala.build.envs import probe_spaces
    from gala.build.policy import encoder_summary

    return [f"encoder {encoder_summary(config, probe_spaces(config))}"]


def arithmetic(config: Config) -> str:
    """What the settings add up to, one line each: batches, updates, frames, learning rate, memory of a rollout."""
    from gala_envs.parts import num_mask

    from gala.build.envs import backend_of, probe_spaces
    from gala.build.learning import learning_rate
    from gala.build.policy import count_parameters, encoder_summary

    spaces = probe_spaces(config)
    batch = config.envs_per_learner * config.a2c.num_steps
    rate, lean = learning_rate(config), is_lean(config) and config.device != "cuda"
    assert spaces.obs.dtype is not None  # build has refused composite spaces
    masks = num_mask(spaces.obs)
    obs_bytes = math.prod(spaces.obs.shape or ()) * spaces.obs.dtype.itemsize
    rows = {
        "learners x simulators": f"{config.learners} x {config.envs_per_learner}",
        "simulators": f"{backend_of(config)} backend",
        "batch of an update": f"{config.envs_per_learner} x {config.a2c.num_steps} steps = {batch:,} per learner",
        "updates": f"{math.ceil(config.steps / (batch * config.learners)):,} per learner",
        "env_steps": f"{config.steps:,} over all learners",
        "frames": f"{config.steps * spaces.frames_per_step:,} ({spaces.frames_per_step} per env_step)",
        **({"masks of actions": f"{masks} numbers beside each observation"} if masks else {}),
        "learning rate": f"{rate(0.0):.3g} at the start, {rate(1.0):.3g} at the end{_longer_steps(config)}",
        "parameters": f"{count_parameters(config, spaces):,}",
        "encoder": encoder_summary(config, spaces),
        "gradient": "on a CPU by hand, see gala.rl.lean" if lean else f"PyTorch's autograd, {_passes(config)}",
        "observations of a rollout": f"{batch * obs_bytes / 2**20:.2f} MiB per learner",
        **_share_of_the_machine(config),
    }
    return "\n".join(
        textwrap.fill(f"{name:<26} {text}", 80, subsequent_indent=" " * 27, break_on_hyphens=False)
        for name, text in rows.items()
    )


def _longer_steps(config: Config) -> str:
    from gala.build.learning import averages_by_gossip, gossip_lr_factor, scales_by_noise

    if gossip_lr_factor(config) > 1:
        return f"; with a factor of {gossip_lr_factor(config):.3g} for learners that gossip"
    if not (scales_by_noise(config) and averages_by_gossip(config)):
        return ""
    return f"; steps up to {config.learners**0.5:.3g} times as long where gradients are noise"


def _passes(config: Config) -> str:
    return "one pass: acting keeps its graph" if is_one_pass(config) else "in a second pass"


def _share_of_the_machine(config: Config) -> dict[str, str]:
    """How the work is cut up here, which changes nothing of what is learned per env_step, and what would know better.
    The number of learners, and so the batch of each, does change it: they are the preset's, unless the user says."""
    if config.cluster.address:
        return {"threads of a learner": "an equal share of the Ray cluster's CPUs"}
    cores, learners = available_cores(), config.learners
    held = f"{learners} learners on {cores} cores" if learners > 1 else f"1 learner on {cores} cores"
    simulators = config.env.threads or threads_per_learner(config)
    found = tuned_path(config.preset).is_file()
    tune = f"gala tune preset={config.preset}" if config.preset else "gala tune"
    return {
        "cores": held if learners >= cores or config.algo == "a2c" else f"{held}; learners={cores} would use all",
        "threads of a learner": f"{network_threads(config)} for its network, {simulators} for its simulators",
        "measured here": "yes: learners=auto takes what was the fastest" if found else f"no; {tune} would",
    }
