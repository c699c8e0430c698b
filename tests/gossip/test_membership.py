"""Learners that die, fall silent, leave and join: what holds for the others, for their graph and for the mass."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch
from gossip_network import lockstep, mass, stack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gala.build.gossip import max_concurrent_learners
from gala.config.parse import parse_config
from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.stitching import stitched_in_peers, stitched_shares
from gala.gossip.graphs.topology import TOPOLOGIES, Topology, edges, uniform
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes


def _of_file(pairs: list[tuple[int, int]]) -> Topology:
    """As from a user's file: made for just so many learners."""
    n = 1 + max(max(pair) for pair in pairs)
    return Topology(
        "a user's graph",
        uniform(lambda rank, t, _: [j for i, j in pairs if i == rank]),
        problem=lambda m: "" if m == n else f"the file is for {n} learners",
    )


FILE = _of_file([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 4), (2, 0)])


@given(
    st.sampled_from([*TOPOLOGIES.values(), FILE]),
    st.integers(2, 9),
    st.sets(st.integers(0, 11), min_size=1, max_size=9),
)
@settings(max_examples=300, deadline=None)
def test_the_stitched_graph_is_strongly_connected_and_splits_mass(topology: Topology, n: int, chosen: set[int]):
    n = 5 if topology is FILE else n
    live = tuple(sorted(chosen & set(range(5)) or {0})) if topology is FILE else tuple(sorted(chosen))
    graph = nx.DiGraph()
    graph.add_nodes_from(live)
    for t in range(topology.period(n) or 40):  # 40 random rounds are surely enough for 9 learners
        sources = stitched_in_peers(topology, t, n, live)
        for rank in live:
            shares = stitched_shares(topology, rank, t, n, live)
            assert all(peer in live and peer != rank and share > 0 for peer, share in shares)
            assert len({peer for peer, _ in shares}) == len(shares) and sum(share for _, share in shares) < 1
            graph.add_edges_from((rank, peer) for peer, _ in shares)
            assert all(rank in sources[peer] for peer, _ in shares)
        if topology is not FILE and live != tuple(range(n)):  # the same graph as for so many learners from the start
            assert sum(map(len, sources.values())) == sum(
                len(topology.out_peers(i, t, len(live))) for i in range(len(live))
            )
    if topology is FILE or not topology.period(n) or topology.period(len(live)) <= (topology.period(n) or 40):
        assert nx.is_strongly_connected(graph)


def test_a_users_graph_passes_through_the_gap():
    ring = _of_file([(0, 1), (1, 2), (2, 3), (3, 0)])
    assert stitched_shares(ring, 0, 0, 4, (0, 2, 3)) == [(2, 0.5)]
    assert stitched_shares(ring, 0, 0, 4, (0, 3)) == [(3, 0.5)]
    assert stitched_shares(ring, 3, 0, 4, (3,)) == []


TWO_AHEAD = Topology("two ahead", lambda rank, round, n: [((rank + 2) % n, 0.5)])
"""Connects odd numbers of learners only, and does not say so: drawn anew over four of five it would be two halves."""


@pytest.mark.parametrize("live", [(0, 1, 2, 4), (0, 1, 3), (1, 3), (2,)])
def test_a_users_function_passes_through_the_gap_where_it_would_fall_apart(live: tuple[int, ...]):
    graph = nx.DiGraph()
    graph.add_nodes_from(live)
    for rank in live:
        shares = stitched_shares(TWO_AHEAD, rank, 0, 5, live)
        assert all(peer in live and peer != rank for peer, _ in shares)
        graph.add_edges_from((rank, peer) for peer, _ in shares)
    assert nx.is_strongly_connected(graph)


def test_there_are_as_many_places_as_the_graph_connects():
    def places(*words: str) -> int:
        return max_concurrent_learners(parse_config(words))

    own = "gossip.topology=test_membership:TWO_AHEAD"
    assert places("learners=3", own) == 3 and places("learners=4", "gossip.topology=ring") == 8
    assert places("learners=3", "gossip.topology=test_membership:UP_TO_FIVE") == 5


