"""Learners as Ray actors on two nodes, which are two sets of Ray's processes on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mailbox_contract import (
    check_bad_ranks_and_shapes,
    check_progress_and_closing,
    check_that_boxes_add_take_empties_and_replace_replaces,
)

from gala.config.parse import parse_config
from gala.config.validate import validate
from gala.evaluation.evaluate import evaluate_run
from gala.gossip.message import total_mass
from gala.runs.run_dir import RunDir
from gala.training import supervisor

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra cluster"),
    pytest.mark.timeout(1800),
]
PATIENCE_S = 600.0
NODES = ("first", "second")
_HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


@pytest.fixture(scope="module")
def cluster():  # type: ignore[no-untyped-def]
    """Two nodes of two CPUs each; this process is the driver."""
    from gala.cluster import rayctl

    rayctl.keep_to_loopback()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path  # the nodes' processes inherit it
    import ray
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    found = Cluster()
    found.add_node(resources={"first": 9}, include_dashboard=False, _system_config=_HEALTH, **common)
    found.add_node(resources={"second": 9}, **common)
    rayctl.connect(found.address, 2)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def actors(cluster):  # type: ignore[no-untyped-def]
    """Three processes on alternating nodes, which the tests take in turn: starting one takes seconds."""
    from ray_peer import Peer

    from gala.cluster.rayctl import actor

    made = actor(Peer)
    return [made.options(num_cpus=0, resources={NODES[i % 2]: 0.01}).remote() for i in range(3)]


class World:
    """Ranks behind the faces that the contract of mailboxes wants; ``actors`` start anew in it."""

    def __init__(self, actors: list[Any], numel: int) -> None:
        import ray

        from gala.cluster.hub import Hub

        World.epoch += 1
        self.peers, self.numel, n = list(actors), numel, len(actors)
        self.hub = ray.remote(Hub).options(num_cpus=0, resources={"first": 0.01}).remote(n, n, 1, 1)
        ray.get([peer.live.remote(self.hub, rank, World.epoch) for rank, peer in enumerate(actors)], timeout=PATIENCE_S)
        enlisted = [self.hub.enlist.remote(rank, World.epoch, [peer]) for rank, peer in enumerate(actors)]
        ray.get(enlisted, timeout=PATIENCE_S)
        self.all("start", numel)
        self.ends = [End(self, rank) for rank in range(n)]

    epoch = 0

    def all(self, method: str, *args: Any) -> list[Any]:
        import ray

        return ray.get([getattr(peer, method).remote(*args) for peer in self.peers], timeout=PATIENCE_S)

    def in_flight(self) -> tuple[torch.Tensor, float]:
        return total_mass((message for boxes in self.all("boxes") for message in boxes), self.numel)


class End:
    """A mailbox in another process. What it publishes is known to all when the call returns."""

    def __init__(self, world: World, rank: int) -> None:
        self._world, self._peer = world, world.peers[rank]

    def __getattr__(self, name: str) -> Any:
        import ray

        def call(*args: Any, **options: Any) -> Any:
            try:
                if name == "put":
                    return ray.get(self._peer.put.remote(*args, **options), timeout=PATIENCE_S)
                answer = ray.get(self._peer.call.remote(name, *args, **options), timeout=PATIENCE_S)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            for _ in range(2 if name in ("advance", "close", "rest") else 0):
                self._world.all("sync")
            return answer

        return call


def test_no_mass_is_lost_between_learners_on_two_nodes(actors):
    import ray

    n, numel, rounds = 3, 30_000, 40  # envelopes of 120 kB go through Ray's shared memory
    w = World(actors, numel)
    learnt = ray.get([peer.gossip.remote(rank, n, rounds) for rank, peer in enumerate(w.peers)], timeout=PATIENCE_S)
    ends = w.all("drain")
    assert w.in_flight()[1] == 0
    assert sum(weight for _, weight in ends) == pytest.approx(n, abs=1e-9)
    expected = sum(float(rank) for rank in range(n)) + sum(added for _, added in learnt)
    total = sum(weight * z.double() for z, weight in ends)
    assert (total - expected).abs().max() < 1e-4  # float32 rounding of 40 rounds on numbers of size 3
    assert all(received > 0 for received, _ in learnt)


@pytest.mark.long
def test_the_contract_of_every_mailbox(actors):
    w = World(actors, 4)
    check_bad_ranks_and_shapes(w.ends)
    check_that_boxes_add_take_empties_and_replace_replaces(w, w.ends)
    check_progress_and_closing(w.ends)


def test_envelopes_to_a_closed_and_to_a_dead_peer_come_back(actors):
    import ray

    w = World(actors, 4)
    assert w.ends[1].put(2, torch.ones(4), 0.25, 1) and w.in_flight()[1] == 0.25
    w.ends[2].close()
    assert w.in_flight()[1] == 0.25 and w.ends[2].lost_weight() == 0  # what it had not read, it has passed on
    assert w.ends[0].put(2, torch.full((4,), 3.0), 0.5, 2)
    back = w.ends[0].take_back(2)
    assert (back.weight, back.count, back.numerator.tolist()) == (0.5, 1, [3.0] * 4)

    ray.kill(w.peers.pop(1))
    for _ in range(2):
        assert w.ends[0].put(1, torch.full((4,), 3.0), 0.5, 3)
    back = w.ends[0].take_back(1)
    assert (back.weight, back.count, back.numerator.tolist()) == (1.0, 2, [6.0] * 4)


def _words(tmp_path: Path, steps: int) -> list[str]:
    words = ["preset=classic/cartpole", "learners=2", "envs_per_learner=4", "a2c.num_steps=8", "normalize.obs=true"]
    words += ["cluster.address=auto", "torch_threads=1", "device=cpu", f"steps={steps}", f"run={tmp_path / 'run'}"]
    words += ["log.interval_s=0.2", "log.checkpoint_interval_s=1", "log.tensorboard=false", "log.panel=off"]
    return words


def _config(tmp_path: Path, steps: int) -> Any:
    return parse_config(_words(tmp_path, steps))


@pytest.mark.long
@pytest.mark.parametrize(
    "words", [["algo=allreduce"], ["gossip.mixing=allreduce"], ["gossip.overlap=true"], ["gossip.certify=true"]]
)
def test_a_run_on_two_nodes_with_each_way_to_exchange(actors, cluster, tmp_path, words):
    for peer in actors:
        ray_kill(peer)
    config = parse_config([*_words(tmp_path, 20_000), *words])
    validate(config)
    run = RunDir.create(config, [], overwrite=False)
    assert supervisor.train(config, run) == 0 and len(_nodes_of_learners()) == 2
    meta, records = run.checkpoint_meta("latest"), run.read_metrics()
    assert meta["ranks"] == [0, 1] and meta["env_steps"] >= 20_000
    tensors = [run.load_part("latest", f"learner{rank}")[0]["policy"] for rank in range(2)]
    if "allreduce" in words[0]:
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    else:
        assert sum(meta["weights"][0]) == pytest.approx(2, abs=1e-9)
    if "certify" in words[0]:
        bounds = [(r["gossip/consensus_distance"], r["gossip/epsilon_bound"]) for r in records if "epsilon_marks" in r]
        assert bounds and all(distance <= bound for distance, bound in bounds)


def ray_kill(peer: Any) -> None:
    """The CPUs of a test's own actors are none, but their processes take time."""
    import ray

    ray.kill(peer)


