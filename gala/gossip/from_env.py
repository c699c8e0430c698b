"""Gossip between processes that ``torchrun`` has started, on one machine, without a Python parent."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import torch

from gala.gossip.averager import GossipAverager
from gala.gossip.flat import without_start
from gala.gossip.transport.endpoint import Handle
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.gossip.values import averaged_numel

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init_from_env(
    model: torch.nn.Module, *, silent_after_s: float = 30.0, timeout_s: float = 300.0, **settings: Any
) -> GossipAverager:
    """The averager of this process, for a script that is run as ``torchrun --nproc-per-node N script.py``.

        averager = init_from_env(model, topology="ring")
        ...
            optimizer.step()
            averager.step()
        averager.close()

    The first rank makes the boxes in anonymous shared memory and hands their handle to the others through torchrun's
    store; when all have opened them, no process depends on another: boxes live as long as anybody uses them. Build the
    optimiser before or after; move the model to its device before.

    Args:
        model: all processes start with the parameters and buffers that it has in the first rank.
        silent_after_s: a rank that gives no sign for so long is left out of the graph until it does.
        timeout_s: how long the processes wait for each other here.
        settings: further arguments of ``GossipAverager``.

    Raises:
        ValueError: torchrun's variables are missing, or its processes are on several machines.
        RuntimeError: a process did not come within ``timeout_s`` (torch's DistStoreError).
    """
    rank, world_size, address, port = _read_env()
    buffers = settings.get("average_buffers", True)
    numel = averaged_numel(model, buffers)
    store = _store(address, port, rank, timedelta(seconds=timeout_s))
    if rank == 0:
        of_boxes = {"average_buffers": buffers, "silent_after_s": silent_after_s}
        mailboxes = SharedMemoryMailboxes.create_for(model, world_size, **of_boxes)
        store.set("handle", json.dumps(mailboxes.handle))
    handle = _handle(store.get("handle"))
    if handle.numel != numel:
        raise ValueError(f"rank 0 has {handle.numel} parameters and rank {rank} has {numel}: all need the same model")
    settings = {"rank": rank, "world_size": world_size, "mailbox": handle.open(rank), **settings}
    averager = GossipAverager(model, **settings)
    _start_equal(averager, store)
    return averager


def _start_equal(averager: GossipAverager, store: Any) -> None:
    """All take the first rank's parameters, handed on from each rank to the next through their box: one
    message of memory per rank, where boxes from one to all would need one per pair.

    It also holds everybody until all have opened the boxes, which are found through the first rank's process.
    """
    rank, last, box = averager.rank, averager.world_size - 1, averager.mailbox
    averager.fingerprint = without_start(averager.fingerprint)
    box.agree(averager.fingerprint)
    if rank > 0:
        store.wait([f"equal/{rank - 1}"])
        message = box.take(rank - 1)
        assert message is not None, "the rank before has put its parameters there"
        averager.flat.copy_(message.numerator)
        averager.values.write()
    if rank < last:
        box.put(rank + 1, averager.flat, 1.0, 0, replace=True)  # a copy, which carries no mass
    store.set(f"equal/{rank}", "")
    store.wait([f"equal/{last}"])


def _read_env() -> tuple[int, int, str, int]:
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(f"{missing[0]} is not set: start this script with `torchrun --nproc-per-node N SCRIPT`")
    rank, world_size, local, address, port = (os.environ[name] for name in _VARIABLES)
    if local != world_size:
        raise ValueError(
            f"{world_size} processes, of which {local} are on this machine: shared memory does not reach the others; "
            "give GossipAverager a mailbox of your own there"
        )
    return int(rank), int(world_size), address, int(port)


def _store(address: str, port: int, rank: int, timeout: timedelta) -> Any:
    """torchrun's own store; names have a prefix, which a restarted group does not share with the one before."""
    import torch.distributed as dist

    served_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(address, port, is_master=rank == 0 and not served_by_agent, timeout=timeout)
    return dist.PrefixStore(f"gala/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _handle(text: bytes) -> Handle:
    path, inode, world_size, numel, edges, *rest = json.loads(text)
    return Handle(path, inode, world_size, numel, tuple((src, dst) for src, dst in edges), *rest)
