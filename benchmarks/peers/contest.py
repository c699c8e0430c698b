"""Whole trainings of several systems, one at a time: what the studies of scores and of times have in common."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import venvs
from compare import SYSTEMS
from peer import Peer, PeerFailed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from kept_rows import KeptRows, Row  # noqa: E402

Found = TypeVar("Found")


class Training(NamedTuple):
    """``worker``: a name of compare.SYSTEMS. ``budget``: env_steps, which its schedules follow."""

    worker: str
    words: Sequence[str]
    task: str
    num_envs: int
    budget: int
    seed: int


def run(training: Training, cores: int, root: Path, wait: Callable[[Peer], Found]) -> tuple[Found, float, Row]:
    """Start it and ``wait`` for what is wanted of it, then end it.

    Returns:
        What was waited for, when the training began on the monotonic clock, and the facts for a row: took_s, versions.

    Raises:
        PeerFailed, InstallFailed: it cannot be had.
    """
    system = SYSTEMS[training.worker]
    python = str(venvs.ensure(system.venv, root)) if system.venv else sys.executable
    words = [*system.words, *training.words, "--budget", str(training.budget), "--seed", str(training.seed)]
    peer = Peer(training.worker, [python, str(HERE / system.worker), *words])
    began = time.monotonic()
    try:
        peer.start(training.task, training.num_envs, cores)
        found = wait(peer)
    finally:
        peer.kill()
    versions = venvs.installed(system.venv, Path(python)) if system.venv else {}
    return found, began, {"took_s": time.monotonic() - began, "versions": versions}


def fill(kept: KeptRows, cells: Iterable[tuple[Any, ...]], measure: Callable[..., Row]) -> None:
    """The row of every cell, the values of the keys, that there is none of; a system that fails is left out."""
    for cell in cells:
        if kept.lacks(*cell):
            try:
                kept.add(measure(*cell))
            except (PeerFailed, venvs.InstallFailed) as error:
                print(error, file=sys.stderr)
