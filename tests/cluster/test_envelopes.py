"""Envelopes between learners, over a line that fails in every way: none counts twice, none is lost. No Ray here."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gala.cluster.hub import Hub, Row
from gala.cluster.mirror import Mirror
from gala.cluster.placement import Share, share
from gala.config import derived
from gala.config.parse import parse_config
from gala.config.validate import check_cluster, validate
from gala.gossip.transport.inbox import Envelope, Inbox
from gala.gossip.transport.outbox import MAX_UNDER_WAY, Outbox
from gala.gossip.transport.roster import ABSENT, PRESENT, RESTING

FAULTS = ["none", "none", "none", "late", "lost on the way", "answer lost"]


class Line:
    """A carrier between one sender and one inbox, with a plan of faults. What is late arrives after the plan's end."""

    def __init__(self, inbox: Inbox, plan: list[str]) -> None:
        self.inbox, self.plan = inbox, plan
        self.late: list[tuple[int, Envelope]] = []
        self.fates: dict[int, str] = {}
        self.dead = False

    def send(self, dst: int, envelope: Envelope) -> int:
        receipt = len(self.fates) + len(self.late) + 1
        fault = self.plan.pop() if self.plan else "none"
        if self.dead:
            self.fates[receipt] = "dead"
        elif fault == "late":
            self.late.append((receipt, envelope))
        else:
            if fault != "lost on the way":
                accepted = self.inbox.deliver(envelope)
            self.fates[receipt] = "unknown" if fault != "none" else "delivered" if accepted else "refused"
        return receipt

    def arrive(self) -> None:
        for receipt, envelope in reversed(self.late):
            self.fates[receipt] = "dead" if self.dead else "delivered" if self.inbox.deliver(envelope) else "refused"
        self.late = []

    def settled(self, receipts: list[int]) -> list[int]:
        return [receipt for receipt in receipts if receipt in self.fates]

    def status(self, receipt: int) -> str:
        return self.fates[receipt]


@settings(deadline=None)
@given(st.lists(st.sampled_from(FAULTS), max_size=40), st.integers(1, 25), st.sampled_from(["works", "closes", "dies"]))
def test_each_envelopes_is_read_once_or_comes_back(plan, puts, end):
    inbox, used = Inbox(), list(plan)
    line = Line(inbox, plan)
    outbox = Outbox(line, rank=0, epoch=1)  # type: ignore[arg-type]
    sent, read = 0.0, []
    for i in range(puts):
        if outbox.put(1, np.full(3, float(i + 1), np.float32), i + 1.0, i, replace=False):
            sent += i + 1
        assert outbox.unread(1) <= puts and len(line.late) <= MAX_UNDER_WAY
        if i == puts // 2:
            read += [found[0]] if (found := inbox.take(0)) else []
            line.dead = end == "dies"
            read += inbox.close() if end != "works" else []  # of a dead receiver: what is lost with it
    assert outbox.flush(1.0, lambda s: line.arrive())
    read += [found[0]] if (found := inbox.take(0)) else []
    back = outbox.take_back(1)
    read += [back] if back else []
    total = sum(message.weight for message in read)
    if (
        end == "dies" and "answer lost" in used
    ):  # whether the dead had read it, nobody can know: better twice than never
        assert total >= sent
    else:
        assert total == pytest.approx(sent)
    assert sum(message.numerator for message in read).tolist() == pytest.approx([total] * 3) if sent else not read
    assert (back is None) or end != "works"


def test_a_sender_that_is_not_answered_keeps_its_mass():
    line = Line(Inbox(), ["late"] * 100)
    outbox = Outbox(line, 0, 1)  # type: ignore[arg-type]
    accepted = [outbox.put(1, np.ones(2, np.float32), 1.0, t, False) for t in range(20)]
    assert accepted == [True] * MAX_UNDER_WAY + [False] * (20 - MAX_UNDER_WAY)
    assert outbox.oldest() == 0 and not outbox.flush(0.01, lambda s: None)
    line.arrive()
    assert outbox.put(1, np.ones(2, np.float32), 1.0, 20, False) and outbox.oldest() is not None


