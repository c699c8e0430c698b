"""Fewer bytes per message: fp16 and int8, coded as differences, with error feedback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gala.gossip.message import HEADER_BYTES, Mailbox, Message, Roster, unit_of
from gala.gossip.push_sum import in_unit

_BLOCK = 1024
"""Numbers that share one scale in int8: a scale then costs 0.4%."""


class Packed(NamedTuple):
    """An encoded vector, as it would travel."""

    values: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Codec:
    """A lossy encoding of a vector [d], and the exact number of bytes that it takes."""

    description: str
    encode: Callable[[Tensor], Packed]
    decode: Callable[[Packed], Tensor]
    num_bytes: Callable[[int], int]


def _encode_fp16(x: Tensor) -> Packed:
    return Packed(x.clamp(-65504.0, 65504.0).half(), torch.empty(0))  # what is clipped away follows by error feedback


def _encode_int8(x: Tensor) -> Packed:
    blocks = torch.nn.functional.pad(x, (0, -x.numel() % _BLOCK)).view(-1, _BLOCK)
    scales = blocks.abs().amax(dim=1).float() / 127.0
    scales[scales == 0.0] = 1.0  # 0 / 0 is NaN, whose cast to an integer is undefined
    values = (blocks / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Packed(values.view(-1)[: x.numel()], scales)


def _decode_int8(packed: Packed) -> Tensor:
    return packed.values.double() * packed.scales.double().repeat_interleave(_BLOCK)[: packed.values.numel()]


CODECS: dict[str, Codec] = {
    "fp16": Codec("half precision", _encode_fp16, lambda p: p.values.double(), lambda d: 2 * d),
    "int8": Codec(
        "8 bits, one float32 scale for 1024 numbers", _encode_int8, _decode_int8, lambda d: d + 4 * -(-d // _BLOCK)
    ),
}


class Encoder:
    """The sender's end of one edge: turns (numerator, weight) into a packed difference to what the receiver knows.

    The receiver's copy of the value z = numerator / weight follows the sender's, so what is rounded is only the
    change since the last message, and the rounding vanishes as the learners come to rest (CHOCO-SGD, arXiv
    1902.00340). What rounding took away is mass: it is kept, and added to the next message (error feedback), so the
    mean does not move.
    """

    def __init__(self, codec: Codec, numel: int, error_feedback: bool = True) -> None:
        self._codec, self._error_feedback = codec, error_feedback
        self._known = torch.zeros(numel, dtype=torch.float64)
        self.residual = torch.zeros(numel, dtype=torch.float64)
        self.unit = 0

    def encode(self, numerator: Tensor, weight: float, unit: int = 0) -> Packed:
        """Numerator [d] and weight > 0 of a message, in ``unit`` (see ``in_unit``) -> the packed change."""
        if unit != self.unit:
            self.residual = self.residual * in_unit(1.0, self.unit, unit)
            self.unit = unit
        value = (numerator.to("cpu", torch.float64) + self.residual) / weight
        packed = self._codec.encode(value - self._known)
        self._known += self._codec.decode(packed)
        if self._error_feedback:
            self.residual = weight * (value - self._known)
        return packed


class Decoder:
    """The receiver's end of one edge. Messages must arrive in order and all of them, as over TCP or shared memory."""

    def __init__(self, codec: Codec, numel: int) -> None:
        self._codec, self._known = codec, torch.zeros(numel, dtype=torch.float64)

    def decode(self, packed: Packed, weight: float) -> Tensor:
        """The numerator [d], float64, of a message of that weight."""
        self._known += self._codec.decode(packed)
        return weight * self._known


class Compressed:
    """A Mailbox that sends through a codec. Encoder and decoder both sit at the sending end here, before a box that
    adds, so that any transport can be measured with it; a transport between machines puts the decoder at its far
    end.

    Costs four vectors of float64 for each out-peer, and about ten passes per message: for slow wires, not for shared
    memory.
    """

    def __init__(self, inner: Mailbox, codec: str, error_feedback: bool = True) -> None:
        if codec not in CODECS:
            raise ValueError(f"unknown codec {codec!r}; there are {', '.join(CODECS)}")
        self._inner, self.numel, self.dtype = inner, inner.numel, getattr(inner, "dtype", None)
        self._codec, self._error_feedback = CODECS[codec], error_feedback
        self._ends: dict[int, tuple[Encoder, Decoder]] = {}
        self._newest: tuple[int, int] | None = None
        self.message_bytes = self._codec.num_bytes(inner.numel) + HEADER_BYTES

    def put(self, dst: int, numerator: Tensor, weight: float, sent_at: int, replace: bool = False) -> bool:
        if dst not in self._ends:
            encoder = Encoder(self._codec, self.numel, self._error_feedback)
            self._ends[dst] = encoder, Decoder(self._codec, self.numel)
        encoder, decoder = self._ends[dst]
        kept, kept_unit = encoder.residual, encoder.unit
        decoded = decoder.decode(encoder.encode(numerator, weight, unit_of(sent_at)), weight).to(numerator.dtype)
        done = self._inner.put(dst, decoded, weight, sent_at, replace)
        if done:
            self._newest = dst, sent_at
        else:  # the caller keeps this message's mass, but not what earlier ones left behind
            encoder.residual, encoder.unit = kept, kept_unit
        return done

    def residual(self, unit: int = 0) -> Tensor:
        """Mass [d], in ``unit``, that rounding left behind at this end and that the next messages carry."""
        total = torch.zeros(self.numel, dtype=torch.float64)
        for encoder, _ in self._ends.values():
            total += encoder.residual * in_unit(1.0, encoder.unit, unit)
        return total

    def take(self, src: int) -> Message | None:
        return self._inner.take(src)

    @property
    def roster(self) -> Roster:
        return self._inner.roster

    def take_back(self, dst: int) -> Message | None:
        return self._inner.take_back(dst)

    def senders(self) -> Sequence[int]:
        return self._inner.senders()

    def waiting(self, src: int, dst: int) -> int:
        return self._inner.waiting(src, dst)

    def unread_weight(self, dst: int) -> float:
        return self._inner.unread_weight(dst)

    def agree(self, fingerprint: int) -> None:
        self._inner.agree(fingerprint)

    def advance(self, updates: int) -> None:
        self._inner.advance(updates)

    def progress(self, rank: int) -> int:
        return self._inner.progress(rank)

    def finished(self, rank: int) -> bool:
        return self._inner.finished(rank)

    def rest(self, resting: bool) -> None:
        self._inner.rest(resting)

    def lost_weight(self) -> float:
        return self._inner.lost_weight()

    def close(self) -> None:
        """What rounding has left behind follows the last message, whole, since no other will."""
        if self._newest is not None:
            dst, sent_at = self._newest
            self._inner.put(dst, self.residual(unit_of(sent_at)).float(), 0.0, sent_at)
            self._newest = None
        self._inner.close()
