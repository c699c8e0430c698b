"""Boxes that are written and read in place: the same mass as by copies, and all of it there if the reader dies."""

import multiprocessing as mp
import os
import signal

import numpy as np
import pytest
import torch

from gala.gossip.averager import GossipAverager
from gala.gossip.message import InPlace
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes


def test_in_place_exchanges_do_what_exchanges_by_copies_do():
    n, d = 5, 1000
    values, order = torch.randn(n, d, generator=torch.Generator().manual_seed(0)), np.random.default_rng(0)
    shared, copied = SharedMemoryMailboxes.create(n, d), InProcessMailboxes(n, d)
    ends = [[open_endpoint(shared.handle, r) for r in range(n)], [copied.endpoint(r) for r in range(n)]]
    assert isinstance(ends[0][0], InPlace) and not isinstance(ends[1][0], InPlace)
    here, there = (
        [
            GossipAverager([values[r].clone()], rank=r, world_size=n, mailbox=side[r], topology="exponential")
            for r in range(n)
        ]
        for side in ends
    )
    for rank in order.choice(n, 60, p=(0.05, 0.1, 0.2, 0.3, 0.35)):  # slow readers: boxes fill up with several puts
        here[rank].step()
        there[rank].step()
        assert here[rank].weight == pytest.approx(there[rank].weight, abs=1e-12)
        assert (here[rank].flat - there[rank].flat).abs().max() < 1e-6
        assert here[rank].stats() == there[rank].stats()
    assert max(a.stats()["received"] for a in here) > 10


def _die_while_absorbing(handle) -> None:  # type: ignore[no-untyped-def]
    open_endpoint(handle, 1).take_in_place(0, lambda message: os.kill(os.getpid(), signal.SIGKILL))


def _boxes_of_one_that_died_absorbing():
    """(boxes of two, the endpoint of rank 0, who had sent a quarter of its weight to rank 1)"""
    shared = SharedMemoryMailboxes.create(2, 4)
    sender = open_endpoint(shared.handle, 0)
    sender.put_share(1, torch.full((4,), 8.0), 0.25, 3)
    reader = mp.get_context("fork").Process(target=_die_while_absorbing, args=(shared.handle,))
    reader.start()
    reader.join()
    assert reader.exitcode == -signal.SIGKILL
    return shared, sender


def test_what_a_reader_was_absorbing_as_it_died_is_still_in_the_box():
    shared, sender = _boxes_of_one_that_died_absorbing()
    assert shared.table.weight.tolist() == [0.75, 1.0]
    message = sender.take_back(1)
    assert message.numerator.tolist() == [2.0] * 4 and message.weight == 0.25 and shared.lost_weight() == 0


def test_what_a_reader_was_absorbing_as_it_died_is_read_by_the_process_that_replaces_it():
    """Its sender may be stopped, or slow, and not have taken it back before the newcomer is let in."""
    shared, sender = _boxes_of_one_that_died_absorbing()
    assert shared.bury(1) == 1.0
    shared.admit(1)
    newcomer = open_endpoint(shared.handle, 1)
    assert newcomer.senders() == [0] and newcomer.unread_weight(1) == 0.25 and shared.table.total_weight() == 1.0
    message = newcomer.take(0)
    assert message.numerator.tolist() == [2.0] * 4 and message.weight == 0.25 and not sender.waiting(0, 1)


def test_a_share_adds_to_what_is_there_and_the_taker_sees_the_box_itself():
    shared = SharedMemoryMailboxes.create(2, 4)
    sender, reader = (open_endpoint(shared.handle, r) for r in range(2))
    seen = []
    assert not reader.take_in_place(0, seen.append)
    assert sender.put_share(1, torch.full((4,), 2.0), 0.5, 1) and sender.put_share(1, torch.full((4,), 4.0), 0.25, 2)
    assert reader.take_in_place(0, lambda message: seen.append((message, message.numerator.tolist())))
    message, numbers = seen.pop()
    assert numbers == [2.0] * 4 and message[1:4] == (0.75, 2, 2) and not seen
    assert message.numerator.data_ptr() == shared.box((0, 1)).data.data_ptr()
    assert shared.table.weight.tolist() == [0.25, 1.75] and not reader.take_in_place(0, seen.append)
