"""A peer that does not read is left out, and the others go on exchanging; mass stays exact whatever they see."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from gossip_network import mass, stack, start
from hypothesis import given, settings
from hypothesis import strategies as st

from gala.gossip.graphs.topology import TOPOLOGIES, Topology, uniform
from gala.gossip.transport.cuda_memory import create_cuda_mailboxes
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.overlap import Overlapped
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes


def _random_digraph(n: int, seed: int) -> Topology:
    """Strongly connected, out-degrees 1 to 4, for exactly n learners."""
    rng = np.random.default_rng(seed)
    while True:
        out = {i: [int(j) for j in rng.permutation(n)[: rng.integers(1, 5)] if j != i] for i in range(n)}
        if nx.is_strongly_connected(nx.DiGraph(out)) and min(map(len, out.values())):
            return Topology(
                "", uniform(lambda rank, t, _, out=out: out[rank]), problem=lambda m: "" if m == n else "another n"
            )


@pytest.mark.parametrize("slower", [30, pytest.param(1000, marks=pytest.mark.long)])
def test_the_exact_mean_on_a_random_digraph_with_a_straggler(slower):
    n, straggler = 11, 4
    values = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    boxes = InProcessMailboxes(n, 5)
    averagers = start(values, boxes, topology=_random_digraph(n, seed=3))
    rng = np.random.default_rng(5)
    others = np.delete(np.arange(n), straggler)
    for tick, rank in enumerate(rng.choice(others, 40 * slower * (n - 1))):
        averagers[rank].step()
        if tick % (slower * (n - 1)) == 0:
            averagers[straggler].step()
            (held, weight), (waiting, waiting_weight) = mass(averagers), boxes.in_flight()
            assert (held + waiting - values.sum(0)).abs().max() < 1e-9 and abs(weight + waiting_weight - n) < 1e-9
    assert (stack(averagers) - values.mean(0)).abs().max() < 1e-9


@pytest.mark.parametrize("topology", sorted(TOPOLOGIES))
def test_the_others_go_on_and_agree_while_one_never_reads(topology):
    """The one holds back a message of each peer at most; before, its boxes drained the others to the floor."""
    n = 5
    averagers = start(torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    boxes = InProcessMailboxes(n, 2)
    averagers = start(stack(averagers), boxes, topology=topology)
    rng = np.random.default_rng(2)
    for rank in rng.integers(1, n, 2000):  # 0 never moves
        averagers[rank].step()
    others = stack(averagers)[1:]
    assert (others - others.mean(0)).abs().max() < 1e-9
    assert all(boxes.boxes[edge].count == 1 for edge in boxes.boxes if edge[1] == 0)
    before = [a.stats()["sent"] for a in averagers[1:]]
    for rank in rng.integers(1, n, 400):
        averagers[rank].step()
    assert sum(a.stats()["sent"] for a in averagers[1:]) - sum(before) > 200


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TOPOLOGIES)), st.integers(2, 9), st.floats(0.05, 2.0), st.integers(0, 2**32 - 1))
def test_what_waits_for_a_receiver_is_bounded_and_so_is_what_the_others_have_left(topology, n, cap, seed):
    """A put happens only where at most the cap waits (of a mean weight of 1), so what waits is at most the cap and one
    message; and nobody falls under the floor, however unequal the speeds are."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0, 1, n) ** 4 + 1e-3
    boxes = InProcessMailboxes(n, 1)
    averagers = start(torch.zeros(n, 1, dtype=torch.float64), boxes, topology=topology, max_unread_weight=cap)
    largest = 1.0
    for rank in rng.choice(n, 300, p=speed / speed.sum()):
        largest = max(largest, *(a.weight for a in averagers))
        averagers[rank].step()
        for dst in range(n):
            assert boxes.endpoint(dst).unread_weight(dst) <= cap + largest
            assert boxes.endpoint(dst).unread_weight(dst) == pytest.approx(
                sum(m.weight for (_, to), m in boxes.boxes.items() if to == dst), abs=1e-12
            )
        assert min(a.weight for a in averagers) >= averagers[0].w_min - 1e-12
        assert all(message.count == 1 for message in boxes.boxes.values())


@pytest.mark.parametrize("kind", ["in-process", "shared-memory", "lent", "overlap"])
def test_every_transport_shows_what_waits(kind):
    n = 3
    edges = [(i, j) for i in range(n) for j in range(n) if i != j]
    shared = {
        "shared-memory": lambda: SharedMemoryMailboxes.create(n, 4, edges),
        "lent": lambda: create_cuda_mailboxes([torch.device("cpu")] * n, 4, edges),
    }.get(kind, lambda: InProcessMailboxes(n, 4))()
    ends = [shared.handle.open(r) if hasattr(shared, "handle") else shared.endpoint(r) for r in range(n)]
    if kind == "overlap":
        ends = [Overlapped(end, rank) for rank, end in enumerate(ends)]
    ends[0].put(1, torch.ones(4), 0.5, 1)
    ends[2].put(1, torch.ones(4), 0.25, 1)
    if kind == "overlap":
        for end in (ends[0], ends[2]):
            end.rest(True)  # delivers
    assert [ends[0].unread_weight(r) for r in range(n)] == [0.0, 0.75, 0.0]
    assert shared.table.total_weight() == pytest.approx(n + 0.75 - (0.75 if hasattr(shared, "handle") else 0.0))
    ends[1].take(0)
    if kind == "overlap":
        ends[1].senders()  # its thread's round, at once
        assert ends[0].unread_weight(1) == 0.0
    else:
        assert ends[0].unread_weight(1) == 0.25 and ends[0].waiting(2, 1) == 1
        ends[2].take_back(1)
        assert ends[0].unread_weight(1) == 0.0
    ends[0].put(2, torch.ones(4), 1.0, 1, replace=True)
    for end in ends:
        end.close()
    shared.close() if hasattr(shared, "handle") else None


def test_who_exchanges_nothing_knows_the_peer_that_holds_it_up():
    a, b, c = start(torch.zeros(3, 2), topology="complete")
    for _ in range(150):
        a.step()
    stats = a.stats()
    assert stats["sent"] == 2 and stats["quiet_rounds"] == 149 and stats["held_up_by"] in (1, 2)
    assert stats["kept_rounds"] == 149 and stats["full_peers"] == 2 * 149
    b.step()
    a.step()
    assert a.stats()["quiet_rounds"] == 0 and a.stats()["held_up_by"] == -1 and not math.isnan(c.weight)
