"""Pictures and moving pictures as PNG, without a library: any browser shows both."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(picture: NDArray[np.uint8]) -> bytes:
    """[H, W] grey or [H, W, 3] colours as PNG (ISO 15948): one IDAT chunk, no filter."""
    return _SIGNATURE + _header(picture) + _chunk(b"IDAT", _pixels(picture)) + _chunk(b"IEND", b"")


def animated_png(pictures: NDArray[np.uint8], frames_per_s: int, last_s: float = 0.0) -> bytes:
    """[T, H, W] or [T, H, W, 3] as animated PNG (W3C PNG, third edition), repeated for ever; the last picture stays for
    ``last_s`` seconds more. What knows no animation shows the first."""
    out = _SIGNATURE + _header(pictures[0]) + _chunk(b"acTL", struct.pack(">II", len(pictures), 0))
    height, width = pictures.shape[1:3]
    number = 0
    for t, picture in enumerate(pictures):
        delay_ms = round(1000 / frames_per_s + (1000 * last_s if t == len(pictures) - 1 else 0))
        control = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, delay_ms, 1000, 0, 0)
        out += _chunk(b"fcTL", control)
        number += 1
        if t == 0:
            out += _chunk(b"IDAT", _pixels(picture))
        else:
            out += _chunk(b"fdAT", struct.pack(">I", number) + _pixels(picture))
            number += 1
    return out + _chunk(b"IEND", b"")


def _header(picture: NDArray[np.uint8]) -> bytes:
    height, width = picture.shape[:2]
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2 if picture.ndim == 3 else 0, 0, 0, 0))


def _pixels(picture: NDArray[np.uint8]) -> bytes:
    return zlib.compress(b"".join(b"\0" + line.tobytes() for line in picture))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
