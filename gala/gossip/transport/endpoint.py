"""One rank's end of the shared boxes, and the handle by which a child finds them."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gala.gossip.flat import check_same_parameters
from gala.gossip.message import HEADER_BYTES, Edge, Mailbox, Message, check_numel, check_rank
from gala.gossip.transport.block import Block
from gala.gossip.transport.box import Box
from gala.gossip.transport.burial import bury
from gala.gossip.transport.intents import PUT, TAKE, TAKE_BACK
from gala.gossip.transport.roster import FINISHED, PRESENT, RESTING, TableRoster


class Handle(NamedTuple):
    """What a spawned child needs to find the boxes; picklable."""

    path: str
    inode: int
    world_size: int
    numel: int
    edges: tuple[Edge, ...]
    silent_after_s: float
    dtype: str = "float32"
    watch: bool = False
    """Whether the ranks themselves look for others that have died."""

    def open(self, rank: int) -> Mailbox:
        """See ``open_endpoint``."""
        return open_endpoint(self, rank)


_LOOK_EVERY_S = 0.5
_WARM_BOXES = 16

_open_blocks: weakref.WeakValueDictionary[Handle, Block] = weakref.WeakValueDictionary()
"""A process maps the memory once: see ``Block``."""


def open_block(handle: Handle, fd: int = -1) -> Block:
    """The mapping of this process; made from the descriptor ``fd``, or from the handle's path, if there is none yet.

    Raises:
        ValueError: the parent has closed the mailboxes or died.
    """
    block = _open_blocks.get(handle)
    if block is None:
        if fd < 0:
            try:
                fd = os.open(handle.path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as e:
                raise ValueError(
                    f"the mailboxes are gone ({e}): the parent must keep them open while ranks join"
                ) from None
            if os.fstat(fd).st_ino != handle.inode:
                os.close(fd)
                raise ValueError("the mailboxes are gone: the parent must keep them open while ranks join")
        dtype = getattr(torch, handle.dtype)
        _open_blocks[handle] = block = Block(fd, handle.world_size, handle.numel, handle.edges, dtype)
    return block


def open_endpoint(handle: Handle, rank: int, lent: Mapping[Edge, Tensor] | None = None) -> Mailbox:
    """This process's endpoint for ``rank``: where another process was this rank before, whether it died, closed or
    left, a newcomer's, who has no weight (``GossipAverager.join``). ``lent`` holds the numbers of boxes that keep
    theirs elsewhere.

    Raises:
        ValueError: the rank is outside the world, or the parent has closed the mailboxes or died.
    """
    check_rank(rank, handle.world_size)
    block = open_block(handle)
    block.lent = lent or block.lent
    with block.found_dead(rank) as dead:
        if dead or block.table.state[rank] == FINISHED:  # it has died and nobody has noticed, or has kept what it held
            bury(block, rank)
    block.claim(rank)
    if block.table.gone(rank):
        block.table.admit(rank)
    if block.table.state[rank] != RESTING:  # a newcomer rests until its first update
        block.table.state[rank] = PRESENT
    return _SharedEndpoint(block, handle, rank)


class _SharedEndpoint:
    def __init__(self, block: Block, handle: Handle, rank: int) -> None:
        self._block: Block | None = block
        self.roster = TableRoster(block.table, rank, handle.silent_after_s)
        self._rank, self.numel = rank, handle.numel
        self.dtype = block.dtype
        self.message_bytes = self.dtype.itemsize * self.numel + HEADER_BYTES
        self._incoming = [edge for edge in handle.edges if edge[1] == rank]
        self._lost_weight = 0.0  # of a closed one
        self.newcomer = bool(block.table.state[rank] == RESTING)
        self._handle, self._looked_at_s = handle, 0.0
        self._warm: dict[Edge, None] = {}  # boxes that keep their memory, the one used last at the end

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        return self._put(dst, numerator, weight, sent_at, replace, 1.0)

    def put_share(self, dst: int, z: Tensor, weight: float, sent_at: int) -> bool:
        return self._put(dst, z, weight, sent_at, False, weight)

    def _put(self, dst: int, values: Tensor, weight: float, sent_at: int, replace: bool, scale: float) -> bool:
        check_numel(values, self.numel)
        block = alive(self._block)
        box = block.box((self._rank, dst))
        with block.locked(box) as held:
            if held:
                box.repair()
                block.arrived[dst, self._rank] = 1
                with self._moving(PUT, (self._rank, dst), box, 0.0 if replace else -weight):
                    box.put(values, weight, sent_at, replace, scale)
                block.note((self._rank, dst), box.mass())
        return held

    def _moving(self, kind: int, edge: Edge, box: Box, by: float) -> contextlib.AbstractContextManager[None]:
        """Around a put or take: what this rank has more or less is published at once. If it is killed, its published
        weight goes with it, and must be no more and no less than what is nowhere else."""
        block = alive(self._block)
        return block.intents.moving(self._rank, kind, block.index(edge), box, block.table.weight, by)

    def take(self, src: int) -> Message | None:
        return self._empty(src, self._rank)

    def take_in_place(self, src: int, use: Callable[[Message], None]) -> bool:
        return self._empty(src, self._rank, use) is not None

    def take_back(self, dst: int) -> Message | None:
        return self._empty(self._rank, dst)

    def _empty(self, src: int, dst: int, use: Callable[[Message], None] | None = None) -> Message | None:
        block = alive(self._block)
        box = block.box((src, dst)) if block.has((src, dst)) else None
        if box is None or box.is_empty():  # most are, most of the time: no lock for that
            return None
        with block.locked(box) as held:
            if not held:
                return None
            block.arrived[dst, src] = 0
            block.note((src, dst), 0.0)  # first: who dies before the box is empty leaves no weight that is not there
            message = box.look() if use else box.peek()
            kind = TAKE if dst == self._rank else TAKE_BACK
            if message is not None:
                with self._moving(kind, (src, dst), box, 0.0 if box.ints[Box.IS_COPY] else message.weight):
                    if use:
                        use(message)  # who dies in here has published nothing of it: it stays the box's
                        box.wait()
                    box.empty(back=kind == TAKE_BACK)
        self._keep_warm((src, dst))
        return message

    def _keep_warm(self, edge: Edge) -> None:
        """Boxes that were read a while ago give their memory back: a random graph would in time fill that of all
        pairs."""
        self._warm.pop(edge, None)
        self._warm[edge] = None
        if len(self._warm) > _WARM_BOXES:
            block, oldest = alive(self._block), next(iter(self._warm))
            del self._warm[oldest]
            with block.locked(block.box(oldest)) as held:
                if held:
                    block.release(block.box(oldest))

    def _look_for_dead(self) -> None:
        """Write off those whose process is no more."""
        now_s = time.monotonic()
        if not self._handle.watch or now_s < self._looked_at_s + _LOOK_EVERY_S:
            return
        self._looked_at_s = now_s
        block = alive(self._block)
        for rank in range(self._handle.world_size):
            with block.found_dead(rank) as dead:
                if dead and block.table.state[rank] in (PRESENT, RESTING):
                    lost = bury(block, rank) / max(block.table.total_weight(), 1e-300)
                    text = f"learner {rank} has died, and with it {lost:.2g} of the weight that is left; others go on"
                    warnings.warn(text, RuntimeWarning, stacklevel=2)

    def senders(self) -> Sequence[int]:
        # Of a copy: NumPy raises where numbers turn to 0 while it counts them.
        return np.flatnonzero(alive(self._block).arrived[self._rank].copy()).tolist()

    def waiting(self, src: int, dst: int) -> int:
        block = alive(self._block)
        return block.box((src, dst)).count() if block.has((src, dst)) else 0

    def unread_weight(self, dst: int) -> float:
        block = alive(self._block)
        reachable = dst == self._rank or block.has((self._rank, dst))
        return block.table.unread_weight(dst) if reachable else math.inf

    def agree(self, fingerprint: int) -> None:
        block = alive(self._block)
        block.fingerprints[self._rank] = fingerprint
        check_same_parameters(fingerprint, block.fingerprints.tolist(), self._rank)

    def advance(self, updates: int) -> None:
        block = alive(self._block)
        block.updates[self._rank] = updates
        block.table.update(self._rank)
        self._look_for_dead()

    def progress(self, rank: int) -> int:
        return int(alive(self._block).updates[rank])

    def finished(self, rank: int) -> bool:
        self._look_for_dead()
        return not self.roster.is_live(rank)

    def rest(self, resting: bool) -> None:
        table = alive(self._block).table
        table.beat_ns[self._rank] = time.monotonic_ns()
        table.state[self._rank] = RESTING if resting else PRESENT

    def lost_weight(self) -> float:
        if self._block is None:
            return self._lost_weight
        block = self._block
        return float(sum(block.box(edge).reals[Box.LOST] for edge in self._incoming))

    def close(self) -> None:
        if self._block is not None:
            self._lost_weight = self.lost_weight()
            self._block.table.state[self._rank] = FINISHED
            self._block.let_go(self._rank)
        self._block = None


def alive(block: Block | None) -> Block:
    """``block``, unless it was closed. Raises ValueError then."""
    if block is None:
        raise ValueError("these mailboxes are closed")
    return block
