"""Several learners of a video model that gossip, as their parent sees them: started, saved and ended together.

Nobody is stopped in the middle of an iteration. Each learner has a limit, the next iteration at which all are saved,
and waits there. Where learners may wait for each other's messages (tau=0 or more), nobody can stand still before the
furthest of them: to stop them the limit is lowered to where that one is, which the board of the boxes shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gala.config.video import VideoConfig
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.processes.failure import first_failure, has_failed
from gala.processes.fleet import Event, ProcessFleet
from gala.processes.resources import threads_each
from gala.runs.checkpoints import Checkpoints
from gala.supervised.video_checkpoint import FOLDER, LATEST, STAGING, identity
from gala.supervised.video_learner import VideoSpec, main

_POLL_S = 0.2
_SILENT_AFTER_S = 1e6
"""No learner is left out of the graph for being slow: who has died ends the run."""


class LearnerFailed(RuntimeError):
    """The first failure among the learners; its text is all that the user is shown."""


class VideoTeam:
    """The learners of one training. A context manager; at its end no learner is left, whatever happened."""

    def __init__(self, config: VideoConfig, out: Path, numel: int, resumed: bool) -> None:
        self.config, self.out, self.resumed = config, out, resumed
        self.checkpoints = Checkpoints(out / FOLDER)
        self._boxes = SharedMemoryMailboxes.create(config.learners, numel, silent_after_s=_SILENT_AFTER_S)
        self._fleet = ProcessFleet(main)
        self._limit, self._paused = 0, dict[int, int]()

    def __enter__(self) -> VideoTeam:
        threads = threads_each(self.config.learners)
        try:
            for rank in range(self.config.learners):
                self._fleet.spawn(
                    VideoSpec(self.config, rank, self._boxes.handle, str(self.out), self.resumed, threads)
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._fleet.kill()
        self._boxes.close()

    def train(
        self,
        record: Callable[[dict[str, Any]], None],
        goes_on: Callable[[], bool],
        saved: Callable[[int], None],
    ) -> int:
        """Train to the end, or until ``goes_on`` says no; returns the iterations that the slowest learner has done, all
        of them saved. ``saved`` is called after every checkpoint but a last one that was asked for.

        Raises:
            LearnerFailed: a learner raised or died; the last checkpoint is what is left.
        """
        ready = self._gather("ready", record)
        done, stopping, waits = min(ready.values()), False, self.config.tau >= 0
        self._set_limit(self._next_save(done))
        while True:
            self._hear(self._events(), record)
            if not stopping and not goes_on():
                stopping = True
                self._set_limit(max(self._boxes.progress()) if waits else 0)
            elif stopping and waits and (furthest := max(self._boxes.progress())) > self._limit:
                self._set_limit(furthest)
            if len(self._paused) < self.config.learners or min(self._paused.values()) < self._limit:
                continue
            done = self._save(record)
            if stopping or done == self.config.iterations:
                self._tell(None)
                if not stopping:
                    saved(done)
                return done
            self._set_limit(self._next_save(done))
            saved(done)

    def _next_save(self, done: int) -> int:
        return min(self.config.iterations, (done // self.config.save_every + 1) * self.config.save_every)

    def _set_limit(self, limit: int) -> None:
        self._limit, self._paused = limit, {}
        self._tell(("until", limit))

    def _save(self, record: Callable[[dict[str, Any]], None]) -> int:
        """All stand still: nothing is sent any more, so that each can absorb what waits and save itself."""
        self.checkpoints.discard(STAGING)
        self._tell(("save",))
        done = min(self._gather("saved", record).values())
        self.checkpoints.commit(STAGING, [LATEST], {"iteration": done} | identity(self.config))
        return done

    def _gather(self, kind: str, record: Callable[[dict[str, Any]], None]) -> dict[int, int]:
        """What each learner says of ``kind``, by rank."""
        said: dict[int, int] = {}
        while len(said) < self.config.learners:
            events = self._events()
            self._hear(events, record)
            said |= {event.rank: int(event.body) for event in events if event.kind == kind}
        return said

    def _events(self) -> list[Event]:
        events = self._fleet.events(_POLL_S)
        if has_failed(events):
            kept = "`gala video resume` goes on from the last checkpoint"
            failure = first_failure(self._fleet, events)
            raise LearnerFailed(f"{failure}\n{kept}" if self.checkpoints.names() else failure)
        return events

    def _hear(self, events: list[Event], record: Callable[[dict[str, Any]], None]) -> None:
        for event in events:
            if event.kind == "row":
                record(event.body)
            elif event.kind == "paused":
                self._paused[event.rank] = int(event.body)

    def _tell(self, command: Any) -> None:
        for rank in range(self.config.learners):
            self._fleet.tell(rank, command)
