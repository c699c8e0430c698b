"""Boxes in anonymous shared memory, for the CPU processes of one machine, which survive the death of their users."""

from __future__ import annotations

import itertools
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
from gala.gossip.transport.burial import bury, pass_on_orphans
from gala.gossip.transport.endpoint import Handle, alive, open_block
from gala.gossip.transport.roster import ABSENT, Table
from gala.gossip.values import averaged_numel, exchange_dtype


class SharedMemoryMailboxes:
    """Boxes in anonymous shared memory, for the CPU processes of one machine. The parent creates and owns them.

    The memory has no name (memfd), so nothing can be left behind, not even by SIGKILL; boxes that are never used cost
    nothing. (Off Linux: a temporary file that ``close`` removes.) Children started by spawn call
    ``open_endpoint(handle, rank)`` while the parent lives.
    """

    def __init__(self, block: Block, handle: Handle) -> None:
        self._block: Block | None = block
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
        silent_after_s: float = 30.0,
        watch: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> SharedMemoryMailboxes:
        """One box of ``numel`` numbers for each (source, destination) in ``edges``: all pairs unless said otherwise,
        which any graph needs from which a learner may be missing one day; where there is no box, the graph is stitched
        around that edge. Models with float64 parameters need boxes of that ``dtype``, all others float32. Of the
        ``world_size`` ranks the first ``present`` (default all) take part from the start; the others may be admitted
        later. A rank that gave no sign for ``silent_after_s`` counts as departed until it gives one. With ``watch`` the
        ranks notice themselves within a second that the process of another has died, and write it off; without,
        somebody calls ``bury``."""
        edges = list(itertools.permutations(range(world_size), 2)) if edges is None else edges
        for src, dst in edges:
            check_rank(src, world_size)
            check_rank(dst, world_size)
        size = block_size(world_size, numel, len(set(edges)), dtype)
        fd, path = anonymous_memory("gala-mailboxes", size)
        inode, unique, name = os.fstat(fd).st_ino, tuple(dict.fromkeys(edges)), str(dtype).removeprefix("torch.")
        handle = Handle(path, inode, world_size, numel, unique, silent_after_s, name, watch)
        block = open_block(handle, fd)
        present = world_size if present is None else present
        block.table.state[present:] = ABSENT
        block.table.weight[:present] = 1.0
        return cls(block, handle)

    @classmethod
    def create_for(
        cls, model: torch.nn.Module, world_size: int, *, average_buffers: bool = True, **settings: Any
    ) -> SharedMemoryMailboxes:
        """Boxes for what ``GossipAverager(model, average_buffers=...)`` exchanges, watched by their users; ``settings``
        as for ``create``."""
        numel, dtype = averaged_numel(model, average_buffers), exchange_dtype(model, average_buffers)
        return cls.create(world_size, numel, **{"watch": True, "dtype": dtype, **settings})

    @property
    def table(self) -> Table:
        """State, signs of life and weights of all ranks."""
        return alive(self._block).table

    def bury(self, rank: int) -> float:
        """Write a dead rank off; returns the weight that went with it. What others sent it is theirs to take back.
        With ``watch`` its peers do so when they notice."""
        return bury(alive(self._block), rank)

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        self.table.retire(rank)
        pass_on_orphans(alive(self._block), rank)

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight: call it before the new process starts, which then calls
        ``averager.join``."""
        alive(self._block).intents.forget(rank)
        self.table.admit(rank)

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

    def buried_weight(self) -> float:
        """What all who died took along, in the weights of the beginning: with ``table.total_weight(0)`` all there
        was."""
        return float(alive(self._block).intents.buried.sum())

    def _peek(self, edge: Edge) -> Message | None:
        block = alive(self._block)
        with block.locked(block.box(edge)) as held:
            return block.box(edge).peek() if held else None

    def close(self) -> None:
        """Forget the memory; it is freed once the last process has let go of it. May be called twice."""
        if self._block is not None and not self._handle.path.startswith("/proc/"):
            os.unlink(self.handle.path)
        self._block = None
