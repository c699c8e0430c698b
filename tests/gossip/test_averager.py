"""The averager's modes and bounds, in one process."""

import threading
import time

import numpy as np
import pytest
import torch
from gossip_network import lockstep, mass, stack, start

from gala.gossip.averager import GossipAverager
from gala.gossip.evidence.events import MixEvent
from gala.gossip.graphs.spectrum import mixing_matrix
from gala.gossip.graphs.topology import TOPOLOGIES, Topology
from gala.gossip.push_sum import absorb_
from gala.gossip.transport.in_process import InProcessMailboxes


def _values(n: int, d: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("topology", sorted(TOPOLOGIES))
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_lockstep_rounds_are_products_of_mixing_matrices(topology, n):
    """z = (P ... P x) / (P ... P 1): PushSum by dense algebra, for every graph."""
    values = _values(n)
    averagers = start(values, topology=topology, tau=0)
    numerator, weight = values.numpy().copy(), np.ones(n)
    for t in range(6):
        lockstep(averagers)
        matrix = mixing_matrix(topology, t, n)
        numerator, weight = matrix @ numerator, matrix @ weight
        np.testing.assert_allclose(stack(averagers), numerator / weight[:, None], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose([a.weight for a in averagers], weight, rtol=1e-12)


def test_one_learner_changes_nothing():
    values = _values(1)
    lone = GossipAverager([values[0].clone()], rank=0, world_size=1, mailbox=None)
    lone.step()
    lone.drain()
    lone.close()
    assert torch.equal(lone.flat, values[0]) and lone.weight == 1.0
    apart = start(_values(3), mixing="none")
    lockstep(apart)
    assert torch.equal(stack(apart), _values(3))


def test_exchanges_happen_every_k_updates_and_the_graph_turns_once_per_exchange():
    """However many tensors the model has: the peers of rounds 0, 1, 2 are 1, 2 and 4 ahead."""
    n, seen = 8, []
    boxes = InProcessMailboxes(n, 12)
    tensors = [torch.ones(5), torch.ones(2, 3), torch.ones(1)]
    averager = GossipAverager(
        tensors, rank=0, world_size=n, mailbox=boxes.endpoint(0), topology="one-peer-exponential", every=2, w_min=0.01
    )
    averager.on_event = lambda event: seen.append((event.kind, event.peer))
    for _ in range(6):
        averager.step()
    assert [peer for kind, peer in seen if kind == "put"] == [1, 2, 4]
    assert averager.stats()["sent"] == 3
    assert averager.updates == boxes.updates[0] == 6


def test_stats_count_messages_bytes_and_ages_in_the_senders_updates():
    a, b = start(_values(2, d=5, dtype=torch.float32), w_min=0.01)
    for _ in range(3):
        a.step()
    b.receive()  # has made no update: nothing to exchange yet
    b.step()
    stats = b.stats()
    assert stats["received"] == 1 and stats["sent"] == 1
    assert stats["message_age_mean"] == stats["message_age_max"] == 2, "the first of three, the others found b full"
    assert b.age_histogram.counts() == {"2-3": 1}
    assert a.stats()["full_peers"] == a.stats()["kept_rounds"] == 2
    for _ in range(4):
        b.step()
    a.flat.add_(0)
    for _ in range(9):
        a.updates += 1  # a learner that advances without an exchange
    a.mailbox.advance(a.updates)
    b.mailbox.put(0, b.flat, 0.0, b.updates)
    message_age = b.mailbox.progress(0) - 3
    assert message_age == 9
    assert a.stats()["bytes_sent"] == 5 * 4 + 16
    assert a.weight == 0.5 and a.stats()["weight"] == 0.5


def test_the_mean_age_is_over_all_messages_and_a_peer_that_holds_a_learner_up_is_named():
    a, b = start(_values(2, d=5, dtype=torch.float32), w_min=0.01)
    for steps in (3, 1):  # b finds the first of three, and later the only one
        for _ in range(steps):
            a.step()
        b.step()
    assert (b.stats()["message_age_mean"], b.stats()["message_age_max"]) == (1.0, 2.0)
    assert (a.stats()["quiet_rounds"], a.stats()["held_up_by"]) == (0.0, -1.0)
    for quiet in range(3):
        a.step()  # takes what b has sent, and gives to it; from then on b is full
        assert a.stats()["quiet_rounds"] == quiet
    assert a.stats()["held_up_by"] == 1.0
    b.step()
    a.step()
    assert (a.stats()["quiet_rounds"], a.stats()["held_up_by"]) == (0.0, -1.0)


def test_drain_and_state_keep_all_mass():
    values = _values(4)
    boxes = InProcessMailboxes(4, 3)
    averagers = start(values, boxes, topology="undirected-ring")
    for rank in (0, 1, 1, 2, 0, 3, 3, 3, 2):
        averagers[rank].step()
    for averager in averagers:
        averager.drain()
    assert boxes.in_flight()[1] == 0
    saved = [(a.flat.clone(), a.state_dict()) for a in averagers]
    resumed = start(torch.zeros(4, 3, dtype=torch.float64), topology="undirected-ring")
    for averager, (flat, state) in zip(resumed, saved, strict=True):
        averager.flat.copy_(flat)
        averager.load_state_dict(state)
    assert (mass(resumed)[0] - values.sum(0)).abs().max() < 1e-12 and mass(resumed)[1] == pytest.approx(4, abs=1e-12)
    for rank in (2, 0, 1, 3, 3, 0):  # both go on alike, bit for bit
        averagers[rank].step()
        resumed[rank].step()
    assert torch.equal(stack(averagers), stack(resumed))
    assert [a.updates for a in resumed] == [a.updates for a in averagers]
    assert [a.stats() for a in averagers] == [
        a.stats() | {"message_age_mean": b.stats()["message_age_mean"], "message_age_max": b.stats()["message_age_max"]}
        for a, b in zip(resumed, averagers, strict=True)
    ]
    with pytest.raises(ValueError, match="not a gossip averager"):
        resumed[0].load_state_dict({"weight": -0.5, "updates": 1, "counts": {}})


def test_copy_average_is_algorithm_1_of_gala():
    """Mixes once every in-peer has sent, takes their NEWEST copies, weights all equally; weights stay 1."""
    values = _values(3)
    a, b, c = start(values, topology="complete", mixing="copy-average")
    for i in range(1000):
        b.flat.fill_(float(i))
        b.send()
    a.step()
    assert torch.equal(a.flat, values[0]), "one in-peer is silent: no mixing yet"
    c.send()
    a.step()
    torch.testing.assert_close(a.flat, (values[0] + 999.0 + values[2]) / 3, rtol=0, atol=1e-14)
    assert a.weight == 1.0 and a.stats()["message_age_max"] == 0.0
    assert a.mailbox.waiting(1, 0) == a.mailbox.waiting(2, 0) == 0


def test_copy_average_in_lockstep_is_the_row_stochastic_product():
    values = _values(4)
    averagers = start(values, topology="ring", mixing="copy-average", tau=0)
    expected = values.numpy()
    for _ in range(5):
        lockstep(averagers)
        expected = (expected + np.roll(expected, 1, axis=0)) / 2
    np.testing.assert_allclose(stack(averagers), expected, atol=1e-14)


def test_an_allreduce_is_a_callable():
    calls = []
    averager = GossipAverager(
        [torch.ones(3)], rank=0, world_size=2, mailbox=None, every=2, mixing=lambda flat: calls.append(flat.mul_(2))
    )
    for _ in range(4):
        averager.step()
    assert len(calls) == 2 and averager.flat.tolist() == [4.0] * 3


def test_parameters_that_are_not_finite_are_never_sent():
    for mixing in ("pushsum", "copy-average"):
        boxes = InProcessMailboxes(3, 3)
        averagers = start(_values(3), boxes, mixing=mixing)
        averagers[1].flat[2] = float("nan")
        with pytest.raises(FloatingPointError, match=r"learner 1.*update 1"):
            averagers[1].step()
        assert not boxes.boxes and averagers[1].weight == 1.0
    huge = start(torch.full((2, 3), 3e38))  # the sum overflows, but every number is finite
    huge[0].step()
    assert huge[0].stats()["sent"] == 1


def test_moved_parameters_are_noticed():
    net = torch.nn.Linear(2, 1)
    averager = GossipAverager(net.parameters(), rank=0, world_size=1, mailbox=None)
    net.double()
    with pytest.raises(RuntimeError, match="moved"):
        averager.step()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rank": 2}, "outside the world of 2"),
        ({"every": 0}, "every"),
        ({"w_min": 0.0}, "w_min"),
        ({"w_min": 1.0}, "w_min"),
        ({"max_unread_weight": 0.0}, "max_unread_weight"),
        ({"tau": -1}, "tau"),
        ({"at_bound": "panic"}, "at_bound"),
        ({"tau": 0, "at_bound": "drop-peer"}, "drop-peer needs tau"),
        ({"wait_timeout_s": 0}, "wait_timeout_s"),
        ({"mixing": "magic"}, "mixing"),
        ({"topology": "rign"}, "unknown topology"),
        ({"mailbox": None}, "needs a mailbox"),
        ({"params": [torch.ones(4)]}, "has 4 parameters.*not 3"),
    ],
)
def test_bad_settings(settings, text):
    arguments = {"params": [torch.ones(3)], "rank": 0, "world_size": 2, "mailbox": InProcessMailboxes(2, 3).endpoint(0)}
    with pytest.raises(ValueError, match=text):
        GossipAverager(**(arguments | settings))