UP_TO_FIVE = Topology("up to five", TOPOLOGIES["ring"].out_shares, problem=lambda n: "" if n < 6 else "too many")


def _network(n: int, d: int = 3, slots: int | None = None) -> tuple[InProcessMailboxes, list[GossipAverager]]:
    boxes = InProcessMailboxes(slots or n, d)
    boxes.table.state[n:] = 4
    boxes.table.weight[n:] = 0.0
    values = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return boxes, [_averager(boxes, row, rank) for rank, row in enumerate(values)]


def _averager(boxes, row, rank, silent_after_s=math.inf, **settings_):  # type: ignore[no-untyped-def]
    endpoint = boxes.endpoint(rank, silent_after_s)
    settings_ = {"topology": "exponential"} | settings_
    return GossipAverager([row.clone()], rank=rank, world_size=boxes.world_size, mailbox=endpoint, **settings_)


def _total(boxes: InProcessMailboxes, averagers: dict[int, GossipAverager]) -> tuple[torch.Tensor, float]:
    held, weight = mass(list(averagers.values()))
    waiting, waiting_weight = boxes.in_flight()
    return held + waiting, weight + waiting_weight


@given(
    st.integers(3, 6),
    st.lists(
        st.tuples(st.sampled_from(["step", "step", "step", "die", "leave", "join"]), st.integers(0, 7)), max_size=80
    ),
)
@example(3, [("die", 0), ("die", 2), ("join", 0), ("die", 1)])
@settings(max_examples=60, deadline=None)
def test_mass_is_accounted_for_whoever_comes_and_goes(n: int, actions: list[tuple[str, int]]):
    boxes, started = _network(n, slots=8)
    alive = dict(enumerate(started))
    for action, rank in actions:
        before, weight = _total(boxes, alive)
        if action == "step" and rank in alive:
            alive[rank].step()
        elif action == "die" and rank in alive and len(alive) > 1:
            gone = alive.pop(rank)
            lost = boxes.bury(rank)
            after, total = _total(boxes, alive)
            assert total == pytest.approx(weight - lost, abs=1e-12) and lost >= gone.weight - 1e-12
            before, weight = after, total
        elif action == "leave" and rank in alive and len(alive) > 1:
            if alive[rank].leave():  # else the others all rest
                del alive[rank]
                boxes.table.retire(rank)
        elif action == "join" and rank not in alive:
            boxes.admit(rank)
            donor = alive[min(alive)]
            alive[rank] = _averager(boxes, donor.flat, rank)
            alive[rank].join(donor.updates)
        after, total = _total(boxes, alive)
        assert (after - before).abs().max() < 1e-12 and total == pytest.approx(weight, abs=1e-12)
        assert boxes.table.total_weight() == pytest.approx(total, abs=1e-12)
    numerator, weight = _total(boxes, alive)
    for _ in range(80):
        for averager in alive.values():
            averager.step()
    if weight == 0.0:  # all that held any died before a newcomer got some: those that are left start anew
        values = stack(list(alive.values()))
        assert (values - values[0]).abs().max() < 1e-9 and any(a.weight for a in alive.values())
        return
    assert (stack(list(alive.values())) - numerator / weight).abs().max() < 1e-9
    floor = 0.1 * min(boxes.table.mean_weight(), 1.0)
    assert min(a.weight for a in alive.values() if a.weight > 0) >= floor - 1e-12


def test_a_joiner_with_no_weight_leaves_the_average_where_it_is():
    boxes, averagers = _network(4, slots=5)
    lockstep(averagers)
    before = _total(boxes, dict(enumerate(averagers)))[0] / 4
    boxes.admit(4)
    joiner = _averager(boxes, torch.full((3,), 1e6, dtype=torch.float64), 4)
    joiner.join()
    everyone = [*averagers, joiner]
    for _ in range(200):
        for averager in everyone:
            averager.step()
        numerator, weight = _total(boxes, dict(enumerate(everyone)))
        assert (numerator / weight - before).abs().max() < 1e-12
    assert (stack(everyone) - before).abs().max() < 1e-9


