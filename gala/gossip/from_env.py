"""Gossip between processes that ``torchrun`` has started, on one machine or several, without a Python parent."""

from __future__ import annotations

import itertools
import json
import os
import time
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import torch

from gala.gossip.averager import GossipAverager
from gala.gossip.flat import without_start
from gala.gossip.message import Mailbox
from gala.gossip.transport.endpoint import Handle
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.gossip.values import averaged_numel

Transport = Literal["auto", "shared-memory", "tcp"]
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_calls = itertools.count()
_POLL_S = 1e-3


class _Place(NamedTuple):
    """What torchrun says of this process."""

    rank: int
    world_size: int
    local_world_size: int
    master: str
    port: int


def init_from_env(
    model: torch.nn.Module,
    *,
    transport: Transport = "auto",
    host: str | None = None,
    silent_after_s: float = 30.0,
    timeout_s: float = 300.0,
    **settings: Any,
) -> GossipAverager:
    """The averager of this process, for a script that is run as ``torchrun --nproc-per-node N script.py``.

        averager = init_from_env(model, topology="ring")
        ...
            optimizer.step()
            averager.step()
        averager.close()

    Where all processes are on one machine, the first rank makes the boxes in anonymous shared memory and hands their
    handle to the others through torchrun's store; when all have opened them, no process depends on another: boxes live
    as long as anybody uses them. On several machines the processes connect to each other by TCP, and find each other
    through that store. Build the optimiser before or after; move the model to its device before. A script that calls it
    again, for a second model, does so in all processes in the same order.

    Args:
        model: all processes start with the parameters and buffers that it has in the first rank.
        transport: ``auto``, ``shared-memory``, or ``tcp``, which works on one machine too.
        host: for ``tcp``, this machine's address at which the others reach it; by default the one on the way to
            ``MASTER_ADDR``, which is loopback where that is.
        silent_after_s: a rank that gives no sign for so long is left out of the graph until it does; with ``tau=0``
            all wait for it.
        timeout_s: how long the processes wait for each other here.
        settings: further arguments of ``GossipAverager``.

    Raises:
        ValueError: torchrun's variables are missing, or its processes are on several machines and shared memory was
            asked for; or models differ.
        ConnectionError: another rank cannot be reached.
        RuntimeError: a process did not come within ``timeout_s`` (torch's DistStoreError; a TimeoutError for tcp).
    """
    if transport not in ("auto", "shared-memory", "tcp"):
        raise ValueError(f"transport {transport!r} is unknown; use auto, shared-memory or tcp")
    place = _read_env(transport)
    buffers = settings.get("average_buffers", True)
    numel = averaged_numel(model, buffers)
    store = _store(place, timedelta(seconds=timeout_s))
    if transport == "tcp" or place.local_world_size != place.world_size:
        from gala.gossip.transport.torch_distributed import open_mailbox, own_address

        host = host or own_address(place.master, place.port)
        limits = {"silent_after_s": silent_after_s, "timeout_s": timeout_s}
        box: Mailbox = open_mailbox(store, place.rank, place.world_size, numel, host=host, **limits)
    else:
        of_boxes = {"average_buffers": buffers, "silent_after_s": silent_after_s}
        box = _open_shared_memory(store, place, model, numel, of_boxes)
    averager = GossipAverager(model, **{"rank": place.rank, "world_size": place.world_size, "mailbox": box, **settings})
    _start_equal(averager, box, store, timeout_s)
    return averager


def _open_shared_memory(store: Any, place: _Place, model: torch.nn.Module, numel: int, settings: Any) -> Mailbox:
    if place.rank == 0:
        mailboxes = SharedMemoryMailboxes.create_for(model, place.world_size, **settings)
        store.set("handle", json.dumps(mailboxes.handle))
    path, inode, world_size, boxes_numel, edges, *rest = json.loads(store.get("handle"))
    if boxes_numel != numel:
        raise ValueError(
            f"rank 0 has {boxes_numel} parameters and rank {place.rank} has {numel}: all need the same model"
        )
    handle = Handle(path, inode, world_size, numel, tuple((src, dst) for src, dst in edges), *rest)
    return handle.open(place.rank)


def _start_equal(averager: GossipAverager, box: Mailbox, store: Any, timeout_s: float) -> None:
    """All take the first rank's parameters, handed on from each rank to the next through their box: one
    message of memory per rank, where boxes from one to all would need one per pair.

    It also holds everybody until all have opened the boxes, which are found through the first rank's process.
    """
    rank, last = averager.rank, averager.world_size - 1
    averager.fingerprint = without_start(averager.fingerprint)
    box.agree(averager.fingerprint)
    if rank > 0:
        store.wait([f"equal/{rank - 1}"])
        deadline_s = time.monotonic() + timeout_s
        while (message := box.take(rank - 1)) is None:  # the store may be faster than the box
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"rank {rank} has waited {timeout_s:g} s for the parameters of rank {rank - 1}")
            time.sleep(_POLL_S)
        averager.flat.copy_(message.numerator)
        averager.values.write()
    if rank < last:
        box.put(rank + 1, averager.flat, 1.0, 0, replace=True)  # a copy, which carries no mass
    store.set(f"equal/{rank}", "")
    store.wait([f"equal/{last}"])
    store.set(f"through/{rank}", "")
    if rank == 0:  # which may be the one that serves the store, as long as it holds it
        store.wait([f"through/{other}" for other in range(last + 1)])


def _read_env(transport: Transport) -> _Place:
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(f"{missing[0]} is not set: start this script with `torchrun --nproc-per-node N SCRIPT`")
    rank, world_size, local, master, port = (os.environ[name] for name in _VARIABLES)
    if local != world_size and transport == "shared-memory":
        raise ValueError(
            f"{world_size} processes, of which {local} are on this machine: shared memory does not reach the others; "
            "use transport=tcp"
        )
    return _Place(int(rank), int(world_size), int(local), master, int(port))


def _store(place: _Place, timeout: timedelta) -> Any:
    """torchrun's own store; names have a prefix, which a restarted group does not share with the one before, nor one
    call of this process with the next."""
    import torch.distributed as dist

    served_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        place.master, place.port, is_master=place.rank == 0 and not served_by_agent, timeout=timeout, multi_tenant=True
    )
    return dist.PrefixStore(f"gala/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_calls)}", store)
