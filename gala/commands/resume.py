"""``gala resume RUN``: continue from a checkpoint, with the settings that the run was started with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gala.config.parse import override
from gala.config.validate import validate
from gala.runs.run_dir import RunDir

MAY_CHANGE = ("steps", "cluster.address", "device", "torch_threads", "env.threads", "log.panel", "log.interval_s")
"""What may differ in the second part of a run; anything else would make it another experiment."""

USAGE = f"""usage: gala resume RUN [checkpoint=NAME] [key=value ...]

Continue RUN from checkpoint NAME, by default from latest, or else from the newest that is whole; a run without one
starts anew. steps=N extends it. May be changed: {", ".join(MAY_CHANGE)}.
Records in metrics.jsonl that are newer than the checkpoint are dropped: those steps are lived through again."""

_CHECKPOINT = "checkpoint="


def main(argv: Sequence[str]) -> int:
    """``RUN``, ``checkpoint=NAME`` and settings from ``MAY_CHANGE``. Returns the exit status of the training."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    run_dir = RunDir.open(argv[0])
    named = [word.removeprefix("--").removeprefix(_CHECKPOINT) for word in argv[1:] if _is_checkpoint(word)]
    config = override(run_dir.config, [word for word in argv[1:] if not _is_checkpoint(word)], MAY_CHANGE)
    config = dataclasses.replace(config, run=str(run_dir.path))  # the directory may have been moved
    validate(config)
    from gala.training import restoring, supervisor

    name, lines = restoring.choose(run_dir, config, named[-1] if named else "")
    done_steps = run_dir.checkpoint_meta(name)["env_steps"] if name else 0
    if config.steps <= done_steps:
        raise ValueError(f"{run_dir.path} has done {done_steps} of {config.steps} env_steps; add steps=N to go on")
    supervisor.connect_cluster(config)
    run_dir.claim()
    for line in lines:
        print(line)
    run_dir.replace_config(config)
    run_dir.rewind_metrics(done_steps if name else -1)
    return supervisor.train(config, run_dir, resume_from=name)


def _is_checkpoint(word: str) -> bool:
    return word.removeprefix("--").startswith(_CHECKPOINT)