def test_copies_that_overtake_each_other_leave_the_newest():
    inbox = Inbox()
    for number in (1, 3, 2):
        assert inbox.deliver(Envelope(0, 1, number, np.full(2, float(number), np.float32), 1.0, number, True))
    message, newest = inbox.take(0)
    assert message.numerator.tolist() == [3.0, 3.0] and (message.count, newest.number) == (1, 3)
    assert inbox.deliver(Envelope(0, 2, 1, np.ones(2, np.float32), 1.0, 1, False)), "a new life counts anew"
    assert inbox.take(0)[0].weight == 1.0


def test_a_box_does_not_keep_the_memory_in_which_a_envelopes_came():
    numbers = np.ones(4, np.float32)
    numbers.flags.writeable = False
    inbox = Inbox()
    for number in (1, 2):
        inbox.deliver(Envelope(0, 1, number, numbers, 0.5, 1, False))
    message, newest = inbox.take(0)
    message.numerator.add_(1)
    assert numbers.tolist() == [1.0] * 4 and newest.numerator.size == 0 and message.numerator.tolist() == [3.0] * 4


def _row(env_steps: int, updates: int, state: int = PRESENT, weight: float = 1.0) -> Row:
    return Row(env_steps, updates, updates, state, weight, 0, 0.25, (7 * updates, updates), np.array([float(updates)]))


def test_moments_of_a_run_that_pooled_in_another_way_are_left_to_its_learners():
    hub = Hub(places=2, present=2, num_params=2, num_moments=1)
    hub.restore(np.array([[5, 1], [6, 2]]), np.ones((2, 6)))
    assert hub.rows().progress.tolist() == [[5, 1], [6, 2]] and not hub._moments.any()
    hub.restore(np.array([[5, 1], [6, 2]]), np.array([[3.0], [4.0]]))
    assert hub._moments.tolist() == [[3.0], [4.0]]


def test_the_hub_listens_to_the_living_and_writes_off_what_the_dead_had():
    hub = Hub(places=3, present=2, num_params=2, num_moments=1)
    for rank in range(2):
        hub.enlist(rank, 1, [f"actor {rank}"])
        hub.sync(rank, 1, _row(10 * rank, rank + 1, weight=0.75 + rank / 2), 0)
    hub.say(1, 1, _row(20, 3, RESTING, 1.25), 1, "paused", 3)
    events, rows = hub.poll(np.array([7, 8]))
    assert events == [(1, "paused", 3)] and hub.poll(np.zeros(2, np.int64))[0] == []
    assert rows.progress.tolist()[1] == [20, 3] and rows.age_s[2] == -1 and rows.age_s[0] >= 0

    assert rows.unseen_s[2] == -1 and 0 <= rows.unseen_s[1] <= rows.age_s[0] + 1
    time.sleep(0.02)
    hub.sync(0, 1, _row(0, 1, weight=0.75), 0)  # a visit without an update: alive, but at a standstill
    rows = hub.rows()
    assert rows.unseen_s[0] < rows.age_s[0] and rows.age_s[0] >= 0.02 and rows.unseen_s[1] >= 0.02

    mirror = Mirror(hub.rows(), own=0)
    mirror.progress[0] = 99, 99  # its own row is news to the hub, and never the other way round
    mirror.apply(hub.rows())
    assert mirror.progress.tolist() == [[99, 99], [20, 3], [0, 0]] and mirror.moments[1, 0] == 3.0

    assert hub.bury(1) == 1.25 + 0.25 and hub.rows().weight.sum() + hub.rows().unread_weight.sum() == 0.75 + 0.25
    hub.sync(1, 1, _row(500, 50), 0)
    hub.say(1, 1, _row(500, 50), 2, "finished", None)
    assert hub.rows().progress.tolist()[1] == [20, 3], "a dead learner's words count no more"
    hub.admit(1)
    hub.enlist(1, 2, ["actor 3"])
    hub.sync(1, 1, _row(500, 50), 0)
    assert hub.rows().weight[1] == 0.0
    hub.sync(1, 2, _row(30, 4, weight=0.5), 0)
    assert hub.rows().weight[1] == 0.5 and hub.learners() == ["actor 0", "actor 3", None]
    hub.restore_weights([0.25, 0.0, 1.5], [0, 2])
    assert hub.rows().weight.tolist() == [0.25, 0.0, 1.5] and hub.rows().state.tolist() == [PRESENT, ABSENT, PRESENT]


