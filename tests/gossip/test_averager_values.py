"""What an averager publishes, hands over and refuses, and its shards: exact values, where others test what is kept."""

import math
import threading

import pytest
import torch
from gossip_network import lockstep, mass, stack, start

from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import TOPOLOGIES, edges
from gala.gossip.sharded import ShardedAverager, ShardedMailboxes, shard_sizes
from gala.gossip.staleness import StalenessBound
from gala.gossip.transport.box import Box
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.roster import FINISHED
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

NAN = float("nan")


def _shared(n, numel=2, pairs=None, **settings):
    """(boxes, endpoints of those present, their averagers with parameters r everywhere)."""
    boxes = SharedMemoryMailboxes.create(n, numel, pairs or edges("complete", n), **settings)
    ends = [open_endpoint(boxes.handle, rank) for rank in range(settings.get("present") or n)]
    made = [
        GossipAverager([torch.full((numel,), float(r))], rank=r, world_size=n, mailbox=end, topology="complete")
        for r, end in enumerate(ends)
    ]
    return boxes, ends, made


def test_what_a_learner_has_is_published_when_it_steps_joins_leaves_and_takes_up_a_state():
    """It is what dies with it; the supervisor knows of no other."""
    boxes, _, averagers = _shared(3)
    averagers[0].step()
    assert boxes.table.weight.tolist() == [averagers[0].weight, 1.0, 1.0] and averagers[0].weight < 1
    averagers[1].load_state_dict({"weight": 0.375, "updates": 5, "counts": {"sent": 9}})
    assert boxes.table.weight[1] == 0.375 and averagers[1].updates == 5 and averagers[1].stats()["sent"] == 9
    averagers[2].join(updates=4)
    assert boxes.table.weight[2] == 0.0 == averagers[2].weight and averagers[2].updates == 4
    averagers[1].drain()
    held = averagers[1].weight
    assert boxes.table.weight[1] == held > 0.375
    assert averagers[1].leave() and boxes.table.weight[1] == 0.0 == averagers[1].weight
    averagers[1].step()  # who has left trains on alone
    assert averagers[1].leave() and boxes.table.unread.sum() == boxes.table.total_weight() - averagers[0].weight
    boxes.close()


def test_a_learner_that_has_left_is_known_to_hold_nothing_where_boxes_publish_nothing_themselves():
    boxes = InProcessMailboxes(2, 3)
    averagers = start(torch.ones(2, 3, dtype=torch.float64), boxes)
    assert averagers[0].leave() and boxes.in_flight()[1] == 1.0
    assert boxes.table.weight.tolist() == [0.0, 1.0] and boxes.table.total_weight() == 2.0


def test_a_learner_that_is_not_finite_hands_nothing_to_a_peer_when_it_leaves():
    boxes = InProcessMailboxes(2, 3)
    averagers = start(torch.ones(2, 3, dtype=torch.float64), boxes)
    averagers[0].flat[1] = NAN
    with pytest.raises(FloatingPointError, match="learner 0: parameters are not finite after update 0"):
        averagers[0].leave()
    assert not boxes.boxes and averagers[0].weight == 1.0
    averagers[1].step()
    assert stack(averagers)[1].isfinite().all()


class _CutOff:
    """Numbers whose copy ends in the middle: the process was killed, as the box sees it."""

    def to(self, device):
        raise KeyboardInterrupt


def _cut_off_a_write(boxes, edge, replace=False):
    with pytest.raises(KeyboardInterrupt):
        boxes.box(edge).put(_CutOff(), 0.25, 1, replace)


def test_a_second_burial_counts_no_loss_of_the_first_again():
    boxes, ends, _ = _shared(3)
    assert ends[0].put(1, torch.ones(2), 0.5, 1)
    _cut_off_a_write(boxes, (0, 1))  # what waited in the box is lost with the write
    assert boxes.bury(0) == 0.5 + 0.5 and boxes.table.total_weight() == 2.0
    boxes.admit(0)
    assert boxes.bury(0) == 0.0 and boxes.table.total_weight() == 2.0 and boxes.lost_weight() == 0.5
    boxes.admit(0)
    end = open_endpoint(boxes.handle, 0)
    assert end.put(1, torch.ones(2), 0.0625, 1)
    _cut_off_a_write(boxes, (0, 1))
    boxes.table.weight[0] = 0.25
    assert boxes.bury(0) == 0.25 + 0.0625 and boxes.table.total_weight() == 2.0, "what the living hold"
    boxes.close()


