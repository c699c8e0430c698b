"""SupervisedConfig -> the parts of one learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gala.config.supervised import SupervisedConfig, method_names
from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.spectrum import mixing_matrix
from gala.gossip.graphs.topology import get_topology
from gala.gossip.transport.delayed import DelayedMailbox
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.optim.eager import spare_compiler
from gala.optim.schedules import SCHEDULES
from gala.optim.slowmo import SlowMo
from gala.optim.update import LearningStep
from gala.supervised.comparison.collective import Collective
from gala.supervised.comparison.data import DataSet, Images, make_model, subset
from gala.supervised.loop import SupervisedLearner, endless_batches

SlowMoMode = Literal["off", "on", "no-average"]
_MODES: dict[str, tuple[SlowMoMode, ...]] = {
    "off": ("off",),
    "on": ("on",),
    "both": ("off", "on"),
    "no-average": ("no-average",),
    "all": ("off", "on", "no-average"),
}


class Method(NamedTuple):
    """How a method exchanges; every method has the same model, batches and optimiser."""

    description: str
    exchanges: Literal["gradients", "parameters", "nothing"]
    waits: bool = True
    """Whether a learner waits for others in every iteration."""


METHODS: dict[str, Method] = {
    "allreduce": Method("the exact mean gradient, every iteration", "gradients"),
    "sgp": Method("PushSum, synchronous (tau=0)", "parameters"),
    "overlap-sgp": Method("PushSum, asynchronous: send, go on, absorb what has come", "parameters", waits=False),
    "dpsgd": Method("neighbours average, synchronous, doubly stochastic", "parameters"),
    "local-sgd": Method("an exact average of parameters now and then", "nothing", waits=False),
}


@dataclass(frozen=True)
class ComparisonJob:
    """One training: all learners together."""

    method: str
    slowmo: SlowMoMode
    seed: int

    @property
    def lock_step(self) -> bool:
        """Whether learners wait for each other somewhere, so that all do the same number of iterations."""
        averages = self.method == "local-sgd" or (self.slowmo == "on" and self.method != "allreduce")
        return METHODS[self.method].waits or averages


def jobs(config: SupervisedConfig) -> list[ComparisonJob]:
    """All trainings of a comparison, seed after seed.

    Raises:
        ValueError: the only methods chosen have no variant without average.
    """
    planned = [
        ComparisonJob(method, mode, seed)
        for seed in dict.fromkeys(config.seeds)
        for method in method_names(config)
        for mode in _MODES[config.slowmo]
        if mode != "no-average" or METHODS[method].exchanges == "parameters"
    ]
    if not planned:
        raise ValueError(
            f"slowmo=no-average is for gossip (sgp, overlap-sgp, dpsgd); method={config.method} has it not: "
            "allreduce's learners are equal anyway, and local-sgd's would never meet"
        )
    return planned


def check(config: SupervisedConfig, data: DataSet) -> None:
    """Refuse what only the data and the topologies can tell. Raises ValueError."""
    jobs(config)
    make_model(config, 0)
    n = config.learners
    for name in (config.topology, config.dpsgd_topology):
        get_topology(name, n)
    graph = get_topology(config.dpsgd_topology, n)
    rounds = graph.period(n) or 8
    matrices = [mixing_matrix(graph, t, n) for t in range(rounds)]
    if not all(np.allclose(m, m.T) for m in matrices):
        raise ValueError(
            f"dpsgd_topology={config.dpsgd_topology} is not symmetric for {n} learners, as D-PSGD needs it; use "
            "undirected-ring, complete, hypercube, torus or random-pairs"
        )
    if len(data.train_images) // n < config.batch_size:
        raise ValueError(
            f"{len(data.train_images)} training images over {n} learners are {len(data.train_images) // n} each, less "
            f"than batch_size={config.batch_size}; use fewer learners or smaller batches"
        )


def iterations(config: SupervisedConfig, data: DataSet) -> int:
    """Iterations of each learner, or on average over learners that do not wait for each other."""
    if not config.epochs:
        return config.iterations
    return max(1, round(config.epochs * len(data.train_images) / (config.learners * config.batch_size)))


def shard(data: DataSet, rank: int, world_size: int, seed: int) -> tuple[Images, Tensor]:
    """This learner's part of the training set; parts are disjoint, drawn at random, equal in size up to one."""
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(seed))
    mine = order[rank::world_size]
    return subset(data.train_images, mine), data.train_labels[mine]


def compute_s(config: SupervisedConfig, rank: int) -> float:
    """Seconds of an iteration's forward and backward pass; the last learner is the straggler."""
    slower = config.straggler if rank == config.learners - 1 else 1.0
    return config.compute_ms / 1e3 * slower


def learning_rate(config: SupervisedConfig) -> Callable[[float], float]:
    """progress in [0, 1] -> learning rate."""
    schedule, o = SCHEDULES[config.optim.schedule], config.optim
    return lambda progress: o.lr * schedule(progress) * (min(1.0, progress / o.warmup) if o.warmup else 1.0)


def topology(config: SupervisedConfig, method: str) -> str:
    """The name of the graph that a method exchanges over."""
    return config.dpsgd_topology if method == "dpsgd" else config.topology


def make_collective(config: SupervisedConfig) -> Collective:
    """What averages gradients over all learners, with its latency."""
    return Collective(config.learners, config.latency_ms / 1e3, config.allreduce)


