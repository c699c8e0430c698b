"""Learners of a cluster that are lost, or cannot be reached: books, envelopes, checkpoints. Calls of actors are plain
calls here, so nothing of Ray is started."""

from __future__ import annotations

import importlib.util
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gala.cluster.hub import Hub, Row
from gala.config.schema import Config, GossipConfig
from gala.gossip.transport.inbox import Envelope, Inbox
from gala.gossip.transport.outbox import Outbox
from gala.gossip.transport.roster import PRESENT
from gala.training.elasticity import Elasticity
from gala.training.protocol import LearnerStates

ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra cluster")


class Called:
    """An actor's handle whose calls are made at once."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._actor, name)
        return SimpleNamespace(remote=call, options=lambda **_: SimpleNamespace(remote=call))


@pytest.fixture
def hub(monkeypatch):
    """A hub of three learners, as a handle."""
    from gala.cluster import rayctl

    rayctl.keep_to_loopback()  # before the import of Ray, for those tests of this process that start it
    from gala.cluster import member

    monkeypatch.setattr(member.ray, "get", lambda answer, timeout=0: answer)
    return Called(Hub(places=3, present=3, num_params=2, num_moments=1))


def member(hub: Any, rank: int, epoch: int) -> Any:
    """A learner's share in the run, with a thread that never visits: tests call ``sync``."""
    from gala.cluster import member as members

    made = members.Member(hub, rank, epoch)
    hub.enlist.remote(rank, epoch, [None])
    made.mirror = members.Mirror(hub.rows.remote(), rank)
    made.sync()
    return made


def envelope(src: int, epoch: int, number: int, weight: float = 0.5) -> Envelope:
    return Envelope(src, epoch, number, np.full(2, 9.0, np.float32), weight, number, False)


def publish(hub: Any, rank: int, weight: float, in_boxes: float = 0.0, epoch: int = 1) -> None:
    hub.sync.remote(rank, epoch, Row(0, 1, 1, PRESENT, weight, 0, in_boxes, (3, 1), None), 0)


@ray_only
def test_what_arrives_of_a_learner_that_was_declared_lost_counts_for_nothing(hub):
    reader, lost = member(hub, 0, 1), member(hub, 1, 2)
    reader.sync()
    assert reader.inbox.deliver(envelope(1, 2, 1))
    hub.bury.remote(1)
    hub.dismiss.remote(1)
    reader.sync()
    assert not reader.inbox.deliver(envelope(1, 2, 2)), "its weight is written off"
    assert reader.inbox.deliver(envelope(1, 2, 1)), "this one it had before, and its sender must not get it back"
    message, _ = reader.inbox.take(1)
    assert (message.weight, message.count) == (0.5, 1)

    hub.admit.remote(1)
    hub.enlist.remote(1, 3, [None])
    assert reader.inbox.deliver(envelope(1, 3, 1)), "a new life of the rank is welcome, also before the hub tells of it"
    reader.sync()
    assert not reader.inbox.deliver(envelope(1, 2, 3)) and reader.inbox.deliver(envelope(1, 3, 2))

    lost.say("metrics", "of the lost")
    lost.publish_params(np.full(2, 5.0), 1, 1.0)
    assert hub.poll.remote(np.zeros(2, np.int64))[0] == [] and not hub.params.remote([1])[0].any()


def test_what_a_learner_said_before_it_was_declared_lost_is_not_heard_after():
    hub = Hub(places=2, present=2, num_params=2, num_moments=1)
    row = Row(0, 0, 0, PRESENT, 1.0, 0, 0.0, (0, 0), None)
    for rank in range(2):
        hub.enlist(rank, 1, [None])
        hub.say(rank, 1, row, 1, "paused", None)
    hub.dismiss(0)
    hub.say(0, 1, row, 2, "metrics", None)
    assert hub.poll(np.zeros(2, np.int64))[0] == [(1, "paused", None)]


@ray_only
def test_the_share_that_died_is_of_all_there_was(hub):
    from gala.cluster.fleet import MailboxHandle, ParentBoard, ParentMailboxes

    for rank, weight in enumerate((0.5, 1.0, 1.25)):
        hub.enlist.remote(rank, 1, [None])
        publish(hub, rank, weight, in_boxes=0.25 if rank == 0 else 0.0)
    board = ParentBoard(hub)
    boxes = ParentMailboxes(hub, board.mirror, (MailboxHandle(2, 10.0),))
    elasticity = _elasticity(boxes)
    elasticity.died(2, "learner 2 was lost")
    assert elasticity.failures[0]["lost_share"] == pytest.approx(1.25 / 3.0)
    assert boxes.left_weight() == 1.75, "known at once, and not with the next poll"
    assert board.beats.tolist()[0] == [3, 1], "a simulator that hangs can be noticed"


