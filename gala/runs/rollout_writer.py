"""Writes rollouts, chunk by chunk, so that a recording that was cut off can go on: see ``gala.runs.rollouts``."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from gala.files.whole import write_atomically
from gala.runs.rollouts import MANIFEST, SCHEMA, Chunk, RolloutFacts, chunk_name, digest, read_file, read_manifest

README = """# Rollouts of {source}

{episodes} whole episodes in chunks. All arrays of a chunk have a row for each frame, one episode after the other:

```python
import numpy as np
with np.load("chunk-00000.npz") as chunk:
    frames, action, reward, first, context = (chunk[k] for k in ("frames", "action", "reward", "first", "context"))
```

- `frames` {frame} {dtype}{range}.
- `action` and `reward` are those that led to the frame of their row; zeros where `first`, which opens an episode.
- `terminated` ends an episode that the task ended; one that a time limit cut off ends without it.
- `context` is an index into `contexts` of {manifest}, -1 where the environment has none.

`{manifest}` holds the SHA-256 of every chunk. `gala.runs.rollouts.open_rollouts(folder)` compares them, and maps the
frames into memory in place of loading them.
"""


_BEFORE_MANIFEST = {".lock", chunk_name(0), f"{chunk_name(0)}.tmp", f"{MANIFEST}.tmp"}
"""What a recording leaves that was killed, or had no room, while it wrote its first chunk."""


def refuse_foreign(path: Path) -> None:
    """Raises ValueError: there is something in the folder ``path``, and it is no rollouts."""
    if path.is_dir() and not (path / MANIFEST).is_file() and {p.name for p in path.iterdir()} - _BEFORE_MANIFEST:
        raise ValueError(f"{path} is not empty and holds no rollouts; give another out=")


class RolloutWriter:
    """Appends chunks to a folder; what it has written survives a kill, and the next writer goes on from there."""

    def __init__(self, path: Path, facts: RolloutFacts) -> None:
        """Raises ValueError: ``path`` holds something else, rollouts of another source, or damaged ones."""
        self.path, self.facts, self.chunks = path, facts, list[dict[str, Any]]()
        if (path / MANIFEST).is_file():
            known, self.chunks = read_manifest(path)
            if not _are_same(known, facts):
                raise ValueError(f"{path} holds other rollouts: {_difference(known, facts)}; give another out=")
            for number, told in enumerate(self.chunks):
                read_file(path, number, told)
        else:
            refuse_foreign(path)

    @property
    def episodes(self) -> int:
        return sum(chunk["episodes"] for chunk in self.chunks)

    def append(self, chunk: Chunk) -> None:
        """Write one chunk, then the manifest that knows of it. Raises OSError."""
        name, packed = chunk_name(len(self.chunks)), io.BytesIO()
        np.savez_compressed(packed, **chunk._asdict())
        write_atomically(self.path / name, packed.getvalue())
        self.chunks.append(
            {
                "rows": len(chunk.first),
                "episodes": int(chunk.first.sum()),
                "bytes": len(packed.getvalue()),
                "sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
                "frames_sha256": hashlib.sha256(np.ascontiguousarray(chunk.frames).data).hexdigest(),
            }
        )
        tree = {"schema": SCHEMA, **dataclasses.asdict(self.facts), "chunks": self.chunks}
        tree = json.loads(json.dumps(tree))
        write_atomically(self.path / MANIFEST, json.dumps({**tree, "sha256": digest(tree)}, indent=1).encode())
        write_atomically(self.path / "README.md", self._readme().encode())

    def _readme(self) -> str:
        f = self.facts
        told = {1: ", 0 or 1", 255: ", 0 to 255"}.get(f.top or 0, "")
        frame = "[rows, " + ", ".join(map(str, f.frame)) + "]"
        return README.format(
            source=f.source.get("run", "a policy"),
            episodes=self.episodes,
            frame=frame,
            dtype=f.dtype,
            range=told,
            manifest=MANIFEST,
        )


def _are_same(known: RolloutFacts, facts: RolloutFacts) -> bool:
    """Whether chunks of ``facts`` may follow those that are there: a run is told by its identity, if it has one, for
    its path may have been given in another way."""

    def told(of: RolloutFacts) -> RolloutFacts:
        run = of.source.get("identity") or str(Path(of.source.get("run", "")).resolve())
        return dataclasses.replace(of, source=of.source | {"run": run})

    return told(known) == told(facts)


def _difference(a: RolloutFacts, b: RolloutFacts) -> str:
    """The first thing that two folders differ in, in words."""
    for key in {**a.source, **b.source}:
        if a.source.get(key) != b.source.get(key):
            return f"{key} was {a.source.get(key)!r}, not {b.source.get(key)!r}"
    return "other frames, actions or contexts"
