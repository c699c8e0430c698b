"""``gala replay RUN``: repeat a recorded asynchronous run, and compare each learner's parameters with the run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gala.commands.trusted import check_run
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.runs.run_dir import RunDir

USAGE = """usage: gala replay RUN [trust=true]

Runs all learners of a run that was trained with gossip.record=true in one
process, from the seed and the record, and compares the parameters that each
ends with. Exit status 0 if they are equal to the last bit, 1 if not."""


@dataclass(frozen=True)
class Options:
    """What ``gala replay`` accepts."""

    trust: bool = False


def main(argv: Sequence[str]) -> int:
    """``RUN``. Returns 0, or 1 if a learner ended elsewhere."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options, run_dir = parse_options(Options, argv[1:]), RunDir.open(argv[0])
    check_run(run_dir, options.trust, "replay", argv)
    from gala.training.replay import check_replayable, replay

    check_replayable(run_dir)
    hashes = replay(run_dir)
    for rank, (was, now) in enumerate(hashes):
        print(f"learner {rank}  {was}  {'the same' if was == now else f'replayed as {now}'}")
    return 0 if all(was == now for was, now in hashes) else 1
