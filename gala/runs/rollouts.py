"""Recorded rollouts on disk: compressed chunks of whole episodes, each with its hash, and memory-mapped frames.

    rollouts.json       what was recorded, and size and SHA-256 of each chunk
    chunk-00000.npz     NumPy's own compressed format: see ``Chunk``
    .unpacked/          frames of each chunk as .npy, which processes share through the page cache; made when they are
                        first read, and again whenever they are gone
    README.md           how to read all of it without this package

They are written by ``gala.runs.rollout_writer``. Nothing here is a pickle, and nothing is believed before its hash was
compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.files.plain_yaml import parse_json

MANIFEST, SCHEMA = "rollouts.json", 1
_UNPACKED, _HEADER_BYTES = ".unpacked", 4096


class Chunk(NamedTuple):
    """Whole episodes, R rows in all; a row is a frame and what led to it."""

    frames: NDArray
    """[R, ...]"""
    action: NDArray
    """[R] integers, [R, k] integers or [R, k] floats; 0 where ``first``."""
    reward: NDArray
    """[R] float32, unclipped; 0 where ``first``."""
    first: NDArray
    """[R] bool: opens an episode."""
    terminated: NDArray
    """[R] bool: the task ended here, not a time limit."""
    context: NDArray
    """[R] int32: index of the MDP in ``RolloutFacts.contexts``, -1 without."""


@dataclasses.dataclass(frozen=True)
class RolloutFacts:
    """What all chunks of a folder have in common."""

    source: dict[str, Any]
    """What was played: run, checkpoint, mode, seed, ...: the same for all chunks."""
    frame: tuple[int, ...]
    """Shape of a frame."""
    dtype: str
    """uint8 or float32."""
    top: int | None
    """The largest value of a pixel, 1 or 255; None: any numbers."""
    action: dict[str, Any]
    """{"kind": "discrete" | "multi-discrete" | "box", "sizes": [n, ...]}; of a box the one size is its length."""
    contexts: tuple[str, ...] = ()
    """Ids of the MDPs that ``Chunk.context`` counts."""

    @property
    def action_size(self) -> int:
        """Numbers in an action as a network sees it: one-hot, or the box's own."""
        return int(sum(self.action["sizes"]))


class Rollouts:
    """The rows of all chunks, one after the other; made by ``open_rollouts``.

    Attributes:
        facts: what all rows have in common.
        frames: per chunk [R, ...], memory-mapped.
        action, reward, first, terminated, context: over all chunks [rows, ...].
    """

    def __init__(self, path: Path, facts: RolloutFacts, chunks: list[Chunk]) -> None:
        self.path, self.facts = path, facts
        self.frames = [chunk.frames for chunk in chunks]
        self.action, self.reward, self.first, self.terminated, self.context = (
            np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in Chunk._fields[1:]
        )
        self._offsets = np.concatenate([[0], np.cumsum([len(chunk.frames) for chunk in chunks])])

    @cached_property
    def episode_starts(self) -> NDArray[np.int64]:
        """[E + 1]: the row that opens each episode, and the number of rows."""
        return np.append(np.flatnonzero(self.first), len(self.first))

    def rows(self, start: int, count: int) -> NDArray:
        """[count, ...]: frames of consecutive rows, which lie in one chunk (any window of an episode does)."""
        chunk = int(np.searchsorted(self._offsets, start, side="right")) - 1
        begin = start - int(self._offsets[chunk])
        return self.frames[chunk][begin : begin + count]


_REMEDY = "record into another folder"


def open_rollouts(folder: str | Path) -> Rollouts:
    """All rollouts of a folder, their hashes compared, frames memory-mapped.

    Raises:
        ValueError: there are none, or a file is missing, damaged or not what the manifest says; in one line.
    """
    path = Path(folder)
    facts, chunks = read_manifest(path)
    if not chunks:
        raise ValueError(f"{path} holds no episode yet; `gala record` writes them")
    return Rollouts(path, facts, [_read_chunk(path, facts, k, told) for k, told in enumerate(chunks)])


