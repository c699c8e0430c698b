"""The common checkpoint: all learners stand still, so that no mass is in flight; each saves its part; all go on.

Learners that are silent, or that are only joining, are left out and waited for by nobody; one that does not move,
though it is asked to pause, is waited for as long as a few of its updates take, and one that takes far longer than the
others to save is left out too. Only asynchronous gossip can do without one of them: no other checkpoint lacks a
learner.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from gala.config import derived
from gala.config.schema import Config
from gala.gossip.awake_clock import AwakeClock
from gala.processes.fleet import Event, Fleet
from gala.runs.run_dir import RunDir
from gala.training.board import CHECKPOINT_AT, UPDATES
from gala.training.protocol import BoardForRun, Command, LearnerStates, MailboxesForRun, State

STAGING = "staging"
_SAVE_TIMEOUT_S = 60.0
_LONGEST_SAVE_S = 600.0
"""How long a learner may take to save until the run says so, and until a checkpoint is given up."""
_STILL_S, _STILL_UPDATES = 3.0, 4.0
"""A learner that shows no sign of life for so long, or for the time of so many of its updates if that is longer, is
left out of a checkpoint for which all others stand still already; what it knows, the others know too. Of learners that
exchange nothing none is left out: the watchdog ends them, or the run."""


class CommonCheckpoint:
    """When to take one, and how far it has come. ``states`` is shared with the run."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        board: BoardForRun,
        fleet: Fleet,
        mailboxes: MailboxesForRun | None,
        states: LearnerStates,
        start_steps: int,
    ) -> None:
        self.config, self.run_dir, self.board, self.fleet, self.states = config, run_dir, board, fleet, states
        self.mailboxes = mailboxes
        self.names: list[str] = []  # under which the checkpoint being taken will be kept
        self.best = self._best_before = -float("inf")
        self.on_commit: Callable[[Path], None] = lambda path: None
        self.on_rest: Callable[[], None] = lambda: None
        """Called once all learners there are stand still, so that the weight they have published is all there is."""
        self.parent_state: Callable[[], dict[str, Any]] = dict
        """What the parent needs to go on from the checkpoint, as JSON."""
        self.lock_step = derived.is_lock_step(config)
        self._elastic = derived.exchanges_messages(config) and not self.lock_step
        self._clock = AwakeClock()
        self._first_updates = board.progress[:, UPDATES].copy()
        self._next = time.monotonic() + config.log.checkpoint_interval_s
        parts = config.log.keep_milestones + 1
        self._milestones = [m for i in range(1, parts) if (m := config.steps * i // parts) > start_steps]
        self._over = self._has_moved = False
        self._starting_s = self._stand_off_s = 0.0
        self._postponed = 0
        self.unsaved = ""
        """Why the last checkpoint that was to be taken is not there, or not whole; empty if it is."""
        self._unwritten = ""  # what a learner said that could not save
        self._signs: dict[int, tuple[Any, float]] = {}  # of those who are still to pause: the last, and when it came
        self._left_out: tuple[int, ...] = ()
        self._savers: set[int] = set()  # who is saving; empty while nobody is
        self._saving_since_s = self._slowest_save_s = 0.0
        self._unanswered = Counter[int]()  # how often each was told to save, and has not answered yet
        self._finished: set[int] = set()  # of those who save: done with their training, too

    def request(self, names: list[str]) -> None:
        """Take one as soon as all stand still."""
        self.names = names
        self._next = time.monotonic() + self.config.log.checkpoint_interval_s
        if self.lock_step:
            self.board.control[CHECKPOINT_AT] = self.update_ahead()
        else:
            self._tell("pause", "running")

    def offer_best(self, score: float) -> None:
        """Keep a new best. A quarter of the checkpoint interval must lie between two, however fast the returns rise."""
        recent = time.monotonic() <= self._next - 0.75 * self.config.log.checkpoint_interval_s
        if score > self.best and not self.names and not recent:
            self._best_before, self.best = self.best, score
            self.request(["latest", "best"])

    def heeded(self, now: float, silent: tuple[int, ...]) -> tuple[int, ...]:
        """``silent``, or nobody where the whole job has just been suspended, so that nobody could give a sign. ``now``
        is of ``time.monotonic``."""
        self._clock.look(now)
        has_begun_anew = self._clock.since_gap_s < min(derived.silent_after_s(self.config), self._clock.total_s)
        return () if has_begun_anew else silent

    def update_ahead(self) -> int:
        """An update that no learner of a lock-step run reaches before it knows of it: within about two seconds on this
        machine, five on a cluster, and twice as long for each time that this was too soon."""
        updates = int(self.board.progress[:, UPDATES].max())
        done_here = updates - int(self._first_updates.max())  # a resumed run has done others, in no time
        ahead_s = (5 if self.config.cluster.address else 2) * 2**self._postponed
        return updates + max(2, int(ahead_s * done_here / max(self._clock.total_s - self._starting_s, 1.0)))

    def hear(self, event: Event) -> None:
        """A learner has come to rest, has saved, or (in a lock-step run) was already past the update to rest at."""
        stale = (
            self.lock_step and event.kind in ("paused", "missed") and event.body != self.board.control[CHECKPOINT_AT]
        )
        unasked = event.kind == "paused" and (self._savers or not self.names)  # it was silent, and left out
        if stale or unasked:
            if event.kind == "paused":
                self.fleet.tell(event.rank, "resume")
        elif event.kind == "missed":
            self._postpone()
        elif event.kind == "saved":
            self._hear_saved(event.rank, event.body)
        else:
            self.states.move(event.rank, cast(State, event.kind))  # the other kinds are not this one's to hear

    def _hear_saved(self, rank: int, trouble: str) -> None:
        self._unanswered[rank] -= 1
        if self._unanswered[rank] > 0:  # this answers an earlier question, and the part is being written once more
            return
        if rank not in self._savers:  # too late: it was told to go on when it was given up
            self.run_dir.checkpoints.discard_part(STAGING, f"learner{rank}")
            return
        self._unwritten = trouble or self._unwritten
        self._slowest_save_s = self._clock.total_s - self._saving_since_s
        self.states.move(rank, "saved")

    def joined(self, rank: int) -> None:
        """A newcomer is running now."""
        if self.names and not self._savers and not self.lock_step:
            self.fleet.tell(rank, "pause")

    def died(self, rank: int) -> None:
        """Its part, if it had saved one, would belong to another moment."""
        self._savers.discard(rank)
        del self._unanswered[rank]
        self.run_dir.checkpoints.discard_part(STAGING, f"learner{rank}")

    def advance(self, now: float, silent: tuple[int, ...]) -> bool:
        """One step: pause all, save all, commit, resume. True when the run is over."""
        silent = self.heeded(now, silent)
        if not self._has_moved:
            self._has_moved = bool((self.board.progress[:, UPDATES] > self._first_updates).any())
            self._starting_s = self._clock.total_s if self._has_moved else 0.0
        if self._savers:
            return self._advance_saving()
        at_rest = ("paused", "finished")  # has said so, and says nothing more
        self._end_stand_off()
        every = {rank: self.states.of(rank) for rank in self.states.ranks()}
        silent = (*silent, *self._still(every))
        present = {r: s for r, s in every.items() if s != "joining" and (r not in silent or s in at_rest)}
        states = set(present.values())
        if not self.names and states and "starting" not in states and "finished" not in states:
            steps = self.board.total_env_steps()
            due = [milestone for milestone in self._milestones if steps >= milestone]
            if due:
                self._milestones = self._milestones[len(due) :]
                self.request(["latest", f"step{due[-1]}"])
            elif now > self._next:
                self.request(["latest"])
        if states == {"finished"} or (self.names and states and states <= {"paused", "finished"}):
            self._over = states == {"finished"}
            self.names = self.names or ["latest"]
            self._finished = {rank for rank, s in present.items() if s == "finished"}
            self._savers, self._saving_since_s, self._unwritten = set(present), self._clock.total_s, ""
            self.run_dir.checkpoints.discard(STAGING)  # what a killed run, or one that came too late, has left
            for rank in present:
                self.states.move(rank, "saving")
                self._unanswered[rank] += 1
                self.fleet.tell(rank, "save")
        return False

    def _still(self, states: dict[int, State | None]) -> tuple[int, ...]:
        """Who is asked to pause, and neither does nor moves: a process that is stopped, or a simulator that hangs."""
        if not self.names or not self._elastic:
            self._signs = {rank: self._signs[rank] for rank in self._left_out if rank in self._signs}
            return ()
        still, now_s = [], self._clock.total_s
        for rank in (rank for rank, state in states.items() if state == "running"):
            updates = int(self.board.progress[rank, UPDATES])
            sign = (*self.board.beats[rank].tolist(), updates)
            if self._signs.get(rank, (None,))[0] != sign:
                self._signs[rank] = sign, now_s
            done_here, sign_s = updates - int(self._first_updates[rank]), self._signs[rank][1]
            if now_s - sign_s > max(_STILL_S, _STILL_UPDATES * sign_s / max(done_here, 1)):
                still.append(rank)
        self._left_out = tuple(still)  # nor is it waited for the next time, unless it has moved
        return self._left_out

    def _advance_saving(self) -> bool:
        """All are waited for, and stand still meanwhile, so that a slow disk costs time; but asynchronous gossip goes
        on without one that takes twice as long as the others. True when the run is over."""
        ranks = sorted(self._savers)
        late = [rank for rank in ranks if self.states.of(rank) != "saved"]
        there = [rank for rank in ranks if rank not in late]
        waited_s, patience_s = self._clock.total_s - self._saving_since_s, _LONGEST_SAVE_S
        if late and waited_s < _SAVE_TIMEOUT_S:
            return False
        if there and self._elastic and not self._over:
            patience_s = min(max(2 * self._slowest_save_s, _SAVE_TIMEOUT_S), _LONGEST_SAVE_S)
        who = f"learner{'s' * (len(late) > 1)} {', '.join(map(str, late))}"
        told = f"{who} {'have' if len(late) > 1 else 'has'} not saved within"
        if late and waited_s < patience_s:
            self.unsaved = f"{told} {_SAVE_TIMEOUT_S:.0f} s"  # which the run says while it waits
            return False
        if late and not (there and self._elastic):
            self.unsaved = f"{told} {patience_s:.0f} s"
        else:
            if there == self.states.ranks():
                self.on_rest()
            for rank in late:  # stuck, or its answer or our question was lost: the others go on
                self.run_dir.checkpoints.discard_part(STAGING, f"learner{rank}")
            self.unsaved = self._unwritten or self._commit(there)
        if self.unsaved:
            self.run_dir.checkpoints.discard(STAGING)
            self.best = self._best_before if "best" in self.names else self.best
        else:
            self.on_commit(self.run_dir.checkpoints.root / self.names[-1])
            self.unsaved = f"the checkpoint lacks {who}: not saved within {patience_s:.0f} s" if late else ""
        self._go_on(ranks)
        return self._over

    def _commit(self, ranks: list[int]) -> str:
        """Says why it could not, or nothing."""
        meta = {
            "env_steps": self.board.total_env_steps(),
            "learners": len(ranks),
            "ranks": ranks,
            "progress": self.board.progress.tolist(),
            "moments": self.board.read_moments().tolist(),
            "weights": self.mailboxes.weights(ranks) if self.mailboxes else [],
            "return_mean": self.best if math.isfinite(self.best) else None,  # JSON has no infinity
            "run": self.run_dir.identity(),
            "parent": self.parent_state(),
        }
        try:
            self.run_dir.commit_checkpoint(STAGING, self.names, meta)
        except OSError as error:
            return f"{error.filename or self.run_dir.path} cannot be written: {error.strerror}"
        return ""

    def _go_on(self, ranks: list[int]) -> None:
        """Whatever became of the checkpoint. Each is told once: a learner in lock-step would obey a second word when it
        rests the next time."""
        self.board.control[CHECKPOINT_AT] = self._postponed = 0
        self._savers, self.names = set(), []
        for rank in ranks:
            self.states.move(rank, "finished" if rank in self._finished else "running")
            if not self._over:
                self.fleet.tell(rank, "resume")

    def _end_stand_off(self) -> None:
        """In a lock-step run, one that did not hear in time at which update to pause waits, in the midst of the next,
        for those that do; it cannot say so."""
        pause_at = int(self.board.control[CHECKPOINT_AT]) if self.lock_step and self.names else 0
        running = self.board.progress[self.states.ranks("running"), UPDATES]
        if not (pause_at and self.states.ranks("paused") and (running >= pause_at).any()):
            self._stand_off_s = self._clock.total_s
        elif self._clock.total_s - self._stand_off_s > _STILL_S * 2**self._postponed:  # it may be slow to come to rest
            self._postpone()

    def _postpone(self) -> None:
        """A learner of a lock-step run was past the update at which all were to pause."""
        self._postponed += 1
        self._tell("resume", "paused")
        for rank in self.states.ranks("paused"):
            self.states.move(rank, "running")
        self.request(self.names)

    def _tell(self, command: Command, state: State) -> None:
        for rank in self.states.ranks(state):
            self.fleet.tell(rank, command)
