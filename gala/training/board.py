"""The board: what the learners of one machine publish for each other and for the parent, without locks.

Every rank writes its own row only. Rows that are read whole while they are written (parameters, running moments)
carry a sequence number, so that a torn read is seen and repeated. The memory has no name (memfd), so nothing can be
left behind.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
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
_PROGRESS_FIELDS, _CONTROL_FIELDS, _BEAT_FIELDS = 2, 2, 2


class BoardHandle(NamedTuple):
    """What a spawned process needs to open the board."""

    path: str
    num_learners: int
    num_params: int
    num_moments: int


class Board:
    """Shared rows: ``progress`` and ``beats`` int64 [n, 2], ``control`` int64 [2], parameter and moment snapshots float
    [n, d]."""

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
        self._params = view(5, np.float32, n, d)

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

    def publish_params(self, rank: int, flat: NDArray) -> int:
        """Returns which publication of this rank it was, from 1 on."""
        self._publish(0, self._params, rank, flat)
        return int(self._sequence[0, rank]) // 2

    def publish_moments(self, rank: int, moments: NDArray) -> None:
        self._publish(1, self._moments, rank, moments)

    def read_params(self, ranks: Sequence[int]) -> NDArray:
        """A copy [len(ranks), d] of the newest whole snapshot of each; zeros where none was published."""
        return np.stack([self._read(0, self._params, rank) for rank in ranks])

    def read_publication(self, rank: int) -> tuple[NDArray, int]:
        """The newest parameters [d] of a rank, copied, and their number; 0 if none are whole at this moment."""
        before = int(self._sequence[0, rank])
        row = self._params[rank].copy()
        return row, before // 2 if before % 2 == 0 and before == self._sequence[0, rank] else 0

    def read_moments(self) -> NDArray:
        """A copy [n, m] for all ranks; see ``read_params``."""
        return np.stack([self._read(1, self._moments, rank) for rank in range(self.handle.num_learners)])

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

    def _publish(self, kind: int, rows: NDArray, rank: int, values: NDArray) -> None:
        odd = int(self._sequence[kind, rank]) | 1  # it is that already where a writer died while it wrote
        self._sequence[kind, rank] = odd
        rows[rank] = values
        self._sequence[kind, rank] = odd + 1

    def _read(self, kind: int, rows: NDArray, rank: int) -> NDArray:
        row = rows[rank].copy()
        for _ in range(_ATTEMPTS):
            before = int(self._sequence[kind, rank])
            row = rows[rank].copy()
            if before % 2 == 0 and before == self._sequence[kind, rank]:
                break
        return row  # a writer that died while writing leaves a torn row: good enough for a log line

    def close(self) -> None:
        """Give the memory back. Views that are still alive keep the mapping until they go."""
        if not self.handle.path.startswith("/proc/") and os.path.exists(self.handle.path):
            os.unlink(self.handle.path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _offsets(n: int, d: int, m: int) -> list[int]:
    """Where each part begins, in bytes; the last entry is the size of all."""
    sizes = [8 * n * _PROGRESS_FIELDS, 8 * _CONTROL_FIELDS, 8 * 2 * n, 8 * n * m, 8 * n * _BEAT_FIELDS, 4 * n * d]
    return [int(offset) for offset in np.concatenate([[0], np.cumsum(sizes)])]