def test_many_deaths_and_restarts_do_not_starve_the_rest_of_weight():
    """Each death takes a quarter of the mass along: after 60 the floor of the start would forbid every message."""
    boxes, averagers = _network(4)
    for i in range(60):
        victim = i % 4
        boxes.bury(victim)
        for _ in range(3):
            for averager in averagers:
                if averager.rank != victim:
                    averager.step()
        boxes.admit(victim)
        averagers[victim] = _averager(boxes, averagers[(victim + 1) % 4].flat, victim)
        averagers[victim].join()
        for _ in range(3):
            for averager in averagers:
                averager.step()
    assert boxes.table.total_weight() < 1e-3
    averagers[0].flat.add_(1.0)
    for _ in range(100):
        for averager in averagers:
            averager.step()
    assert (stack(averagers) - stack(averagers)[0]).abs().max() < 1e-9


def test_a_silent_learner_is_stitched_out_gets_its_mail_taken_back_and_returns(monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr("time.monotonic_ns", lambda: int(now_s[0] * 1e9))
    boxes, started = _network(3)
    averagers = [_averager(boxes, a.flat, a.rank, silent_after_s=0.1) for a in started]
    for averager in reversed(averagers):
        averager.step()  # 1 has mail of 0 that it will not read
    weight = _total(boxes, dict(enumerate(averagers)))[1]
    now_s[0] += 0.15
    for averager in (averagers[0], averagers[2], averagers[0], averagers[2]):
        averager.step()
    assert averagers[0].mailbox.roster.live() == (0, 2) and averagers[0].mailbox.roster.departed() == (1,)
    assert averagers[0].stats()["taken_back"] >= 1 and not averagers[0].mailbox.waiting(0, 1)
    sent = averagers[0].stats()["sent"]
    averagers[0].step()
    assert averagers[0].stats()["sent"] == sent + 1 and averagers[2].mailbox.waiting(0, 2)
    for _ in range(100):
        for averager in averagers:
            averager.step()
    assert averagers[0].mailbox.roster.live() == (0, 1, 2)
    assert _total(boxes, dict(enumerate(averagers)))[1] == pytest.approx(weight, abs=1e-12)
    assert (stack(averagers) - stack(averagers)[0]).abs().max() < 1e-9


def test_in_lockstep_nobody_is_left_out_for_being_silent(monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr("time.monotonic_ns", lambda: int(now_s[0] * 1e9))
    boxes, started = _network(2)
    averagers = [_averager(boxes, a.flat, a.rank, silent_after_s=0.1, tau=0, wait_timeout_s=0.2) for a in started]
    for averager in averagers:
        averager.send()
    for averager in averagers:
        averager.receive()
    now_s[0] += 0.15
    averagers[0].send()
    with pytest.raises(TimeoutError, match="has waited"):
        averagers[0].receive()


def test_the_copies_of_one_that_joins_count_like_those_of_others():
    boxes, started = _network(2)
    joiner = _averager(boxes, started[0].flat, 0, mixing="copy-average")
    joiner.join(updates=3)
    joiner.step()
    assert joiner.weight == 1.0 and joiner.slice_weights() == [(joiner.flat.numel(), 1.0)]


def test_a_learner_that_waits_at_its_bound_does_not_wait_for_the_dead():
    boxes, started = _network(3)
    averager = _averager(boxes, started[0].flat, 0, tau=1, at_bound="wait", wait_timeout_s=1e-9)
    boxes.bury(1)
    boxes.bury(2)
    for _ in range(10):
        averager.step()  # any wait would be too long
    assert averager.weight == 1.0


def test_shared_memory_counts_what_a_dead_rank_held_and_lets_joiners_in():
    boxes = SharedMemoryMailboxes.create(4, 2, edges("complete", 4), present=3)
    endpoints = [open_endpoint(boxes.handle, rank) for rank in range(3)]
    averagers = [
        GossipAverager([torch.full((2,), float(r))], rank=r, world_size=4, mailbox=box)
        for r, box in enumerate(endpoints)
    ]
    assert endpoints[0].roster.live() == (0, 1, 2)
    for averager in averagers:
        averager.step()
    averagers[1].step()
    held = averagers[2].weight
    assert boxes.bury(2) == pytest.approx(held, abs=1e-15) and boxes.bury(2) == 0.0
    assert boxes.table.mean_weight() == pytest.approx((3 - held) / 2)
    averagers[1].step()
    assert averagers[1].stats()["taken_back"] >= 1
    total = averagers[0].weight + averagers[1].weight + boxes.in_flight()[1]
    assert total == pytest.approx(3 - held, abs=1e-12)
    boxes.admit(3)
    joiner = GossipAverager([torch.zeros(2)], rank=3, world_size=4, mailbox=open_endpoint(boxes.handle, 3))
    joiner.join(updates=3)
    for _ in range(9):
        for averager in averagers[:2]:
            averager.step()
    assert endpoints[0].roster.live() == (0, 1) and boxes.table.unread_weight(3) == 0.0, "it has yet to do an update"
    joiner.step()
    assert endpoints[0].roster.live() == (0, 1, 3)
    for _ in range(40):
        for averager in (averagers[0], averagers[1], joiner):
            averager.step()
    np.testing.assert_allclose(joiner.flat, averagers[0].flat, atol=1e-6)
    joiner.leave()
    averagers[0].step()
    averagers[1].step()
    total = averagers[0].weight + averagers[1].weight + boxes.in_flight()[1]
    assert joiner.weight == 0.0 and total == pytest.approx(3 - held, abs=1e-12)
    boxes.close()


def test_joining_a_synchronous_run_is_refused():
    boxes, started = _network(2)
    averager = _averager(boxes, started[0].flat, 0, tau=0)
    with pytest.raises(ValueError, match="synchronous"):
        averager.join()


def test_two_that_leave_at_once_lose_nothing_though_each_hands_its_mass_to_the_other():
    boxes = SharedMemoryMailboxes.create(4, 2)
    endpoints = [open_endpoint(boxes.handle, rank) for rank in range(4)]
    averagers = [
        GossipAverager([torch.full((2,), float(r))], rank=r, world_size=4, mailbox=box)
        for r, box in enumerate(endpoints)
    ]
    for averager in averagers:
        averager.step()
    for leaver, other in ((2, 3), (3, 2)):  # each has chosen the other before either is gone
        averagers[leaver].drain()
        share = averagers[leaver].weight
        assert endpoints[leaver].put(other, share * averagers[leaver].flat, share, 1)
        averagers[leaver].weight = 0.0
    averagers[1].step()  # and mail may still come for one that is about to go
    for leaver in (2, 3):
        endpoints[leaver].close()
        boxes.retire(leaver)
    for _ in range(60):
        averagers[0].step()
        averagers[1].step()
    for averager in averagers[:2]:
        averager.drain()
    assert averagers[0].weight + averagers[1].weight == pytest.approx(4, abs=1e-12)
    assert boxes.table.total_weight() == pytest.approx(4, abs=1e-12)
    np.testing.assert_allclose(averagers[0].flat, np.full(2, 1.5), atol=1e-5)
    boxes.close()


def test_nobody_leaves_while_all_others_rest_and_its_mass_would_go_with_it():
    boxes, averagers = _network(3)
    for other in averagers[1:]:
        other.mailbox.rest(True)
    assert not averagers[0].leave() and averagers[0].weight == 1.0
    averagers[2].mailbox.rest(False)
    assert averagers[0].leave() and averagers[0].weight == 0.0 and averagers[2].mailbox.senders() == [0]
    averagers[2].step()
    assert _total(boxes, dict(enumerate(averagers)))[1] == pytest.approx(3, abs=1e-12)