def test_what_nobody_can_inherit_from_one_who_leaves_is_taken_off_the_total():
    """Mail between two that are gone, with no box towards the third."""
    boxes, ends, _ = _shared(3, pairs=[(0, 1), (1, 0)])
    assert ends[0].put(1, torch.ones(2), 0.25, 1)
    assert boxes.bury(1) == 1.0 and boxes.table.total_weight() == 2.0
    boxes.retire(0)
    assert boxes.table.total_weight() == 1.0 and boxes.table.weight[0] == boxes.table.unread.sum() == 0.0
    boxes.close()


def test_a_copy_takes_no_weight_from_its_sender_and_brings_none():
    boxes, ends, _ = _shared(2)
    for _ in range(2):
        assert ends[0].put(1, torch.ones(2), 0.5, 1, replace=True) and boxes.table.weight.tolist() == [1.0, 1.0]
    assert ends[1].take(0).weight == 0.5 and boxes.table.weight.tolist() == [1.0, 1.0]
    assert boxes.table.total_weight() == 2.0
    assert ends[0].put(1, torch.ones(2), 0.25, 2) and boxes.table.weight.tolist() == [0.75, 1.0]
    assert ends[1].take(0).weight == 0.25 and boxes.table.weight.tolist() == [0.75, 1.25]
    boxes.close()


def test_a_copy_has_no_weight_to_lose():
    boxes, ends, _ = _shared(2)
    for k, replace in enumerate((True, False)):
        assert ends[0].put(1, torch.ones(2), 1.0, 1, replace=True)
        _cut_off_a_write(boxes, (0, 1), replace)
        assert ends[1].take(0) is None and boxes.lost_weight() == 0.0
        assert boxes.box((0, 1)).ints[Box.CUT_OFF] == k + 1
    assert ends[0].put(1, torch.ones(2), 0.5, 1) and ends[0].put(1, torch.ones(2), 0.25, 2)
    _cut_off_a_write(boxes, (0, 1))
    assert ends[1].take(0) is None and ends[1].lost_weight() == boxes.lost_weight() == 0.75
    boxes.close()


def _sharded(n, numel, shards, **settings):
    boxes = ShardedMailboxes.create(n, numel, edges("complete", n), shards)
    made = []
    for rank in range(n):
        ends = [handle.open(rank) for handle in boxes.handle]
        params = [torch.full((numel,), float(rank))]
        made.append(ShardedAverager(params, mailboxes=ends, rank=rank, world_size=n, topology="complete", **settings))
    return boxes, made


def test_sharded_boxes_hold_the_parts_and_add_up_what_they_are_asked():
    boxes, averagers = _sharded(3, 8, 3)
    assert shard_sizes(8, 3) == [3, 3, 2] and [a.flat.numel() for a in averagers[0].shards] == [3, 3, 2]
    averagers[0].step()  # the first turn is shard 0's
    weights = [[float(w) for w in shard.table.weight] for shard in boxes.shards]
    assert weights[0][0] < 1 and weights[1:] == [[1.0] * 3] * 2
    assert boxes.weights([0, 2]) == [[row[0], 0.0, row[2]] for row in weights]
    assert boxes.left_weight() == pytest.approx(3.0), "on average over shards, of those who hold it and what waits"
    held = [row[0] for row in weights]
    assert boxes.bury(0) == pytest.approx(sum(held) / 3) == 3.0 - boxes.left_weight()
    assert [shard.table.total_weight() for shard in boxes.shards] == pytest.approx([3 - x for x in held])
    waiting = float(boxes.shards[0].table.unread.sum())
    boxes.restore([[0.5, 1.0, 0.25], [1.0, 2.0, 0.0], [0.125, 0.0, 0.5]], [0, 1, 2])
    assert [shard.table.total_weight() for shard in boxes.shards] == [1.75 + waiting, 3.0, 0.625]
    assert boxes.weights([0, 1, 2])[2] == [0.125, 0.0, 0.5]
    boxes.admit(0)
    assert [float(shard.table.weight[0]) for shard in boxes.shards] == [0.0] * 3
    boxes.close()


def test_shards_take_turns_also_for_one_who_joins_and_tell_ages_as_such():
    """Every second update one of three shards exchanges; a newcomer's turns are those of the others."""
    boxes, (a, b) = _sharded(2, 6, 3, every=2, tau=9, at_bound="drop-peer", max_unread_weight=9)
    sent = []
    for _ in range(12):
        a.step()
        sent.append([shard.stats()["sent"] for shard in a.shards])
    assert [sum(row) for row in sent] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert sent[1] == [1, 0, 0] and sent[3] == [1, 1, 0] and sent[5] == [1, 1, 1]
    b.join(updates=12)
    assert b.weight == 0.0 and [shard.updates for shard in b.shards] == [shard.updates for shard in a.shards]
    b.drain()
    ages = [shard.stats()["message_age_max"] for shard in b.shards]
    stats = b.stats()
    assert ages == [4, 2, 0], "updates of the sender since its newest put in each shard"
    assert stats["message_age_max"] == max(ages) and stats["message_age_mean"] == pytest.approx(sum(ages) / 3)
    assert stats["received"] == 3 and sum(b.age_histogram.counts().values()) == 3
    b.shards[1].weight = 0.125
    assert b.weight == b.stats()["weight"] == min(shard.weight for shard in b.shards) == 0.125
    boxes.close()


