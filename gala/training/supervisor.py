"""Starts the learners, watches them, logs, checkpoints, and ends the run: the parent's side of training."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from gala.build.envs import Spaces, probe_spaces
from gala.build.gossip import make_mailboxes, max_concurrent_learners, open_store
from gala.build.learning import num_moments
from gala.build.policy import count_parameters
from gala.config.schema import Config
from gala.config.validate import check_cluster
from gala.processes.fleet import Event, Fleet, ProcessFleet
from gala.processes.resources import available_cores
from gala.runs.run_dir import RunDir
from gala.training import learner
from gala.training.board import STOP_AT, Board
from gala.training.callbacks import Callbacks
from gala.training.common_checkpoint import CommonCheckpoint
from gala.training.elasticity import Elasticity
from gala.training.panel import Panel
from gala.training.pooling import row_size
from gala.training.protocol import LearnerSpec, LearnerStates
from gala.training.returns import BestRule
from gala.training.telemetry import Telemetry, closing_lines

EXIT_FAILED = 1
EXIT_STATUS = {"finished": 0, "failed": EXIT_FAILED, "interrupted": 130, "stopped": 0}
_POLL_S = 0.2
_GRACE_S = 3.0


class RunFailed(RuntimeError):
    """The failure that ends the run; its text is all that the user is shown."""


def train(config: Config, run_dir: RunDir, *, resume: bool = False) -> int:
    """Train as ``run_training`` does, for a command: say how it ended, and return the exit status: 0, 1 after a
    failure, 130 after Ctrl-C."""
    try:
        summary = run_training(config, run_dir, resume=resume)
    except RunFailed as failure:
        print(f"\n{failure}", file=sys.stderr)
        return EXIT_FAILED
    print("\n".join(closing_lines(summary, str(run_dir.path))))
    return EXIT_STATUS[summary["status"]]


def run_training(
    config: Config, run_dir: RunDir, *, resume: bool = False, callbacks: Callbacks | None = None
) -> dict[str, Any]:
    """Train to ``config.steps`` env_steps and return what summary.json holds; its ``status`` is finished, interrupted
    (by Ctrl-C) or stopped (by a callback).

    Raises:
        RunFailed: the run has failed; the text says why, and whether there is a checkpoint to go on from.
        Exception: what a callback has raised, once the run has ended with a checkpoint.
    """
    callbacks = callbacks or Callbacks()
    spaces = probe_spaces(config)
    saved = run_dir.checkpoint_meta("latest") if resume else {}
    board, mailboxes, fleet = open_run(config, run_dir, spaces)
    panel = Panel(config, config.steps, config.log.panel)
    if resume:
        board.restore(saved["progress"], saved["moments"])
    telemetry = Telemetry(max_concurrent_learners(config), spaces.frames_per_step, board.total_env_steps())
    run = Run(config, run_dir, board, telemetry, panel, fleet, mailboxes, callbacks)
    status = "failed"
    try:
        with run.ctrl_c():
            run.start(saved)
            status = callbacks.call_beside(run.supervise)
    except RunFailed as failure:
        kept = f"\nThe last checkpoint is kept: gala resume {run_dir.path}" if run_dir.checkpoints.names() else ""
        raise RunFailed(f"{failure}{kept}") from None
    except KeyboardInterrupt:
        status = "interrupted"
    finally:
        fleet.kill()
        panel.close()
        summary = telemetry.summary(board) | {"status": status, "failures": run.elasticity.failures}
        run_dir.write_summary(summary)
        run_dir.close()
        board.close()
        if mailboxes:
            mailboxes.close()
    callbacks.raise_error()
    return summary


def connect_cluster(config: Config) -> None:
    """Connect to the cluster that the settings name, if they do. Raises ValueError; call it before anything is
    written."""
    check_cluster(config)
    if config.cluster.address:
        from gala.cluster.rayctl import connect

        connect(config.cluster.address, available_cores())


def open_run(config: Config, run_dir: RunDir, spaces: Spaces) -> tuple[Any, Any, Fleet]:
    """(board, mailboxes or None, fleet): of this machine's processes, or of a cluster."""
    d, m = count_parameters(config, spaces), row_size(config, num_moments(config, spaces))
    connect_cluster(config)
    if config.cluster.address:
        from gala.cluster.job import open_job

        return open_job(config, run_dir, d, m)
    board = Board.create(max_concurrent_learners(config), d, m)
    return board, make_mailboxes(config, d), ProcessFleet(learner.main)