class Boxes:
    """The parent's side, with weights that a test sets."""

    def __init__(self, held: dict[int, float], heard: dict[int, float]) -> None:
        self.held, self.heard = held, heard

    def bury(self, rank: int) -> float:
        del self.held[rank]
        return self.heard[rank]

    def left_weight(self) -> float:
        return sum(self.held.values())


def _elasticity(boxes: Any, mixing: Any = "pushsum") -> Elasticity:
    states = LearnerStates()
    for rank in range(3):
        states.move(rank, "running")
    config = Config(algo="gala", learners=3, gossip=GossipConfig(mixing=mixing))
    return Elasticity(config, states, None, boxes, None)  # type: ignore[arg-type]


def test_the_books_are_put_right_when_all_stand_still():
    boxes = Boxes({0: 1.0, 1: 1.0, 2: 1.0}, heard={1: 0.8, 2: 0.25})
    elasticity = _elasticity(boxes)
    assert elasticity.weigh() == ""
    boxes.held[0] += 0.8  # what the dead one had given away since its last visit
    boxes.held[1] -= 0.8
    elasticity.died(1, "learner 1 was lost")
    assert elasticity.failures[0]["lost_weight"] == 0.8, "four times what it took along"
    assert elasticity.weigh() == "learner 1: 7% of the PushSum weight is gone, not 22%"
    assert elasticity.failures[0]["lost_weight"] == pytest.approx(0.2)
    assert elasticity.failures[0]["lost_share"] == pytest.approx(0.2 / 3)
    assert elasticity.weigh() == "", "once"

    boxes.held[0] += 0.75
    boxes.held[2] -= 0.75
    elasticity.died(2, "learner 2 was lost")
    assert elasticity.weigh() == "" and elasticity.failures[1]["lost_weight"] == pytest.approx(0.25)
    assert elasticity.failures[1]["lost_share"] == pytest.approx(0.25 / 2.8)


def test_copies_have_no_mass_to_be_weighed():
    elasticity = _elasticity(Boxes({0: 1.0, 1: 1.0, 2: 1.0}, heard={1: 0.8}), "copy-average")
    elasticity.weigh()
    elasticity.died(1, "learner 1 was lost")
    assert elasticity.weigh() == "" and elasticity.failures[0]["lost_weight"] == 0.8


