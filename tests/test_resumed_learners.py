"""Which learners a resumed run starts, that all the PushSum weight that was saved is theirs, and what is kept as the
best."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
import torch

from gala.build.gossip import make_mailboxes, max_concurrent_learners
from gala.config.parse import parse_config
from gala.gossip.transport.roster import ABSENT, PRESENT
from gala.processes.fleet import Event
from gala.runs.run_dir import RunDir
from gala.training.board import Board
from gala.training.callbacks import Callbacks
from gala.training.loop import Run
from gala.training.telemetry import Telemetry


class _Fleet:
    """Starts nobody, and notes who is to be."""

    host = "127.0.0.1"

    def __init__(self):
        self.spawned, self.told = [], []

    def spawn(self, spec):
        self.spawned.append((spec.rank, spec.resume_from))

    def tell(self, rank, command):
        self.told.append((rank, command))

    def room(self):
        return None


@pytest.fixture
def run(tmp_path):
    opened = []

    def make(*words):
        config = parse_config(["env.id=CartPole-v1", "steps=1000", *words])
        places = max_concurrent_learners(config)
        board, mailboxes = Board.create(places, 3, 0), make_mailboxes(config, 3)
        messages = []
        panel = SimpleNamespace(message=messages.append)
        telemetry, fleet = Telemetry(places, 1), _Fleet()
        made = Run(config, RunDir(tmp_path, config), board, telemetry, panel, fleet, mailboxes, Callbacks())
        opened.extend(filter(None, (board, mailboxes)))
        return made, fleet, messages

    yield make
    for memory in opened:
        memory.close()


def saved(weights, **parent):
    ranks = [rank for rank, weight in enumerate(weights) if weight]
    whole = {"telemetry": Telemetry(4, 1).state(), "best": {"window": [], "scores": [None, None]}}
    return {"ranks": ranks, "weights": [weights], "return_mean": None, "parent": whole | parent}


GALA = ("algo=gala", "learners=2", "max_learners=4")


def test_a_run_that_was_scaled_up_goes_on_with_all_and_their_weight(run):
    made, fleet, messages = run(*GALA)
    made.start("latest", saved([0.75, 0.5, 0.25, 0.5], elasticity={"wanted": 4, "failures": []}))
    table = made.mailboxes.shards[0].table
    assert fleet.spawned == [(rank, "latest") for rank in range(4)] and not messages
    assert table.state.tolist() == [PRESENT] * 4 and table.total_weight() == 2.0
    assert made.states.ranks("starting") == [0, 1, 2, 3]


def test_a_run_that_was_scaled_down_stays_so(run):
    made, fleet, messages = run("algo=gala", "learners=4")
    assert made.elasticity.state()["wanted"] == 4
    made.start("latest", saved([1.5, 0.0, 2.5, 0.0], elasticity={"wanted": 2, "failures": []}))
    made.states.move(0, "running")
    made.elasticity.advance()
    table = made.mailboxes.shards[0].table
    assert [rank for rank, _ in fleet.spawned] == [0, 2] and not fleet.told and not messages
    assert table.state.tolist() == [PRESENT, ABSENT, PRESENT, *[ABSENT] * 5] and table.total_weight() == 4.0
    made.elasticity.scale(3)
    assert made.elasticity.state()["wanted"] == 3


def test_a_learner_that_was_lost_comes_back_from_a_live_one_where_they_average(run):
    made, fleet, messages = run("algo=gala", "learners=3")
    made.start("latest", saved([1.5, 0.0, 1.0]))
    made.states.move(2, "running")
    made.elasticity.advance()
    assert [rank for rank, _ in fleet.spawned] == [0, 2] and fleet.told == [(2, "donate")]
    assert messages == ["learner 1 is not in the checkpoint: it starts from a live learner's state"]
    assert made.mailboxes.shards[0].table.total_weight() == 2.5


@pytest.mark.parametrize("words", [("algo=independent",), ("algo=gala", "gossip.mixing=none")])
def test_a_learner_that_was_lost_is_not_replaced_by_another_network(run, words):
    made, fleet, messages = run(*words, "learners=3")
    made.start("latest", saved([1.0, 0.0, 1.0]))
    made.states.move(0, "running")
    made.elasticity.advance()
    assert [rank for rank, _ in fleet.spawned] == [0, 2] and not fleet.told
    assert messages == ["learner 1 is not in the checkpoint and stays away: no other knows its state"]


def test_failures_of_earlier_parts_are_told_and_leave_the_restarts_to_this_one(run):
    made, _fleet, _ = run(*GALA, "on_failure=restart", "max_restarts=1")
    before = [{"rank": 1, "how": "learner 1 was killed", "lost_weight": 0.5, "lost_share": 0.25, "time_s": 1.0}]
    made.start("latest", saved([0.75, 0.75], elasticity={"wanted": 2, "failures": before}))
    made.states.remove(1)
    made.elasticity.died(1, "learner 1 failed")
    assert [failure["how"] for failure in made.elasticity.failures] == ["learner 1 was killed", "learner 1 failed"]
    assert made.elasticity.consequence(1).startswith("it starts again")


def test_the_first_part_starts_those_that_were_asked_for(run):
    made, fleet, messages = run(*GALA)
    made.start("", {})
    assert fleet.spawned == [(0, ""), (1, "")] and not messages


def test_the_newest_policy_is_saved_as_the_best_when_it_is_and_not_when_it_is_worse(run, monkeypatch):
    """Two episodes of each simulator are a window; two in a row above what was kept are a best."""
    made, fleet, _ = run("algo=a2c", "envs_per_learner=50", "log.checkpoint_interval_s=40")
    made.telemetry = SimpleNamespace(add=lambda *_: None, record=lambda *_: {"global_step": 0}, warnings=lambda *_: [])
    made.panel.update = lambda record: None
    made.states.move(0, "running")
    start, kept = time.monotonic(), []
    for i, value in enumerate((3.0, 4.0, 1.0, 2.0, 6.0, 5.0)):
        monkeypatch.setattr("time.monotonic", lambda i=i: start + 11.0 * (i + 1))
        made._handle(Event(0, "metrics", {"rows": [*range(50)] * 2, "returns": [value] * 100}))
        made._log()
        kept.append((made.checkpoint.names, made.checkpoint.best))
        made.checkpoint.names = []  # as if it were taken at once
    no, best = [], ["latest", "best"]
    assert kept == [(no, -math.inf), (best, 4.0), (no, 4.0), (no, 4.0), (no, 4.0), (best, 5.0)]
    assert fleet.told == [(0, "pause")] * 2


@pytest.mark.parametrize(
    ("names", "mean", "best"), [(["best"], 4.0, 4.0), ([], 4.0, -math.inf), (["best"], None, -math.inf)]
)
def test_a_resumed_run_has_its_best_to_beat_if_that_is_still_there(run, names, mean, best):
    made, _, _ = run("algo=a2c")
    made.run_dir.write_part("staging", "learner0", {"policy": {"w": torch.zeros(1)}}, {})
    made.run_dir.commit_checkpoint("staging", ["latest", *names], {})
    made.start("latest", saved([1.0]) | {"return_mean": mean})
    assert made.checkpoint.best == best
