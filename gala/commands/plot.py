"""``gala plot RUN returns|epsilon-ball``: a figure of a run's records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gala.config.parse import nearest, parse_options
from gala.reports import figures
from gala.runs.run_dir import RunDir

FIGURES: dict[str, tuple[Callable[[Sequence[figures.Record], str, Path], None], str]] = {
    "returns": (figures.returns, "learning curve: return of the last 100 episodes over env_steps"),
    "epsilon-ball": (figures.epsilon_ball, "distance between the learners and its bound (gossip.certify=true)"),
}

_ROWS = "\n".join(f"  {name:<14}{text}" for name, (_, text) in FIGURES.items())
USAGE = f"""usage: gala plot RUN FIGURE [out=FILE.png|FILE.svg] [overwrite=true]

Draw a figure of the records of RUN, to RUN/FIGURE.png if nothing else is said.

{_ROWS}"""


@dataclass(frozen=True)
class Options:
    """What ``gala plot RUN FIGURE`` accepts."""

    out: str = ""
    overwrite: bool = False


def main(argv: Sequence[str]) -> int:
    """``RUN``, the figure's name, and the settings of ``Options``. Returns 0."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    run_dir = RunDir.open(argv[0])
    name = argv[1] if len(argv) > 1 else ""
    if name not in FIGURES:
        raise ValueError(f"figure {name!r}: wants one of {', '.join(FIGURES)}{nearest(name, FIGURES)}")
    options = parse_options(Options, argv[2:])
    path = Path(options.out) if options.out else run_dir.path / f"{name}.png"
    figures.check_output(path, options.overwrite)
    records = run_dir.read_metrics()
    if not records:
        raise ValueError(f"{run_dir.path} has no records yet; let it train for longer")
    FIGURES[name][0](records, str(run_dir.path), path)
    print(path)
    return 0