def _nodes_of_learners() -> set[str]:
    import ray

    actors = ray._private.state.actors().values()
    return {actor["Address"]["NodeID"] for actor in actors if actor["ActorClassName"].endswith("LearnerActor")}


def _kill_once_it_trains(cluster: Any, run: RunDir, after_steps: int) -> None:
    deadline = time.monotonic() + 5 * PATIENCE_S
    while not (records := run.read_metrics()) or records[-1]["global_step"] <= after_steps:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)


@pytest.mark.long
def test_a_run_on_two_nodes_is_finished_evaluated_and_resumed_and_outlives_a_node(actors, cluster, tmp_path):
    for peer in actors:
        ray_kill(peer)
    config = _config(tmp_path, 30_000)
    validate(config)
    run = RunDir.create(config, [], overwrite=False)
    assert supervisor.train(config, run) == 0
    assert len(_nodes_of_learners()) == 2
    meta = run.checkpoint_meta("latest")
    saved = [run.load_part("latest", f"learner{rank}")[1] for rank in meta["ranks"]]
    assert meta["ranks"] == [0, 1] and meta["env_steps"] == sum(part["env_steps"] for part in saved) >= 30_000
    weights = [part["gossip"]["weight"] for part in saved]
    assert sum(weights) == pytest.approx(2, abs=1e-9) and meta["weights"][0][:2] == weights
    assert any(part["gossip"]["counts"]["received"] > 0 for part in saved)
    assert run.read_metrics()[-1]["gossip/consensus_distance"] > 0
    assert len(evaluate_run(run, episodes=2)["returns"]) == 2

    config = _config(tmp_path, 90_000)
    killer = threading.Thread(target=_kill_once_it_trains, args=(cluster, run, meta["env_steps"]))
    killer.start()
    assert supervisor.train(config, run, resume_from="latest") == 0
    killer.join(PATIENCE_S)
    summary = json.loads((run.path / "summary.json").read_text())
    (failure,) = summary["failures"]
    assert "was lost" in failure["how"] and 0 < failure["lost_weight"] < 2
    last = run.checkpoint_meta("latest")
    assert last["ranks"] == [1 - failure["rank"]] and last["env_steps"] >= 90_000 and summary["status"] == "finished"
