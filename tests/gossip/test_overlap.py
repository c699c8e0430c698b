"""An exchange in a thread of its own: same mass, same moments at which parameters change."""

import threading
import time

import numpy as np
import pytest
import torch
from gossip_network import mass, stack

from gala.gossip.averager import GossipAverager
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.overlap import Overlapped
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes


def _learners(values: torch.Tensor, **settings):  # type: ignore[no-untyped-def]
    n, d = values.shape
    boxes = InProcessMailboxes(n, d)
    ends = [Overlapped(boxes.endpoint(rank), rank) for rank in range(n)]
    averagers = [
        GossipAverager([values[r].clone()], rank=r, world_size=n, mailbox=ends[r], **settings) for r in range(n)
    ]
    return boxes, ends, averagers


def _values(n: int, d: int = 5) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("topology", ["ring", "complete", "random-1"])
@pytest.mark.parametrize("every", [1, 3])
def test_no_mass_is_lost_or_made_and_all_agree(topology, every):
    values, rng = _values(4), np.random.default_rng(0)
    boxes, ends, averagers = _learners(values, topology=topology, every=every)
    for _ in range(6):  # how near they are after each depends on the threads' timing
        for rank in rng.choice(4, 300, p=(0.1, 0.2, 0.3, 0.4)):
            averagers[rank].step()
        for end in ends:  # as at a checkpoint: all come to rest, then all drain
            end.rest(True)
        for averager in averagers:
            averager.drain()
        assert boxes.in_flight()[1] == 0
        numerator, weight = mass(averagers)
        assert weight == pytest.approx(4, abs=1e-12) and (numerator - values.sum(0)).abs().max() < 1e-12
        for end in ends:
            end.rest(False)
    if every == 1:  # with a third of the exchanges they are not there yet
        assert (stack(averagers) - values.mean(0)).abs().max() < 1e-9
    for averager in averagers:
        averager.close()
        averager.close()


def test_parameters_change_in_a_step_only_and_a_message_is_absorbed_one_exchange_later():
    values = _values(2)
    _, ends, (a, b) = _learners(values, w_min=0.01)
    a.step()
    ends[0]._wait()
    b.step()
    ends[1]._wait()  # its thread has fetched the message by now
    assert torch.equal(b.flat, values[1]) and b.weight == 0.5
    time.sleep(0.02)
    assert torch.equal(b.flat, values[1])
    b.flat.add_(1.0)  # the update that the acting policy's rollout led to
    b.step()
    expected = (0.5 * (values[1] + 1) + 0.5 * values[0]) / 1.0  # nothing was sent: a has not read the last message
    assert torch.allclose(b.flat, expected, rtol=1e-14) and b.weight == 1.0
    assert b.stats()["message_age_max"] == 0.0 and b.stats()["received"] == 1


class _Gate:
    """An endpoint whose puts wait, fail or are refused at will."""

    def __init__(self, inner) -> None:  # type: ignore[no-untyped-def]
        self.inner, self.open, self.refuse, self.error = inner, threading.Event(), False, None
        self.open.set()

    def put(self, *args) -> bool:  # type: ignore[no-untyped-def]
        assert self.open.wait(120)
        if self.error is not None:
            raise self.error
        return not self.refuse and self.inner.put(*args)

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self.inner, name)


def test_what_is_sent_is_what_the_parameters_were_at_the_step():
    boxes = InProcessMailboxes(2, 3)
    gate = _Gate(boxes.endpoint(0))
    averager = GossipAverager([torch.ones(3)], rank=0, world_size=2, mailbox=Overlapped(gate, 0))  # type: ignore[arg-type]
    gate.open.clear()
    averager.step()  # and if it waited for its own delivery: for ever
    assert not boxes.boxes
    averager.flat.fill_(9.0)  # the next update
    gate.open.set()
    averager.mailbox.rest(True)
    assert boxes.boxes[0, 1].numerator.tolist() == [0.5] * 3


