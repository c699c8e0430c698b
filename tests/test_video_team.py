"""``gala video train learners=N``: the processes are what one process computes for all, and end together."""

import dataclasses
import json
import os
import shlex
import signal
import sys

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from training import Gala

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.runs.checkpoints import Checkpoints
from gala.supervised import video
from gala.supervised.video_checkpoint import load_consensus

TINY = (
    *("data=wall-bounce", "frames=3", "context=1", "scales=2", "width=4", "latent=2", "batch_size=2"),
    *("log_every=2", "slowmo.every=3", "warm_up=2"),
)


def parts(out, learners):
    checkpoints = Checkpoints(out / "checkpoints")
    return [checkpoints.load_part("latest", f"learner{rank}") for rank in range(learners)]


def flat(tensors, like):
    like.load_state_dict(tensors["model"])
    return parameters_to_vector(like.parameters()).detach().clone()


def simulate(config):
    """All learners in this process, in lock-step: each its iteration, then all send, then all receive."""
    n = config.learners
    models = [video.make_model(config) for _ in range(n)]
    boxes = InProcessMailboxes(n, sum(p.numel() for p in models[0].parameters()))
    averagers = [
        GossipAverager(
            list(model.parameters()),
            rank=rank,
            world_size=n,
            mailbox=boxes.endpoint(rank),
            topology=config.topology,
            tau=0,
        )
        for rank, model in enumerate(models)
    ]

    class Later:
        """In the place of the averager: the messages are seen to once all have done their step."""

        def step(self):
            pass

    learners = [video.make_learner(config, model, 0, rank, Later()) for rank, model in enumerate(models)]
    slow = [learner.learning_step.slowmo for learner in learners]
    for learner in learners:
        learner.learning_step.slowmo = None
    loops = [video.train(config, learner, 0, lambda row: None, rank=rank) for rank, learner in enumerate(learners)]
    for _ in range(config.iterations):
        for loop in loops:
            next(loop)
        for averager in averagers:
            averager.send()
        for averager in averagers:
            averager.receive()
        for momentum in slow:
            momentum.step()
    return models


@pytest.mark.long
@pytest.mark.parametrize("first", [5, pytest.param(2, marks=pytest.mark.long)])
def test_a_team_is_its_simulation_in_one_process(tmp_path, first):
    """``first``: iterations before it is resumed."""
    out = tmp_path / "run"
    words = (*TINY, "learners=2", "tau=0")
    assert cli.main(["video", "train", *words, f"iterations={first}", f"out={out}"]) == 0
    if first < 5:
        (out / "metrics.jsonl").open("a").write('{"iteration": 3, "wall_s": 0}\n')  # past the checkpoint
        assert cli.main(["video", "resume", str(out), "iterations=5"]) == 0
    config = parse_options(VideoConfig, [*words, "iterations=5"])
    expected, saved, like = simulate(config), parts(out, 2), video.make_model(config)
    vectors = [flat(tensors, like) for tensors, _ in saved]
    for model, vector in zip(expected, vectors, strict=True):
        assert torch.allclose(parameters_to_vector(model.parameters()), vector, atol=1e-6)
    alone = simulate(dataclasses.replace(config, learners=1))[0]
    assert not torch.allclose(parameters_to_vector(alone.parameters()), vectors[0], atol=1e-4)
    assert [(meta["iteration"], meta["gossip"]["weight"]) for _, meta in saved] == [(5, 1.0)] * 2
    assert load_consensus(config, out, like) == 5
    assert torch.allclose(parameters_to_vector(like.parameters()), (vectors[0] + vectors[1]) / 2, atol=1e-6)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 4, 5] and rows[0]["nats"] > 0
    assert {p.name for p in out.glob("*.png")} == {f"samples-{done:07d}.png" for done in (first, 5)}


def test_the_consensus_weighs_learners_by_their_push_sum_weight(tmp_path):
    config = parse_options(VideoConfig, [*TINY, "learners=2"])
    checkpoints, like = Checkpoints(tmp_path / "checkpoints"), video.make_model(config)
    states = [{k: torch.full_like(v, float(rank)) for k, v in like.state_dict().items()} for rank in (1, 4)]
    for rank, weight in enumerate((1.5, 0.5)):
        tensors = {"model": states[rank]}
        checkpoints.write_part("staging", f"learner{rank}", tensors, {"gossip": {"weight": weight}})
    checkpoints.commit("staging", ["latest"], {"iteration": 7})
    assert load_consensus(config, tmp_path, like) == 7
    assert torch.allclose(parameters_to_vector(like.parameters()), torch.tensor((1.5 * 1 + 0.5 * 4) / 2))


def start(out, *words):
    argv = [sys.executable, "-m", "gala", "video", *words, *TINY, "learners=3", f"out={out}"]
    gala = Gala(out, program=shlex.join([*argv, "iterations=1000000", "save_every=1000000"]))
    gala.wait_for((out / "metrics.jsonl").is_file, "record")
    return gala


@pytest.mark.long
@pytest.mark.parametrize(("tau", "number"), [(-1, signal.SIGINT), (0, signal.SIGTERM), (3, signal.SIGTERM)])
def test_a_signal_saves_all_learners_and_leaves_no_process(tmp_path, tau, number):
    out = tmp_path / "run"
    gala = start(out, "train", f"tau={tau}")
    os.killpg(gala.process.pid, number)
    status, said, _ = gala.end()
    assert status == 128 + number and "goes on" in said
    metas = [meta for _, meta in parts(out, 3)]
    assert sum(meta["gossip"]["weight"] for meta in metas) == pytest.approx(3)  # no mass was left under way
    done = [meta["iteration"] for meta in metas]
    assert done[0] >= 2 and (tau or len(set(done)) == 1)
    assert cli.main(["video", "resume", str(out), f"iterations={max(done) + 2}"]) == 0
    assert [meta["iteration"] for _, meta in parts(out, 3)] == [max(done) + 2] * 3


@pytest.mark.long
@pytest.mark.parametrize("victim", ["learner", "parent"])
def test_whoever_is_killed_all_end(tmp_path, victim):
    gala = start(tmp_path / "run", "train", "tau=0")
    os.kill(gala.learners()[1] if victim == "learner" else gala.process.pid, signal.SIGKILL)
    status, _, error = gala.end()
    if victim == "learner":
        assert status == 1 and "was killed by SIGKILL; the run has ended." in error and "Traceback" not in error


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes")
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path):
    import resource

    gala = start(tmp_path / "run", "train", "tau=0")
    for pid in gala.learners():  # as if the disk were full
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    gala.ctrl_c()
    status, _, error = gala.end()
    assert status == 1 and "Traceback" not in error and error.count("cannot be written: File too large") == 1
    assert "gala video resume" not in error  # there is no checkpoint to go on from


def test_a_graph_that_the_learners_cannot_form_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (("learners=3", "topology=star-wars"), "unknown topology 'star-wars'"),
        (("learners=0",), "learners=0"),
    ):
        assert cli.main(["video", "train", *TINY, *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
