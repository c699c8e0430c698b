"""Checkpoints that are complete or invisible: safetensors and JSON, no pickle.

``write_part`` fills a staging folder, one ``<part>.safetensors`` and ``<part>.json`` per learner, from any process.
``commit`` adds ``meta.json`` with the size and SHA-256 of each file and its own, moves the folder to
``.store/<number>`` and points the names (``latest``, ``best``, a milestone) to it: a link that is replaced by rename,
so a reader sees the old checkpoint or the new one and never a mixture. Stored checkpoints that no name points to are
then deleted.

On a file system without links a name is a file that holds the number; where a copy has followed the links, a name is a
folder. Both are read, and replaced by the next commit. Where a copy has dropped the links, the newest that is stored is
``latest``, and the others are ``stored<number>``. Other files, such as file managers leave, are ignored.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gala.files.plain_yaml import parse_json
from gala.files.whole import fsync_folder, write_atomically
from gala.runs.checkpoint_names import CheckpointNames

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Mapping[str, Tensor]]

T = TypeVar("T")
SCHEMA = 2
NO_CHECKPOINT = "has no checkpoint yet: it starts anew"
"""How `gala resume` says that nothing is left of what was trained before."""
_READ_ATTEMPTS = 5


class Damaged(ValueError):
    """A checkpoint is not what was written. ``problem``: the line without the others' names, which may be no better."""

    def __init__(self, path: Path, others: Sequence[str]) -> None:
        self.problem = f"{path} is damaged (size or SHA-256 differ)"
        super().__init__(f"{self.problem}; other checkpoints: {', '.join(others) or 'there is none'}")


class Checkpoints:
    """The folder ``checkpoints/`` of a run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names = CheckpointNames(root)

    def write_part(self, staging: str, part: str, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """Save ``{group: {name: tensor}}`` and JSON ``meta`` of one learner into ``staging``, invisible as yet.

        Group names hold no dot. Tensors may share memory with each other; each is stored whole.
        """
        self.write_packed(staging, part, pack(tensors), meta)

    def write_packed(self, staging: str, part: str, data: bytes, meta: Mapping[str, Any]) -> None:
        """As ``write_part``, of tensors that ``pack`` has made into ``data``."""
        self.root.mkdir(exist_ok=True)  # not its parents: a run directory that has vanished is not made again
        folder = self.root / f".{staging}"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{part}.safetensors", data)
        write_atomically(folder / f"{part}.json", json.dumps(meta, indent=2).encode())

    def discard(self, staging: str) -> None:
        """Forget all that is staged."""
        shutil.rmtree(self.root / f".{staging}", ignore_errors=True)

    def discard_part(self, staging: str, part: str) -> None:
        """Forget what ``write_part`` has saved, if anything."""
        for suffix in (".safetensors", ".json"):
            (self.root / f".{staging}" / f"{part}{suffix}").unlink(missing_ok=True)

    def commit(self, staging: str, names: Sequence[str], meta: Mapping[str, Any]) -> None:
        """Make the staged parts visible under all ``names`` at once per name. ``meta`` is JSON (env_steps, ...)."""
        folder = self.root / f".{staging}"
        files = {f.name: _fingerprint(f) for f in sorted(folder.iterdir()) if _is_part(f.name)}
        whole = {**meta, "schema": SCHEMA, "files": files}
        write_atomically(folder / "meta.json", json.dumps({**whole, "sha256": _digest(whole)}, indent=2).encode())
        store = self.root / ".store"
        store.mkdir(exist_ok=True)
        self._names.write_lost()
        target = store / self._next_number()
        folder.rename(target)
        fsync_folder(store)
        for name in names:
            self._names.point(name, target.name)
        fsync_folder(self.root)
        self._delete_unnamed()

    def point(self, name: str, at: str) -> None:
        """Let ``name`` lead to the checkpoint that ``at`` leads to, whatever it led to before."""
        self._names.write_lost()
        folder, store = self._resolve(at), self.root / ".store"
        if folder.parent != store.resolve():  # a copy that has followed the links
            copy = store / f".{at}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            folder = copy.rename(store / self._next_number())
        self._names.point(name, folder.name)
        fsync_folder(self.root)
        self._delete_unnamed()

    def drop(self, name: str) -> None:
        """Forget a name, and the checkpoint too if it has no other."""
        self._names.write_lost()
        self._names.drop(name)
        self._delete_unnamed()

    def names(self) -> list[str]:
        """Every checkpoint that can be loaded by name."""
        return self._names.all()

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
                    raise ValueError(f"{self.root / name} has no {Path(error.filename).name}") from None
            except NotADirectoryError:
                raise ValueError(f"{self.root / name} is no checkpoint") from None
        raise ValueError(f"checkpoint {name} is replaced faster than it can be read; name a milestone")

    def _load(self, name: str, folder: Path, part: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        files = self._meta(name, folder)["files"]
        contents = []
        for file in (f"{part}.safetensors", f"{part}.json"):
            path = folder / file
            data = path.read_bytes()
            if files.get(file) != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
                raise self._damaged(path)
            contents.append(data)
        try:
            return unpack(contents[0]), parse_json(contents[1])
        except ValueError:
            raise self._damaged(folder / f"{part}.json") from None

    def _meta(self, name: str, folder: Path) -> dict[str, Any]:
        try:
            meta = parse_json((folder / "meta.json").read_bytes())
            schema = meta.get("schema")
        except (ValueError, AttributeError):
            raise self._damaged(folder / "meta.json") from None
        if schema != SCHEMA:
            raise ValueError(f"{self.root / name} has schema {schema}; this version of gala reads {SCHEMA}")
        if "sha256" in meta and meta.pop("sha256") != _digest(meta):  # version 0.1.0 wrote none
            raise self._damaged(folder / "meta.json")
        if not isinstance(meta.get("files"), dict):
            raise self._damaged(folder / "meta.json")
        return meta

    def _damaged(self, path: Path) -> Damaged:
        return Damaged(path, [n for n in self.names() if self._names.target(n) != path.parent.resolve()])

    def _resolve(self, name: str) -> Path:
        if name not in self.names():
            raise ValueError(f"{self.root} has no checkpoint {name!r}; it has {', '.join(self.names()) or 'none yet'}")
        return self._names.target(name)

    def _next_number(self) -> str:
        stored = (int(p.name) for p in (self.root / ".store").iterdir() if p.name.isdigit())
        return f"{1 + max(stored, default=0):06d}"

    def _delete_unnamed(self) -> None:
        used = {self._names.target(name).name for name in self.names()}
        for path in (self.root / ".store").iterdir():
            if path.name.isdigit() and path.name not in used:
                shutil.rmtree(path, ignore_errors=True)


def _is_part(name: str) -> bool:
    return name.startswith("learner") and name.endswith((".safetensors", ".json"))


def _digest(meta: Mapping[str, Any]) -> str:
    """SHA-256 of what a JSON file says, whatever its spaces."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


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


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
