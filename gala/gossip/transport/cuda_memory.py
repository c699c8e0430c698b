"""Boxes on GPUs, for the processes of one machine: headers and locks in shared CPU memory, the numbers in CUDA memory.

Each box lies on its receiver's GPU. The parent allocates all of them, since memory that a process shares by CUDA IPC is
gone when it ends: the boxes must outlive any learner. That costs the parent a CUDA context on each GPU. A put from
another GPU is a copy between the two, by NVLink or PCIe; nothing passes through the CPU but the header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gala.gossip.message import Edge, Mailbox
from gala.gossip.transport.endpoint import Handle, open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes


class CudaHandle(NamedTuple):
    """What a spawned child needs. Tensors travel by CUDA IPC, which ``torch.multiprocessing`` sees to: pass it in the
    arguments of one of its processes."""

    headers: Handle
    data: tuple[Tensor, ...]
    """Float32 [d] for each of ``headers.edges``."""

    def open(self, rank: int) -> Mailbox:
        """This process's endpoint for ``rank``; see ``open_endpoint``."""
        return open_endpoint(self.headers, rank, dict(zip(self.headers.edges, self.data, strict=True)))


def create_cuda_mailboxes(
    devices: Sequence[torch.device],
    numel: int,
    edges: Sequence[Edge],
    *,
    present: int | None = None,
    silent_after_s: float = math.inf,
) -> SharedMemoryMailboxes:
    """As ``SharedMemoryMailboxes.create`` for ``len(devices)`` ranks, with the numbers on the receivers' ``devices``.

    All boxes are allocated at once: ``4 * numel`` bytes for each edge, on its destination's GPU. A device may be the
    CPU: the tests then run all of this but CUDA itself.
    """
    edges = tuple(dict.fromkeys(edges))
    mailboxes = SharedMemoryMailboxes.create(len(devices), numel, edges, present=present, silent_after_s=silent_after_s)
    data = tuple(torch.zeros(numel, device=devices[dst]).share_memory_() for _, dst in edges)
    mailboxes.lend(dict(zip(edges, data, strict=True)))
    mailboxes.handle = CudaHandle(mailboxes.handle, data)
    return mailboxes
