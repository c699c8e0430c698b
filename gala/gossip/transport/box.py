"""One box in a block of shared memory: a header that tells a cut-off write from a whole one, then the numbers."""

from __future__ import annotations

import mmap

import numpy as np
import torch
from torch import Tensor

from gala.gossip.message import Message

LINE = 64
"""Bytes of a cache line: each rank's progress and each half of a header has its own, so that neighbours do not
contend."""
PAGE = 4096


class Box:
    """One edge in the shared block: a header of two cache lines, then ``numel`` of ``dtype`` (or ``data``, on a GPU).

    The lock is a POSIX record lock on the box's first byte, which the kernel drops when its holder dies. VERSION is odd
    while the data change: whoever finds it odd under the lock knows that the writer was cut off, and empties the box.
    What was in the box before is then lost; what was being added is still the writer's. One store ends a put, that of
    the next even version, and one store a take, that of the version into TAKEN: so whoever buries a process can tell on
    which side of it the process was killed (``Intents``).
    """

    VERSION, SENT_AT, TAKEN, IS_COPY, CUT_OFF, COUNT = 0, 1, 2, 3, 4, 5
    WEIGHT, AT_RISK, LOST = 0, 1, 2

    def __init__(
        self, block: mmap.mmap, offset: int, numel: int, dtype: torch.dtype = torch.float32, data: Tensor | None = None
    ) -> None:
        self.offset = offset
        self.ints = np.frombuffer(block, np.int64, 8, offset)
        self.reals = np.frombuffer(block, np.float64, 8, offset + LINE)
        if data is None:
            data = torch.frombuffer(block, dtype=dtype, count=numel, offset=offset + 2 * LINE)
        self.data = data

    @staticmethod
    def size(numel: int, dtype: torch.dtype) -> int:
        """Bytes of one box, whole pages: a box that is never used then costs no memory."""
        return -(-(2 * LINE + dtype.itemsize * numel) // PAGE) * PAGE

    def put(self, values: Tensor, weight: float, sent_at: int, replace: bool, scale: float = 1.0) -> None:
        """Add ``scale * values`` and ``weight``, or put them in place of what is there."""
        self.repair()
        ints, reals = self.ints, self.reals
        fresh = replace or self.is_empty()
        before = 0.0 if fresh else float(reals[self.WEIGHT])
        reals[self.AT_RISK] = 0.0 if ints[self.IS_COPY] else before
        ints[self.VERSION] += 1
        if fresh:  # a taken box is not zeroed: overwriting it is cheaper
            torch.mul(values.to(self.data.device), scale, out=self.data)
        else:
            self.data.add_(values.to(self.data.device), alpha=scale)
        self.wait()
        reals[self.WEIGHT] = before + weight
        ints[self.SENT_AT], ints[self.IS_COPY] = sent_at, replace
        ints[self.COUNT] = 1 if fresh else ints[self.COUNT] + 1
        ints[self.VERSION] += 1

    def is_empty(self) -> bool:
        """Whether all was taken, or taken back, that was ever put here whole."""
        return bool(self.ints[self.TAKEN] | 1 == self.ints[self.VERSION] | 1)

    def is_dirty(self) -> bool:
        """Whether a put has begun and has not ended."""
        return bool(self.ints[self.VERSION] & 1)

    def count(self) -> int:
        """Puts in the sum that waits here."""
        return 0 if self.is_empty() else int(self.ints[self.COUNT])

    def mass(self) -> float:
        """The weight of what is there, under the lock; of copies, which are no mass, 0."""
        return 0.0 if self.is_empty() or self.ints[self.IS_COPY] else float(self.reals[self.WEIGHT])

    def look(self) -> Message | None:
        """What is there, without a copy: it changes with the box."""
        self.repair()
        if self.is_empty():
            return None
        return Message(self.data, float(self.reals[self.WEIGHT]), int(self.ints[self.SENT_AT]), self.count())

    def peek(self) -> Message | None:
        message = self.look()
        if message is not None:
            message = message._replace(numerator=self.data.clone())
            self.wait()
        return message

    def take(self, back: bool = False) -> Message | None:
        """A reader that dies while it copies has changed nothing: one store empties the box, at the end."""
        message = self.peek()
        self.empty(back)
        return message

    def empty(self, back: bool = False) -> None:
        """Taken by the receiver, or ``back`` by the sender, which a lowest bit tells apart: versions at rest are
        even."""
        self.ints[self.TAKEN] = self.ints[self.VERSION] | back

    def wait(self) -> None:
        """The lock and the version are the CPU's: a GPU must have done its work before they say so."""
        if self.data.device.type == "cuda":
            torch.cuda.current_stream(self.data.device).synchronize()

    def repair(self) -> None:
        """Empty a box whose writer was cut off. The version that its put would have ended with is never reached."""
        if self.is_dirty():
            self.reals[self.LOST] += self.reals[self.AT_RISK]
            self.reals[self.AT_RISK] = 0.0  # or whoever goes on after a repairer that was killed would add it again
            self.ints[self.CUT_OFF] += 1
            self.ints[self.TAKEN] = self.ints[self.VERSION] + 3
            self.ints[self.VERSION] += 3


def block_size(world_size: int, numel: int, num_edges: int, dtype: torch.dtype) -> int:
    """Bytes of address space for the progress lines and all boxes."""
    return front(world_size) + num_edges * Box.size(numel, dtype)


def front(world_size: int) -> int:
    """Bytes before the first box."""
    return -(-(2 * world_size * LINE + 9 * world_size**2) // PAGE) * PAGE
