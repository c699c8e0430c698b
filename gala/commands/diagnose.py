"""``gala diagnose RUN``: judge a checkpoint, and write what was found as JSON, pictures and one page."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any

from gala.commands.trusted import check_run
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.diagnostics.finding import Finding
from gala.diagnostics.registry import DIAGNOSTICS
from gala.evaluation.frozen import Frozen, load_frozen
from gala.files.whole import write_atomically
from gala.processes.output import is_terminal
from gala.reports.diagnosis import draw, page
from gala.reports.figures import check_matplotlib
from gala.runs.run_dir import RunDir
from gala.runs.writable import make_folder

_SWITCHES = "[" + "|".join(DIAGNOSTICS) + "=true ...]"
_ROWS = "\n".join(f"  {name:<12}{diagnostic.summary}" for name, diagnostic in DIAGNOSTICS.items())
USAGE = f"""usage: gala diagnose RUN
                     {_SWITCHES}
                     [checkpoint=latest|best|NAME] [envs=32] [batches=8]
                     [seed=1000] [out=FOLDER] [trust=true]

Judges a checkpoint on new experience: `batches` rollouts of `envs` simulators.
Without a name, with all of:

{_ROWS}

Writes diagnose.json, a figure for each finding and diagnose.html to
RUN/diagnose if nothing else is said."""

_COMMON: list[tuple[str, type, Any]] = [
    ("checkpoint", str, "latest"),
    ("envs", int, 32),
    ("batches", int, 8),
    ("seed", int, 1000),
    ("out", str, ""),
    ("trust", bool, False),
]
Options = make_dataclass(
    "Options",
    [(name, kind, field(default=value)) for name, kind, value in (*_COMMON, *((d, bool, False) for d in DIAGNOSTICS))],
    frozen=True,
)
"""What ``gala diagnose`` accepts: a switch for every diagnostic that is registered."""


def main(argv: Sequence[str]) -> int:
    """``RUN`` and the settings of ``Options``. Returns 0."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options: Any = parse_options(Options, argv[1:])
    run_dir = RunDir.open(argv[0])
    for name, least in (("envs", 2), ("batches", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
    check_matplotlib()
    check_run(run_dir, options.trust, "diagnose", argv)
    run_dir.checkpoint_meta(options.checkpoint)
    named = [name for name in DIAGNOSTICS if getattr(options, name)]
    folder = Path(options.out) if options.out else run_dir.path / "diagnose"
    make_folder(folder)
    frozen = load_frozen(run_dir, options.checkpoint, envs=options.envs, batches=options.batches, seed=options.seed)
    findings = _findings(frozen, named)
    record = {name: finding.numbers for name, finding in findings.items()}
    record |= {"checkpoint": options.checkpoint, "envs": options.envs, "batches": options.batches, "seed": options.seed}
    write_atomically(folder / "diagnose.json", json.dumps(_finite(record), indent=2).encode())
    page(findings, draw(findings, folder), f"{run_dir.path} · {options.checkpoint}", folder / "diagnose.html")
    for finding in findings.values():
        print("\n".join([finding.title, *(textwrap.fill(line, 80) for line in finding.sentences)]) + "\n")
    print(folder / "diagnose.html")
    return 0


def _findings(frozen: Frozen, named: Sequence[str]) -> dict[str, Finding]:
    """What was asked for by name, or all that there can be, by name of the diagnostic."""
    findings = {}
    for name in named:
        DIAGNOSTICS[name].check(frozen)
    for name in named or DIAGNOSTICS:
        if is_terminal(sys.stderr):
            print(f"{name}: looking at {frozen.config.env.id} ...", file=sys.stderr, flush=True)
        try:
            findings[name] = DIAGNOSTICS[name].judge(frozen)
        except ValueError as error:
            if named:
                raise
            print(textwrap.fill(f"{name}: {error}", 80, subsequent_indent="    ", break_on_hyphens=False))
    return findings


def _finite(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None
