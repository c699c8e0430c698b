"""Boxes in anonymous shared memory, for the CPU processes of one machine, which survive the death of their users."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gala.gossip.message import Edge, Message, check_rank, total_mass
from gala.gossip.transport.anonymous_memory import anonymous_memory
from gala.gossip.transport.block import Block
from gala.gossip.transport.box import Box, block_size
from gala.gossip.transport.endpoint import Handle, alive, open_block
from gala.gossip.transport.roster import ABSENT, PRESENT, Table


class SharedMemoryMailboxes:
    """Boxes in anonymous shared memory, for the CPU processes of one machine. The parent creates and owns them.

    The memory has no name (memfd), so nothing can be left behind, not even by SIGKILL; boxes that are never used cost
    nothing. (Off Linux: a temporary file that ``close`` removes.) Children started by spawn call
    ``open_endpoint(handle, rank)`` while the parent lives.
    """

    def __init__(self, block: Block, handle: Handle) -> None:
        self._block: Block | None = block
        self._cut_off: dict[int, float] = {}  # by writer, as far as it is accounted for
        self._handle = handle
        self.handle: Any = handle
        """What the children need: ``handle.open(rank)`` makes an endpoint."""

    @classmethod
    def create(
        cls,
        world_size: int,
        numel: int,
        edges: Sequence[Edge] | None = None,
        *,
        present: int | None = None,
        silent_after_s: float = math.inf,
        dtype: torch.dtype = torch.float32,
    ) -> SharedMemoryMailboxes:
        """One box of ``numel`` numbers for each (source, destination) in ``edges``: all pairs unless said otherwise,
        which any graph needs from which a learner may be missing one day. Models with float64 parameters need boxes of
        that ``dtype``, all others float32. Of the ``world_size`` ranks the first
        ``present`` (default all) take part from the start; the others may be admitted later. A rank that gave no sign
        for ``silent_after_s`` counts as departed until it gives one."""
        edges = list(itertools.permutations(range(world_size), 2)) if edges is None else edges
        for src, dst in edges:
            check_rank(src, world_size)
            check_rank(dst, world_size)
        size = block_size(world_size, numel, len(set(edges)), dtype)
        fd, path = anonymous_memory("gala-mailboxes", size)
        inode, name = os.fstat(fd).st_ino, str(dtype).removeprefix("torch.")
        handle = Handle(path, inode, world_size, numel, tuple(dict.fromkeys(edges)), silent_after_s, name)
        block = open_block(handle, fd)
        present = world_size if present is None else present
        block.table.state[present:] = ABSENT
        block.table.weight[:present] = 1.0
        return cls(block, handle)

    @property
    def table(self) -> Table:
        """State, signs of life and weights of all ranks."""
        return alive(self._block).table

    def bury(self, rank: int) -> float:
        """Write a dead rank off; returns the weight that went with it. What others sent it is theirs to take back."""
        block = alive(self._block)
        cut_off = 0.0
        for edge in (e for e in self._handle.edges if e[0] == rank):
            with block.locked(block.box(edge)) as held:
                if held:
                    block.box(edge).repair()
                    block.note(edge, block.box(edge).mass())
            cut_off += float(block.box(edge).reals[Box.LOST])
        before, self._cut_off[rank] = self._cut_off.get(rank, 0.0), cut_off
        orphaned = self._pass_on_orphans(rank)
        return block.table.bury(rank, cut_off - before + orphaned)

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        self.table.retire(rank)
        self._pass_on_orphans(rank)

    def _pass_on_orphans(self, rank: int) -> float:
        """What ``rank`` and others that are gone had sent to each other, two that left at once say, goes to somebody
        who is there; returns the weight for which there was nobody."""
        block, weight = alive(self._block), 0.0
        live = [r for r in np.flatnonzero(block.table.state == PRESENT).tolist() if r != rank]
        heir = next((r for r in live if (rank, r) in self._handle.edges), None)
        for edge in (e for e in self._handle.edges if rank in e):
            if not block.table.gone(edge[0] if edge[1] == rank else edge[1]):
                continue
            with block.locked(block.box(edge)) as held:
                message = block.box(edge).take() if held else None
                block.note(edge, 0.0)
            if message is None or block.box(edge).ints[Box.IS_COPY]:
                continue
            passed_on = False
            if heir is not None:
                with block.locked(block.box((rank, heir))) as passed_on:
                    if passed_on:
                        block.arrived[heir, rank] = 1
                        block.box((rank, heir)).put(message.numerator, message.weight, message.sent_at, False)
                        block.note((rank, heir), block.box((rank, heir)).mass())
            weight += 0.0 if passed_on else message.weight
        return weight

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight."""
        alive(self._block).table.admit(rank)

    def lend(self, data: Mapping[Edge, Tensor]) -> None:
        """Keep the numbers of these boxes in ``data`` [numel] instead; before their first use."""
        alive(self._block).lent = data

    def box(self, edge: Edge) -> Box:
        """The box itself, for tests and measurements."""
        return alive(self._block).box(edge)

    def silent(self) -> tuple[int, ...]:
        """Ranks that should be at work and gave no sign for ``silent_after_s``."""
        return tuple(np.flatnonzero(self.table.silent(self._handle.silent_after_s)).tolist())

    def progress(self) -> list[int]:
        """The update count that each rank published last."""
        return alive(self._block).updates.tolist()

    def in_flight(self) -> tuple[Tensor, float]:
        """The mass that waits in all boxes: (sum of numerators [d] in float64, sum of weights)."""
        arrived = np.argwhere(alive(self._block).arrived.copy()).tolist()
        return total_mass(filter(None, (self._peek((src, dst)) for dst, src in arrived)), self._handle.numel)

    def lost_weight(self) -> float:
        """Weight that was lost in cut-off writes, over all boxes."""
        block = alive(self._block)
        return float(sum(block.box(edge).reals[Box.LOST] for edge in self._handle.edges))

    def _peek(self, edge: Edge) -> Message | None:
        block = alive(self._block)
        with block.locked(block.box(edge)) as held:
            return block.box(edge).peek() if held else None

    def close(self) -> None:
        """Forget the memory; it is freed once the last process has let go of it. May be called twice."""
        if self._block is not None and not self._handle.path.startswith("/proc/"):
            os.unlink(self.handle.path)
        self._block = None
