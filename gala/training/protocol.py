"""What a learner is told at its start, and what joins it to the run: apart from its parent, and from its body."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gala.config.schema import Config
from gala.processes.child import Send
from gala.training.board import BoardHandle


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that a spawned learner is told."""

    config: Config
    rank: int
    run_path: str
    board: BoardHandle | None
    mailboxes: Any = None
    """Handle of the gossip mailboxes, for algo=gala."""
    store_port: int = 0
    """Port of the loopback rendezvous, for algo=allreduce."""
    resume_from: str = ""
    """Checkpoint name, or empty for a fresh start."""
    donated: bytes = b""
    """A live learner's state (safetensors), for one that joins a running job; else empty."""


@dataclass(frozen=True)
class Connections:
    """What joins a learner to the run: all that differs between a process of this machine and an actor of a cluster."""

    board: Any
    """``gala.training.board.Board``, or what has its rows."""
    parts: Any
    """``write_part`` and ``load_part`` of a run directory."""
    mailboxes: Sequence[Any]
    """Per shard, what has ``open(rank)``, which makes an endpoint; empty if nothing is exchanged."""
    send: Send
    """(kind, body), see ``gala.processes.fleet.Event``."""
    commands: queue.SimpleQueue[Any]
    """What the parent tells: pause, save, resume, stop, donate, leave, exit."""
