"""What an exchange tells others: the recorder that makes a run repeatable, the listener, the roster, the counters."""

import torch
from gossip_network import start

from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import edges
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.roster import PRESENT, RESTING
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes


class Recorded(list):
    """A recorder that keeps the calls."""

    def put(self, dst, weight):
        self.append(("put", dst, weight))

    def take(self, src, count):
        self.append(("take", src, count))

    def take_back(self):
        self.append(("take back",))


def test_the_recorder_hears_each_put_and_take_in_order():
    a, b = start(torch.tensor([[0.0], [8.0]], dtype=torch.float64))
    for averager in (a, b):
        averager._exchange.recorder = Recorded()
    a.step()
    b.step()
    a.drain()
    assert a._exchange.recorder == [("put", 1, 0.5), ("take", 1, 1)]
    assert sorted(b._exchange.recorder) == [("put", 0, 0.5), ("take", 0, 1)]


def test_the_recorder_hears_of_mail_that_was_taken_back():
    boxes = SharedMemoryMailboxes.create(2, 1, edges("complete", 2))
    a, b = (
        GossipAverager([torch.full((1,), float(r))], rank=r, world_size=2, mailbox=open_endpoint(boxes.handle, r))
        for r in range(2)
    )
    a._exchange.recorder = Recorded()
    a.step()
    boxes.bury(1)
    a.step()
    assert ("take back",) in a._exchange.recorder and a.weight == 1.0, b
    boxes.close()


def test_an_updates_distance_is_rounded_up_and_not_down():
    """The certificate's bound must hold for what float32 has made of the difference."""
    a, _ = start(torch.zeros(2, 3))
    changes = []
    a.on_event = lambda event: changes.append(event[3]) if event[0] == "update" else None
    a.flat.add_(torch.tensor([3.0, 4.0, 0.0]))
    a.step()
    assert changes == [5.0 * (1.0 + 4.0 * torch.finfo(torch.float32).eps)] and changes[0] > 5.0


def test_who_stands_still_is_seen_to_rest_until_it_goes_on():
    boxes = InProcessMailboxes(2, 1)
    a = GossipAverager([torch.zeros(1)], rank=0, world_size=2, mailbox=boxes.endpoint(0))
    a.rest(True)
    assert boxes.table.state[0] == RESTING
    a.rest(False)
    assert boxes.table.state[0] == PRESENT
