"""The parent's side on a cluster: learners as actors, and the faces of board and mailboxes that the run wants."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnavailableError, RayError

from gala.cluster.actor import LearnerActor, MailboxHandle, SavedPart
from gala.cluster.hub import Rows
from gala.cluster.mirror import Mirror
from gala.cluster.patience import answer_of
from gala.cluster.placement import Share
from gala.cluster.rayctl import actor
from gala.config import derived
from gala.gossip.awake_clock import AwakeClock
from gala.processes.fleet import Event
from gala.runs.checkpoints import pack
from gala.runs.run_dir import RunDir
from gala.training.protocol import LearnerSpec

START_TIMEOUT_S = 300.0
"""How long a learner may take until its first sign of life: finding free CPUs, starting a process, importing."""
LOST_AFTER_S = 30.0
"""A learner whose thread has not visited the hub for so long is dead, or as good as dead, whatever Ray says of it."""
_POLL_S = 0.02


class ParentBoard:
    """See ``gala.training.board.Board``.

    Rows are as new as the last ``RayFleet.events``, and at least as new as each event that it returned; ``control``
    reaches the learners with the next one.
    """

    handle = None

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self.mirror = Mirror(answer_of(hub.rows.remote()))
        self.progress, self.control = self.mirror.progress, self.mirror.control
        self.beats = self.mirror.beats
        self.total_env_steps, self.read_moments = self.mirror.total_env_steps, self.mirror.read_moments

    def restore(self, progress: list[list[int]], moments: list[list[float]]) -> None:
        """Rows of a saved board, which may have had fewer; raises ValueError if it had more."""
        if len(progress) > len(self.progress):
            raise ValueError(f"{len(progress)} learners were saved, and there is room for {len(self.progress)}")
        answer_of(self._hub.restore.remote(np.array(progress), np.array(moments)))
        self.mirror.apply(answer_of(self._hub.rows.remote()))

    def read_params(self, ranks: Sequence[int]) -> tuple[NDArray, NDArray]:
        """Copies [k, d] of snapshots of one moment, as nearly as there are any, and the stamps [k] of each; zeros where
        none was published."""
        rows, stamps = answer_of(self._hub.params.remote(list(ranks)))
        return rows.copy(), stamps

    def read_publication(self, rank: int) -> tuple[NDArray, int]:
        """The newest parameters [d] of a rank, and their number; 0 before the first."""
        params, number = answer_of(self._hub.publication.remote(rank))
        return params.copy(), int(number)

    def close(self) -> None:
        """Nothing to give back: the fleet ends the hub."""


class ParentMailboxes:
    """What the run does about learners that come and go; see ``SharedMemoryMailboxes``."""

    def __init__(self, hub: Any, mirror: Mirror, handle: tuple[MailboxHandle]) -> None:
        self._hub, self._mirror, self.handle = hub, mirror, handle

    def bury(self, rank: int) -> float:
        """Write a dead rank off; returns the weight that went with it: its own and what it had not read, as of its last
        visit to the hub. Envelopes that it had not got come back to their senders."""
        return float(self._ask("bury", rank))

    def left_weight(self) -> float:
        """What there is, in the unit of ``bury``, as of the last visits to the hub."""
        return self._mirror.table.total_weight()

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        self._ask("retire", rank)

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight."""
        self._ask("admit", rank)

    def weights(self, ranks: Sequence[int]) -> list[list[float]]:
        """For the one shard, the weight that each rank has published; 0 for all but ``ranks``."""
        return [[w if rank in ranks else 0.0 for rank, w in enumerate(self._mirror.table.weights())]]

    def restore(self, weights: Sequence[Sequence[float]], ranks: Sequence[int]) -> None:
        """Take up saved weights, which are then all there is; the others than ``ranks`` have yet to be admitted."""
        (row,) = weights
        self._ask("restore_weights", list(row), list(ranks))

    def silent(self) -> tuple[int, ...]:
        """Ranks that should be at work and gave no sign for a while."""
        return tuple(np.flatnonzero(self._mirror.table.silent(self.handle[0].silent_after_s)).tolist())

    def close(self) -> None:
        """Nothing to give back: the boxes end with the actors."""

    def _ask(self, change: str, *args: Any) -> Any:
        """What the hub says to a change; it is seen here at once, and not with the next poll."""
        answer = answer_of(getattr(self._hub, change).remote(*args))
        self._mirror.apply(answer_of(self._hub.rows.remote()))
        return answer


