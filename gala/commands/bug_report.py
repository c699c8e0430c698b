"""``gala bug-report [RUN]``: what a maintainer needs to know, without what is private."""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from gala.config.derived import changed_settings
from gala.runs.command_file import read_command
from gala.runs.run_dir import RunDir, versions
from gala.runs.units import number

USAGE = """usage: gala bug-report [RUN]

Print what belongs in a report of a bug, as Markdown: versions, what this
machine offers, and of RUN its settings, how it ended and its last records.

The names of the user and of this machine are replaced, and of every path only
its last part is left. Read it before you send it all the same: the names of
environments and of modules of your own are in it.

  gala bug-report runs/mine > report.md"""
LAST_RECORDS = 3
_TOLD: tuple[str, ...] = ("global_step", "perf/wall_s", "charts/SPS", "charts/episodic_return", "losses/policy_loss")
_TOLD += ("losses/value_loss", "losses/entropy", "gossip/consensus_distance", "gossip/message_age_mean")
_COMMON_NAMES = ("root", "user", "localhost", "admin")
"""Names that are nobody's, and may stand in any text."""


class Private(NamedTuple):
    """What is not to be told."""

    home: str
    user: str
    host: str


def main(argv: Sequence[str]) -> int:
    """``RUN``, perhaps. Returns 0."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    if len(argv) > 1:
        raise ValueError(f"{argv[1]!r}: gala bug-report takes one run, or nothing")
    run_dir = RunDir.open(argv[0]) if argv else None
    print(scrub("\n".join(report(run_dir)), here()))
    return 0


def here() -> Private:
    """What this user and this machine are called."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an id without a name, in a container say
        user = ""
    return Private(os.path.expanduser("~"), user, platform.node())


def scrub(text: str, private: Private) -> str:
    """``text`` without the names of user and machine, and of each absolute path, or path below ``~``, its last part."""
    if len(private.home) > 1:
        text = text.replace(private.home, "~")
    text = _PATH.sub(lambda found: f".../{re.split(_SLASH, found[0].rstrip('/'))[-1]}", text)
    names = {private.user: "USER", private.host: "HOST", private.host.split(".")[0]: "HOST"}
    for name, stands_for in sorted(names.items(), key=lambda pair: -len(pair[0])):
        if len(name) > 1 and name.lower() not in _COMMON_NAMES:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", stands_for, text, flags=re.IGNORECASE)
    return text


_SLASH = r"[/\\]"
_WORD = r"[^\s/\\:,;'\"`<>|()]+"
# A folder may have blanks in its name. Where a setting or an option begins, the path has ended.
_FOLDER = rf"{_SLASH}{_WORD}(?: (?!-)(?!\w*[\w.]*=){_WORD})*(?={_SLASH})"
_PATH = re.compile(rf"(?<![\w.~/-])(?:~|(?:[A-Za-z]:)?)(?:{_FOLDER})*{_SLASH}{_WORD}/?")


def report(run_dir: RunDir | None) -> list[str]:
    """The lines, with all names in them."""
    from gala.commands.doctor import report as facts

    told = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    lines = ["## Versions", "", told, "", "## Machine", "", f"- {platform.platform()}"]
    lines += [f"- {subject}: {text}" for subject, text in facts()]
    return lines + (_of_run(run_dir) if run_dir is not None else [])


def _of_run(run_dir: RunDir) -> list[str]:
    command = read_command(run_dir.path)
    typed = [f"`{command}`", ""] if command else []
    settings = [f"- {name}={value} (default {default!r})" for name, value, default in changed_settings(run_dir.config)]
    lines = ["", "## Settings that differ from their defaults", "", *typed, *settings, "", "## How it ended", ""]
    try:
        summary = run_dir.read_summary()
        lines.append(f"- {summary.get('status')}, signal {summary.get('signal')}, {summary.get('env_steps')} env_steps")
        lines += [f"- failure: {failure}" for failure in summary.get("failures") or []]
    except ValueError:
        lines.append("- no summary: it is still training, or was killed")
    lines.append(f"- checkpoints: {', '.join(run_dir.checkpoints.names()) or 'none'}")
    return [*lines, "", "## Last records", "", *(_record(record) for record in run_dir.read_metrics()[-LAST_RECORDS:])]


def _record(record: dict[str, Any]) -> str:
    return "- " + ", ".join(f"{tag.rpartition('/')[2]} {number(record[tag])}" for tag in _TOLD if tag in record)
