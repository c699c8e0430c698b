"""PushSum is exact: mass is conserved and every learner reaches the true mean, whatever the network does."""

import numpy as np
import pytest
import torch
from gossip_network import Network, mass, stack, start
from hypothesis import given, settings
from hypothesis import strategies as st
from running_sums import RunningSums

from gala.gossip.graphs.topology import TOPOLOGIES, Topology, uniform
from gala.gossip.push_sum import absorb_, numerator, sent_weights
from gala.gossip.transport.in_process import InProcessMailboxes

OUT = {0: [1, 2, 4], 1: [2], 2: [3, 0], 3: [4, 1, 0, 6], 4: [5], 5: [6], 6: [0, 3]}
IRREGULAR = Topology("seven learners, out-degrees 1 to 4", uniform(lambda rank, t, n: OUT[rank]))
NO_FLOOR = 1e-9


def _run(network: Network, ticks: int, averagers, awake: float = 1.0):  # type: ignore[no-untyped-def]
    """Yields the tick after each tick in which a share ``awake`` of the learners, in random order, took a step."""
    for tick in range(1, ticks + 1):
        for rank in network.rng.permutation(len(averagers)):
            if network.rng.random() < awake:
                averagers[rank].step()
        network.now += 1
        yield tick


def test_exact_mean_under_delay_and_sleep_and_mass_at_every_tick():
    """Delays of 0 to 4 ticks, messages overtake each other, 30% asleep: checks 1 and 2 of the facts."""
    values = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = Network(7, 5, np.random.default_rng(0), max_delay=4)
    averagers = start(values, network, topology=IRREGULAR, w_min=NO_FLOOR)
    error = {}
    for tick in _run(network, 400, averagers, awake=0.7):
        error[tick] = (stack(averagers) - values.mean(0)).abs().max().item()
        (numerator, weight), (flying, flying_weight) = mass(averagers), network.in_flight()
        assert (numerator + flying - values.sum(0)).abs().max() < 1e-12 * values.abs().sum()
        assert abs(weight + flying_weight - 7) < 1e-12
        assert min(a.weight for a in averagers) > 0
    assert error[200] < 1e-6
    assert error[400] < 1e-13


@pytest.mark.parametrize("robust", [False, True])
def test_lost_messages_bias_plain_push_sum_within_the_hull_and_running_sums_repair_them(robust):
    values = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = Network(7, 5, np.random.default_rng(1), max_delay=4, loss=0.2, repeat=0.1 * robust, sums=not robust)
    wrap = RunningSums if robust else lambda box: box
    averagers = start(values, network, wrap, topology=IRREGULAR, w_min=NO_FLOOR)
    for _ in _run(network, 600, averagers):
        lowest, highest = stack(averagers).amin(0), stack(averagers).amax(0)
        assert (lowest >= values.amin(0) - 1e-12).all() and (highest <= values.amax(0) + 1e-12).all()
    bias = (stack(averagers) - values.mean(0)).abs().max().item()
    if robust:
        assert bias < 1e-6
    else:  # what arrives and what is lost keep z and w together: only the mean moves
        lost = sum(weight for _, weight in network.lost_mass)
        kept = mass(averagers)[1] + network.in_flight()[1]
        assert kept + lost == pytest.approx(7, abs=1e-9)
        assert 1e-3 < bias < (values.amax() - values.amin()).item()


def test_running_sums_conserve_mass_under_loss_repetition_and_reordering():
    values = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    network = Network(7, 2, np.random.default_rng(2), max_delay=6, loss=0.3, repeat=0.3, sums=False)
    averagers = start(values, network, RunningSums, topology=IRREGULAR, w_min=NO_FLOOR)
    boxes = [averager.mailbox for averager in averagers]
    for _ in _run(network, 60, averagers, awake=0.7):
        given_ = [entry for box in boxes for entry in box._given.values()]
        seen = [entry for box in boxes for entry in box._seen.values()]
        numerator, weight = mass(averagers)
        numerator = numerator + sum(x for x, _ in given_) - sum(x for x, _ in seen)
        assert (numerator - values.sum(0)).abs().max() < 1e-11
        assert weight + sum(w for _, w in given_) - sum(w for _, w in seen) == pytest.approx(7, abs=1e-11)