class RayFleet:
    """Learners as actors, spread over the nodes of the cluster. See ``gala.processes.fleet.Fleet``."""

    def __init__(self, hub: Any, board: ParentBoard, run_dir: RunDir, share: Share) -> None:
        self._hub, self._board, self._run_dir, self._share = hub, board, run_dir, share
        self.host = ray.util.get_node_ip_address()
        self._class = actor(LearnerActor)
        self._actors: dict[int, Any] = {}
        self._lives: dict[int, Any] = {}  # rank -> reference that is ready when its actor has ended
        self._start_by: dict[int, float] = {}
        self._unsaved: dict[int, str] = {}
        self._epoch = 0
        self._clock = AwakeClock()

    def spawn(self, spec: LearnerSpec) -> None:
        self._epoch += 1
        rank, saved = spec.rank, None
        if spec.resume_from:
            tensors, meta = self._run_dir.load_part(spec.resume_from, f"learner{rank}")
            saved = SavedPart(pack(tensors), meta)
        spec = dataclasses.replace(spec, config=derived.with_threads(spec.config, self._share.threads))
        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus, "scheduling_strategy": "SPREAD"}
        learner = self._class.options(**options).remote(spec, self._hub, self._epoch, saved)
        answer_of(self._hub.enlist.remote(rank, self._epoch, [learner]))
        self._actors[rank], self._lives[rank] = learner, learner.run.remote()
        self._start_by[rank] = self._clock.total_s + START_TIMEOUT_S

    def room(self) -> int | None:
        """By free CPUs and GPUs of the whole cluster; who is about to start has not taken its share yet."""
        free, needs = ray.available_resources(), {"CPU": self._share.cpus, "GPU": self._share.gpus}
        return max(0, min(int(free.get(kind, 0) // n) for kind, n in needs.items() if n) - len(self._start_by))

    def events(self, timeout_s: float) -> list[Event]:
        deadline = time.monotonic() + timeout_s
        while not (events := self._poll()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return events

    def tell(self, rank: int, command: Any) -> None:
        if rank in self._actors:
            self._hub.tell.remote(rank, command)

    def end(self, rank: int) -> None:
        if rank in self._actors:
            ray.kill(self._actors[rank])

    def join(self, timeout_s: float) -> None:
        if self._lives:
            ray.wait(list(self._lives.values()), num_returns=len(self._lives), timeout=timeout_s)

    def kill(self) -> None:
        for handle in (*self._actors.values(), self._hub):
            with contextlib.suppress(RayError, ValueError):
                ray.kill(handle)

    def _poll(self) -> list[Event]:
        lives = list(self._lives.values())
        ended = ray.wait(lives, num_returns=len(lives), timeout=0)[0] if lives else []
        try:
            said, rows = answer_of(self._hub.poll.remote(self._board.control))
        except RayError:
            return [
                Event(rank, "died", "was lost with the Ray cluster") for rank in list(self._lives) if self._end(rank)
            ]
        self._board.mirror.apply(rows)
        events = [self._true(Event(*event)) for event in said if not self._is_part(*event)]
        for rank in [rank for rank, life in self._lives.items() if life in ended]:
            events.append(Event(rank, "died", self._end(rank)))
        return events + self._late(rows)

    def _is_part(self, rank: int, kind: str, body: Any) -> bool:
        if kind == "part":
            staging, part, saved = body
            try:
                self._run_dir.checkpoints.write_packed(staging, part, saved.data, saved.meta)
            except OSError as error:
                self._unsaved[rank] = f"{error.filename or part} cannot be written: {error.strerror}"
        return kind == "part"

    def _true(self, event: Event) -> Event:
        """A learner cannot know whether the part that it has sent was written."""
        return event._replace(body=self._unsaved.pop(event.rank, "")) if event.kind == "saved" else event

    def _late(self, rows: Rows) -> list[Event]:
        self._clock.look(time.monotonic())
        for rank in [rank for rank in self._start_by if rows.unseen_s[rank] >= 0]:
            del self._start_by[rank]
        awake = self._clock.since_gap_s > LOST_AFTER_S  # else nobody could visit: the whole job was suspended
        lost = [rank for rank in self._lives if awake and rows.unseen_s[rank] > LOST_AFTER_S]
        silent = f"was lost: it gave no sign of life for {LOST_AFTER_S:g} s"
        gone = [Event(rank, "died", silent) for rank in lost if self._end(rank)]
        late = [rank for rank, start_by in self._start_by.items() if self._clock.total_s > start_by]
        told = f"gave no sign of life in {START_TIMEOUT_S:g} s: does the cluster have free CPUs, and gala installed?"
        return gone + [Event(rank, "died", told) for rank in late if self._end(rank)]

    def _end(self, rank: int) -> str:
        """How it has ended, in words; whatever is left of it ends now."""
        learner, life = self._actors.pop(rank), self._lives.pop(rank)
        self._start_by.pop(rank, None)
        how = "exited with 0"
        try:
            ray.get(life, timeout=0)
        except ActorUnavailableError:
            how = "was lost, because the connection to it broke"
        except RayError as error:
            reason = re.search(r"because (its [^.:\n]*)", str(error))
            first = str(error).splitlines()[0].rstrip(".")
            how = f"was lost, because {reason[1]}" if reason else f"was lost: {first}"
        with contextlib.suppress(RayError, ValueError):
            ray.kill(learner)
            self._hub.dismiss.remote(rank)
        return how
