"""Deaths take weight along for ever: PushSum goes on all the same, and its mean stays exact between them."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import pytest
import torch
from gossip_network import mass, start
from hypothesis import given
from hypothesis import strategies as st

from gala.gossip.averager import GossipAverager
from gala.gossip.message import stamp, unit_of, updates_of
from gala.gossip.push_sum import UNIT_BITS, absorb_, in_unit
from gala.gossip.transport.compress import Compressed
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.roster import Table


@given(st.integers(0, 2**39), st.integers(0, 10**6))
def test_a_stamp_keeps_update_and_unit_apart_and_the_newest_is_the_largest(updates, unit):
    stamped = stamp(updates, unit)
    assert (updates_of(stamped), unit_of(stamped)) == (updates, unit) and stamped < 2**63
    assert stamp(updates, unit) < stamp(updates + 1, unit) < stamp(0, unit + 1)


@given(st.floats(2.0**-40, 2.0**40), st.integers(0, 5), st.integers(0, 5))
def test_units_change_without_rounding(weight, unit, other):
    assert Fraction(in_unit(weight, unit, other)) == Fraction(weight) * Fraction(2) ** (UNIT_BITS * (other - unit))


def test_mass_of_another_unit_is_absorbed_as_what_it_is_worth():
    z, message = torch.tensor([3.0], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    w = absorb_(z, 2.0, message, 4.0, factor=0.25)
    assert w == 3.0 and z.item() == pytest.approx((2 * 3 + 5 / 4) / 3)
    assert absorb_(z, 0.0, message, 0.0) == 0.0 and z.isfinite().all()


def test_a_table_sums_weights_of_several_units():
    table = Table.local(3)
    table.weight[:] = 1.0, 0.5, 3.0
    table.unit[:] = 0, 1, 1
    assert table.total_weight() == 3.5 + 2.0**UNIT_BITS and table.mean_weight(0) == (1 + 3.5 * 2.0**-UNIT_BITS) / 3
    assert table.weights() == [2.0**UNIT_BITS, 0.5, 3.0] and table.highest_unit() == 1
    assert table.bury(0) == 2.0**UNIT_BITS and table.total_weight() == 3.5
    table.state[1:] = 3, 4
    assert table.highest_unit() == 0, "those that are gone count in nothing"


def _replace(boxes: InProcessMailboxes, averagers: list[GossipAverager], rank: int, value: float) -> None:
    """``rank`` dies, and comes back with other numbers."""
    boxes.bury(rank)
    boxes.admit(rank)
    params = [torch.full((3,), value, dtype=averagers[0].flat.dtype)]
    others = max(a.updates for a in averagers)
    averagers[rank] = GossipAverager(params, rank=rank, world_size=len(averagers), mailbox=boxes.endpoint(rank))
    averagers[rank].join(others)


def _true_mean(boxes: InProcessMailboxes, averagers: list[GossipAverager]) -> torch.Tensor:
    """Of all mass, counted as each says."""
    unit = boxes.table.highest_unit()
    held = [(a.weight, a.flat.double() * a.weight, int(a.stats()["unit"])) for a in averagers]
    held += [(m.weight, m.numerator.double(), unit_of(m.sent_at)) for m in boxes.boxes.values()]
    total = sum(in_unit(w, own, unit) for w, _, own in held)
    return sum(numerator * in_unit(1.0, own, unit) for _, numerator, own in held) / total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_six_hundred_deaths_do_not_stop_it(dtype):
    """Before, the books were off after 150, a float32 message underflowed after 349, and float64 was 0 after 500."""
    boxes = InProcessMailboxes(4, 3)
    averagers = start(torch.randn(4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)), boxes)
    before = _true_mean(boxes, averagers)
    for death in range(600):
        for _ in range(6):
            for averager in averagers:
                averager.step()
        assert (_true_mean(boxes, averagers) - before).abs().max() < 1e-6
        spread = max((a.flat - averagers[0].flat).abs().max().item() for a in averagers)
        assert spread < 0.5, (death, spread)
        _replace(boxes, averagers, death % 4, float(death % 7))
        before = _true_mean(boxes, averagers)
        assert 2.0**-UNIT_BITS / 4 < boxes.table.mean_weight() < 2.0**UNIT_BITS
    assert boxes.table.highest_unit() >= 3
    assert all(a.stats()["new_starts"] == 0 for a in averagers)


def test_those_that_are_left_start_anew_when_all_mass_has_died():
    boxes = InProcessMailboxes(3, 3)
    averagers = start(torch.zeros(3, 3), boxes)
    for rank in range(3):
        _replace(boxes, averagers, rank, float(rank))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(100):
            for averager in averagers:
                averager.step()
    assert len(seen) == 3 and all("all learners that held PushSum weight have died" in str(w.message) for w in seen)
    assert [a.stats()["new_starts"] for a in averagers] == [1.0] * 3
    assert all(torch.allclose(a.flat, torch.ones(3)) for a in averagers), "equal weights: the plain mean of 0, 1, 2"
    assert mass(averagers)[1] + boxes.in_flight()[1] == pytest.approx(3.0)


def test_who_has_nothing_leaves_without_a_message():
    boxes = InProcessMailboxes(2, 3)
    averagers = start(torch.zeros(2, 3), boxes)
    averagers[0].join()
    assert averagers[0].leave() and not boxes.boxes
    assert not averagers[1].leave(), "with mass, somebody must take it"


def test_one_that_counts_otherwise_sends_no_second_message_into_a_box():
    """Two units do not add up; with drop-peer a box may else hold several messages."""
    boxes = InProcessMailboxes(2, 3)
    a, b = start(torch.ones(2, 3), boxes, tau=5, at_bound="drop-peer", max_unread_weight=100.0)
    a.send()
    a.send()
    assert boxes.boxes[0, 1].count == 2
    boxes.table.unit[1] = 1
    a.send()
    assert boxes.boxes[0, 1].count == 2 and a.stats()["unit"] == 1
    b.step()
    a.send()
    assert boxes.boxes[0, 1].count == 1 and unit_of(boxes.boxes[0, 1].sent_at) == 1


def test_one_that_leaves_mixes_no_units_either():
    """What it hands over went into a box with an unread message of another unit, and one of the two was lost."""
    boxes = InProcessMailboxes(3, 3)
    averagers = start(torch.arange(9.0, dtype=torch.float64).view(3, 3), boxes, topology="complete")
    averagers[0].send()
    assert set(boxes.boxes) == {(0, 1), (0, 2)}
    before = _true_mean(boxes, averagers)
    boxes.table.unit[1] = 1
    averagers[0]._mass.count_in(1)
    assert not averagers[0].leave(), "nobody has read its last message"
    assert torch.allclose(_true_mean(boxes, averagers), before, rtol=1e-12)
    averagers[2].step()
    assert averagers[0].leave() and averagers[0].weight == 0.0
    assert torch.allclose(_true_mean(boxes, averagers), before, rtol=1e-12)


@pytest.mark.parametrize("end", ["leave", "close"])
@pytest.mark.parametrize("codec", ["int8", "fp16"])
def test_one_that_leaves_takes_no_residual_of_its_coding_along(codec, end):
    """Nor does one that is done, whose last message has been read: the residual then comes alone, without weight."""
    boxes = InProcessMailboxes(2, 1100)
    values = torch.randn(2, 1100, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ends = [Compressed(boxes.endpoint(rank), codec) for rank in range(2)]
    a, b = (GossipAverager([values[i].clone()], rank=i, world_size=2, mailbox=ends[i]) for i in range(2))
    for averager in (a, b, a):
        averager.step()
    assert ends[0].residual().abs().max() > 1e-8
    if end == "leave":
        assert a.leave()
    else:
        b.drain()
        a.close()
        assert boxes.boxes[0, 1].weight == 0.0
        b.drain()
        assert (0, 1) not in boxes.boxes, "read"
    kept = a.flat * a.weight if end == "close" else 0.0
    total = kept + b.flat * b.weight + boxes.in_flight()[0] + ends[1].residual()
    assert (total - values.sum(0)).abs().max() < 1e-7, "the residual travels in float32"
    assert math.isclose(a.weight + b.weight + boxes.in_flight()[1], 2.0)


def test_a_residual_is_counted_in_the_unit_of_its_message():
    boxes = InProcessMailboxes(2, 3)
    end = Compressed(boxes.endpoint(0), "int8")
    end.put(1, torch.tensor([1.0, 0.3, 0.7]), 1.0, stamp(1, 0))
    old = end.residual()
    boxes.boxes.clear()
    end.put(1, torch.tensor([1.0, 0.3, 0.7]) * 2.0**UNIT_BITS, 2.0**UNIT_BITS, stamp(2, 1))
    sent = boxes.boxes[0, 1].numerator.double() + end.residual(1)
    want = (torch.tensor([1.0, 0.3, 0.7]).double() + old) * 2.0**UNIT_BITS
    assert torch.allclose(sent, want, rtol=1e-6)