class Unanswered:
    """A carrier of which only receiver 1 ever answers."""

    def __init__(self) -> None:
        self.inbox = Inbox()

    def send(self, dst: int, one: Envelope) -> tuple[int, bool]:
        return dst, dst == 1 and self.inbox.deliver(one)

    def settled(self, receipts: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
        return [receipt for receipt in receipts if receipt[1]]

    def status(self, receipt: tuple[int, bool]) -> str:
        return "delivered"


def test_a_learner_that_comes_to_rest_does_not_wait_for_those_whom_nobody_reaches():
    outbox, slept, reached = Outbox(Unanswered(), rank=0, epoch=1), [], {1, 2}  # type: ignore[arg-type]

    def sleep(step_s: float) -> None:
        slept.append(step_s)
        if sum(slept) > 0.1:
            reached.discard(2)

    for dst in (1, 2):
        assert outbox.put(dst, np.ones(2, np.float32), 0.25, 1, False)
    assert not outbox.flush(20.0, sleep, reached.__contains__)
    assert 0.1 < sum(slept) < 0.2 and outbox.under_way_to() == [2], "it is still to arrive, and nobody's mass is lost"
    assert not outbox.flush(20.0, sleep, reached.__contains__) and sum(slept) < 0.2


@ray_only
def test_who_has_not_visited_the_hub_for_a_while_is_not_reached(hub, monkeypatch):
    from gala.cluster.member import UNREACHABLE_AFTER_S
    from gala.gossip.transport.remote import RemoteEndpoint

    one, other = member(hub, 0, 1), member(hub, 1, 2)
    one.sync()
    assert one.reaches(1) and one.reaches(2), "who has never been there may be on its way"
    clock = time.monotonic() + UNREACHABLE_AFTER_S + 1
    monkeypatch.setattr("gala.cluster.mirror.time.monotonic", lambda: clock)
    assert not one.reaches(1)
    one.carrier.learners, one.carrier.settled = [None, Called(other.inbox), None], lambda receipts: []
    end = RemoteEndpoint(one, 2, 10.0)
    assert end.put(1, torch.ones(2), 0.25, 1)
    began = time.perf_counter()
    end.rest(True)
    assert time.perf_counter() - began < 10.0, "and not for the 20 s that an envelope may take"


@ray_only
def test_nobody_is_lost_who_was_suspended_with_all_the_others(hub, monkeypatch):
    """A laptop that sleeps, a job that is stopped for a while: the parent wakes up before the learners do."""
    from gala.cluster import fleet as fleets

    ended, now = [], [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    fleet = fleets.RayFleet(hub, None, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(fleet, "_end", lambda rank: ended.append(rank) or "was lost")
    fleet._lives = dict.fromkeys(range(3))
    rows = hub.rows.remote()

    def pass_s(seconds: float, unseen_s: list[float]) -> None:
        for _ in range(int(seconds)):
            now[0] += 1.0
            fleet._late(rows._replace(unseen_s=np.array(unseen_s)))

    pass_s(100, [0.1, 0.1, 0.1])
    now[0] += 600.0
    fleet._late(rows._replace(unseen_s=np.array([600.0, 600.0, 600.0])))
    pass_s(2, [601.0, 601.0, 0.1])
    pass_s(10, [0.1, 602.0, 0.1])
    assert ended == []
    pass_s(25, [0.1, 620.0, 0.1])
    assert set(ended) == {1}, "who does not come back once all are awake"


@ray_only
def test_the_hub_has_its_time_to_answer_whenever_it_is_awake(hub, monkeypatch):
    from gala.cluster import patience

    now, calls = [0.0], []

    def get(call, timeout):
        calls.append(timeout)
        now[0] += 7200.0 if len(calls) == 2 else timeout
        if call is None or len(calls) < 20:
            raise patience.GetTimeoutError
        return call

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(patience.ray, "get", get)
    assert patience.answer_of("rows") == "rows" and now[0] > 7200.0
    with pytest.raises(patience.GetTimeoutError):
        patience.answer_of(None)
    assert patience.HUB_TIMEOUT_S <= len(calls) - 20 <= patience.HUB_TIMEOUT_S + 2


def test_whoever_was_lost_is_told_and_not_the_error_that_its_peers_had(monkeypatch):
    from gala.config.schema import ClusterConfig
    from gala.processes.fleet import Event
    from gala.training.loop import Run, RunFailed

    later = [[], [], [Event(0, "died", "was lost, because its node has died")]]
    run = SimpleNamespace(
        config=Config(algo="allreduce", learners=2, cluster=ClusterConfig(address="auto")),
        _heard=[],
        _explained=lambda error: error,
        fleet=SimpleNamespace(events=lambda timeout_s: later.pop(0)),
    )
    with pytest.raises(RunFailed, match=r"^learner 0 was lost, because its node has died; the run has ended\.$"):
        Run._fail(run, "learner 1 failed", "Connection reset by peer")  # type: ignore[arg-type]
    assert not later


def test_a_publication_is_known_by_its_number():
    hub = Hub(places=2, present=2, num_params=2, num_moments=1)
    assert hub.publication(1)[1] == 0
    hub.enlist(1, 5, [None])
    hub.publish_params(1, 5, np.full(2, 3.0), 1, 1.0)
    hub.publish_params(1, 4, np.full(2, 9.0), 8, 8.0)
    params, number = hub.publication(1)
    assert params.tolist() == [3.0, 3.0] and number == 1
    hub.enlist(0, 6, [None])
    for update in (1, 2):
        hub.publish_params(0, 6, np.full(2, 2.0 + update), update, float(update))
    assert [x.tolist() for x in hub.params([0, 1])] == [[[3.0, 3.0]] * 2, [1.0, 1.0]], "rank 1 has done one update"
    assert hub.params([0])[0].tolist() == [[4.0, 4.0]]


def test_learners_listen_where_the_store_is_reached():
    from gala.processes.addresses import Address, interface_to, listening_socket

    with listening_socket() as server:
        assert interface_to(Address(port=server.getsockname()[1])).startswith("lo")
