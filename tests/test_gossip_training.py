"""Training with the settings of the gossip, in real processes."""

from __future__ import annotations

import pytest
from training import TINY, Gala, distance, parts, same, status, total_weight

from gala.runs.run_dir import RunDir


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["gossip.tau=0"], marks=pytest.mark.long),
        ["gossip.tau=1", "gossip.at_bound=wait", "gossip.every=4"],
    ],
    ids=["tau0", "wait"],
)
def test_learners_that_wait_for_each_other_survive_checkpoints_and_the_end(tmp_path, words):
    """Learner 1 is slow. Where one stands still, for a checkpoint or at its end, no other may wait for its messages."""
    words = [*words, "algo=gala", "learners=2", "env.id=helper_envs:Slow-v0", "gossip.wait_timeout_s=60", "steps=2_000"]
    code, _, err = Gala(tmp_path / "run", *TINY, *words).end()
    run = RunDir.open(tmp_path / "run")
    assert (code, err, status(run)) == (0, "", "finished")
    assert len(run.checkpoints.names()) >= 3
    for name in run.checkpoints.names():
        assert abs(total_weight(run, name) - 2) < 1e-9
        assert abs(sum(weight for _, meta in parts(run, name) for _, weight in meta["slice_weights"]) - 2) < 1e-9
        if "gossip.tau=0" in words:
            assert len({meta["updates"] for _, meta in parts(run, name)}) == 1


@pytest.mark.long
def test_an_exact_average_in_lock_step_and_slow_momentum_survive_checkpoints(tmp_path):
    words = ["algo=gala", "learners=2", "gossip.mixing=allreduce", "gossip.every=2", "slowmo.every=3", "steps=2_000"]
    assert Gala(tmp_path / "run", *TINY, *words).end()[0] == 0
    run = RunDir.open(tmp_path / "run")
    (a, meta), (b, other) = parts(run)
    assert meta["updates"] == other["updates"] == 2_000 // 16
    assert int(a["slowmo"]["updates"]) == meta["updates"] and float(a["slowmo"]["u0"].abs().max()) > 0
    assert 0 < distance(a, b) < 0.1  # one update (and a slow step) apart since the last average
    resumed = Gala(run.path, "steps=2_432", "schedule=stretch", command="resume")
    assert resumed.end()[0] == 0
    (a, meta), (b, _) = parts(run)
    assert int(a["slowmo"]["updates"]) == meta["updates"] == 152  # an average, and no slow step of each learner's own
    assert same({"policy": a["policy"]}, {"policy": b["policy"]})


def test_learners_that_apply_the_same_gradients_are_told_to_be_together(tmp_path):
    """What each published last was of different updates before: 0.02 to 0.09 apart, as far as gossip's learners are."""
    words = ["algo=allreduce", "learners=2", "steps=60_000", "log.interval_s=0.1"]
    assert Gala(tmp_path / "run", *TINY, *words).end()[0] == 0
    distances = [r["gossip/consensus_distance"] for r in RunDir.open(tmp_path / "run").read_metrics()]
    assert len(distances) > 4 and set(distances) == {0.0}


@pytest.mark.long
def test_sharded_encoded_overlapped_gossip_loses_no_weight(tmp_path):
    graph = tmp_path / "graph.txt"
    graph.write_text("0 1\n1 2\n2 0\n---\n0 2 0.25\n2 1\n1 0\n")
    words = ["algo=gala", "learners=3", "gossip.shards=3", "gossip.codec=int8", "gossip.overlap=true", "steps=4_000"]
    code, _, err = Gala(tmp_path / "run", *TINY, *words, f"topology={graph}").end()
    run = RunDir.open(tmp_path / "run")
    assert (code, err) == (0, "")
    for name in run.checkpoints.names():
        states = [meta["gossip"]["shards"] for _, meta in parts(run, name)]
        for shard in range(3):
            assert abs(sum(state[shard]["weight"] for state in states) - 3) < 1e-9
        for state, (_, meta) in zip(states, parts(run, name), strict=True):
            assert [weight for _, weight in meta["slice_weights"]] == [shard["weight"] for shard in state]
    last = run.read_metrics()[-1]
    assert last["gossip/bytes_sent"] > 0 and sum(last["message_ages"].values()) > 0
    spread = [distance(parts(run)[i][0], parts(run)[j][0]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert all(0 < d < 0.5 for d in spread), spread


@pytest.mark.long
def test_a_certified_run_stays_in_its_ball_through_a_resumption(tmp_path):
    words = ["algo=gala", "learners=3", "gossip.certify=true", "gossip.overlap=true", "gossip.every=2", "steps=4_000"]
    assert Gala(tmp_path / "run", *TINY, *words, "slowmo.every=8").end()[0] == 0
    assert Gala(tmp_path / "run", "steps=6_000", "schedule=stretch", command="resume").end()[0] == 0
    run = RunDir.open(tmp_path / "run")
    points = [r for r in run.read_metrics() if "gossip/epsilon_bound" in r]
    assert len(points) >= 2 and points[-1]["global_step"] >= 6_000
    assert all(0 < r["gossip/consensus_distance"] <= r["gossip/epsilon_bound"] for r in points)
    assert len(list((run.path / "gossip").iterdir())) == 6  # one log for each learner and process