def make_mailboxes(config: SupervisedConfig, method: str) -> SharedMemoryMailboxes | None:
    """The parent's side of the gossip of one job."""
    n = config.learners
    if METHODS[method].exchanges != "parameters" or n == 1:
        return None
    return SharedMemoryMailboxes.create(n, num_parameters(config), silent_after_s=math.inf)  # who dies ends the job


def num_parameters(config: SupervisedConfig) -> int:
    """Numbers that the network learns."""
    return sum(p.numel() for p in make_model(config, 0).parameters())


def make_optimizer(config: SupervisedConfig, params: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The local optimiser of one learner."""
    spare_compiler()
    o = config.optim
    if o.name == "adam":
        return torch.optim.Adam(params, o.lr, weight_decay=o.weight_decay)
    if o.name == "rmsprop":
        return torch.optim.RMSprop(params, o.lr, weight_decay=o.weight_decay)
    return torch.optim.SGD(params, o.lr, o.momentum, weight_decay=o.weight_decay, nesterov=o.momentum > 0)


def make_averager(
    config: SupervisedConfig, job: ComparisonJob, rank: int, params: list[Tensor], mailboxes: Any
) -> GossipAverager | None:
    """Gossip over shared memory with the injected latency; None for methods without, and for one learner."""
    if mailboxes is None:
        return None
    endpoint = open_endpoint(mailboxes, rank)
    if METHODS[job.method].waits:
        tau: int | None = 0
    else:
        tau = None if config.overlap_tau < 0 else config.overlap_tau
    return GossipAverager(
        params,
        rank=rank,
        world_size=config.learners,
        mailbox=DelayedMailbox(endpoint, config.latency_ms / 1e3) if config.latency_ms else endpoint,
        topology=topology(config, job.method),
        tau=tau,
        at_bound="wait" if tau else "proceed",
        wait_timeout_s=config.wait_timeout_s,
    )


def meet_and_absorb(averager: GossipAverager | None, collective: Collective) -> None:
    """All learners meet, and each absorbs what was sent to it: no mass is under way any more. Takes the latency."""
    if averager is not None and isinstance(averager.mailbox, DelayedMailbox):
        averager.mailbox.flush(averager.bound.wait_timeout_s)
    collective.barrier()
    if averager is not None:
        averager.drain()


def make_average(averager: GossipAverager | None, collective: Collective) -> Callable[[list[Tensor]], None]:
    """The exact average over learners: of PushSum's mass, so weights count and messages under way come in first."""

    def average(tensors: list[Tensor]) -> None:
        if averager is not None and not averager.bound.lockstep:
            meet_and_absorb(averager, collective)
        collective.average(tensors, 1.0 if averager is None else averager.weight)

    return average


def make_slowmo(
    config: SupervisedConfig,
    job: ComparisonJob,
    optimizer: torch.optim.Optimizer,
    average: Callable[[list[Tensor]], None],
) -> SlowMo | None:
    """SlowMo of this job. Local SGD is its special case lr=1, momentum=0; all-reduced learners are equal anyway and
    need no average."""
    if job.slowmo == "off" and job.method != "local-sgd":
        return None
    s = config.slow
    without = job.slowmo == "no-average" or job.method == "allreduce"
    return SlowMo(
        optimizer,
        every=s.every,
        lr=1.0 if job.slowmo == "off" else s.lr,
        momentum=0.0 if job.slowmo == "off" else s.momentum,
        average=None if without else average,
        buffers="maintain" if without and s.buffers == "average" else s.buffers,
    )


def make_learner(
    config: SupervisedConfig, job: ComparisonJob, rank: int, data: DataSet, mailboxes: Any
) -> tuple[SupervisedLearner, GossipAverager | None]:
    """Model, shard, optimiser and exchange of one learner; and its gossip, if there is any."""
    model = make_model(config, job.seed)
    averager = make_averager(config, job, rank, list(model.parameters()), mailboxes)
    optimizer = make_optimizer(config, model.parameters())
    collective = make_collective(config)
    stream = int(np.random.SeedSequence([job.seed, rank]).generate_state(1)[0])
    images, labels = shard(data, rank, config.learners, job.seed)
    learner = SupervisedLearner(
        model,
        endless_batches(images, labels, config.batch_size, torch.Generator().manual_seed(stream)),
        nn.functional.cross_entropy,
        LearningStep(
            optimizer,
            reduce_gradients=collective.average if METHODS[job.method].exchanges == "gradients" else None,
            averager=averager,
            slowmo=make_slowmo(config, job, optimizer, make_average(averager, collective)),
        ),
        compute_s=compute_s(config, rank),
    )
    return learner, averager


def injected_ms(config: SupervisedConfig, job: ComparisonJob) -> float:
    """What an iteration takes if sleeping and messages are all that takes time: the least that can be measured.

    In synchronous gossip a straggler finds its messages there already: latency adds to the others' compute only.
    """
    times = [1e3 * compute_s(config, rank) for rank in range(config.learners)]
    if job.lock_step or min(times) == 0.0:
        total = max(times)
    else:
        total = config.learners / sum(1.0 / t for t in times)
    if config.learners == 1:
        return total
    method, average_ms = METHODS[job.method], 1e3 * make_collective(config).delay_s
    if method.exchanges == "gradients":
        return total + average_ms
    if method.exchanges == "parameters" and method.waits:
        total = max(total, min(times) + config.latency_ms)
    if method.exchanges == "nothing" or job.slowmo == "on":
        under_way = config.latency_ms if method.exchanges == "parameters" and not method.waits else 0.0
        total += (average_ms + under_way) / config.slow.every
    return total
