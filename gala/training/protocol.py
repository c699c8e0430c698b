"""What a learner is told at its start, and what joins it to the run: apart from its parent, and from its body."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from gala.config.schema import Config
from gala.gossip.message import OpensMailbox
from gala.processes.addresses import NO_STORE, Address
from gala.processes.child import Send
from gala.training.board import BoardHandle

Command = Literal["begin", "pause", "save", "resume", "stop", "donate", "leave", "exit"]
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


class BoardForLearner(Protocol):
    """A learner's side of the board, of this machine (``gala.training.board.Board``, which has more) or of a cluster's
    hub: ``progress`` and ``beats`` int64 [n, 2], ``control`` int64 [2]. It writes its own row only."""

    progress: NDArray
    beats: NDArray
    control: NDArray

    def total_env_steps(self) -> int: ...

    def publish_params(self, rank: int, flat: NDArray, stamp: float) -> int:
        """``flat`` [d], as of ``stamp``: see ``gala.training.interval.LogGrid``. Returns which publication it was, from
        1 on."""
        ...

    def publish_moments(self, rank: int, moments: NDArray) -> None: ...

    def read_moments(self) -> NDArray:
        """A copy [n, m]."""
        ...


class BoardForRun(Protocol):
    """The parent's side of the board."""

    progress: NDArray
    beats: NDArray
    control: NDArray

    @property
    def handle(self) -> BoardHandle | None:
        """For processes of this machine."""
        ...

    def total_env_steps(self) -> int: ...

    def restore(self, progress: list[list[int]], moments: list[list[float]]) -> None:
        """Rows of a saved board; raises ValueError if there are more than fit."""
        ...

    def read_params(self, ranks: Sequence[int]) -> tuple[NDArray, NDArray]:
        """Copies [k, d] of snapshots of one moment, as nearly as there are any, and the stamps [k] of each; zeros where
        none was published."""
        ...

    def read_publication(self, rank: int) -> tuple[NDArray, int]:
        """A copy [d] of the newest snapshot of ``rank``, and its number; 0 if there is no whole one."""
        ...

    def read_moments(self) -> NDArray: ...

    def close(self) -> None: ...


class MailboxesForRun(Protocol):
    """The parent's side of the boxes: learners come, go and die, and their weight with them."""

    @property
    def handle(self) -> Any:
        """What learners open their ends with."""
        ...

    def bury(self, rank: int) -> float:
        """Write a dead rank off; returns the weight that went with it."""
        ...

    def left_weight(self) -> float:
        """What there is, in the unit of ``bury``."""
        ...

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        ...

    def admit(self, rank: int) -> None:
        """Let a rank in, with no weight."""
        ...

    def weights(self, ranks: Sequence[int]) -> list[list[float]]:
        """Per shard, by rank; 0 for all but ``ranks``."""
        ...

    def restore(self, weights: Sequence[Sequence[float]], ranks: Sequence[int]) -> None:
        """Saved weights, which are then all there is."""
        ...

    def silent(self) -> tuple[int, ...]:
        """Ranks that should be at work and gave no sign for a while."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that a spawned learner is told."""

    config: Config
    rank: int
    run_path: str
    board: BoardHandle | None
    mailboxes: Any = None
    """Handle of the gossip mailboxes, for algo=gala."""
    store: Address = NO_STORE
    """Where learners that all-reduce meet."""
    resume_from: str = ""
    """Checkpoint name, or empty for a fresh start."""
    waits: bool = False
    """Whether it begins when it is told to, and not as soon as it is ready: see ``common_start``."""
    donated: bytes = b""
    """A live learner's state (safetensors), for one that joins a running job; else empty."""


@dataclass(frozen=True)
class LearnerChannels:
    """What joins a learner to the run: all that differs between a process of this machine and an actor of a cluster."""

    board: BoardForLearner
    checkpoint_parts: Any
    """``write_part`` and ``load_part`` of a run directory."""
    mailboxes: Sequence[OpensMailbox]
    """One per shard; empty if nothing is exchanged."""
    send: Send
    """(kind, body) of an ``Event``: ready, metrics, paused, missed, saved, finished, state, left."""
    commands: queue.SimpleQueue[Any]
    """What the parent tells: begin, pause, save, resume, stop, donate, leave, exit."""
