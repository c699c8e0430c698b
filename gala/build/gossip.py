"""Settings -> what the learners exchange with each other, and by what."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gala.build.policy import pick_device
from gala.config.derived import (
    certifies,
    exchanges_messages,
    gossips,
    is_elastic,
    needs_process_group,
    silent_after_s,
)
from gala.config.schema import Config
from gala.gossip.averager import GossipAverager
from gala.gossip.event_log import EventLog
from gala.gossip.flat import flatten_parameters
from gala.gossip.graphs.by_name import choose_topology
from gala.gossip.graphs.stitching import connects
from gala.gossip.graphs.topology import Topology
from gala.gossip.message import Mailbox, OpensMailbox
from gala.gossip.record import Recorder, record_path
from gala.gossip.sharded import ShardedAverager, ShardedMailboxes, shard_sizes
from gala.gossip.transport.compress import Compressed
from gala.gossip.transport.cuda_memory import create_cuda_mailboxes
from gala.gossip.transport.overlap import Overlapped
from gala.processes.addresses import LOOPBACK, NO_STORE, Address, interface_to, listening_socket


def check_exchange(config: Config, num_params: int) -> None:
    """Refuses what only the graph and the network can tell. Raises ValueError."""
    make_topology(config)
    shard_sizes(num_params, config.gossip.shards)


def make_averager(
    config: Config, policy: torch.nn.Module, rank: int, mailboxes: Sequence[OpensMailbox], store: Address = NO_STORE
) -> tuple[torch.Tensor, GossipAverager | ShardedAverager | None]:
    """The policy's parameters as one vector, and what exchanges it (None unless there are peers to gossip with)."""
    if not gossips(config):
        return flatten_parameters(policy.parameters()), None
    g = config.gossip
    endpoints = [_endpoint(config, handle, rank) for handle in mailboxes]
    settings: dict[str, Any] = {
        "rank": rank,
        "world_size": max_concurrent_learners(config),
        "topology": make_topology(config),
        "every": g.every,
        "w_min": g.w_min,
        "max_unread_weight": g.max_unread_weight,
        "tau": None if g.tau < 0 else g.tau,
        "at_bound": g.at_bound,
        "wait_timeout_s": g.wait_timeout_s,
        "mixing": _join_process_group(config, rank, store) if needs_process_group(config) else g.mixing,
    }
    averager: GossipAverager | ShardedAverager
    if len(endpoints) > 1:
        averager = ShardedAverager(policy.parameters(), mailboxes=endpoints, **settings)
    else:
        averager = GossipAverager(policy.parameters(), mailbox=endpoints[0] if endpoints else None, **settings)
    return averager.flat, averager


def _endpoint(config: Config, handle: OpensMailbox, rank: int) -> Mailbox:
    """The codec works in the thread of the overlap, if there is one."""
    mailbox = handle.open(rank)
    if config.gossip.codec != "none":
        mailbox = Compressed(mailbox, config.gossip.codec)
    return Overlapped(mailbox, rank) if config.gossip.overlap else mailbox


def make_event_log(config: Config, averager: GossipAverager | ShardedAverager | None, run: str) -> EventLog | None:
    """Records what a learner exchanges, for the certificate, if there is to be one."""
    if not (certifies(config) and isinstance(averager, GossipAverager)):
        return None
    return EventLog(averager, None if config.cluster.address else Path(run) / "gossip")  # it may be on another machine


def make_recorder(
    config: Config, averager: GossipAverager | ShardedAverager | None, run: str, in_the_middle: bool
) -> Recorder | None:
    """Logs what a replay needs, if there is to be one."""
    if not (config.gossip.record and isinstance(averager, GossipAverager)):
        return None
    recorder = Recorder(record_path(Path(run), averager.rank), in_the_middle)
    averager._exchange.recorder = recorder
    return recorder


def make_mailboxes(config: Config, num_params: int) -> ShardedMailboxes | None:
    """The parent's side of the gossip: a box for every pair, since a graph from which a learner is missing is stitched;
    on the CPU, boxes that are never used cost no memory."""
    if not exchanges_messages(config):
        return None
    places, shards = max_concurrent_learners(config), config.gossip.shards
    pairs = list(itertools.permutations(range(places), 2))
    settings: dict[str, Any] = {"present": config.learners, "silent_after_s": silent_after_s(config)}
    devices = [pick_device(config, rank) for rank in range(places)]
    if devices[0].type == "cuda":
        sizes = shard_sizes(num_params, shards)
        return ShardedMailboxes([create_cuda_mailboxes(devices, size, pairs, **settings) for size in sizes])
    return ShardedMailboxes.create(places, num_params, pairs, shards, **settings)


def make_gradient_reducer(config: Config, rank: int, store: Address) -> Callable[[list[torch.Tensor]], None] | None:
    """For algo=allreduce: each gradient <- its mean over learners, in place."""
    if config.algo != "allreduce" or config.learners == 1:
        return None
    average = _join_process_group(config, rank, store)

    def reduce(gradients: list[torch.Tensor]) -> None:
        for gradient in gradients:
            average(gradient)

    return reduce


def _join_process_group(config: Config, rank: int, address: Address) -> Callable[[torch.Tensor], None]:
    """Joins the process group that meets at ``address``; returns ``vector -> mean over learners``, in place.

    gloo would listen at the address of the host's name, which on many hosts is a loopback one: it is told the interface
    by which the store is reached.
    """
    import torch.distributed as dist

    backend = "nccl" if pick_device(config, rank).type == "cuda" else "gloo"
    if interface := interface_to(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    store = dist.TCPStore(address.host, address.port, is_master=False)
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.learners)

    def average(vector: torch.Tensor) -> None:
        dist.all_reduce(vector)
        vector.div_(config.learners)

    return average


def open_store(config: Config, host: str = LOOPBACK) -> Any:
    """Where learners that all-reduce meet, at a port of this machine's address ``host``: to be kept while the run
    lasts. None for the others."""
    if not needs_process_group(config):
        return None
    import torch.distributed as dist

    door = listening_socket(host)
    port = door.getsockname()[1]
    return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())


def max_concurrent_learners(config: Config) -> int:
    """How many learners there can be at a time: as many as the graph connects, if it connects all numbers up to it."""
    if not is_elastic(config):
        return config.learners
    topology, places = make_topology(config), config.max_learners or 2 * config.learners
    more = itertools.takewhile(lambda n: connects(topology, n), range(config.learners + 1, places + 1))
    return max(more, default=config.learners)


def make_topology(config: Config) -> Topology:
    """Raises ValueError if there is no such graph of this many learners, or if its file is wrong."""
    g = config.gossip
    return choose_topology(g.topology, config.learners, g.peers, g.peers_schedule)
