"""Gossip between processes that ``torchrun`` has started, on one machine, without a Python parent."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from gala.gossip.averager import GossipAverager
from gala.gossip.flat import unique_tensors
from gala.gossip.transport.endpoint import Handle
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

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
        model: all processes start with the parameters that it has in the first rank.
        silent_after_s: a rank that gives no sign for so long is left out of the graph until it does.
        timeout_s: how long the processes wait for each other here.
        settings: further arguments of ``GossipAverager``.

    Raises:
        ValueError: torchrun's variables are missing, or its processes are on several machines.
        RuntimeError: a process did not come within ``timeout_s`` (torch's DistStoreError).
    """
    rank, world_size, address, port = _read_env()
    params = unique_tensors(model.parameters())
    numel = sum(p.numel() for p in params)
    store = _store(address, port, rank, timedelta(seconds=timeout_s))
    if rank == 0:
        mailboxes = SharedMemoryMailboxes.create(world_size, numel, silent_after_s=silent_after_s)
        store.set("handle", json.dumps(mailboxes.handle))
        store.set("parameters", _to_bytes(params))
    handle = _handle(store.get("handle"))
    if handle.numel != numel:
        raise ValueError(f"rank 0 has {handle.numel} parameters and rank {rank} has {numel}: all need the same model")
    _from_bytes(store.get("parameters"), params)
    settings = {"rank": rank, "world_size": world_size, "mailbox": handle.open(rank), **settings}
    averager = GossipAverager(params, **settings)
    # Nobody goes on before all have opened the boxes: their memory is found through the first rank's process.
    store.set(f"opened/{rank}", "")
    store.wait([f"opened/{r}" for r in range(world_size)])
    return averager


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
    path, inode, world_size, numel, edges, silent_after_s = json.loads(text)
    return Handle(path, inode, world_size, numel, tuple((src, dst) for src, dst in edges), silent_after_s)


def _to_bytes(params: list[Tensor]) -> bytes:
    from safetensors.torch import save

    return save({str(i): p.detach().to("cpu", copy=True).contiguous() for i, p in enumerate(params)})


def _from_bytes(data: bytes, params: list[Tensor]) -> None:
    """Raises ValueError if the shapes differ."""
    from safetensors.torch import load

    first = load(bytes(data))
    shapes = [tuple(first[str(i)].shape) for i in range(len(first))]
    if shapes != [tuple(p.shape) for p in params]:
        raise ValueError("the model of rank 0 has parameters of other shapes: all ranks need the same model")
    with torch.no_grad():
        for i, p in enumerate(params):
            p.copy_(first[str(i)])
