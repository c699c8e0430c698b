"""The parent's loop: hears the learners, watches them, logs, takes checkpoints, and ends the run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gala.build.gossip import open_store
from gala.config import derived
from gala.config.schema import Config
from gala.processes.addresses import Address
from gala.processes.fleet import Event, Fleet
from gala.runs.run_dir import RunDir
from gala.training.board import STOP_AT
from gala.training.callbacks import Callbacks
from gala.training.common_checkpoint import CommonCheckpoint
from gala.training.common_start import CommonStart
from gala.training.elasticity import Elasticity
from gala.training.filming import Filming
from gala.training.interval import interval_at
from gala.training.panel import Panel
from gala.training.protocol import BoardForRun, LearnerSpec, LearnerStates, MailboxesForRun
from gala.training.returns import BestRule
from gala.training.signals import EndRequest
from gala.training.telemetry import Telemetry
from gala.training.watchdog import Watchdog

_POLL_S = 0.2
_GRACE_S = 3.0
_LOSS_PATIENCE_S = 5.0
"""How much later than its peers in an all-reduce a cluster may notice that a learner is lost."""
_OVER = "the run has ended."


class RunFailed(RuntimeError):
    """The failure that ends the run; its text is all that the user is shown."""


class Run:
    """One run: what its learners say and how they end, and what follows from it."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        board: BoardForRun,
        telemetry: Telemetry,
        panel: Panel,
        fleet: Fleet,
        mailboxes: MailboxesForRun | None,
        callbacks: Callbacks,
    ) -> None:
        self.config, self.run_dir, self.board, self.telemetry, self.panel = config, run_dir, board, telemetry, panel
        self.fleet, self.mailboxes, self.callbacks = fleet, mailboxes, callbacks
        self.states = LearnerStates()
        self.common_start = CommonStart(config, self.states, fleet)
        self.errors: dict[int, str] = {}
        self._heard: list[Event] = []
        self._beside: list[Callable[[dict[str, Any]], None]] = []
        self.end_request = EndRequest()
        self.ended_early = self._trouble = ""
        """interrupted or stopped, once the run is asked to end before its steps are done."""
        self.best = BestRule(config.learners, config.envs_per_learner)
        self.has_run = self._has_shown_traceback = False
        self.next_record = self._running_since_s = 0.0
        self.checkpoint = CommonCheckpoint(config, run_dir, board, fleet, mailboxes, self.states, telemetry.start_steps)
        self.checkpoint.on_commit = callbacks.on_checkpoint
        self.elasticity = Elasticity(config, self.states, fleet, mailboxes, self._spec)
        self.checkpoint.on_rest = self._weigh
        self.checkpoint.parent_state = lambda: {
            "telemetry": telemetry.state(),
            "best": self.best.state(),
            "elasticity": self.elasticity.state(),
        }
        self.watchdog = Watchdog(board, self.states, config.env.watchdog_s)

    def watch_from_beside(self, track: Callable[[dict[str, Any]], None], filming: Filming) -> None:
        """Who is shown each record, and the checkpoints; neither waits, nor changes anything."""
        tell = self.checkpoint.on_commit

        def on_commit(path: Path) -> None:
            tell(path)
            filming.on_checkpoint()

        self.checkpoint.on_commit = on_commit
        self._beside += [track, lambda record: filming.advance()]

    def start(self, resume_from: str, saved: dict[str, Any]) -> None:
        """Spawn all learners; ``saved`` is the meta of the checkpoint to start from, or empty as is its name."""
        self._store = open_store(self.config, self.fleet.host)
        self._resume_from = resume_from
        if saved and self.mailboxes:
            self.mailboxes.restore(saved["weights"], saved["ranks"])
        self._weigh()
        if saved and saved["return_mean"] is not None and "best" in self.run_dir.checkpoints.names():
            self.checkpoint.best = saved["return_mean"]
        if parent := saved.get("parent"):
            self.telemetry.load_state(parent["telemetry"])
            self.best.load_state(parent["best"])
            self.elasticity.load_state(parent.get("elasticity", {}))
        for rank in saved["ranks"] if saved else range(self.config.learners):
            self.fleet.spawn(self._spec(rank))
            self.states.move(rank, "starting")
        self._resume_from = ""
        for line in self.elasticity.make_whole():
            self.panel.message(line)

    def _weigh(self) -> None:
        if line := self.elasticity.weigh():
            self.panel.message(line)

    def _spec(self, rank: int, donated: bytes = b"") -> LearnerSpec:
        return LearnerSpec(
            self.config,
            rank,
            str(self.run_dir.path),
            self.board.handle,
            self.mailboxes.handle if self.mailboxes else None,
            Address(self.fleet.host, self._store.port if self._store else 0),
            "" if donated else self._resume_from,
            self.common_start.waits and not donated,
            donated,
        )

    def supervise(self) -> str:
        """Runs until all learners have saved their last state; finished, interrupted or stopped.

        Raises:
            RunFailed: a failure ends the run.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        while True:
            events = self.fleet.events(_POLL_S)
            if self.end_request.kill:
                raise KeyboardInterrupt
            if self.end_request.signal and not self.ended_early:
                self._end_early("interrupted", self.end_request.message)
            if self.callbacks.end_wanted and not self.ended_early:
                self._end_early("stopped", f"{self.callbacks.end_wanted}: saving a checkpoint")
            self._heard += events
            while self._heard:
                self._handle(self._heard.pop(0))
            now = time.monotonic()
            for rank in self.common_start.advance(now):
                self.panel.message(f"learner {rank} is not ready yet: the others begin without it")
            if not self.has_run and not self.states.ranks("starting"):
                self.has_run, self._running_since_s = True, now
                self.next_record = now + interval_at(0.0, self.config.log.interval_s)
            if not self._end_stuck(now):
                return self.ended_early
            self.elasticity.advance()
            self._scale_if_asked()
            if now >= self.next_record and not self.states.ranks("starting"):
                self._log()
                self.next_record = self._after(now)
            if self.checkpoint.advance(now, self.mailboxes.silent() if self.mailboxes else ()):
                self._log(over=True)
                if self.checkpoint.unsaved:
                    raise RunFailed(f"the last state could not be saved: {self.checkpoint.unsaved}")
                for rank in self.states.ranks():
                    self.fleet.tell(rank, "exit")
                self.fleet.join(_GRACE_S)
                done = self.board.total_env_steps() >= self.config.steps  # whoever was asked to end meanwhile
                return "finished" if done else self.ended_early or "finished"

    def _handle(self, event: Event) -> None:
        rank, kind, body = event
        if kind == "died":
            self._died(rank, body)
        elif kind == "error":
            self.errors[rank] = body.traceback
        elif kind == "metrics":
            self.best.add(rank, body["rows"], body["returns"])
            self.telemetry.add(rank, body)
        elif kind == "ready":
            self.common_start.ready(rank)
            self.checkpoint.joined(rank)
        elif kind in ("state", "left"):
            self.elasticity.hear(event)
        else:
            self.checkpoint.hear(event)

    def _end_stuck(self, now: float) -> bool:
        """End the learners that make no progress, as ``on_failure`` says; False if the run, which is to end anyway, is
        over without them, and without a new checkpoint."""
        for rank, idle_s in self.watchdog.stuck(now, bool(self.ended_early)):
            told = f"learner {rank} has not moved for {idle_s:.0f} s"
            if self.ended_early and self.elasticity.policy == "stop":
                self.panel.message(f"{told}: the run ends without it, and without a new checkpoint")
                return False
            if self.elasticity.policy == "stop":
                why = "a simulator hangs, or env.watchdog_s is too short"
                raise RunFailed(f"{told}: {why}; {_OVER}")
            limit = "and the run is to end" if self.ended_early else "the limit is env.watchdog_s"
            self.panel.message(f"{told}, {limit}: it is ended")
            self.fleet.end(rank)
        return True

    def _died(self, rank: int, how: str) -> None:
        if self.states.remove(rank) == "left":
            self.telemetry.forget(rank)
            return
        error = self.errors.pop(rank, "").rstrip()
        self.checkpoint.died(rank)
        self.common_start.died(rank)
        self.telemetry.forget(rank)
        told = f"learner {rank} failed" if error else f"learner {rank} {how}"
        goes_on = self.elasticity.died(rank, told) and (self.has_run or not error)
        if not goes_on:
            self._fail(told, error)
        if not self.states:
            raise RunFailed(f"{told}; no learner is left, the run has ended." + self._explained(error))
        self.panel.message(f"{told}; {self.elasticity.consequence(rank)}{self._explained(error)}")

    def _fail(self, told: str, error: str) -> None:
        """A killed learner makes its peers in an all-reduce fail: its death is then what the user should see."""
        until_s = time.monotonic() + (_LOSS_PATIENCE_S if self.config.cluster.address else 0.0)
        heard = self._heard + (self.fleet.events(_POLL_S) if error else [])
        while error:
            for event in heard:
                if event.kind == "died" and ("killed" in event.body or "lost" in event.body):
                    told, error = f"learner {event.rank} {event.body}", ""
            if not error or time.monotonic() > until_s or not derived.needs_process_group(self.config):
                break
            heard = self.fleet.events(_POLL_S)
        raise RunFailed(f"{told}; {_OVER}" + self._explained(error))

    def _explained(self, error: str) -> str:
        """The first traceback in full, later ones, which mostly repeat it, by their last line."""
        if not error:
            return ""
        shown, self._has_shown_traceback = self._has_shown_traceback, True
        last = list(itertools.takewhile(lambda line: not line.startswith("  "), reversed(error.splitlines())))
        return "\n" + (" ".join(reversed(last)) if shown else error)

    def _after(self, record_s: float) -> float:
        """When the next record is due: before the interval is over only if making one takes a twentieth of the time."""
        now, most_s = time.monotonic(), self.config.log.interval_s
        young_s = max(interval_at(now - self._running_since_s, most_s), 20 * (now - record_s))
        return record_s + min(most_s, young_s)

    def _log(self, over: bool = False) -> None:
        joining = self.states.ranks("joining")  # who has not published any parameters yet
        there = [rank for rank in self.states.ranks() if rank not in joining]
        record = self.telemetry.record(self.board, there, over)
        self._warn_once(self.run_dir.append_metrics(record) or self.checkpoint.unsaved)
        self.panel.update(record)
        silent = self.checkpoint.heeded(time.monotonic(), self.mailboxes.silent()) if self.mailboxes else ()
        for warning in self.telemetry.warnings(silent):
            self.panel.message(warning)
        self.callbacks.on_record(record)
        for look in self._beside:
            look(record)
        heard = [rank for rank in self.states.ranks() if rank not in silent]
        if (score := self.best.score(heard, self.checkpoint.best)) is not None:
            self.checkpoint.offer_best(score)

    def _scale_if_asked(self) -> None:
        """Not while some stand still for a checkpoint: they would not be told to leave."""
        at_rest = self.states.ranks("starting", "paused", "saving", "saved")
        if self.mailboxes and not at_rest and (wanted := self.run_dir.take_wanted_learners()):
            self.panel.message(self.elasticity.scale(wanted))

    def _warn_once(self, trouble: str) -> None:
        """Say what cannot be written, until it is something else, and when it can be again."""
        if trouble != self._trouble:
            again = f"{self.run_dir.path} can be written to again"
            self.panel.message(f"warning: {trouble}; it is tried again" if trouble else again)
        self._trouble = trouble

    def _end_early(self, status: str, message: str) -> None:
        self.ended_early = status
        self.elasticity.stop()
        if self.checkpoint.lock_step:
            self.board.control[STOP_AT] = self.checkpoint.update_ahead()
        for rank in self.states.ranks():
            self.fleet.tell(rank, "stop")
        self.panel.message(message)
