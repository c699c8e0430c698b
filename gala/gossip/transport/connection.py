"""Frames over one TCP connection that never blocks: a fixed header, and a vector after it where the kind has one."""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ENVELOPE, ARRIVED, REFUSED, GIVEN, READ, NEWS = range(6)
"""Kinds of frames: an envelope; its receiver holds it; or does not take it; its sender gives it up; all up to a number
were read; a rank's row."""

_LAYOUT = struct.Struct("<BBqqdd")


class Frame(NamedTuple):
    """What the fields mean depends on the kind: ``TcpLink`` says it."""

    kind: int
    flag: int = 0
    number: int = 0
    updates: int = 0
    weight: float = 0.0
    unread: float = 0.0


class Connection:
    """``sock`` becomes non-blocking. Vectors are float32 [numel]. Any thread may ``queue``; the rest is for one."""

    def __init__(self, sock: socket.socket, numel: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock, self._numel = sock, numel
        self._queue: deque[list[memoryview]] = deque()
        self._finished = False
        self._sending: list[memoryview] = []
        self._header = bytearray(_LAYOUT.size)
        self._frame: Frame | None = None  # whose vector is being read
        self._vector: NDArray[np.float32] | None = None
        self._target, self._filled = memoryview(self._header), 0

    def queue(self, frame: Frame, vector: NDArray | None = None) -> None:
        """Send it some time, unless this side has finished; ``vector`` must not change until then."""
        if self._finished:
            return
        parts = [memoryview(_LAYOUT.pack(*frame))]
        if vector is not None:
            parts.append(vector.astype("<f4", copy=False).data.cast("B"))
        self._queue.append(parts)

    @property
    def has_unsent(self) -> bool:
        return bool(self._sending or self._queue)

    def send_some(self) -> None:
        """As much as the socket takes. Raises OSError if the connection is broken."""
        while self.has_unsent:
            if not self._sending:
                self._sending = self._queue.popleft()
            try:
                sent = self.sock.send(self._sending[0])
            except BlockingIOError:
                return
            if sent == len(self._sending[0]):
                del self._sending[0]
            else:
                self._sending[0] = self._sending[0][sent:]

    def finish(self) -> None:
        """Say that nothing follows; the peer's frames may still be read. Raises OSError if the connection is broken."""
        self._finished = True
        self.sock.shutdown(socket.SHUT_WR)

    def receive_some(self) -> tuple[Frame, NDArray | None] | None:
        """Read once; returns a frame if that completes one. Raises OSError if the connection is broken or has ended."""
        try:
            received = self.sock.recv_into(self._target[self._filled :])
        except BlockingIOError:
            return None
        if not received:
            raise ConnectionResetError("closed by the peer")
        self._filled += received
        if self._filled < len(self._target):
            return None
        frame, vector = self._frame or Frame(*_LAYOUT.unpack(self._header)), self._vector
        if self._frame is None and frame.kind == ENVELOPE:
            self._frame, self._vector = frame, np.empty(self._numel, "<f4")
            self._target, self._filled = self._vector.data.cast("B"), 0
            return None
        self._frame = self._vector = None
        self._target, self._filled = memoryview(self._header), 0
        return frame, vector
