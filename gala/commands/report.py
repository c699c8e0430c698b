"""``gala report RUN``: one page of a run, which opens without a network."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.runs.run_dir import RunDir

USAGE = """usage: gala report RUN [out=FILE.html] [overwrite=true]

Write one page of RUN, to RUN/report.html if nothing else is said: the headline,
what is healthy and what is not, curves, gossip, throughput, what `gala eval`
has found, films, environment, and the settings that differ from their defaults
first. One file, light or dark, that opens without a network. A run that is
still training can be reported too.

A page that this command has written is replaced; any other file only with
overwrite=true. Films are those in RUN, in RUN/films, and of
`gala eval RUN --video FILE.mp4`; small ones are inside the page, others linked."""


@dataclass(frozen=True)
class Options:
    """What ``gala report`` accepts."""

    out: str = ""
    overwrite: bool = False


def main(argv: Sequence[str]) -> int:
    """``RUN`` and the settings of ``Options``. Returns 0."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options = parse_options(Options, argv[1:])
    run_dir = RunDir.open(argv[0])
    from gala.reports.run_report import check_out, write_report

    out = Path(options.out) if options.out else run_dir.path / "report.html"
    check_out(out, options.overwrite)
    print(textwrap.fill(write_report(run_dir, out), 80))
    print(out)
    return 0
