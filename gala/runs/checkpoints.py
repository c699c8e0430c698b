"""Checkpoints that are complete or invisible: safetensors and JSON, no pickle.

``write_part`` fills a staging folder, one ``<part>.safetensors`` and ``<part>.json`` per learner, from any process.
``commit`` adds ``meta.json`` with the size and SHA-256 of each file, moves the folder to ``.store/<number>`` and points
the names (``latest``, ``best``, a milestone) to it: a link that is replaced by rename, so a reader sees the old
checkpoint or the new one and never a mixture. Stored checkpoints that no name points to are then deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Mapping[str, Tensor]]

T = TypeVar("T")
SCHEMA = 2
_READ_ATTEMPTS = 5


class Checkpoints:
    """The folder ``checkpoints/`` of a run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write_part(self, staging: str, part: str, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """Save ``{group: {name: tensor}}`` and JSON ``meta`` of one learner into ``staging``, invisible as yet.

        Group names hold no dot. Tensors may share memory with each other; each is stored whole.
        """
        self.write_packed(staging, part, pack(tensors), meta)

    def write_packed(self, staging: str, part: str, data: bytes, meta: Mapping[str, Any]) -> None:
        """As ``write_part``, of tensors that ``pack`` has made into ``data``."""
        folder = self.root / f".{staging}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{part}.safetensors", data)
        write_atomically(folder / f"{part}.json", json.dumps(meta, indent=2).encode())

    def discard_part(self, staging: str, part: str) -> None:
        """Forget what ``write_part`` has saved, if anything."""
        for suffix in (".safetensors", ".json"):
            (self.root / f".{staging}" / f"{part}{suffix}").unlink(missing_ok=True)

    def commit(self, staging: str, names: Sequence[str], meta: Mapping[str, Any]) -> None:
        """Make the staged parts visible under all ``names`` at once per name. ``meta`` is JSON (env_steps, ...)."""
        folder = self.root / f".{staging}"
        files = {
            f.name: _fingerprint(f) for f in sorted(folder.iterdir()) if f.name != "meta.json" and f.suffix != ".tmp"
        }
        write_atomically(
            folder / "meta.json", json.dumps({**meta, "schema": SCHEMA, "files": files}, indent=2).encode()
        )
        store = self.root / ".store"
        store.mkdir(exist_ok=True)
        number = 1 + max((int(p.name) for p in store.iterdir()), default=0)
        target = store / f"{number:06d}"
        folder.rename(target)
        _fsync(store)
        for name in names:
            link = self.root / f".{name}.tmp"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(".store") / target.name)
            link.rename(self.root / name)
        _fsync(self.root)
        self._delete_unnamed()

    def names(self) -> list[str]:
        """Every checkpoint that can be loaded by name."""
        return sorted(p.name for p in self.root.glob("[!.]*")) if self.root.is_dir() else []

    def meta(self, name: str) -> dict[str, Any]:
        """What was given to ``commit``, with ``schema`` and ``files``. Raises ValueError in one line."""
        return self._read(name, lambda folder: self._meta(name, folder))

    def load_part(self, name: str, part: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """(tensors on the CPU, meta) as ``write_part`` got them. Raises ValueError if missing, torn or corrupt."""
        return self._read(name, lambda folder: self._load(name, folder, part))

    def _read(self, name: str, read: Callable[[Path], T]) -> T:
        """``read`` the folder behind a name; again if the training process has meanwhile replaced and deleted it."""
        for _ in range(_READ_ATTEMPTS):
            folder = self._resolve(name)
            try:
                return read(folder)
            except FileNotFoundError as error:
                if folder == self._resolve(name):
                    raise ValueError(f"checkpoint {name} has no {Path(error.filename).name}") from None
        raise ValueError(f"checkpoint {name} is replaced faster than it can be read; name a milestone")

    def _load(self, name: str, folder: Path, part: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        files = self._meta(name, folder)["files"]
        contents = []
        for file in (f"{part}.safetensors", f"{part}.json"):
            path = folder / file
            data = path.read_bytes()
            if files.get(file) != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
                raise ValueError(f"{path} is damaged (size or SHA-256 differ); load another checkpoint: {self.names()}")
            contents.append(data)
        return unpack(contents[0]), json.loads(contents[1])

    def _meta(self, name: str, folder: Path) -> dict[str, Any]:
        try:
            meta = json.loads((folder / "meta.json").read_text())
        except json.JSONDecodeError:
            raise ValueError(f"{folder / 'meta.json'} is damaged; load another checkpoint: {self.names()}") from None
        if meta.get("schema") != SCHEMA:
            raise ValueError(f"checkpoint {name} has schema {meta.get('schema')}; this version of gala reads {SCHEMA}")
        return meta

    def _resolve(self, name: str) -> Path:
        if name not in self.names():
            raise ValueError(f"{self.root} has no checkpoint {name!r}; it has {', '.join(self.names()) or 'none yet'}")
        return (self.root / name).resolve()

    def _delete_unnamed(self) -> None:
        used = {(self.root / name).resolve().name for name in self.names()}
        for path in (self.root / ".store").iterdir():
            if path.name not in used:
                shutil.rmtree(path, ignore_errors=True)


def pack(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """``{group: {name: tensor}}`` as safetensors, with ``metadata`` in its header. Group names hold no dot."""
    from safetensors.torch import save

    assert not any("." in group for group in tensors), list(tensors)
    return save(
        {
            f"{group}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for group, named in tensors.items()
            for name, tensor in named.items()
        },
        metadata,
    )


def unpack(data: bytes) -> dict[str, dict[str, Tensor]]:
    """The inverse of ``pack``; on the CPU."""
    from safetensors.torch import load

    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load(data).items():
        group, _, leaf = key.partition(".")
        tensors.setdefault(group, {})[leaf] = tensor
    return tensors


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path``: temporary name, fsync, rename. After a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _fsync(path.parent)


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
