"""What an asynchronous learner did and nobody could foresee: when it sent how much, what it absorbed in which order.

One text file per learner, a line per entry:

    u PROGRESS     an update begins; schedules stand at PROGRESS in [0, 1]
    p PEER WEIGHT  a share was put
    t PEER COUNT   the sum of so many of the peer's puts was absorbed
    m N,N,...      normalisers pooled what each rank had published by its N-th update, 0 for nothing
    d              what is absorbed from here on belongs to no update: a checkpoint is coming
    b              mail was taken back from a learner that was gone
    r              the learner began in the middle: it was resumed, or joined later

Which peers were full, absent or slow, which puts were refused and how long a learner waited needs no line: it decides
only what is sent and absorbed, and that is here. A float's repr is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gala.gossip.pending_lines import PendingLines

Entry = tuple[str, int, float, tuple[int, ...]]


class Recorder:
    """Collects the entries of one learner; ``write`` appends them to ``path``."""

    def __init__(self, path: Path, in_the_middle: bool) -> None:
        self._path, self._lines = path, PendingLines(["r"] if in_the_middle else [])

    def update(self, progress: float) -> None:
        """An update begins, where schedules stand at ``progress``."""
        self._lines.add(f"u {progress!r}")

    def drain(self) -> None:
        """What is absorbed from here on belongs to no update."""
        self._lines.add("d")

    def put(self, dst: int, weight: float) -> None:
        self._lines.add(f"p {dst} {weight!r}")

    def take(self, src: int, count: int) -> None:
        self._lines.add(f"t {src} {count}")

    def take_back(self) -> None:
        self._lines.add("b")

    def pool(self, publications: Sequence[int]) -> None:
        """Statistics were pooled: of each rank those of its ``publications[rank]``-th update, 0 if it had none."""
        self._lines.add(f"m {','.join(map(str, publications))}")

    def write(self) -> str:
        """Appends what is new; says in words why it cannot now, or nothing."""
        return self._lines.write(self._path)


def record_path(run: Path, rank: int) -> Path:
    """Where a learner of a run records."""
    return run / "gossip" / f"record{rank}.txt"


def read_record(path: Path) -> list[Entry]:
    """(kind, peer, PROGRESS, WEIGHT or COUNT, publications) of each line. Raises ValueError in one line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{path} cannot be read; only a run with gossip.record=true can be replayed") from None
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        try:
            kind, *rest = line.split()
            peer = int(rest[0]) if kind in ("p", "t") else -1
            pooled = tuple(map(int, rest[0].split(","))) if kind == "m" else ()
            entries.append((kind, peer, float(rest[-1]) if kind in ("u", "p", "t") else 0.0, pooled))
        except (ValueError, IndexError):
            raise ValueError(f"{path}, line {number}: no entry of a record: {line[:40]!r}") from None
    for kind, problem in (("r", "was resumed, or joined later"), ("b", "took mail back from a learner that was gone")):
        if any(entry[0] == kind for entry in entries):
            raise ValueError(f"{path}: this learner {problem}, and such a run cannot be replayed")
    return entries
