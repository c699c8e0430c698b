"""The board: what the learners of one machine publish for each other and for the parent, without locks.

Every rank writes its own row only. Rows that are read whole while they are written (parameters, running moments)
carry a sequence number, so that a torn read is seen and repeated. Of its parameters each rank keeps two snapshots, so
that those of all ranks can be compared at one moment, though they publish one after the other. The memory has no name
(memfd), so nothing can be left behind.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.gossip.transport.anonymous_memory import anonymous_memory

ENV_STEPS, UPDATES = range(2)
"""Columns of ``progress``."""
STEPS, ROLLOUTS = range(2)
"""Columns of ``beats``: batched steps that a learner's simulators have answered, and rollouts that it has collected;
rollouts count from the start of the run's first part, as ``UPDATES`` does."""
CHECKPOINT_AT, STOP_AT = range(2)
"""Entries of ``control``: the update at which all learners of a lock-step run save, or stop; 0 is never."""
_ATTEMPTS = 100  # to read a row that is being written
_PROGRESS_FIELDS, _CONTROL_FIELDS, _BEAT_FIELDS, _SNAPSHOTS = 2, 2, 2, 2


class BoardHandle(NamedTuple):
    """What a spawned process needs to open the board."""

    path: str
    num_learners: int
    num_params: int
    num_moments: int


