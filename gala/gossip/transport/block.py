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
from gala.gossip.transport.box import LINE, PAGE, Box, block_size, front
from gala.gossip.transport.intents import Intents
from gala.gossip.transport.roster import Table

PATIENCE_S, PATIENCE_PER_NUMBER_S = 0.005, 1.5e-8
"""How long an access tries for a lock. Holders keep it for three passes over the numbers, about a fifth of this, unless
they are stopped or preempted."""
_CLAIM_S = 5.0
_RELEASE = getattr(mmap, "MADV_REMOVE", None)


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
        self.intents = Intents(np.frombuffer(self.map, np.int64, n * step, n * LINE).reshape(n, step))
        self.updates, state, beat_ns, weight, unit = (lines[i : n * step : step] for i in range(5))
        unread = np.frombuffer(self.map, np.float64, n * n, 2 * n * LINE).reshape(n, n)
        self.fingerprints = lines[7 : n * step : step]
        self.table = Table(state, beat_ns, weight.view(np.float64), unread, unit)
        self.arrived = np.frombuffer(self.map, np.int8, n * n, 2 * n * LINE + 8 * n * n).reshape(n, n)
        """[destination, source]: there may be something in the box. Spares a look into every box at every update."""
        self.thread_lock = threading.Lock()  # record locks belong to the process: they do not keep its threads apart
        self.edges = tuple(edges)
        self._index = {edge: i for i, edge in enumerate(edges)}
        self._mine: set[int] = set()
        self._boxes: dict[Edge, Box] = {}
        self.lent: Mapping[Edge, Tensor] = {}  # numbers that lie elsewhere: on a GPU

    def box(self, edge: Edge) -> Box:
        if edge not in self._boxes:
            if edge not in self._index:
                raise ValueError(f"there is no box {edge[0]} -> {edge[1]}; create the mailboxes with that edge")
            offset = front(self.world_size) + self._index[edge] * Box.size(self.numel, self.dtype)
            self._boxes[edge] = Box(self.map, offset, self.numel, self.dtype, self.lent.get(edge))
        return self._boxes[edge]

    def has(self, edge: Edge) -> bool:
        """Whether there is a box for ``edge``."""
        return edge in self._index

    def index(self, edge: Edge) -> int:
        """Which of ``edges`` it is."""
        return self._index[edge]

    def claim(self, rank: int) -> None:
        """This process lives as ``rank``, until it dies or lets go: the kernel drops the lock that says so."""
        deadline = time.monotonic() + _CLAIM_S  # a peer that looks whether the last one lives holds it for a moment
        while rank not in self._mine and not (held := self._try_lock(rank * LINE)) and time.monotonic() < deadline:
            time.sleep(1e-3)
        if rank not in self._mine and not held:
            raise ValueError(f"another process lives as rank {rank}; give every process its own")
        self._mine.add(rank)
        self.intents.lives[rank] = 1

    def let_go(self, rank: int) -> None:
        """``rank`` ends in order."""
        if rank in self._mine:
            self._mine.discard(rank)
            self.intents.lives[rank] = 0
            self._unlock(rank * LINE)

    @contextlib.contextmanager
    def found_dead(self, rank: int) -> Iterator[bool]:
        """Yields whether the process that lived as ``rank`` is no more. Nobody else is told so at the same time."""
        dead = bool(self.intents.lives[rank]) and rank not in self._mine and self._try_lock(rank * LINE)
        try:
            yield dead
        finally:
            if dead:
                self._unlock(rank * LINE)

    def release(self, box: Box) -> None:
        """Give the memory of an empty box back until it is used again; under its lock. Its header stays."""
        rest = Box.size(self.numel, self.dtype) - PAGE
        if _RELEASE is not None and not self.lent and box.is_empty() and rest > 0:
            self.map.madvise(_RELEASE, box.offset + PAGE, rest)

    def note(self, edge: Edge, weight: float) -> None:
        """What the box of ``edge`` holds now, for all to see without a look into it. Under the box's lock."""
        self.table.unread[edge[1], edge[0]] = weight

    def announce(self, edge: Edge) -> None:
        """Let its reader find what the box of ``edge`` holds, if anything. Under the box's lock."""
        box = self.box(edge)
        self.arrived[edge[1], edge[0]] = not box.is_empty()
        self.note(edge, box.mass())

    @contextlib.contextmanager
    def locked(self, box: Box) -> Iterator[bool]:
        """Yields whether the lock was got in time."""
        with self.thread_lock:
            deadline = time.monotonic() + PATIENCE_S + PATIENCE_PER_NUMBER_S * self.numel
            while not (held := self._try_lock(box.offset)) and time.monotonic() < deadline:
                time.sleep(1e-4)
            try:
                yield held
            finally:
                if held:
                    self._unlock(box.offset)

    def _try_lock(self, offset: int) -> bool:
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, offset: int) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, offset)