def test_shards_of_equal_size_of_unequal_models_do_not_mix():
    boxes = ShardedMailboxes.create(2, 8, [(0, 1), (1, 0)], 2)
    made = [
        ShardedAverager(
            [torch.zeros(s) for s in shapes], mailboxes=[h.open(r) for h in boxes.handle], rank=r, world_size=2
        )
        for r, shapes in enumerate(([(2, 2), (4,)], [(4,), (2, 2)]))
    ]
    made[0].step()
    with pytest.raises(ValueError, match="learners 0 and 1 have parameters of different shapes or in another order"):
        made[1].step()
    with pytest.raises(ValueError, match="8 parameters can be cut into 1 to 8 shards, not 9"):
        ShardedMailboxes.create(2, 8, [(0, 1)], 9)
    boxes.close()


def test_sharded_mass_is_kept_and_every_shard_agrees_on_its_mean():
    boxes, averagers = _sharded(3, 7, 2)
    for _ in range(60):
        lockstep(averagers)
    for averager in averagers:
        averager.drain()
    for k in range(2):
        parts = [averager.shards[k] for averager in averagers]
        assert sum(part.weight for part in parts) == pytest.approx(3, abs=1e-12)
        assert (mass(parts)[0] / 3 - 1.0).abs().max() < 1e-5
    assert averagers[0].leave() and averagers[0].weight == 0.0
    boxes.retire(0)
    assert boxes.silent() == () and all(math.isclose(shard.table.total_weight(), 3) for shard in boxes.shards)
    state = averagers[1].state_dict()
    averagers[2].load_state_dict(state)
    assert [shard.weight for shard in averagers[2].shards] == [shard.weight for shard in averagers[1].shards]
    boxes.close()


def test_the_defaults_are_those_that_are_documented():
    boxes = InProcessMailboxes(2, 3)
    averager = GossipAverager([torch.ones(3)], rank=0, world_size=2, mailbox=boxes.endpoint(0))
    assert (averager.every, averager.w_min, averager.mixing, averager.weight) == (1, 0.1, "pushsum", 1.0)
    assert averager.bound == StalenessBound(None, "proceed", 60.0)
    assert averager.topology is TOPOLOGIES["ring"] and averager.updates == 0


def _logged(averagers):
    """Events as they happen, without their times and norms."""
    events = []
    for averager in averagers:
        averager.on_event = lambda event: events.append((*event[:3], round(event[3], 9), *event[4:6]))
    return events


def test_every_update_put_take_and_mark_is_logged_with_its_weights_and_versions():
    a, b = averagers = start(torch.tensor([[0.0, 0.0], [8.0, 0.0]], dtype=torch.float64))
    assert a.on_event is None
    events = _logged(averagers)
    a.flat.add_(torch.tensor([3.0, 4.0]))
    a.step()
    b.step()
    b.mark(7)
    a.drain()
    assert events == [
        ("update", 0, 0, 5.0, 1, 1),
        ("put", 0, 1, 0.5, 1, 1),
        ("update", 1, 1, 0.0, 1, 1),
        ("put", 1, 0, 0.5, 1, 1),
        ("take", 1, 0, 0.5, 1, 1),
        ("update", 1, 1, 0.0, 1, 1),
        ("mark", 1, 1, 0.0, 7, 1),
        ("take", 0, 1, 0.5, 1, 1),
    ]
    assert a.weight == b.weight == 1.0 and a.flat.tolist() == b.flat.tolist() == [5.5, 2.0]


def test_copies_are_logged_with_the_number_of_parts_that_were_there_before():
    averagers = start(torch.arange(3.0, dtype=torch.float64)[:, None], topology="complete", mixing="copy-average")
    events = _logged(averagers)
    for averager in averagers:
        averager.send()
    events.clear()
    averagers[2].receive()
    assert events == [("take", 2, 0, 1.0, 1, 1), ("take", 2, 1, 2.0, 1, 1)] and averagers[2].flat.item() == 1.0
    averagers[1].drain()
    assert averagers[1].mailbox.waiting(0, 1) == 1 and averagers[1].flat.item() == 1.0, "copies have no mass to absorb"
    assert averagers[1].leave() and averagers[1].weight == 1.0 and averagers[0].mailbox.finished(1)


