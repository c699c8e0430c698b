"""Starts the learners, watches them, logs, checkpoints, and ends the run: the parent's side of training."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.multiprocessing as mp

from gala import build
from gala.board import Board
from gala.config import Config
from gala.learner import LearnerSpec, main
from gala.panel import Panel
from gala.runs import RunDir
from gala.telemetry import Telemetry, closing_lines

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
_POLL_S = 0.2
_GRACE_S = 3.0
_MIN_EPISODES_FOR_BEST = 20


class LearnerFailed(RuntimeError):
    """The first failure among the learners; its text is all that the user is shown."""


def train(config: Config, run_dir: RunDir, *, resume: bool = False) -> int:
    """Train to ``config.steps`` env_steps and return the exit status: 0, 1 after a failure, 130 after Ctrl-C."""
    spaces = build.probe_spaces(config)
    num_params = build.count_parameters(config, spaces)
    resume_from = run_dir.checkpoint_meta("latest") if resume else {}
    board = Board.create(config.learners, num_params, build.num_moments(config, spaces))
    if resume:
        board.progress[:] = resume_from["progress"]
    mailboxes = build.make_mailboxes(config, num_params)
    panel = Panel(config, config.steps, config.log.panel)
    telemetry = Telemetry(config.learners, spaces.frames_per_step, board.total_env_steps())
    run = Run(config, run_dir, board, telemetry, panel)
    if resume_from.get("return_mean") is not None:
        run.best = resume_from["return_mean"]
    status = EXIT_FAILED
    try:
        with run.ctrl_c():
            run.start(mailboxes.handle if mailboxes else None, "latest" if resume else "")
            status = run.supervise()
    except LearnerFailed as failure:
        panel.close()
        kept = f"The last checkpoint is kept: gala resume {run_dir.path}\n" if run_dir.checkpoints.names() else ""
        print(f"\n{failure}\n{kept}", end="", file=sys.stderr)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    finally:
        run.kill()
        panel.close()
        summary = telemetry.summary(board) | {"status": _STATUS[status]}
        run_dir.write_summary(summary)
        run_dir.close()
        board.close()
        if mailboxes:
            mailboxes.close()
    if status != EXIT_FAILED:
        print("\n".join(closing_lines(summary, str(run_dir.path))))
    return status


_STATUS = {EXIT_OK: "finished", EXIT_FAILED: "failed", EXIT_INTERRUPTED: "interrupted"}


class Run:
    """The processes of one run and the state of their common checkpoint."""

    def __init__(self, config: Config, run_dir: RunDir, board: Board, telemetry: Telemetry, panel: Panel) -> None:
        self.config, self.run_dir, self.board, self.telemetry, self.panel = config, run_dir, board, telemetry, panel
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []
        self.state = ["starting"] * config.learners  # starting, running, paused, finished, saved
        self.pending: list[str] = []  # names under which the checkpoint being taken will be kept
        self.ctrl_c_presses = 0
        self.interrupted = False
        self.best = -float("inf")
        self.next_checkpoint = time.monotonic() + config.log.checkpoint_interval_s
        self.next_record = time.monotonic() + config.log.interval_s
        parts = config.log.keep_milestones + 1
        marks = [config.steps * i // parts for i in range(1, parts)]
        self.milestones = [mark for mark in marks if mark > telemetry.start_steps]
        self.lock_step = build.is_lock_step(config)

    def start(self, mailboxes: Any, resume_from: str) -> None:
        """Spawn all learners."""
        # OpenMP threads that spin while they wait take the cores from the simulators and from the other learners.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        context = mp.get_context("spawn")
        resource_tracker.ensure_running()  # now, because it unblocks SIGINT when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is the parent's to handle
        port = 0
        if build.needs_process_group(self.config):
            import torch.distributed as dist

            self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = self._store.port
        for rank in range(self.config.learners):
            ours, theirs = context.Pipe()
            spec = LearnerSpec(
                self.config, rank, str(self.run_dir.path), self.board.handle, mailboxes, port, resume_from
            )
            process = context.Process(target=main, args=(spec, theirs), name=f"gala learner {rank}")
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def supervise(self) -> int:
        """Runs until all learners have saved their last state. Raises LearnerFailed at the first failure."""
        while True:
            ready = wait([*self.pipes, *(p.sentinel for p in self.processes)], timeout=_POLL_S)
            if self.ctrl_c_presses and not self.interrupted:
                self._interrupt()
            for pipe in self.pipes:
                if pipe in ready:
                    self._receive(pipe)
            for rank, process in enumerate(self.processes):
                if process.sentinel in ready:
                    self._died(rank)
            now = time.monotonic()
            if now >= self.next_record and "starting" not in self.state:
                self.next_record = now + self.config.log.interval_s
                self._log()
            if self._advance_checkpoint(now):
                return EXIT_INTERRUPTED if self.interrupted else EXIT_OK

    def _receive(self, pipe: Connection) -> None:
        rank = self.pipes.index(pipe)
        try:
            while pipe.poll():
                kind, _, body = pipe.recv()
                if kind == "metrics":
                    self.telemetry.add(rank, body)
                elif kind == "error":
                    self._failed(rank, body)
                elif self.lock_step and kind in ("paused", "missed") and body != self.board.control[0]:
                    if kind == "paused":  # for a checkpoint that was given up
                        self._tell("resume", rank)
                elif kind == "missed":
                    self._postpone_checkpoint()
                else:
                    self.state[rank] = "running" if kind == "ready" else kind
        except (EOFError, ConnectionResetError):
            self._died(rank)

    def _died(self, rank: int) -> None:
        pipe = self.pipes[rank]
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll():  # its last words, if it had any, say more than its exit code
                kind, _, body = pipe.recv()
                if kind == "error":
                    self._failed(rank, body)
        self.processes[rank].join(_GRACE_S)  # its pipes close a moment before its exit status is there
        raise LearnerFailed(f"learner {rank} {_exit(self.processes[rank])}; the run has ended.")

    def _failed(self, rank: int, error: str) -> None:
        """A killed learner makes its peers in an all-reduce fail: its death is then what the user should see."""
        wait([p.sentinel for p in self.processes], timeout=_POLL_S)
        for other, process in enumerate(self.processes):
            if other != rank and (process.exitcode or 0) < 0:
                raise LearnerFailed(f"learner {other} {_exit(process)}; the run has ended.")
        raise LearnerFailed(f"learner {rank} failed; the run has ended.\n{error.rstrip()}")

    def _log(self) -> None:
        record = self.telemetry.record(self.board)
        self.run_dir.append_metrics(record)
        self.panel.update(record)
        mean = record.get("charts/episodic_return")
        enough = self.telemetry.episodes >= _MIN_EPISODES_FOR_BEST
        if mean is not None and enough and mean > self.best and not self.pending and self._may_save_best():
            self.best = mean
            self._request_checkpoint(["latest", "best"])

    def _may_save_best(self) -> bool:
        """A quarter of the checkpoint interval must lie between two checkpoints, however fast the returns rise."""
        return time.monotonic() > self.next_checkpoint - 0.75 * self.config.log.checkpoint_interval_s

    def _request_checkpoint(self, names: list[str]) -> None:
        self.pending = names
        self.next_checkpoint = time.monotonic() + self.config.log.checkpoint_interval_s
        if self.lock_step:
            self.board.control[0] = self._update_ahead()
        else:
            self._tell_all("pause", "running")

    def _update_ahead(self) -> int:
        """An update that no learner of a lock-step run reaches within about two seconds."""
        updates = int(self.board.progress[:, 1].max())
        rate = updates / max(time.monotonic() - self.telemetry.started, 1.0)
        return updates + max(2, int(2 * rate))

    def _postpone_checkpoint(self) -> None:
        """A learner of a lock-step run was past the update at which all were to pause."""
        self._tell_all("resume", "paused")
        self.state = ["running" if s == "paused" else s for s in self.state]
        self._request_checkpoint(self.pending)

    def _tell(self, command: str, rank: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # its death is noticed by its sentinel
            self.pipes[rank].send(command)

    def _tell_all(self, command: str, *states: str) -> None:
        for rank, state in enumerate(self.state):
            if state in states:
                self._tell(command, rank)

    def _advance_checkpoint(self, now: float) -> bool:
        """One step of the common checkpoint: pause all, save all, commit, resume. True when the run is over."""
        if not self.pending and "starting" not in self.state:
            steps = self.board.total_env_steps()
            if self.milestones and steps >= self.milestones[0] and "finished" not in self.state:
                self._request_checkpoint(["latest", f"step{self.milestones.pop(0)}"])
            elif now > self.next_checkpoint and "finished" not in self.state:
                self._request_checkpoint(["latest"])
        if all(s == "finished" for s in self.state) or (self.pending and set(self.state) <= {"paused", "finished"}):
            self._over = all(s == "finished" for s in self.state)
            self.pending = self.pending or ["latest"]
            self._finished = [s == "finished" for s in self.state]
            self._tell_all("save", "paused", "finished")
            self.state = ["saving"] * len(self.state)
        if all(s == "saved" for s in self.state):
            return self._commit()
        return False

    def _commit(self) -> bool:
        meta = {
            "env_steps": self.board.total_env_steps(),
            "learners": self.config.learners,
            "progress": self.board.progress.tolist(),
            "return_mean": self.best,
        }
        self.run_dir.commit_checkpoint("staging", self.pending, meta)
        self.pending = []
        if self._over:
            self._log()
            self._tell_all("exit", "saved")
            deadline = time.monotonic() + _GRACE_S
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
            return True
        self.board.control[0] = 0
        self._tell_all("resume", "saved")
        self.state = ["finished" if done else "running" for done in self._finished]
        return False

    def _interrupt(self) -> None:
        self.interrupted = True
        self.panel.message("Ctrl-C: saving a checkpoint; once more to kill")
        if self.lock_step:
            self.board.control[1] = self._update_ahead()
        self._tell_all("stop", "starting", "running", "paused", "saving", "saved")

    @contextlib.contextmanager
    def ctrl_c(self) -> Iterator[None]:
        """Inside, the first Ctrl-C asks for a checkpoint and the second raises KeyboardInterrupt."""

        def on_sigint(signum: int, frame: Any) -> None:
            self.ctrl_c_presses += 1
            if self.ctrl_c_presses > 1:
                raise KeyboardInterrupt

        previous = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def kill(self) -> None:
        """No learner survives this, and no process that a learner has started."""
        for process in self.processes:
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or does not lead a group yet
                os.killpg(process.pid, signal.SIGKILL)
            if process.is_alive():
                process.kill()
        for process in self.processes:
            process.join(_GRACE_S)


def _exit(process: BaseProcess) -> str:
    code = process.exitcode
    return f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with {code}"