def _threads(averagers: list[GossipAverager], loop) -> list[BaseException | None]:  # type: ignore[no-untyped-def]
    """Runs ``loop(averager)`` in a thread for each; what they raised."""
    raised: list[BaseException | None] = [None] * len(averagers)

    def run(i: int) -> None:
        try:
            loop(averagers[i])
        except BaseException as e:
            raised[i] = e

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(averagers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
        assert not thread.is_alive(), "a learner hangs"
    return raised


@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential", "star", "random-2", "base-2"])
def test_tau_0_is_bit_identical_to_one_process_however_threads_interleave(topology):
    """Against the algebra written out for all learners at once, with local steps between the rounds, in float32."""
    n, rounds = 5, 20
    values = _values(n, d=50, dtype=torch.float32)
    steps = _values(n * rounds, d=50, seed=1, dtype=torch.float32).reshape(rounds, n, 50)
    averagers = start(values, topology=topology, tau=0)

    def loop(averager: GossipAverager) -> None:
        for t in range(rounds):
            averager.flat.add_(steps[t, averager.rank])
            time.sleep(float(np.random.default_rng((t, averager.rank)).exponential(3e-4)))
            averager.step()

    assert _threads(averagers, loop) == [None] * n
    z, w = [row.clone() for row in values], [1.0] * n
    for t in range(rounds):
        sent, kept = {}, list(w)
        for i in range(n):
            z[i].add_(steps[t, i])
            for j, share in TOPOLOGIES[topology].out_shares(i, t, n):
                sent[i, j] = z[i] * (w[i] * share), w[i] * share
                kept[i] -= w[i] * share
        w = kept
        for j in range(n):
            for i in [i for i in range(n) if j in TOPOLOGIES[topology].out_peers(i, t, n)]:
                w[j] = absorb_(z[j], w[j], *sent[i, j])
    assert torch.equal(stack(averagers), torch.stack(z))
    assert [a.weight for a in averagers] == w


def test_tau_bounds_the_exchanges_without_a_mix_under_a_slow_peer():
    """Rank 1 takes a step only once rank 0 waits for it: after exactly tau exchanges without a message, each time."""
    tau, gaps, since = 5, [], 0
    averagers = start(_values(2), tau=tau, at_bound="wait", wait_timeout_s=200)

    def log(event: MixEvent) -> None:
        nonlocal since
        if event.kind == "take":
            gaps.append(since)
            since = 0
        elif event.kind == "update":
            since += 1

    averagers[0].on_event = log

    def loop(averager: GossipAverager) -> None:
        for k in range(20):
            if averager.rank == 1:
                deadline = time.monotonic() + 100
                while averagers[0].updates < (tau + 1) * (k + 1) and time.monotonic() < deadline:
                    time.sleep(1e-4)
                averager.step()
            else:
                for _ in range(tau + 1):
                    averager.step()

    assert _threads(averagers, loop) == [None, None]
    assert gaps == [tau + 1] * 20 and averagers[0].updates == 20 * (tau + 1)


def test_waiting_for_a_dead_peer_ends_with_its_name():
    for settings in ({"tau": 0}, {"tau": 2, "at_bound": "wait"}):
        averagers = start(_values(3), wait_timeout_s=0.2, **settings)
        lockstep(averagers)
        averager = averagers[1]
        with pytest.raises(TimeoutError, match=r"learner 1 has waited 0\.2 s for learner 0, which is at update 1"):
            for _ in range(5):
                averager.step()
        assert averager.updates == (2 if settings["tau"] == 0 else 4)


def test_drop_peer_sends_nothing_more_to_a_peer_that_does_not_read_until_it_does():
    values = _values(3)
    boxes = InProcessMailboxes(3, 3)
    a, b, c = start(
        values, boxes, topology="undirected-ring", tau=3, at_bound="drop-peer", w_min=0.01, max_unread_weight=9
    )
    for _ in range(50):
        a.step()
        c.step()
    assert a.mailbox.waiting(0, 1) == c.mailbox.waiting(2, 1) == 4
    assert a.weight + c.weight > 2 * (2 / 3) ** 4 - 1e-12, "four shares of a third are gone, and no more"
    b.step()
    a.step()
    assert a.mailbox.waiting(0, 1) == 1
    assert mass([a, b, c])[1] + boxes.in_flight()[1] == pytest.approx(3, abs=1e-12)


@pytest.mark.parametrize("settings", [{"tau": 0}, {"tau": 2, "at_bound": "wait"}, {}])
@pytest.mark.parametrize("n", [2, 4])
def test_learners_that_finish_early_hang_nobody(settings, n):
    """Rank r makes 2 + 3 r updates and leaves; all mass is still with someone (check 14)."""
    values = _values(n)
    boxes = InProcessMailboxes(n, 3)
    averagers = start(values, boxes, topology="undirected-ring", wait_timeout_s=120, **settings)

    def loop(averager: GossipAverager) -> None:
        for _ in range(2 + 3 * averager.rank):
            averager.step()
        averager.close()

    assert _threads(averagers, loop) == [None] * n
    assert mass(averagers)[1] + boxes.in_flight()[1] == pytest.approx(n, abs=1e-12)


def test_a_cycle_at_the_bound_does_not_wait_for_itself():
    """Everyone keeps its share (the floor is above what a push would leave): nobody is behind, so nobody waits."""
    averagers = start(_values(3), tau=1, at_bound="wait", w_min=0.99, wait_timeout_s=120)

    def loop(averager: GossipAverager) -> None:
        for _ in range(50):
            averager.step()

    assert _threads(averagers, loop) == [None] * 3
    assert averagers[0].stats()["kept_rounds"] == 50


def test_a_straggler_slows_nobody_without_a_bound():
    """It makes no update at all meanwhile."""
    averagers = start(_values(3))

    def loop(averager: GossipAverager) -> None:
        for _ in range(0 if averager.rank == 0 else 100):
            averager.step()

    assert _threads(averagers, loop) == [None] * 3
    assert [a.updates for a in averagers] == [0, 100, 100]


def test_in_lockstep_all_go_at_the_pace_of_a_straggler():
    """In counts and not in seconds: the others reach its next update, and never get further than the round after."""
    averagers = start(_values(3), tau=0, wait_timeout_s=120)
    slow, may_go, ahead = averagers[0], threading.Semaphore(0), []

    def loop(averager: GossipAverager) -> None:
        for _ in range(20):
            if averager is slow:
                assert may_go.acquire(timeout=120)
            averager.step()
            ahead.append(averager.updates - slow.updates)

    def release() -> None:
        for done in range(20):
            may_go.release()
            deadline = time.monotonic() + 120
            while min(a.updates for a in averagers) <= done and time.monotonic() < deadline:
                time.sleep(1e-3)

    releasing = threading.Thread(target=release, daemon=True)
    releasing.start()
    assert _threads(averagers, loop) == [None] * 3
    releasing.join(200)
    assert [a.updates for a in averagers] == [20] * 3 and max(ahead) <= 2


def test_a_box_that_stays_locked_costs_freshness_and_no_mass():
    class Locked:
        """An endpoint whose box is held by a stopped peer."""

        def __init__(self, inner):  # type: ignore[no-untyped-def]
            self.inner, self.numel = inner, inner.numel

        def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
            return getattr(self.inner, name)

        def put(self, *_args) -> bool:  # type: ignore[no-untyped-def]
            return False

    boxes = InProcessMailboxes(2, 3)
    averager = GossipAverager([torch.ones(3)], rank=0, world_size=2, mailbox=Locked(boxes.endpoint(0)))
    averager.step()
    assert averager.weight == 1.0 and averager.stats()["refused_puts"] == 1 and averager.stats()["sent"] == 0


def test_unequal_degrees_and_shares_of_a_users_graph():
    """Out-degrees 2, 1, 1, in-degrees 1, 1, 2, unequal shares: weights differ for good, the mean is still exact."""
    out = {0: [(1, 0.2), (2, 0.5)], 1: [(2, 0.5)], 2: [(0, 0.3)]}
    graph = Topology("", lambda rank, t, n: out[rank])
    averagers = start(_values(3), topology=graph, tau=0)
    for _ in range(200):
        lockstep(averagers)
    assert (stack(averagers) - _values(3).mean(0)).abs().max() < 1e-14
    stationary = np.linalg.matrix_power(mixing_matrix(graph, 0, 3), 500)[:, 0] * 3
    np.testing.assert_allclose([a.weight for a in averagers], stationary, rtol=1e-12)
