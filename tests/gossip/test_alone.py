"""The library without a parent: deaths that peers notice, boxes for some edges only, memory that is given back, and a
kill at any line, after which every weight is counted once."""

from __future__ import annotations

import contextlib
import math
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import warnings

import pytest
import torch
from gossip_network import stack

from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import edges, get_topology
from gala.gossip.transport.box import PAGE
from gala.gossip.transport.endpoint import open_block, open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

D = 4


class _KilledError(BaseException):
    """Stands for SIGKILL: nothing of the process runs any more, but the kernel drops its locks."""


@contextlib.contextmanager
def _killed_at_line(number: int):
    """Raises at the ``number``th line that runs in the transport."""
    left = number

    def trace(frame, event, _):
        nonlocal left
        if "gossip/transport" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise _KilledError
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def _put(ends, victim):
    ends[victim].put(1 - victim, torch.ones(D), 0.25, 9)


def _put_share(ends, victim):
    ends[victim].put_share(1 - victim, torch.ones(D), 0.25, 9)


def _take(ends, victim):
    ends[victim].take(1 - victim)


def _take_in_place(ends, victim):
    ends[victim].take_in_place(1 - victim, lambda message: None)


def _take_back(ends, victim):
    ends[victim].take_back(1 - victim)


@pytest.mark.parametrize("unread", [0, 1])
@pytest.mark.parametrize("action", [_put, _put_share, _take, _take_in_place, _take_back])
def test_after_a_kill_at_any_line_every_weight_is_counted_once(action, unread):
    """Weight that the living hold or can reach, and what the burial says is lost, is what there was."""
    line = 0
    finished = False
    while not finished:
        line += 1
        shared = SharedMemoryMailboxes.create(2, D)
        ends = [open_endpoint(shared.handle, rank) for rank in range(2)]
        for _ in range(1 + unread):
            ends[0].put(1, torch.ones(D), 0.25, 1)
        for _ in range(unread):
            ends[1].put(0, torch.ones(D), 0.125, 1)
        victim = 1 if action in (_take, _take_in_place) else 0
        with contextlib.suppress(_KilledError), _killed_at_line(line):
            action(ends, victim)
            finished = True
        open_block(shared.handle).thread_lock = threading.Lock()  # dies with the process, as the kernel's locks do
        lost = shared.bury(victim)
        survivor = 1 - victim
        while ends[survivor].take(victim) is not None or ends[survivor].take_back(victim) is not None:
            pass
        assert shared.table.weight[survivor] + lost == 2.0, f"killed at line {line}"
        assert shared.table.weight[victim] == 0.0 and shared.in_flight()[1] == 0.0
    assert line > 20


@pytest.mark.parametrize("name", ["ring", "one-peer-exponential", "star"])
def test_boxes_for_the_edges_of_a_graph_are_enough_when_ranks_close(name):
    """Where the stitched graph would need another box, nothing is sent; before, the first close ended everybody."""
    n = 6
    shared = SharedMemoryMailboxes.create(n, D, edges(get_topology(name, n), n))
    values = torch.randn(n, D, generator=torch.Generator().manual_seed(1))
    averagers = [
        GossipAverager([row.clone()], rank=i, world_size=n, mailbox=open_endpoint(shared.handle, i), topology=name)
        for i, row in enumerate(values)
    ]
    for _ in range(3):
        for averager in averagers:
            averager.step()
    averagers[2].close()
    for _ in range(60):
        for averager in averagers:
            if averager is not averagers[2]:
                averager.step()
    total = sum(a.weight for a in averagers) + shared.in_flight()[1]
    assert total == pytest.approx(n, abs=1e-9)
    assert stack(averagers).isfinite().all()


def _live(handle, rank, ready, stop):
    averager = GossipAverager([torch.ones(D)], rank=rank, world_size=3, mailbox=handle.open(rank), topology="complete")
    while not stop.is_set():
        averager.step()
        ready[rank] = 1
        time.sleep(0.01)
    averager.close()


