"""Opens a run on a cluster: board, mailboxes and fleet, as ``gala.training.supervisor`` wants them."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gala.build.gossip import max_concurrent_learners
from gala.cluster.actor import MailboxHandle
from gala.cluster.fleet import ParentBoard, ParentMailboxes, RayFleet
from gala.cluster.hub import Hub
from gala.cluster.placement import share
from gala.config import derived
from gala.config.schema import Config
from gala.runs.run_dir import RunDir


def open_job(
    config: Config, run_dir: RunDir, num_params: int, num_moments: int, starters: int
) -> tuple[ParentBoard, ParentMailboxes | None, RayFleet]:
    """(board, mailboxes or None, fleet), for at least ``starters`` learners at once. This process is connected to Ray,
    and ends the actors by ``fleet.kill``."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    places, learners = max_concurrent_learners(config), config.learners
    hub: Any = ray.remote(Hub).options(num_cpus=0, scheduling_strategy=here)
    hub = hub.remote(places, learners, num_params, num_moments)
    board = ParentBoard(hub)
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [r.get("GPU", 0.0) if config.device != "cpu" else 0.0 for r in resources]
    fleet = RayFleet(hub, board, run_dir, share([r.get("CPU", 0.0) for r in resources], gpus, max(learners, starters)))
    if not derived.exchanges_messages(config):
        return board, None, fleet
    handle = (MailboxHandle(num_params, derived.silent_after_s(config)),)
    return board, ParentMailboxes(hub, board.mirror, handle), fleet
