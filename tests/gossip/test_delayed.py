"""A link with latency keeps order and mass, and changes nothing else about a synchronous run."""

import contextlib
import threading
import time

import pytest
import torch

from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import edges
from gala.gossip.transport.delayed import DelayedMailbox
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

HOUR_S = 3600.0
D = 3


def pair(latency_s):
    shared = InProcessMailboxes(2, D)
    return shared, DelayedMailbox(shared.endpoint(0), latency_s), shared.endpoint(1)


def test_what_is_under_way_is_seen_by_its_sender_only():
    shared, sender, receiver = pair(HOUR_S)
    message = torch.tensor([1.0, 2.0, 3.0])
    assert sender.put(1, message, 0.25, 1) and sender.put(1, message, 0.5, 2)
    message.zero_()  # the sender may use its buffer again
    sender.advance(2)
    assert (sender.waiting(0, 1), receiver.waiting(0, 1), receiver.progress(0), receiver.take(0)) == (2, 0, 0, None)
    numerator, weight = sender.in_flight()
    assert numerator.tolist() == [2.0, 4.0, 6.0] and weight == 0.75 and shared.in_flight()[1] == 0.0


def test_it_arrives_whole_and_no_sooner_than_the_latency():
    _, sender, receiver = pair(0.05)
    started = time.monotonic()
    sender.put(1, torch.ones(D), 0.25, 1)
    sender.put(1, torch.ones(D), 0.5, 2)
    sender.advance(2)
    sender.flush()
    assert time.monotonic() - started >= 0.05
    message = receiver.take(0)
    assert message is not None and message.numerator.tolist() == [2.0] * D
    assert message[1:4] == (0.75, 2, 2) and receiver.progress(0) == 2
    assert sender.in_flight()[1] == 0.0 and sender.waiting(0, 1) == 0


class Reluctant:
    """An endpoint whose box is locked by someone for the first ``refusals`` puts."""

    def __init__(self, inner, refusals):
        self.inner, self.refusals, self.seen = inner, refusals, []
        self.numel, self.message_bytes = inner.numel, inner.message_bytes

    def put(self, *args):
        self.refusals -= 1
        self.seen.append(self.inner.progress(0))
        return self.refusals < 0 and self.inner.put(*args)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_the_update_count_never_overtakes_a_message_that_a_locked_box_holds_up():
    shared = InProcessMailboxes(2, D)
    inner = Reluctant(shared.endpoint(0), refusals=5)
    sender = DelayedMailbox(inner, 1e-3)
    sender.put(1, torch.ones(D), 0.5, 7)
    sender.advance(7)
    sender.flush()
    assert inner.seen == [0] * 6 and shared.updates[0] == 7 and shared.in_flight()[1] == 0.5


def test_closing_delivers_first_and_a_closed_end_is_seen_after_its_last_message():
    _, sender, receiver = pair(0.02)
    sender.put(1, torch.ones(D), 0.5, 1)
    assert not receiver.finished(0)
    sender.close()
    sender.close()
    assert receiver.finished(0) and receiver.waiting(0, 1) == 1


def test_a_link_that_breaks_says_so_at_the_next_call():
    mailboxes = SharedMemoryMailboxes.create(2, D, [(0, 1)])
    sender = DelayedMailbox(open_endpoint(mailboxes.handle, 1), 1e-3)  # there is no box 1 -> 0
    sender.put(0, torch.ones(D), 0.5, 1)
    with pytest.raises(RuntimeError, match="could not be delivered") as caught:
        sender.flush()
    assert "there is no box 1 -> 0" in str(caught.value.__cause__)
    mailboxes.close()


def test_a_flush_that_cannot_end_is_an_error_and_bad_arguments_are_refused():
    shared = InProcessMailboxes(2, D)
    sender = DelayedMailbox(Reluctant(shared.endpoint(0), 10**9), 1e-3)
    sender.put(1, torch.ones(D), 0.5, 1)
    with pytest.raises(TimeoutError, match="holds its box"):
        sender.flush(timeout_s=0.05)
    with pytest.raises(ValueError, match="latency_s must be positive"):
        DelayedMailbox(shared.endpoint(0), 0.0)
    with pytest.raises(ValueError, match="does not fit"):
        sender.put(1, torch.ones(D + 1), 0.5, 1)


def start(values, tau, latencies_s, topology):
    """One averager for each row of ``values`` [n, d], each behind a link of its own."""
    n, d = values.shape
    shared = InProcessMailboxes(n, d)
    ends = [DelayedMailbox(shared.endpoint(r), s) if s else shared.endpoint(r) for r, s in enumerate(latencies_s)]
    averagers = [
        GossipAverager([values[r].clone()], rank=r, world_size=n, mailbox=ends[r], topology=topology, tau=tau)
        for r in range(n)
    ]
    return shared, ends, averagers