def is_rollouts(folder: str | Path) -> bool:
    """Whether ``gala record`` has written there."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(path: Path) -> tuple[RolloutFacts, list[dict[str, Any]]]:
    """What all rows have in common, and what is known of each chunk. Raises ValueError as ``open_rollouts``."""
    if not is_rollouts(path):
        raise ValueError(f"{path} holds no rollouts: it has no {MANIFEST}; `gala record RUN out={path}` writes them")
    damaged = ValueError(f"{path / MANIFEST} is damaged; record into another folder")
    try:
        tree = parse_json((path / MANIFEST).read_bytes())
        schema = tree.get("schema")
    except (ValueError, AttributeError):
        raise damaged from None
    if schema != SCHEMA:
        raise ValueError(f"{path} has rollouts of schema {schema}; this version of gala reads {SCHEMA}")
    if tree.pop("sha256", None) != digest(tree):
        raise damaged
    names = [field.name for field in dataclasses.fields(RolloutFacts)]
    try:
        told: dict[str, Any] = {
            name: tuple(tree[name]) if isinstance(tree[name], list) else tree[name] for name in names
        }
        facts, chunks = RolloutFacts(**told), tree["chunks"]
        sides, sizes = facts.frame, facts.action["sizes"]
        whole = (*sides, *sizes, *(chunk[key] for chunk in chunks for key in ("rows", "episodes", "bytes")))
        hashes = [chunk[key] for chunk in chunks for key in ("sha256", "frames_sha256")]
        if not all(type(n) is int and n >= 0 for n in whole) or not all(_is_hash(text) for text in hashes):
            raise damaged
        if facts.dtype not in ("uint8", "float32") or facts.top not in (None, 1, 255):
            raise damaged
        if facts.action["kind"] not in ("discrete", "multi-discrete", "box") or not isinstance(facts.source, dict):
            raise damaged
    except (KeyError, TypeError):
        raise damaged from None
    return facts, chunks


def rollouts_digest(folder: str | Path) -> str:
    """SHA-256 of what was recorded, the hashes of all chunks included. Raises ValueError as ``open_rollouts``."""
    read_manifest(Path(folder))
    return str(parse_json((Path(folder) / MANIFEST).read_bytes())["sha256"])


def read_file(path: Path, number: int, told: Mapping[str, Any]) -> bytes:
    """The bytes of a chunk's file. Raises ValueError if it is missing, or not what the manifest says."""
    file = path / chunk_name(number)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); {_REMEDY}") from None
    if len(data) != told["bytes"] or hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise ValueError(f"{file} is damaged (size or SHA-256 differ); {_REMEDY}")
    return data


def _read_chunk(path: Path, facts: RolloutFacts, number: int, told: Mapping[str, Any]) -> Chunk:
    data = read_file(path, number, told)
    damaged = ValueError(f"{path / chunk_name(number)} is damaged (it cannot be unpacked); {_REMEDY}")
    frames = _mapped(path / _UNPACKED / f"{told['sha256'][:16]}.npy", told["frames_sha256"])
    try:
        small = {name: _member(data, name, told["rows"] * 8 * max(1, facts.action_size)) for name in Chunk._fields[1:]}
        if frames is None:
            room = told["rows"] * math.prod(facts.frame) * np.dtype(facts.dtype).itemsize
            frames = _unpack(path, _member(data, "frames", room), told)
    except (ValueError, KeyError, TypeError, OSError, EOFError, SyntaxError, zipfile.BadZipFile, MemoryError):
        raise damaged from None
    chunk = Chunk(frames, **small)
    if any(len(array) != told["rows"] for array in chunk) or chunk.frames.shape[1:] != facts.frame:
        raise damaged
    if chunk.frames.dtype != facts.dtype or int(chunk.first.sum()) != told["episodes"] or not chunk.first[:1].all():
        raise damaged
    return chunk


def _member(data: bytes, name: str, most_bytes: int) -> NDArray:
    """One array of an .npz, if it is not larger than it can be: what is compressed may say it unpacks to anything."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.getinfo(f"{name}.npy").file_size > most_bytes + _HEADER_BYTES:
            raise ValueError(name)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        array: NDArray = arrays[name]
    return array


def _mapped(path: Path, sha256: str) -> NDArray | None:
    """The frames of a chunk that were unpacked before, if they are still what they were."""
    try:
        frames: NDArray = np.load(path, mmap_mode="r", allow_pickle=False)
        whole = hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest() == sha256
    except (OSError, ValueError, EOFError, SyntaxError, TypeError):
        return None
    return frames if whole else None


def _unpack(path: Path, frames: NDArray, told: Mapping[str, Any]) -> NDArray:
    """Write frames beside the chunk and map them; where nothing can be written they stay in memory."""
    if hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest() != told["frames_sha256"]:
        raise ValueError("frames")
    target = path / _UNPACKED / f"{told['sha256'][:16]}.npy"
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        target.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, frames, allow_pickle=False)
        temporary.replace(target)
        return np.load(target, mmap_mode="r", allow_pickle=False)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return frames


def chunk_name(number: int) -> str:
    """The file of a chunk."""
    return f"chunk-{number:05d}.npz"


def _is_hash(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def digest(tree: Any) -> str:
    """SHA-256 of what a manifest says, whatever its spaces."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
