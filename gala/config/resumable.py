"""Which settings may differ in the second part of a run; anything else would make it another experiment."""

from __future__ import annotations

THREADS = ("torch_threads", "env.threads")
PLACE_AND_PACE = ("steps", "cluster.address", "device", *THREADS)
PATIENCE = ("env.watchdog_s", "gossip.wait_timeout_s", "log.checkpoint_interval_s", "max_restarts")
WATCHING: tuple[str, ...] = (
    "log.panel",
    "log.interval_s",
    "log.max_records",
    "diagnose.curvature",
    "diagnose.eigenvalues",
    "diagnose.noise",
)
WATCHING += ("diagnose.dead_units", "track", "log.video_every")
MAY_CHANGE = (*PLACE_AND_PACE, *PATIENCE, *WATCHING)
SAME_EXPERIMENT = frozenset((*THREADS, *PATIENCE, *WATCHING))
"""Those of them that do not decide what is learned: runs that differ in these alone are seeds of one group."""