class Run:
    """One run: what its learners say and how they end, and what follows from it."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        board: Board,
        telemetry: Telemetry,
        panel: Panel,
        fleet: Fleet,
        mailboxes: Any,
        callbacks: Callbacks,
    ) -> None:
        self.config, self.run_dir, self.board, self.telemetry, self.panel = config, run_dir, board, telemetry, panel
        self.fleet, self.mailboxes, self.callbacks = fleet, mailboxes, callbacks
        self.states = LearnerStates()
        self.errors: dict[int, str] = {}
        self._heard: list[Event] = []
        self.ctrl_c_presses = 0
        self.ended_early = ""
        """interrupted or stopped, once the run is asked to end before its steps are done."""
        self.best = BestRule(config.learners, config.envs_per_learner)
        self.has_run = self._has_shown_traceback = False
        self.next_record = time.monotonic() + config.log.interval_s
        self.checkpoint = CommonCheckpoint(config, run_dir, board, fleet, mailboxes, self.states, telemetry.start_steps)
        self.checkpoint.on_commit = callbacks.on_checkpoint
        self.elasticity = Elasticity(config, self.states, fleet, mailboxes, self._spec)

    def start(self, saved: dict[str, Any]) -> None:
        """Spawn all learners; ``saved`` is the meta of the checkpoint to start from, or empty."""
        self._store = open_store(self.config)
        self._resume_from = "latest" if saved else ""
        if saved and self.mailboxes:
            self.mailboxes.restore(saved["weights"])
        if saved:
            self.checkpoint.best = -float("inf") if saved["return_mean"] is None else saved["return_mean"]
        for rank in range(self.config.learners):
            if not saved or rank in saved["ranks"]:
                self.fleet.spawn(self._spec(rank))
                self.states.move(rank, "starting")
            else:
                self.elasticity.admit(rank)
        self._resume_from = ""

    def _spec(self, rank: int, donated: bytes = b"") -> LearnerSpec:
        return LearnerSpec(
            self.config,
            rank,
            str(self.run_dir.path),
            self.board.handle,
            self.mailboxes.handle if self.mailboxes else None,
            self._store.port if self._store else 0,
            "" if donated else self._resume_from,
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
            if self.ctrl_c_presses > 1:
                raise KeyboardInterrupt
            if self.ctrl_c_presses and not self.ended_early:
                self._end_early("interrupted", "Ctrl-C: saving a checkpoint; once more to kill")
            if self.callbacks.end_wanted and not self.ended_early:
                self._end_early("stopped", f"{self.callbacks.end_wanted}: saving a checkpoint")
            self._heard += events
            while self._heard:
                self._handle(self._heard.pop(0))
            now = time.monotonic()
            self.elasticity.advance()
            if now >= self.next_record and not self.states.ranks("starting"):
                self.next_record = now + self.config.log.interval_s
                self._log()
            if self.checkpoint.advance(now, self.mailboxes.silent() if self.mailboxes else ()):
                self._log()
                for rank in self.states.ranks():
                    self.fleet.tell(rank, "exit")
                self.fleet.join(_GRACE_S)
                return self.ended_early or "finished"

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
            self.states.move(rank, "running")
            self.has_run = self.has_run or not self.states.ranks("starting")
            self.checkpoint.joined(rank)
        elif kind in ("state", "left"):
            self.elasticity.hear(event)
        else:
            self.checkpoint.hear(event)

    def _died(self, rank: int, how: str) -> None:
        if self.states.remove(rank) == "left":
            self.telemetry.forget(rank)
            return
        error = self.errors.pop(rank, "").rstrip()
        self.checkpoint.died(rank)
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
        for event in (*self._heard, *self.fleet.events(_POLL_S)) if error else ():
            if event.kind == "died" and "killed" in event.body:
                told, error = f"learner {event.rank} {event.body}", ""
        raise RunFailed(f"{told}; the run has ended." + self._explained(error))

    def _explained(self, error: str) -> str:
        """The first traceback in full, later ones, which mostly repeat it, by their last line."""
        if not error:
            return ""
        shown, self._has_shown_traceback = self._has_shown_traceback, True
        return "\n" + (error.splitlines()[-1] if shown else error)

    def _log(self) -> None:
        record = self.telemetry.record(self.board, self.states.ranks())
        self.run_dir.append_metrics(record)
        self.panel.update(record)
        silent = self.mailboxes.silent() if self.mailboxes else ()
        for warning in self.telemetry.warnings(silent):
            self.panel.message(warning)
        self.callbacks.on_record(record)
        heard = [rank for rank in self.states.ranks() if rank not in silent]
        if (score := self.best.score(heard, self.checkpoint.best)) is not None:
            self.checkpoint.offer_best(score)
        if self.mailboxes and (wanted := self.run_dir.take_wanted_learners()):
            self.panel.message(self.elasticity.scale(wanted))

    def _end_early(self, status: str, message: str) -> None:
        self.ended_early = status
        self.panel.message(message)
        self.elasticity.stop()
        if self.checkpoint.lock_step:
            self.board.control[STOP_AT] = self.checkpoint.update_ahead()
        for rank in self.states.ranks():
            self.fleet.tell(rank, "stop")

    @contextlib.contextmanager
    def ctrl_c(self) -> Iterator[None]:
        """Inside, the first Ctrl-C asks for a checkpoint and the second raises KeyboardInterrupt.

        Signals are the main thread's: in a training that another thread has started, Ctrl-C is that one's.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_sigint(signum: int, frame: Any) -> None:
            self.ctrl_c_presses += 1
            if self.ctrl_c_presses > 1:
                raise KeyboardInterrupt

        previous = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