def test_repeated_and_overtaken_calls_to_the_hub_change_nothing():
    hub = Hub(places=2, present=2, num_params=2, num_moments=1)
    hub.enlist(1, 1, ["actor"])
    for number in (2, 1, 2, 4, 1, 3, 3):
        hub.say(1, 1, _row(0, 0), number, "metrics", number)
    assert [body for _, _, body in hub.poll(np.zeros(2, np.int64))[0]] == [1, 2, 3, 4]
    for command in ("pause", "save"):
        hub.tell(1, command)
    answers = [hub.sync(1, 1, _row(0, 0), heard)[1] for heard in (0, 0, 1, 2)]
    assert answers == [["pause", "save"], ["pause", "save"], ["save"], []], "what was not heard is told again"
    assert hub.sync(1, 0, _row(0, 0), 0)[1] == [], "commands are for the learner that lives, not for an earlier one"
    hub.enlist(1, 2, ["newcomer"])
    assert hub.sync(1, 2, _row(0, 0), 0)[1] == []
    hub.say(1, 2, _row(0, 0), 1, "ready", None)
    assert hub.poll(np.zeros(2, np.int64))[0] == [(1, "ready", None)], "a new life counts anew"


@pytest.mark.parametrize(
    ("cpus", "gpus", "learners", "expected"),
    [
        ([8, 8], [0, 0], 4, Share(4, 0, 4)),
        ([3, 3], [0, 0], 4, Share(1, 0, 1)),
        ([5, 2], [0, 0], 3, Share(2, 0, 2)),
        ([2], [0], 4, Share(0.5, 0, 1)),
        ([1, 1, 0], [0, 0, 0], 2, Share(1, 0, 1)),
        ([16, 16], [4, 4], 8, Share(4, 1, 4)),
        ([16, 16], [1, 1], 4, Share(8, 0.5, 8)),
    ],
)
def test_every_learner_gets_an_equal_share_that_fits_on_the_nodes(cpus, gpus, learners, expected):
    assert share(cpus, gpus, learners) == expected
    for each, capacities in ((expected.cpus, cpus), (expected.gpus, gpus)):
        assert not each or sum(int(capacity / each) for capacity in capacities) >= learners


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ValueError, match="has no CPUs"):
        share([0.0, 0.5], [0, 0], 2)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["cluster.address=ray://head:10001"], "must be auto, local or HOST:PORT"),
        (["cluster.address=head"], "must be auto, local or HOST:PORT"),
        (["cluster.address=10.0.0.1:6379", "gossip.shards=2"], "gossip.shards=2 works on one machine only"),
        (["cluster.address=local", "gossip.codec=int8"], "gossip.codec=int8 works on one machine only"),
    ],
)
def test_what_works_on_one_machine_only_is_refused_before_anything_starts(words, match):
    config = parse_config(["learners=2", *words])
    validate(config)
    with pytest.raises(ValueError, match=match):
        check_cluster(config)


def test_a_cluster_that_is_well_named_is_not_refused_and_a_learner_gets_its_threads():
    for address in ("", "auto", "local", "head.example:6379"):
        check_cluster(parse_config(["learners=2", f"cluster.address={address}"]))
    dense, given = parse_config(["model.encoder=nature_cnn"]), parse_config(["torch_threads=3", "env.threads=5"])
    assert [
        (c.env.threads, c.torch_threads) for c in (derived.with_threads(dense, 4), derived.with_threads(given, 4))
    ] == [
        (4, 4),
        (5, 3),
    ]
