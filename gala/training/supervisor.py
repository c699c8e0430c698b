"""Opens a run, trains, and closes it whatever happens: the parent's side of training."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Any

from gala.build.envs import Spaces, probe_spaces
from gala.build.gossip import make_mailboxes, max_concurrent_learners
from gala.build.learning import num_moments
from gala.build.policy import count_parameters
from gala.build.trust import remember
from gala.config import derived
from gala.config.schema import Config
from gala.config.validate import check_cluster
from gala.processes.fleet import Fleet, ProcessFleet
from gala.processes.output import forgiving_output, printable
from gala.processes.resources import available_cores
from gala.runs.run_dir import RunDir
from gala.training import learner
from gala.training.board import Board
from gala.training.callbacks import Callbacks
from gala.training.filming import Filming
from gala.training.loop import Run, RunFailed
from gala.training.panel import Panel
from gala.training.pooling import row_size
from gala.training.protocol import BoardForRun, MailboxesForRun
from gala.training.telemetry import Telemetry, closing_lines, saved_steps
from gala.training.tracking import Tracking

EXIT_FAILED = 1
_HASTE_S = 10.0
"""How long a tracker may take to end, where somebody waits for the end of the run."""


def train(config: Config, run_dir: RunDir, *, resume_from: str = "") -> int:
    """Train as ``run_training`` does, for a command: say how it ended, and return the exit status: 0, 1 after a
    failure, 128 + n if signal n has ended it, which is 130 for Ctrl-C."""
    with forgiving_output():
        try:
            summary = run_training(config, run_dir, resume_from=resume_from)
        except RunFailed as failure:
            print("\n" + printable(str(failure), kept="\n\t"), file=sys.stderr)
            return EXIT_FAILED
        print(
            "\n".join(closing_lines(summary, str(run_dir.path), saved_steps(run_dir), run_dir.config.log.tensorboard))
        )
        return 128 + int(signal.Signals[summary["signal"]]) if summary["signal"] else 0


def run_training(
    config: Config, run_dir: RunDir, *, resume_from: str = "", callbacks: Callbacks | None = None
) -> dict[str, Any]:
    """Train to ``config.steps`` env_steps, from the checkpoint of that name if one is given, and return what
    summary.json holds; its ``status`` is finished, interrupted (by ``signal``, SIGINT for Ctrl-C) or stopped (by a
    callback; ``stopped_by`` says which, and that it returned False or raised what). ``signal`` is also one that came
    too late for the file, while callbacks were waited for.

    Raises:
        RunFailed: the run has failed; the text says why, and whether there is a checkpoint to go on from.
        Exception: what a callback has raised, once the run has ended with a checkpoint.
    """
    callbacks = callbacks or Callbacks()
    if not resume_from:
        remember(config)
    spaces = probe_spaces(config)
    saved = run_dir.checkpoint_meta(resume_from) if resume_from else {}
    board, mailboxes, fleet = open_run(config, run_dir, spaces, len(saved.get("ranks", ())))
    panel = Panel(config, config.steps, config.log.panel)
    if resume_from:
        board.restore(saved["progress"], saved["moments"])
    places, lock_step = max_concurrent_learners(config), derived.is_lock_step(config)
    telemetry = Telemetry(places, spaces.frames_per_step, board.total_env_steps(), lock_step)
    tracking = Tracking(config.track, run_dir, panel.message)
    run = Run(config, run_dir, board, telemetry, panel, fleet, mailboxes, callbacks)
    filming = Filming(config, run_dir, panel.message)
    run.watch_from_beside(tracking.record, filming)
    summary: dict[str, Any] = {}
    try:
        with run.end_request.listen():
            summary = callbacks.call_beside(
                lambda: _train_and_close(run, resume_from, saved), lambda: run.end_request.signal
            )
    except RunFailed as failure:
        resume = f"gala resume {shlex.quote(str(run_dir.path))}"
        kept = f"\nThe last checkpoint is kept: {resume}" * bool(run_dir.checkpoints.names())
        raise RunFailed(f"{failure}{kept}") from None
    finally:
        is_finished = summary.get("status") == "finished"
        tracking.close(*(() if is_finished else (_HASTE_S,)))
        filming.close(*(() if is_finished else (0.0,)))
        run_dir.close()
    callbacks.raise_error(run.end_request.kill)
    return summary | {"signal": run.end_request.signal.name if run.end_request.signal else None}


def _train_and_close(run: Run, resume_from: str, saved: dict[str, Any]) -> dict[str, Any]:
    """Start the learners and supervise them; whatever happens, end them, close what they share and write summary.json,
    which is returned."""
    status = "failed"
    try:
        run.start(resume_from, saved)
        status = run.supervise()
    except KeyboardInterrupt:
        status = "interrupted"
    finally:
        summary = _close(run, status)
    return summary


def _close(run: Run, status: str) -> dict[str, Any]:
    run.fleet.kill()
    if status == "finished":
        run.end_request.signal = None  # it came too late; the next one ends what is waited for
    ended_by = run.end_request.signal.name if run.end_request.signal and status == "interrupted" else None
    stopped_by = run.callbacks.end_wanted if status == "stopped" else None
    ending = {"status": status, "signal": ended_by, "stopped_by": stopped_by, "failures": run.elasticity.failures}
    summary = run.telemetry.summary(run.board) | ending
    run.panel.close(summary)
    run.board.close()
    if run.mailboxes:
        run.mailboxes.close()
    try:
        run.run_dir.write_summary(summary)
    except OSError as error:
        print(f"warning: {run.run_dir.path / 'summary.json'} cannot be written: {error.strerror}", file=sys.stderr)
    return summary


def connect_cluster(config: Config) -> None:
    """Connect to the cluster that the settings name, if they do. Raises ValueError; call it before anything is
    written."""
    check_cluster(config)
    if config.cluster.address:
        from gala.cluster.rayctl import check_gpus, connect

        connect(config.cluster.address, available_cores())
        if config.device == "cuda":
            check_gpus()


def open_run(
    config: Config, run_dir: RunDir, spaces: Spaces, saved: int = 0
) -> tuple[BoardForRun, MailboxesForRun | None, Fleet]:
    """(board, mailboxes or None, fleet): of this machine's processes, or of a cluster, with room for ``saved`` learners
    where a scaled run goes on with more than it has begun with."""
    d, m = count_parameters(config, spaces), row_size(config, num_moments(config, spaces))
    connect_cluster(config)
    if config.cluster.address:
        from gala.cluster.job import open_job

        return open_job(config, run_dir, d, m, saved)
    board = Board.create(max_concurrent_learners(config), d, m)
    return board, make_mailboxes(config, d), ProcessFleet(learner.main)