def test_equal_parameters_stay_equal_on_an_irregular_graph():
    """A graph whose rows do not sum to 1 shrinks parameters if weights are wrong; 1e4 mixes keep ones (check 6)."""
    network = Network(7, 1, np.random.default_rng(3), max_delay=3)
    averagers = start(torch.ones(7, 1, dtype=torch.float64), network, topology=IRREGULAR)
    for _ in _run(network, 2500, averagers, awake=0.7):
        pass
    assert sum(a.stats()["received"] for a in averagers) > 1e4
    assert (stack(averagers) - 1).abs().max() < 1e-12


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(TOPOLOGIES)), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_learners_and_boxes_stay_in_a_hull_that_only_shrinks(topology, n, seed):
    """No updates, any delays and any order: the largest value never grows, the smallest never falls (check 10)."""
    rng = np.random.default_rng(seed)
    network = Network(n, 3, rng, max_delay=3)
    values = torch.as_tensor(rng.normal(size=(n, 3)))
    averagers = start(values, network, topology=topology)
    low, high = values.amin(0), values.amax(0)
    for _ in _run(network, 60, averagers, awake=0.6):
        flying = [m.numerator / m.weight for queue in network.on_the_way.values() for _, m in queue]
        everything = torch.cat([stack(averagers), *(value[None] for value in flying)])
        assert (everything.amin(0) >= low - 1e-12).all() and (everything.amax(0) <= high + 1e-12).all()
        low, high = everything.amin(0), everything.amax(0)


@pytest.mark.parametrize("topology", sorted(TOPOLOGIES))
def test_without_updates_everyone_agrees_on_the_mean(topology):
    n = 6
    network = Network(n, 2, np.random.default_rng(4), max_delay=2)
    values = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    averagers = start(values, network, topology=topology)
    for _ in _run(network, 600, averagers, awake=0.8):
        pass
    assert (stack(averagers) - values.mean(0)).abs().max() < 1e-10


@pytest.mark.parametrize("topology", sorted(TOPOLOGIES))
@settings(max_examples=4, deadline=None)
@given(n=st.integers(2, 32), seed=st.integers(0, 2**32 - 1))
def test_the_floor_holds_and_mass_stays_at_any_speeds(topology, n, seed):
    """1700 random activations at speeds from 1 to 100 in each example: over 1e5 in all."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(1, 100, n)
    values = torch.as_tensor(rng.normal(size=(n, 1)))
    boxes = InProcessMailboxes(n, 1)
    averagers = start(values, boxes, topology=topology, w_min=0.25)
    for rank in rng.choice(n, 1700, p=speed / speed.sum()):
        averagers[rank].step()
        assert averagers[rank].weight >= 0.25 - 1e-12
    (numerator, weight), (waiting, waiting_weight) = mass(averagers), boxes.in_flight()
    assert abs(weight + waiting_weight - n) < 1e-9
    assert (numerator + waiting - values.sum(0)).abs().max() < 1e-9


@given(st.floats(1e-3, 100), st.lists(st.floats(1e-3, 1), min_size=1, max_size=5), st.floats(1e-3, 0.999))
def test_sent_weights_keep_the_floor_the_proportions_and_send_all_they_may(w, raw, w_min):
    shares = [share / (1.1 * sum(raw)) for share in raw]
    sent = sent_weights(w, shares, w_min)
    planned = [w * share for share in shares]
    total = sum(sent)
    if total == 0:
        assert w - w_min < sum(planned) / 2
        return
    assert total == pytest.approx(min(sum(planned), w - w_min), rel=1e-9)
    assert w - total >= w_min - 1e-9 * w
    np.testing.assert_allclose(np.array(sent) / total, np.array(planned) / sum(planned), rtol=1e-9)


def test_sent_weights_at_their_bounds():
    """All that is planned, less, or nothing: nothing once the room is under half of the plan, and half at half."""
    assert sent_weights(1.0, [0.25, 0.25], 0.5) == [0.25, 0.25] == sent_weights(1.0, [0.25, 0.25], 0.0)
    assert sent_weights(1.0, [0.5, 0.25], 0.5) == pytest.approx([1 / 3, 1 / 6])
    assert sent_weights(1.0, [0.5], 0.75) == [0.25] and sent_weights(1.0, [0.5], 0.7500001) == [0.0]
    assert sent_weights(2.0, [0.5, 0.5], 0.5) == [0.75, 0.75] and sent_weights(1.25, [0.8], 0.5) == [0.75]
    assert sent_weights(0.0, [0.5, 0.5], 0.25) == [0.0, 0.0] == sent_weights(0.0, [0.5, 0.5], 0.0)
    assert sent_weights(1.0, [], 0.25) == []


def test_a_message_is_written_where_it_is_told_to():
    z, out = torch.tensor([1.0, -2.0]), torch.empty(2)
    assert numerator(z, 0.25, out) is out and out.tolist() == [0.25, -0.5] and z.tolist() == [1.0, -2.0]
    weight = absorb_(z, 0.5, out, 0.25)
    assert weight == 0.75 and z.tolist() == pytest.approx([1.0, -2.0])