def test_a_locked_box_keeps_its_message_until_it_opens_and_takes_no_second_one():
    boxes = InProcessMailboxes(2, 3)
    gate = _Gate(boxes.endpoint(0))
    gate.refuse = True
    averager = GossipAverager([torch.ones(3)], rank=0, world_size=2, mailbox=Overlapped(gate, 0), w_min=0.01)  # type: ignore[arg-type]
    averager.step()
    averager.step()
    assert averager.weight == 0.5 and averager.stats()["full_peers"] == 1
    gate.refuse = False
    averager.mailbox.rest(True)
    assert boxes.in_flight()[1] == 0.5
    averager.step()
    averager.mailbox.rest(True)
    assert boxes.in_flight()[1] == averager.weight == 0.5, "not read yet: nothing is added"


def test_an_error_in_the_thread_reaches_the_learner():
    gate = _Gate(InProcessMailboxes(2, 3).endpoint(0))
    averager = GossipAverager([torch.ones(3)], rank=0, world_size=2, mailbox=Overlapped(gate, 0), w_min=0.01)  # type: ignore[arg-type]
    gate.error = OSError("the wire is cut")
    averager.step()
    with pytest.raises(OSError, match="wire is cut"):
        averager.step()
    with pytest.raises(OSError, match="wire is cut"):
        averager.mailbox.close()
    averager.mailbox._thread.join(120)
    assert not averager.mailbox._thread.is_alive(), "closed all the same"


def test_what_a_dead_peer_did_not_read_comes_back():
    values = _values(2)
    boxes, ends, averagers = _learners(values, w_min=0.01)
    averagers[0].step()
    ends[0].rest(True)
    boxes.bury(1)
    ends[0].rest(False)
    averagers[0].step()
    assert averagers[0].weight == 1.0 and boxes.in_flight()[1] == 0
    assert torch.allclose(averagers[0].flat, values[0], rtol=1e-14)


def test_copies_that_were_not_mixed_yet_give_way_to_newer_ones():
    values = _values(3)
    _, ends, (a, b, c) = _learners(values, topology="complete", mixing="copy-average")
    a.step()
    ends[0].rest(True)
    ends[0].rest(False)
    b.step()
    ends[1]._wait()
    a.flat.add_(1.0)
    a.step()
    ends[0]._wait()
    b.step()  # has only a's old copy at hand, which its thread then replaces
    ends[1]._wait()
    c.step()
    ends[2]._wait()
    b.step()
    ends[1]._wait()
    b.step()
    assert torch.allclose(b.flat, (values[1] + values[0] + 1 + values[2]) / 3, rtol=1e-14)


@pytest.mark.parametrize("topology", ["ring", "complete"])
def test_what_lies_between_a_learner_and_its_boxes_is_published_with_it(topology):
    """It dies with the learner; and the others' floor and cap follow from the mean of what is published."""
    boxes = SharedMemoryMailboxes.create(4, 3)
    ends = [Overlapped(open_endpoint(boxes.handle, rank), rank) for rank in range(4)]
    averagers = [
        GossipAverager([torch.full((3,), float(r))], rank=r, world_size=4, mailbox=end, topology=topology)
        for r, end in enumerate(ends)
    ]
    for _ in range(30):
        for averager in averagers:
            averager.step()
        for end in ends:
            end._wait()
        assert boxes.table.total_weight() == pytest.approx(4.0, abs=1e-12)
        for rank, (end, averager) in enumerate(zip(ends, averagers, strict=True)):
            between = [m.weight for m in (*end._fetched.values(), *end._ready.values())]
            between += [m.weight for m, _ in end._outgoing.values()]
            assert boxes.table.weight[rank] == pytest.approx(averager.weight + sum(between), abs=1e-12)
    lost = boxes.bury(2)
    assert lost == pytest.approx(averagers[2].weight + sum(m.weight for m in ends[2]._fetched.values()), abs=1e-12)
    for averager in averagers:
        averager.close()
    boxes.close()
