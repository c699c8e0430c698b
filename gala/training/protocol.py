"""What a learner is told at its start, and what joins it to the run: apart from its parent, and from its body."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gala.config.schema import Config
from gala.processes.child import Send
from gala.training.board import BoardHandle

Command = Literal["pause", "save", "resume", "stop", "donate", "leave", "exit"]
"""What the parent tells a learner."""

State = Literal["starting", "joining", "running", "paused", "saving", "saved", "finished", "left"]
"""What a learner does, as far as the parent knows. starting: with the others, at the beginning of the run; joining:
later; left: it has handed its mass over and is about to end."""


class LearnerStates:
    """What each learner of a run does; ranks that are not there have none."""

    def __init__(self) -> None:
        self._states: dict[int, State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def ranks(self, *states: State) -> list[int]:
        """Ascending ranks in one of ``states``; all of them if none is named."""
        return sorted(rank for rank, state in self._states.items() if not states or state in states)

    def of(self, rank: int) -> State | None:
        """None if the rank is not there."""
        return self._states.get(rank)

    def move(self, rank: int, state: State) -> None:
        """From here on ``rank`` is in ``state``."""
        self._states[rank] = state

    def remove(self, rank: int) -> State | None:
        """The rank is gone; returns the state in which it was."""
        return self._states.pop(rank, None)


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
class LearnerChannels:
    """What joins a learner to the run: all that differs between a process of this machine and an actor of a cluster."""

    board: Any
    """``gala.training.board.Board``, or what has its rows."""
    checkpoint_parts: Any
    """``write_part`` and ``load_part`` of a run directory."""
    mailboxes: Sequence[Any]
    """Per shard, what has ``open(rank)``, which makes an endpoint; empty if nothing is exchanged."""
    send: Send
    """(kind, body) of an ``Event``: ready, metrics, paused, missed, saved, finished, state, left."""
    commands: queue.SimpleQueue[Any]
    """What the parent tells: pause, save, resume, stop, donate, leave, exit."""
