"""``gala scale RUN N``: let learners join or leave a run that is training now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gala.config.derived import exchanges_messages, is_lock_step
from gala.config.own_words import asks_for_help, take_paths
from gala.config.parse import parse_options, split_settings
from gala.runs.lock import is_held
from gala.runs.run_dir import RunDir

PATIENCE_S, LONGEST_S = 5.0, 300.0
USAGE = """usage: gala scale RUN learners=N

Let learners join, or leave, the asynchronous gossip run RUN (algo=gala) until N
are there. A newcomer starts from a live learner's state; one that leaves hands
its PushSum mass over. N may go up to max_learners (twice the learners by
default). The learning rate stays as it is."""


@dataclass(frozen=True)
class Options:
    """What ``gala scale RUN`` accepts."""

    learners: int = 0


def main(argv: Sequence[str]) -> int:
    """Leaves the request in the run directory and waits until the training process has taken it. Returns 0."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    plain, settings = take_paths(argv)
    settings = [*(f"learners={word}" for word in plain[1:]), *settings]
    learners = parse_options(Options, settings).learners
    if not plain or len(split_settings(settings)) != 1 or learners < 1:
        raise ValueError("gala scale wants a run and a number of learners from 1 on: gala scale RUN learners=6")
    run_dir = RunDir.open(plain[0])
    if run_dir.config.algo != "gala" or run_dir.config.learners == 1:
        raise ValueError(f"{run_dir.path} has no gossip between several learners; only such a run can be scaled")
    if not exchanges_messages(run_dir.config) or is_lock_step(run_dir.config):
        raise ValueError(
            f"the learners of {run_dir.path} wait for each other, or exchange nothing: none can come or go"
        )
    from gala.build.gossip import max_concurrent_learners

    if learners > (most := max_concurrent_learners(run_dir.config)):
        raise ValueError(f"{run_dir.path} can have 1 to {most} learners (max_learners), not {learners}")
    request = run_dir.ask_for_learners(learners)
    try:
        _wait(run_dir, request)
    except KeyboardInterrupt:
        request.unlink(missing_ok=True)
        raise
    print(f"{run_dir.path} was asked for {learners} learners; it says there what it does")
    return 0


def _wait(run_dir: RunDir, request: Path) -> None:
    """Until the training has taken the request. Raises ValueError if it does not, and takes the request back."""
    began, told = time.monotonic(), False
    while request.exists():
        trains = is_held(run_dir.path)  # it may be starting, or saving a checkpoint
        if time.monotonic() > began + (LONGEST_S if trains else PATIENCE_S):
            request.unlink(missing_ok=True)
            why = "its learners are still starting, or saving" if trains else f"{run_dir.path} is not training now"
            raise ValueError(f"nobody took the request in {LONGEST_S if trains else PATIENCE_S:g} s: {why}")
        if not told and time.monotonic() > began + PATIENCE_S:
            told = True
            print("it is starting, saving, or stopped: waiting; Ctrl-C takes the request back", flush=True)
        time.sleep(0.1)
