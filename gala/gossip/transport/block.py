"""One process's view of the shared block: a line for each rank, then the boxes, under locks that the kernel drops."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gala.gossip.message import Edge
from gala.gossip.transport.box import LINE, Box, block_size, front
from gala.gossip.transport.roster import Table

PATIENCE_S = 0.005
"""How long an access tries for a lock. Holders keep it for under a millisecond unless they are stopped or preempted."""


class Block:
    """The mapping of one process. It holds the process's ONLY descriptor of the file: POSIX drops all of a process's
    record locks on a file as soon as it closes any descriptor of it. (``mmap`` keeps a duplicate, closed with the
    map.)"""

    def __init__(self, fd: int, world_size: int, numel: int, edges: Sequence[Edge], dtype: torch.dtype) -> None:
        self.fd, self.world_size, self.numel, self.dtype = fd, world_size, numel, dtype
        weakref.finalize(self, os.close, fd)
        self.map = mmap.mmap(fd, block_size(world_size, numel, len(edges), dtype))
        n, step = world_size, LINE // 8
        lines = np.frombuffer(self.map, np.int64, n * step)
        self.updates, state, beat_ns = (lines[i : n * step : step] for i in range(3))
        weight = lines[3 : n * step : step].view(np.float64)
        unread = np.frombuffer(self.map, np.float64, n * n, n * LINE).reshape(n, n)
        self.fingerprints = lines[7 : n * step : step]
        self.table = Table(state, beat_ns, weight, unread)
        self.arrived = np.frombuffer(self.map, np.int8, n * n, n * LINE + 8 * n * n).reshape(n, n)
        """[destination, source]: there may be something in the box. Spares a look into every box at every update."""
        self.thread_lock = threading.Lock()  # record locks belong to the process: they do not keep its threads apart
        self._index = {edge: i for i, edge in enumerate(edges)}
        self._boxes: dict[Edge, Box] = {}
        self.lent: Mapping[Edge, Tensor] = {}  # numbers that lie elsewhere: on a GPU

    def box(self, edge: Edge) -> Box:
        if edge not in self._boxes:
            if edge not in self._index:
                raise ValueError(f"there is no box {edge[0]} -> {edge[1]}; create the mailboxes with that edge")
            offset = front(self.world_size) + self._index[edge] * Box.size(self.numel, self.dtype)
            self._boxes[edge] = Box(self.map, offset, self.numel, self.dtype, self.lent.get(edge))
        return self._boxes[edge]

    def note(self, edge: Edge, weight: float) -> None:
        """What the box of ``edge`` holds now, for all to see without a look into it. Under the box's lock."""
        self.table.unread[edge[1], edge[0]] = weight

    @contextlib.contextmanager
    def locked(self, box: Box) -> Iterator[bool]:
        """Yields whether the lock was got within ``PATIENCE_S``."""
        with self.thread_lock:
            deadline = time.monotonic() + PATIENCE_S
            while not (held := self._try_lock(box)) and time.monotonic() < deadline:
                time.sleep(1e-4)
            try:
                yield held
            finally:
                if held:
                    fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, box.offset)

    def _try_lock(self, box: Box) -> bool:
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, box.offset)
        except (BlockingIOError, PermissionError):
            return False
        return True
