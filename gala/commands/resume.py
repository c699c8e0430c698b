"""``gala resume RUN``: continue from the latest checkpoint, with the settings that the run was started with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gala.config.parse import override
from gala.config.validate import validate
from gala.runs.run_dir import RunDir

MAY_CHANGE = ("steps", "cluster.address", "device", "torch_threads", "env.threads", "log.panel", "log.interval_s")
"""What may differ in the second part of a run; anything else would make it another experiment."""

USAGE = f"""usage: gala resume RUN [key=value ...]

Continue RUN from its latest checkpoint. steps=N extends it. May be changed: {", ".join(MAY_CHANGE)}.
Records in metrics.jsonl that are newer than the checkpoint are dropped: those steps are lived through again."""


def main(argv: Sequence[str]) -> int:
    """``RUN`` and settings from ``MAY_CHANGE``. Returns the exit status of the training."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    run_dir = RunDir.open(argv[0])
    done_steps = run_dir.checkpoint_meta("latest")["env_steps"]
    config = override(run_dir.config, argv[1:], MAY_CHANGE)
    config = dataclasses.replace(config, run=str(run_dir.path))  # the directory may have been moved
    validate(config)
    if config.steps <= done_steps:
        raise ValueError(f"{run_dir.path} has done {done_steps} of {config.steps} env_steps; add steps=N to go on")
    run_dir.claim()
    from gala.training import supervisor

    supervisor.connect_cluster(config)
    run_dir.replace_config(config)
    run_dir.rewind_metrics(done_steps)
    return supervisor.train(config, run_dir, resume=True)
