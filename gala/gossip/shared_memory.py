"""Boxes in anonymous shared memory, for the CPU processes of one machine, which survive the death of their users."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gala.gossip.message import HEADER_BYTES, Edge, Mailbox, Message, check_numel, check_rank, total_mass


class Handle(NamedTuple):
    """What a spawned child needs to find the boxes; picklable."""

    path: str
    inode: int
    world_size: int
    numel: int
    edges: tuple[Edge, ...]


PATIENCE_S = 0.005
"""How long an access tries for a lock. Holders keep it for under a millisecond unless they are stopped or preempted."""
_LINE = 64  # bytes: one cache line per rank's progress and per half box header, so that neighbours do not contend
_PAGE = 4096


class _Box:
    """One edge in the shared block: a header of two cache lines, then ``numel`` float32.

    The lock is a POSIX record lock on the box's first byte, which the kernel drops when its holder dies. ``dirty`` is 1
    while the data change: whoever finds it 1 under the lock knows that the writer was cut off, and empties the box.
    """

    COUNT, SENT_AT, DIRTY = 0, 1, 2
    WEIGHT, AT_RISK, LOST = 0, 1, 2

    def __init__(self, block: mmap.mmap, offset: int, numel: int) -> None:
        self.offset = offset
        self.ints = np.frombuffer(block, np.int64, 8, offset)
        self.reals = np.frombuffer(block, np.float64, 8, offset + _LINE)
        self.data = torch.frombuffer(block, dtype=torch.float32, count=numel, offset=offset + 2 * _LINE)

    @staticmethod
    def size(numel: int) -> int:
        """Bytes of one box, whole pages: a box that is never used then costs no memory."""
        return -(-(2 * _LINE + 4 * numel) // _PAGE) * _PAGE

    def put(self, numerator: Tensor, weight: float, sent_at: int, replace: bool) -> None:
        self.repair()
        ints, reals = self.ints, self.reals
        fresh = replace or ints[self.COUNT] == 0
        before = 0.0 if fresh else float(reals[self.WEIGHT])
        reals[self.AT_RISK] = before + weight
        ints[self.DIRTY] = 1
        if fresh:  # a taken box is not zeroed: overwriting it is cheaper
            self.data.copy_(numerator)
        else:
            self.data.add_(numerator if numerator.device.type == "cpu" else numerator.cpu())
        reals[self.WEIGHT] = before + weight
        ints[self.SENT_AT] = sent_at
        ints[self.COUNT] = 1 if fresh else ints[self.COUNT] + 1
        ints[self.DIRTY] = 0

    def peek(self) -> Message | None:
        self.repair()
        count = int(self.ints[self.COUNT])
        if not count:
            return None
        return Message(self.data.clone(), float(self.reals[self.WEIGHT]), int(self.ints[self.SENT_AT]), count)

    def take(self) -> Message | None:
        """A reader that dies while it copies has changed nothing: one store empties the box, at the end."""
        message = self.peek()
        self.ints[self.COUNT] = 0
        return message

    def repair(self) -> None:
        if self.ints[self.DIRTY]:
            self.ints[self.COUNT] = 0
            self.reals[self.LOST] += self.reals[self.AT_RISK]
            self.ints[self.DIRTY] = 0


class _Block:
    """The mapping of one process. It holds the process's ONLY descriptor of the file: POSIX drops all of a process's
    record locks on a file as soon as it closes any descriptor of it. (``mmap`` keeps a duplicate, closed with the
    map.)"""

    def __init__(self, fd: int, handle: Handle) -> None:
        self.fd, self.handle = fd, handle
        weakref.finalize(self, os.close, fd)
        self.map = mmap.mmap(fd, block_size(handle.world_size, handle.numel, len(handle.edges)))
        lines = np.frombuffer(self.map, np.int64, handle.world_size * _LINE // 8)
        self.updates, self.closed = lines[0 :: _LINE // 8], lines[1 :: _LINE // 8]
        self.thread_lock = threading.Lock()  # record locks belong to the process: they do not keep its threads apart
        self._index = {edge: i for i, edge in enumerate(handle.edges)}
        self._boxes: dict[Edge, _Box] = {}

    def box(self, edge: Edge) -> _Box:
        if edge not in self._boxes:
            if edge not in self._index:
                raise ValueError(f"there is no box {edge[0]} -> {edge[1]}; create the mailboxes with that edge")
            numel, world_size = self.handle.numel, self.handle.world_size
            offset = _front(world_size) + self._index[edge] * _Box.size(numel)
            self._boxes[edge] = _Box(self.map, offset, numel)
        return self._boxes[edge]

    @contextlib.contextmanager
    def locked(self, box: _Box) -> Iterator[bool]:
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

    def _try_lock(self, box: _Box) -> bool:
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, box.offset)
        except (BlockingIOError, PermissionError):
            return False
        return True


_open_blocks: weakref.WeakValueDictionary[Handle, _Block] = weakref.WeakValueDictionary()


class SharedMemoryMailboxes:
    """float32 boxes in anonymous shared memory, for the CPU processes of one machine. The parent creates and owns them.

    The memory has no name (memfd), so nothing can be left behind, not even by SIGKILL; boxes that are never used cost
    nothing. (Off Linux: a temporary file that ``close`` removes.) Children started by spawn call
    ``open_endpoint(handle, rank)`` while the parent lives.
    """

    def __init__(self, block: _Block) -> None:
        self._block: _Block | None = block
        self.handle = block.handle

    @classmethod
    def create(cls, world_size: int, numel: int, edges: Sequence[Edge]) -> SharedMemoryMailboxes:
        """One box of ``numel`` float32 for each (source, destination) in ``edges``."""
        for src, dst in edges:
            check_rank(src, world_size)
            check_rank(dst, world_size)
        size = block_size(world_size, numel, len(set(edges)))
        fd, path = anonymous_memory("gala-mailboxes", size)
        handle = Handle(path, os.fstat(fd).st_ino, world_size, numel, tuple(dict.fromkeys(edges)))
        _open_blocks[handle] = block = _Block(fd, handle)
        return cls(block)

    def progress(self) -> list[int]:
        """The update count that each rank published last."""
        return _alive(self._block).updates.tolist()

    def in_flight(self) -> tuple[Tensor, float]:
        """The mass that waits in all boxes: (sum of numerators [d] in float64, sum of weights)."""
        return total_mass(filter(None, map(self._peek, self.handle.edges)), self.handle.numel)

    def lost_weight(self) -> float:
        """Weight that was lost in cut-off writes, over all boxes."""
        block = _alive(self._block)
        return float(sum(block.box(edge).reals[_Box.LOST] for edge in self.handle.edges))

    def _peek(self, edge: Edge) -> Message | None:
        block = _alive(self._block)
        with block.locked(block.box(edge)) as held:
            return block.box(edge).peek() if held else None

    def close(self) -> None:
        """Forget the memory; it is freed once the last process has let go of it. May be called twice."""
        if self._block is not None and not self.handle.path.startswith("/proc/"):
            os.unlink(self.handle.path)
        self._block = None


def open_endpoint(handle: Handle, rank: int) -> Mailbox:
    """This process's endpoint for ``rank``.

    Raises:
        ValueError: the rank is outside the world, or the parent has closed the mailboxes or died.
    """
    check_rank(rank, handle.world_size)
    block = _open_blocks.get(handle)
    if block is None:
        try:
            fd = os.open(handle.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise ValueError(f"the mailboxes are gone ({e}): the parent must keep them open while ranks join") from None
        if os.fstat(fd).st_ino != handle.inode:
            os.close(fd)
            raise ValueError("the mailboxes are gone: the parent must keep them open while ranks join")
        _open_blocks[handle] = block = _Block(fd, handle)
    block.closed[rank] = 0
    return _SharedEndpoint(block, rank)


class _SharedEndpoint:
    def __init__(self, block: _Block, rank: int) -> None:
        self._block: _Block | None = block
        self._rank, self.numel = rank, block.handle.numel
        self.message_bytes = 4 * self.numel + HEADER_BYTES
        self._incoming = [edge for edge in block.handle.edges if edge[1] == rank]

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        check_numel(numerator, self.numel)
        block = _alive(self._block)
        box = block.box((self._rank, dst))
        with block.locked(box) as held:
            if held:
                box.put(numerator, weight, sent_at, replace)
        return held

    def take(self, src: int) -> Message | None:
        block = _alive(self._block)
        box = block.box((src, self._rank))
        if not (
            box.ints[_Box.COUNT] or box.ints[_Box.DIRTY]
        ):  # most boxes are empty most of the time: no lock for that
            return None
        with block.locked(box) as held:
            return box.take() if held else None

    def waiting(self, src: int, dst: int) -> int:
        return int(_alive(self._block).box((src, dst)).ints[_Box.COUNT])

    def advance(self, updates: int) -> None:
        _alive(self._block).updates[self._rank] = updates

    def progress(self, rank: int) -> int:
        return int(_alive(self._block).updates[rank])

    def finished(self, rank: int) -> bool:
        return bool(_alive(self._block).closed[rank])

    def rest(self, resting: bool) -> None:
        _alive(self._block).closed[self._rank] = resting

    def lost_weight(self) -> float:
        block = _alive(self._block)
        return float(sum(block.box(edge).reals[_Box.LOST] for edge in self._incoming))

    def close(self) -> None:
        if self._block is not None:
            self._block.closed[self._rank] = 1
        self._block = None


def anonymous_memory(name: str, size: int) -> tuple[int, str]:
    """``size`` zero bytes without a name in the file system: (descriptor, path by which other processes open it).

    The path is good while the caller keeps the descriptor. Where there is no memfd it is a temporary file, which the
    caller removes.
    """
    if sys.platform == "linux":
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        path = f"/proc/{os.getpid()}/fd/{fd}"
    else:
        fd, path = tempfile.mkstemp(prefix=f"{name}-")
    os.ftruncate(fd, size)
    return fd, path


def block_size(world_size: int, numel: int, num_edges: int) -> int:
    """Bytes of address space for the progress lines and all boxes."""
    return _front(world_size) + num_edges * _Box.size(numel)


def _front(world_size: int) -> int:
    return -(-world_size * _LINE // _PAGE) * _PAGE


def _alive(block: _Block | None) -> _Block:
    if block is None:
        raise ValueError("these mailboxes are closed")
    return block
