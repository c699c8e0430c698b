"""What a child says, in frames: whoever reads never waits for the rest of one, whose writer may have been stopped."""

from __future__ import annotations

import os
import pickle
import socket
import struct
from multiprocessing.connection import Connection
from typing import Any

_HEADER = struct.Struct("!Q")
_PART_BYTES = 1 << 20


def write_frame(pipe: Connection, said: Any) -> None:
    """``said``, pickled, behind its length. Waits for room in the pipe."""
    body = pickle.dumps(said, pickle.HIGHEST_PROTOCOL)
    left = memoryview(_HEADER.pack(len(body)) + body)
    while left:
        left = left[os.write(pipe.fileno(), left) :]


class FrameReader:
    """The parent's end of a two-way ``Pipe``, into which the child has ``write_frame`` only."""

    def __init__(self, pipe: Connection) -> None:
        self._socket = socket.socket(fileno=os.dup(pipe.fileno()))
        self._bytes = bytearray()

    def read(self) -> tuple[list[Any], bool]:
        """All frames that are whole by now, and whether the other end is open."""
        open_ = True
        while open_:
            try:
                part = self._socket.recv(_PART_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                part = b""
            self._bytes += part
            open_ = bool(part)
        return self._whole(), open_

    def _whole(self) -> list[Any]:
        frames, at = [], 0
        while len(self._bytes) >= (begin := at + _HEADER.size):
            end = begin + _HEADER.unpack_from(self._bytes, at)[0]
            if len(self._bytes) < end:
                break
            frames.append(pickle.loads(bytes(memoryview(self._bytes)[begin:end])))
            at = end
        del self._bytes[:at]
        return frames

    def close(self) -> None:
        self._socket.close()
