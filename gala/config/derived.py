"""What follows from the settings: one home for each rule that several parts need."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from gala.config.schema import PLACE, Config, flatten
from gala.processes.resources import threads_each


def total_envs(config: Config) -> int:
    """Simulators of all learners together."""
    return config.learners * config.envs_per_learner


def threads_per_learner(config: Config) -> int:
    """An equal share of the cores that this process may really use, at least 1, and at most ``OMP_NUM_THREADS``."""
    return threads_each(config.learners)


def with_threads(config: Config, threads: int) -> Config:
    """``config`` for a learner that has ``threads`` to itself, on a machine that others may share."""
    env = dataclasses.replace(config.env, threads=config.env.threads or threads)
    network = config.torch_threads or (1 if _is_dense(config) else threads)
    return dataclasses.replace(config, env=env, torch_threads=network)


def network_threads(config: Config) -> int:
    """PyTorch threads of a learner. Dense layers of a few dozen units are slower on two threads than on one."""
    return config.torch_threads or (1 if _is_dense(config) else threads_per_learner(config))


def _is_dense(config: Config) -> bool:
    """auto is replaced before a run starts, see ``gala.build.auto``."""
    return config.model.encoder in ("mlp", "auto")


def is_one_pass(config: Config) -> bool:
    """Whether the passes that choose the actions are differentiated, instead of a second pass over the rollout.

    With dropout or augmentation they are: a second pass would not see what the action was chosen by.
    """
    if config.model.compile == "cuda-graphs":  # each replay overwrites the outputs of the one before
        return False
    if config.a2c.passes == "auto":
        return not _is_dense(config) or config.model.dropout > 0 or config.model.augment != "none"
    return config.a2c.passes == "1"


def is_lean(config: Config) -> bool:
    """Whether a learner on a CPU takes the path of ``gala.rl.lean``: dense layers, or convolutions before them, and
    nothing that this cannot do.

    There is one pass then, and its graph is written out by hand; ``a2c.passes`` 1 or 2 asks for PyTorch's.
    """
    m = config.model
    plain = not (m.gru_size or m.dropout or m.dynamics_coef) and m.augment == "none" and m.compile == "none"
    usual = m.precision == "fp32" and config.optim.name != "ekfac" and config.a2c.passes == "auto"
    known = m.encoder == "mlp" or (m.encoder in ("minatar_cnn", "a3c_cnn", "nature_cnn") and m.pooling == "flatten")
    return known and plain and usual


def is_lock_step(config: Config) -> bool:
    """All learners make the same number of updates, each waiting for the others'."""
    g = config.gossip
    return config.algo == "allreduce" or (config.algo == "gala" and (g.tau == 0 or g.mixing == "allreduce"))


def silent_after_s(config: Config) -> float:
    """Time without a sign of life after which the others go on without a learner."""
    return math.inf if is_lock_step(config) else config.gossip.silent_after_s


def failure_policy(config: Config) -> str:
    """continue, stop or restart."""
    if config.on_failure != "auto":
        return config.on_failure
    return "continue" if gossips(config) and not is_lock_step(config) else "stop"


def seeds(config: Config, rank: int, env_steps: int) -> tuple[int, int]:
    """(simulator seed, action seed) of a learner: own streams for every rank, and for every point of resumption."""
    tree = np.random.SeedSequence([config.seed, rank, env_steps])
    env_seed, action_seed = tree.generate_state(2, np.uint32)
    return int(env_seed) % 2**30, int(action_seed)


def total_updates(config: Config) -> int:
    """Updates of each learner in a lock-step run."""
    per_update = total_envs(config) * config.a2c.num_steps
    return -(-config.steps // per_update)


def scheduled(config: Config, progress: float) -> float:
    """Where schedules stand, in [0, 1], when this share of the run is done."""
    if not (config.schedule_from or config.schedule_to):
        return progress
    begin, end = config.schedule_from, config.schedule_to or config.steps
    return min(1.0, max(0.0, (progress * config.steps - begin) / max(end - begin, 1)))


def averaged_envs(config: Config) -> int:
    """Simulators whose gradients move one policy: all of them where learners average, else one learner's."""
    return config.envs_per_learner * (config.learners if averages_parameters(config) else 1)


def gradient_memory(config: Config) -> float:
    """The share that the optimiser's running mean of gradients keeps per update; 0 if it steps along each as it is."""
    return {"adam": config.optim.adam_beta1, "ekfac": config.ekfac.momentum}.get(config.optim.name, 0.0)


def gossips(config: Config) -> bool:
    """Whether learners exchange parameters: with one there is nobody to exchange them with."""
    return config.algo == "gala" and config.learners > 1


def exchanges_messages(config: Config) -> bool:
    """Through mailboxes, that is; an all-reduce has none."""
    return gossips(config) and config.gossip.mixing in ("pushsum", "copy-average")


def certifies(config: Config) -> bool:
    """Whether a bound on the distance between the learners is computed from their logs."""
    return gossips(config) and config.gossip.certify


def is_elastic(config: Config) -> bool:
    """Whether learners may come and go while the others train, as far as the topology allows."""
    return exchanges_messages(config) and not is_lock_step(config) and not certifies(config)


def averages_parameters(config: Config) -> bool:
    """Whether the learners' parameters are averaged with each other, so that there is one policy: their consensus.

    It decides whose parameters are evaluated, and whether the learners pool their normalisers' statistics. Learners
    that never exchange anything are policies of their own, and the mean of their parameters is none of them.
    """
    if config.learners == 1:
        return False
    return config.algo == "allreduce" or (config.algo == "gala" and config.gossip.mixing != "none")


def whose(config: Config, learner: int | str) -> str:
    """Whose parameters are played where those of ``learner``, ``consensus`` say, were asked for; in words."""
    alone = learner == "consensus" and not averages_parameters(config)
    return "0 (nothing is averaged in this run)" if alone else str(learner)


def needs_process_group(config: Config) -> bool:
    """Whether the learners all-reduce, gradients or parameters."""
    return config.learners > 1 and (
        config.algo == "allreduce" or (gossips(config) and config.gossip.mixing == "allreduce")
    )


def changed_settings(config: Config) -> list[tuple[str, Any, Any]]:
    """(dotted name, value, default) of each setting that is not at its default, those of ``PLACE`` left out."""
    defaults = flatten(Config())
    return [
        (name, value, defaults[name])
        for name, value in flatten(config).items()
        if value != defaults[name] and name not in PLACE
    ]