def test_an_end_is_seen_and_nothing_follows_it():
    for end in ("close", "leave"):
        boxes = InProcessMailboxes(2, 3)
        a, b = start(torch.ones(2, 3, dtype=torch.float64), boxes)
        b.step()
        getattr(a, end)()
        assert b.mailbox.finished(0) and a.weight == (1.5 if end == "close" else 0.0)
        waiting = boxes.in_flight()[1]
        for _ in range(3):
            a.step()
        getattr(a, end)()
        assert boxes.in_flight()[1] == waiting == (0.0 if end == "close" else 1.5) and a.stats()["received"] == 1
        b.rest(True)
        b.close()
        b.rest(False)  # does nothing any more
        assert boxes.endpoint(0).finished(1)


def test_the_floor_follows_the_mean_weight_down_and_never_up():
    """After deaths there is less than 1 for each; after learners have left, more, which is no reason to keep more."""
    for total, sent in ((1.0, 0.5), (4.0, 0.5), (16.0, 0.5)):
        boxes = InProcessMailboxes(2, 3)
        averager = start(torch.ones(2, 3, dtype=torch.float64), boxes)[0]
        boxes.table.weight[:] = total / 2
        averager.send()
        assert boxes.in_flight()[1] == sent
    boxes = InProcessMailboxes(2, 3)
    averager = start(torch.ones(2, 3, dtype=torch.float64), boxes, w_min=0.5)[0]
    averager.weight = 0.25
    averager.send()
    assert not boxes.boxes and averager.stats()["kept_rounds"] == 1, "under the floor it keeps all"
    boxes.table.weight[:] = 0.125  # an eighth for each: the floor is a sixteenth
    averager.send()
    assert boxes.in_flight()[1] == 0.125 and averager.stats()["kept_rounds"] == 1
    boxes.table.state[1] = FINISHED
    averager.send()
    assert averager.stats()["kept_rounds"] == 1, "nobody to send to is no round that was kept"


def test_a_share_of_nothing_is_no_message():
    """A newcomer has no weight to give."""
    boxes = InProcessMailboxes(3, 3)
    averager = start(torch.ones(3, 3, dtype=torch.float64), boxes, topology="complete")[0]
    averager.join()
    averager.send()
    assert not boxes.boxes and averager.stats()["sent"] == 0 and averager.weight == 0.0


def test_a_bound_counts_exchanges_in_a_row_and_begins_anew_at_each_message():
    """At most two may pass without one: the third waits, which here is an error at once."""
    averagers = start(torch.ones(2, 3, dtype=torch.float64), tau=2, at_bound="wait", wait_timeout_s=1e-9)
    a, b = averagers
    b.mailbox.advance(1)  # it has begun
    for _ in range(3):
        b.mailbox.put(0, torch.ones(3, dtype=torch.float64), 0.25, 1)
        a.step()
        a.step()
        a.step()
    with pytest.raises(TimeoutError, match="learner 0 has waited"):
        a.step()
    assert b.updates == 0


@pytest.mark.parametrize("state", [{"weight": NAN}, {"weight": -1e-9}, {"updates": -1}, {"weight": math.inf}])
def test_a_state_that_is_none_is_refused_and_zeros_are_one(state):
    averager = start(torch.ones(2, 3, dtype=torch.float64))[0]
    good = {"weight": 0.0, "updates": 0, "counts": {}}
    averager.load_state_dict(good)
    assert averager.weight == 0.0 and averager.updates == 0
    with pytest.raises(ValueError, match="not a gossip averager's state"):
        averager.load_state_dict(good | state)


def test_a_callable_averages_at_its_turns_and_has_no_stats():
    seen = []
    averager = GossipAverager(
        [torch.zeros(2)], rank=0, world_size=2, mailbox=None, every=3, mixing=lambda x: seen.append(x.add_(1))
    )
    for _ in range(7):
        averager.step()
    averager.drain()
    assert len(seen) == 2 and averager.stats() == {} and averager.leave() and averager.flat.tolist() == [2.0, 2.0]
    lone = GossipAverager([torch.zeros(2)], rank=0, world_size=1, mailbox=None)
    assert lone.stats()["weight"] == 1.0 and lone.leave() and lone.weight == 1.0


def test_copies_in_lockstep_are_waited_for():
    a, b = start(torch.tensor([[0.0], [4.0]], dtype=torch.float64), mixing="copy-average", tau=0, wait_timeout_s=120)
    thread = threading.Thread(target=a.step, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive() and a.flat.item() == 0.0
    b.step()
    thread.join(120)
    assert a.flat.item() == b.flat.item() == 2.0 and a.weight == 1.0


def test_a_newcomer_counts_from_the_updates_that_it_is_told_and_from_none_otherwise():
    averager = start(torch.ones(2, 3, dtype=torch.float64))[0]
    averager.updates = 9
    averager.join()
    assert averager.updates == 0 and averager.weight == 0.0