def test_peers_notice_a_death_themselves_and_take_back_what_it_did_not_read():
    context = mp.get_context("spawn")
    shared = SharedMemoryMailboxes.create_for(torch.nn.Linear(1, 2), 3)
    assert shared.handle.numel == D and shared.handle.watch and shared.handle.silent_after_s == 30.0
    ready, stop = context.Array("i", 3), context.Event()
    children = [context.Process(target=_live, args=(shared.handle, rank, ready, stop)) for rank in (1, 2)]
    for child in children:
        child.start()
    mine = GossipAverager([torch.zeros(D)], rank=0, world_size=3, mailbox=shared.handle.open(0), topology="complete")
    try:
        while not all(ready[1:]):
            mine.step()
            time.sleep(0.01)
        os.kill(children[0].pid, signal.SIGSTOP)  # it reads no more, and what is sent to it waits
        for _ in range(20):
            mine.step()
            time.sleep(0.005)
        os.kill(children[0].pid, signal.SIGKILL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # this process may be the one that notices
            while 1 not in mine.mailbox.roster.departed():
                mine.step()
                time.sleep(0.01)
        stop.set()
        children[1].join()
        for _ in range(5):
            mine.step()
        assert shared.table.weight[1] == 0.0 and not mine.mailbox.waiting(0, 1)
        assert shared.table.total_weight() == pytest.approx(mine.weight + float(shared.table.weight[2]), abs=1e-9)
    finally:
        for child in children:
            child.kill()
            child.join()
        mine.close()
        shared.close()


def test_two_processes_are_not_the_same_rank():
    context = mp.get_context("spawn")
    shared = SharedMemoryMailboxes.create(2, D)
    end = open_endpoint(shared.handle, 0)
    queue = context.Queue()
    child = context.Process(target=_claim, args=(shared.handle, queue))
    child.start()
    assert "another process lives as rank 0" in queue.get()
    child.join()
    end.close()


def _claim(handle, queue):
    try:
        handle.open(0)
        queue.put("")
    except ValueError as error:
        queue.put(str(error))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is given back on Linux")
def test_boxes_that_were_read_long_ago_give_their_memory_back():
    n, pages = 40, 8
    numel = pages * PAGE // 4
    shared = SharedMemoryMailboxes.create(n, numel)
    ends = [open_endpoint(shared.handle, rank) for rank in range(n)]
    for src in range(1, n):
        ends[src].put(0, torch.full((numel,), float(src)), 0.5, 1)
    used = _blocks(shared)
    for src in range(1, n):
        message = ends[0].take(src)
        assert message is not None and bool((message.numerator == src).all())
    assert _blocks(shared) < used - (n - 1 - 16 - 1) * (pages - 1) * PAGE
    ends[5].put(0, torch.full((numel,), 3.0), 0.5, 2)
    message = ends[0].take(5)
    assert message is not None and bool((message.numerator == 3.0).all()), "the memory comes back"


def _blocks(shared: SharedMemoryMailboxes) -> int:
    """Bytes that the file takes."""
    return os.stat(shared.handle.path).st_blocks * 512


def test_a_newcomer_that_hangs_before_its_first_update_is_silent_in_the_end():
    shared = SharedMemoryMailboxes.create(3, D, silent_after_s=0.05)
    ends = [open_endpoint(shared.handle, rank) for rank in range(2)]
    shared.admit(2)
    assert shared.silent() == ()
    deadline = time.monotonic() + 60
    while shared.silent() != (2,):
        ends[0].advance(1)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert math.isclose(shared.table.total_weight(), 3.0 - 1.0)
    open_endpoint(shared.handle, 2).advance(1)
    assert shared.silent() == () or 2 not in shared.silent()


def test_a_learner_that_waits_gives_signs_of_life_and_outlasts_a_silent_peer():
    """Before, the peers of one that waits for a stopped learner left it out too, or its patience ended first."""
    shared = SharedMemoryMailboxes.create(2, D, silent_after_s=0.5)
    ends = [open_endpoint(shared.handle, rank) for rank in range(2)]
    settings = {"world_size": 2, "tau": 1, "at_bound": "wait"}
    with pytest.raises(ValueError, match=r"wait_timeout_s=0\.25 must be longer than silent_after_s=0\.5"):
        GossipAverager([torch.ones(D)], rank=0, mailbox=ends[0], wait_timeout_s=0.25, **settings)
    waiting = GossipAverager([torch.ones(D)], rank=0, mailbox=ends[0], wait_timeout_s=300.0, **settings)
    ends[1].advance(1)  # its last sign of life
    for _ in range(4):
        waiting.step()
    assert shared.silent() == (1,) and waiting.updates == 4
    assert shared.table.beat_ns[0] > shared.table.beat_ns[1]


def _live_for(handle, updates, kill):
    """A learner that makes so many updates and then dies, if ``kill``."""
    averager = GossipAverager([torch.full((D,), 5.0)], rank=1, world_size=2, mailbox=handle.open(1))
    for _ in range(updates):
        averager.step()
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)


def test_who_starts_again_after_a_kill_is_a_newcomer_without_weight_and_all_mass_is_accounted_for():
    """Nobody has to tell the boxes: the new process finds that the one before it is dead."""
    context = mp.get_context("spawn")
    shared = SharedMemoryMailboxes.create_for(torch.nn.Linear(1, 2), 2)
    for _ in range(2):
        child = context.Process(target=_live_for, args=(shared.handle, 3, True))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    dead = float(shared.table.weight[1] + shared.table.unread[0, 1])
    assert shared.buried_weight() > 0 and dead < 1.0, "the second one buried the first, and had no weight to give"
    end = open_endpoint(shared.handle, 1)
    assert end.newcomer and shared.table.weight[1] == 0.0
    again = GossipAverager([torch.zeros(D)], rank=1, world_size=2, mailbox=end)
    assert again.weight == 0.0 and again.updates == 6, "it goes on where the furthest is"
    assert shared.table.total_weight(0) + shared.buried_weight() == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize("end", ["close", "leave"])
def test_who_comes_in_place_of_one_that_ended_in_order_is_a_newcomer_without_weight_too(end):
    """With a weight of its own it would add mass, and draw everybody to where it starts."""
    shared = SharedMemoryMailboxes.create_for(torch.nn.Linear(1, 2), 2)
    stays, first = (
        GossipAverager(
            [torch.full((D,), 10.0 * rank)], rank=rank, world_size=2, mailbox=open_endpoint(shared.handle, rank)
        )
        for rank in range(2)
    )
    for _ in range(20):
        stays.step()
        first.step()
    if end == "leave":
        first.leave()
    first.close()
    before = shared.table.total_weight(0) + shared.buried_weight()
    second = GossipAverager([torch.full((D,), 1000.0)], rank=1, world_size=2, mailbox=open_endpoint(shared.handle, 1))
    assert second.weight == 0.0
    for _ in range(60):
        stays.step()
        second.step()
    assert shared.table.total_weight(0) + shared.buried_weight() == pytest.approx(before, abs=1e-12) == 2.0
    assert second.weight > 0 and (second.flat - stays.flat).abs().max() < 1e-3
    assert float(stays.flat.min()) >= 0.0 and float(stays.flat.max()) <= 10.0
