"""``gala watch RUN``: the panel of a run that another process trains, or has trained; reads only."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gala.config.bounds import POSITIVE, bounded, check_bounds
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.runs.following import Follower
from gala.runs.run_dir import RunDir
from gala.training.panel import Panel
from gala.training.telemetry import closing_lines, saved_steps

USAGE = """usage: gala watch RUN [every_s=0.5] [panel=auto|on|off]

Show how RUN is doing, from any terminal: the panel of `gala train`, drawn again
with each new record, until the run ends; of one that has ended, its last state.
In a log, or with panel=off, plain lines instead, one in ten seconds at most.

It reads only: the run is neither locked nor written to, and does not notice.
Ctrl-C ends the watching, not the run. The exit status is 0, or 1 for a run
whose process is gone without a summary."""
EXIT_GONE = 1
QUIET_S = 30.0
"""Without a record for this long, beside the run's own interval, a person should know."""


@dataclass(frozen=True)
class Options:
    """What ``gala watch`` accepts."""

    every_s: float = bounded(0.5, POSITIVE)
    """Seconds between two looks."""
    panel: Literal["auto", "on", "off"] = "auto"


def main(argv: Sequence[str]) -> int:
    """``RUN`` and the settings of ``Options``. Returns 0; 1 if the run was killed."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options = parse_options(Options, argv[1:])
    check_bounds(options)
    run_dir = RunDir.open(argv[0])
    panel = Panel(run_dir.config, run_dir.config.steps, options.panel)
    try:
        return watch(run_dir, panel, lambda: time.sleep(options.every_s))
    except KeyboardInterrupt:
        return 0
    finally:
        panel.close()


def watch(run_dir: RunDir, panel: Panel, pause: Callable[[], None]) -> int:
    """Show the run until it ends; ``pause`` is called between two looks. Returns the exit status."""
    follower = Follower(run_dir)
    said, heard, any_yet = "", time.monotonic(), False
    while True:
        state = follower.state()  # before the records: what is logged before the end is then read, too
        records = follower.new_records()
        if records:
            panel.update(records[-1])
            said, heard, any_yet = "", time.monotonic(), True
        if state == "ended":
            return _ended(run_dir, panel, follower)
        if state == "gone":
            return _gone(run_dir, panel, any_yet)
        line = _news(run_dir, state, any_yet, time.monotonic() - heard)
        if line and line != said:
            panel.message(line)
        said = line or said
        pause()


def _news(run_dir: RunDir, state: str, any_yet: bool, silent_s: float) -> str:
    """What else than a record there is to say."""
    if state == "elsewhere" and silent_s > QUIET_S + run_dir.config.log.interval_s:
        return f"no record for a while; whether {run_dir.path} still trains cannot be seen from this machine"
    if not any_yet:
        return f"{run_dir.path} has no records yet: its learners are starting"
    if silent_s > QUIET_S + run_dir.config.log.interval_s:
        return f"no record for more than {QUIET_S:.0f} s, but its process is there: a checkpoint, or it is stopped"
    return ""


def _ended(run_dir: RunDir, panel: Panel, follower: Follower) -> int:
    summary = follower.summary() or {}
    panel.close(summary)
    for line in closing_lines(summary, str(run_dir.path), saved_steps(run_dir), run_dir.config.log.tensorboard):
        panel.message(line)
    return 0


def _gone(run_dir: RunDir, panel: Panel, any_yet: bool) -> int:
    panel.close()
    records = "" if any_yet else " and no records"
    panel.message(f"{run_dir.path}: its process is gone, and has left no summary{records}: it was killed")
    panel.message(f"go on       gala resume {shlex.quote(str(run_dir.path))}")
    return EXIT_GONE