def random_values(n):
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_latency_changes_no_bit_of_synchronous_gossip():
    """If the update count overtook its message, tau=0 would take the round for one in which the peer kept its share."""

    def learn(averager):
        steps = torch.Generator().manual_seed(averager.rank)
        for _ in range(12):
            averager.flat.add_(torch.randn(D, generator=steps, dtype=torch.float64), alpha=0.1)
            averager.step()

    finals = []
    for latencies_s in ([0.0] * 4, [0.0, 1e-3, 4e-3, 2e-3]):
        _, _, averagers = start(random_values(4), 0, latencies_s, "one-peer-exponential")
        threads = [threading.Thread(target=learn, args=(a,)) for a in averagers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        finals.append(torch.stack([a.flat for a in averagers]))
        assert all(a.weight == 1.0 for a in averagers)
    assert torch.equal(*finals)


def test_mass_is_conserved_at_every_moment_and_all_of_it_arrives():
    values = random_values(3)
    shared, ends, averagers = start(values, None, [2e-3, 2e-2, 5e-3], "ring")
    under_way = 0
    for t in range(60):
        averagers[t % 2].step()
        averagers[2].step()
        with contextlib.ExitStack() as still:
            for end in ends:
                still.enter_context(end._changed)  # nothing is delivered while we count
            parts = [(a.weight * a.flat, a.weight) for a in averagers]
            parts += [shared.in_flight(), *(end.in_flight() for end in ends)]
            under_way += any(end.in_flight()[1] > 0 for end in ends)
        assert (sum(numerator for numerator, _ in parts) - values.sum(0)).abs().max() < 1e-12
        assert abs(sum(weight for _, weight in parts) - 3) < 1e-12
        time.sleep(1e-3)
    assert under_way > 0
    for end in ends:
        end.flush()
    for averager in averagers:
        averager.drain()
    assert abs(sum(a.weight for a in averagers) - 3) < 1e-12 and shared.in_flight()[1] == 0.0
    assert (sum(a.weight * a.flat for a in averagers) - values.sum(0)).abs().max() < 1e-12


def test_real_boxes_in_shared_memory_take_a_delayed_message():
    mailboxes = SharedMemoryMailboxes.create(2, D, edges("ring", 2))
    sender = DelayedMailbox(open_endpoint(mailboxes.handle, 0), 1e-3)
    sender.put(1, torch.ones(D), 0.5, 1)
    sender.flush()
    message = open_endpoint(mailboxes.handle, 1).take(0)
    assert message is not None and message.numerator.tolist() == [1.0] * D and message.weight == 0.5
    sender.close()
    mailboxes.close()


class Links:
    """Learners on shared memory, each behind a link of its own, and the weight that all can see."""

    def __init__(self, latencies_s, refusals=0, **settings):
        n = len(latencies_s)
        self.boxes = SharedMemoryMailboxes.create(n, D)
        self.inner = [Reluctant(open_endpoint(self.boxes.handle, r), refusals) for r in range(n)]
        self.ends = [DelayedMailbox(inner, s) for inner, s in zip(self.inner, latencies_s, strict=True)]
        self.averagers = [
            GossipAverager(
                [torch.full((D,), float(r))], rank=r, world_size=n, mailbox=end, topology="complete", **settings
            )
            for r, end in enumerate(self.ends)
        ]

    def seen(self):
        """(weight in the table, weight under way), while nothing moves."""
        with contextlib.ExitStack() as still:
            for end in self.ends:
                still.enter_context(end._changed)
            return self.boxes.table.total_weight(), sum(end.in_flight()[1] for end in self.ends)


def test_a_message_counts_once_in_the_published_weight_under_way_and_in_its_box():
    links = Links([1e-3, 1e-3], refusals=10**9)
    links.averagers[0].step()
    assert links.seen() == (2.0, 0.5)
    links.inner[0].refusals = 0
    links.ends[0].flush()
    assert links.seen() == (2.0, 0.0) and links.boxes.in_flight()[1] == 0.5, (
        "and the learner has published nothing since"
    )
    links.averagers[1].step()
    assert links.seen() == (2.0, 0.5) and links.averagers[1].weight == 1.0
    links.inner[1].refusals = 0
    links.averagers[0].close()
    links.averagers[1].close()
    links.boxes.close()


@pytest.mark.parametrize("mixing", ["pushsum", "copy-average"])
def test_the_published_weight_is_all_there_is_at_any_moment(mixing):
    links, done = Links([1e-3, 4e-3, 2e-3], mixing=mixing), threading.Event()

    def learn(averager):
        while not done.is_set():
            averager.step()
            time.sleep(1e-4)

    threads = [threading.Thread(target=learn, args=(a,)) for a in links.averagers]
    for thread in threads:
        thread.start()
    seen = []
    for _ in range(100):
        time.sleep(1e-3)
        seen.append(links.seen())
    done.set()
    for thread in threads:
        thread.join(200)
    for averager in links.averagers:
        averager.close()
    links.boxes.close()
    assert all(abs(total - 3) < 1e-12 for total, _ in seen) and any(under_way for _, under_way in seen)