class Board:
    """Shared rows: ``progress`` and ``beats`` int64 [n, 2], ``control`` int64 [2], parameter snapshots float [n, 2, d],
    moment snapshots [n, m]."""

    def __init__(self, handle: BoardHandle, fd: int) -> None:
        self.handle, self._fd = handle, fd
        n, d, m = handle.num_learners, handle.num_params, handle.num_moments
        offsets = _offsets(n, d, m)
        self._map = mmap.mmap(fd, offsets[-1])

        def view(i: int, dtype: type, *shape: int) -> NDArray:
            count = int(np.prod(shape))
            return np.frombuffer(self._map, dtype, count, offsets[i]).reshape(shape)

        self.progress = view(0, np.int64, n, _PROGRESS_FIELDS)
        self.control = view(1, np.int64, _CONTROL_FIELDS)
        self._sequence = view(2, np.int64, 2, n)
        self._moments = view(3, np.float64, n, m)
        self.beats = view(4, np.int64, n, _BEAT_FIELDS)
        self._stamps = view(5, np.float64, n, _SNAPSHOTS)
        self._params = view(6, np.float32, n, _SNAPSHOTS, d)

    @classmethod
    def create(cls, num_learners: int, num_params: int, num_moments: int) -> Board:
        """All zeros. The creator must outlive the processes that open the handle."""
        size = _offsets(num_learners, num_params, num_moments)[-1]
        fd, path = anonymous_memory("gala-board", size)
        return cls(BoardHandle(path, num_learners, num_params, num_moments), fd)

    @classmethod
    def open(cls, handle: BoardHandle) -> Board:
        return cls(handle, os.open(handle.path, os.O_RDWR))

    def total_env_steps(self) -> int:
        return int(self.progress[:, ENV_STEPS].sum())

    def restore(self, progress: list[list[int]], moments: list[list[float]]) -> None:
        """Rows of a saved board, which may have had fewer; raises ValueError if it had more."""
        if len(progress) > len(self.progress):
            raise ValueError(f"{len(progress)} learners were saved, and there is room for {len(self.progress)}")
        self.progress[: len(progress)] = progress
        for rank, row in enumerate(moments):
            if len(row) == self.handle.num_moments:  # else of an earlier version, and published anew by its learner
                self.publish_moments(rank, np.asarray(row))

    def publish_params(self, rank: int, flat: NDArray, stamp: float) -> int:
        """``flat`` [d], as of ``stamp``: a time or an update number, one and the same for all ranks. Returns which
        publication of this rank it was, from 1 on."""
        number = (int(self._sequence[0, rank]) | 1) // 2 + 1
        with self._writing(0, rank):
            slot = slot_of(number)
            self._params[rank, slot], self._stamps[rank, slot] = flat, stamp
        return number

    def publish_moments(self, rank: int, moments: NDArray) -> None:
        with self._writing(1, rank):
            self._moments[rank] = moments

    def read_params(self, ranks: Sequence[int]) -> tuple[NDArray, NDArray]:
        """Copies [k, d] of snapshots of one moment, as nearly as there are any, and the stamps [k] of each; zeros where
        none was published."""
        rows, stamps = map(np.stack, zip(*(self._read(0, r, self._params, self._stamps) for r in ranks), strict=True))
        chosen = np.arange(len(ranks)), slots_of_one_moment(stamps)
        return rows[chosen], stamps[chosen]

    def read_publication(self, rank: int) -> tuple[NDArray, int]:
        """The newest parameters [d] of a rank, copied, and their number; 0 if none are whole at this moment."""
        before = int(self._sequence[0, rank])
        row = self._params[rank, slot_of(before // 2)].copy()
        return row, before // 2 if before % 2 == 0 and before == self._sequence[0, rank] else 0

    def read_moments(self) -> NDArray:
        """A copy [n, m] for all ranks."""
        return np.stack([self._read(1, rank, self._moments)[0] for rank in range(self.handle.num_learners)])

    def read_numbered_moments(self) -> tuple[NDArray, list[int]]:
        """``read_moments``, and which publication of each rank its row is, from 1 on; 0: none, -1: a torn row, of a
        writer that died."""
        rows, numbers = [], []
        for rank in range(self.handle.num_learners):
            for _ in range(_ATTEMPTS):
                before = int(self._sequence[1, rank])
                row = self._moments[rank].copy()
                whole = before % 2 == 0 and before == self._sequence[1, rank]
                if whole:
                    break
            rows.append(row)
            numbers.append(before // 2 if whole else -1)
        return np.stack(rows), numbers

    @contextlib.contextmanager
    def _writing(self, kind: int, rank: int) -> Iterator[None]:
        odd = int(self._sequence[kind, rank]) | 1  # it is that already where a writer died while it wrote
        self._sequence[kind, rank] = odd
        yield
        self._sequence[kind, rank] = odd + 1

    def _read(self, kind: int, rank: int, *sources: NDArray) -> list[NDArray]:
        for _ in range(_ATTEMPTS):
            before = int(self._sequence[kind, rank])
            rows = [source[rank].copy() for source in sources]
            if before % 2 == 0 and before == self._sequence[kind, rank]:
                break
        return rows  # a writer that died while writing leaves a torn row: good enough for a log line

    def close(self) -> None:
        """Give the memory back. Views that are still alive keep the mapping until they go."""
        if not self.handle.path.startswith("/proc/") and os.path.exists(self.handle.path):
            os.unlink(self.handle.path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def slot_of(number: int) -> int:
    """Where a rank keeps its publication of that number, from 1 on."""
    return (number - 1) % _SNAPSHOTS


def slots_of_one_moment(stamps: NDArray) -> NDArray:
    """By which of its snapshots each rank is compared with the others: ``stamps`` float [n, 2] to slots int [n]. The
    moment is the newest that all have reached; of each, the snapshot nearest to it."""
    return np.abs(stamps - stamps.max(1).min()).argmin(1)


def _offsets(n: int, d: int, m: int) -> list[int]:
    """Where each part begins, in bytes; the last entry is the size of all."""
    sizes = [8 * n * _PROGRESS_FIELDS, 8 * _CONTROL_FIELDS, 8 * 2 * n, 8 * n * m, 8 * n * _BEAT_FIELDS]
    sizes += [8 * n * _SNAPSHOTS, 4 * n * _SNAPSHOTS * d]
    return [int(offset) for offset in np.concatenate([[0], np.cumsum(sizes)])]
