"""The boxes: what the protocol promises, under every transport of one machine, and what memory must survive."""

import multiprocessing as mp
import os
import pickle
import signal
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
import torch.multiprocessing as torch_mp
from hypothesis import given, settings
from hypothesis import strategies as st
from mailbox_contract import (
    check_bad_ranks_and_shapes,
    check_progress_and_closing,
    check_that_boxes_add_take_empties_and_replace_replaces,
)

from gala.gossip.averager import GossipAverager
from gala.gossip.transport.box import Box
from gala.gossip.transport.cuda_memory import create_cuda_mailboxes
from gala.gossip.transport.endpoint import open_block, open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

fork = mp.get_context("fork")  # cheap; learners use spawn, which test_processes.py covers


def _endpoints(kind: str, n: int = 3, numel: int = 4):  # type: ignore[no-untyped-def]
    if kind == "in-process":
        shared = InProcessMailboxes(n, numel)
        return shared, [shared.endpoint(rank) for rank in range(n)]
    edges = [(i, j) for i in range(n) for j in range(n) if i != j]
    if kind == "shared-memory":
        shared = SharedMemoryMailboxes.create(n, numel, edges)
    else:
        shared = create_cuda_mailboxes(_devices(kind, n), numel, edges)
    if kind == "cuda":  # a process cannot open its own CUDA memory
        return shared, [shared.handle.open(rank) for rank in range(n)]
    return shared, [pickle.loads(ForkingPickler.dumps(shared.handle)).open(rank) for rank in range(n)]


def _devices(kind: str, n: int) -> list[torch.device]:
    """Devices of n ranks, round-robin over the GPUs. ``lent`` is all of CUDA boxes but CUDA: numbers lie in tensors."""
    return [
        torch.device("cuda", r % torch.cuda.device_count()) if kind == "cuda" else torch.device("cpu") for r in range(n)
    ]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")
cuda = pytest.param("cuda", marks=needs_gpu)
every = pytest.mark.parametrize("kind", ["in-process", "shared-memory", "lent", cuda])


@every
def test_boxes_add_take_empties_and_replace_replaces(kind):
    check_that_boxes_add_take_empties_and_replace_replaces(*_endpoints(kind))


@every
def test_progress_and_closing(kind):
    shared, ends = _endpoints(kind)
    check_progress_and_closing(ends)
    shared.in_flight()


@every
def test_bad_ranks_and_shapes(kind):
    shared, ends = _endpoints(kind)
    check_bad_ranks_and_shapes(ends)
    with pytest.raises(ValueError, match="outside the world of 3"):
        shared.endpoint(3) if kind == "in-process" else shared.handle.open(3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=60))
def test_both_transports_agree_on_any_sequence(actions):
    worlds = [_endpoints(kind)[1] for kind in ("in-process", "shared-memory", "lent")]
    for step, (src, dst, put) in enumerate(actions):
        if src == dst:
            continue
        results = []
        for ends in worlds:
            if put:
                results.append(ends[src].put(dst, torch.full((4,), float(step)), 0.5 + step, step))
            else:
                message = ends[dst].take(src)
                results.append(message and (message.numerator.tolist(), *message[1:]))
        assert results[0] == results[1] == results[2]


def test_closed_or_foreign_mailboxes_say_so():
    shared = SharedMemoryMailboxes.create(2, 4, [(0, 1)])
    end = open_endpoint(shared.handle, 0)
    assert end.take(1) is None and end.take_back(1) is None and not end.waiting(1, 0), "a box that is not there"
    with pytest.raises(ValueError, match="no box 0 -> 0"):
        end.put(0, torch.ones(4), 0.5, 0)
    with pytest.raises(ValueError, match="outside the world"):
        SharedMemoryMailboxes.create(2, 4, [(0, 2)])
    handle = shared.handle
    end.close()
    shared.close()
    shared.close()
    with pytest.raises(ValueError, match="closed"):
        end.put(1, torch.ones(4), 0.5, 0)
    del end, shared
    with pytest.raises(ValueError, match="the parent must keep them open"):
        open_endpoint(handle, 0)


def test_without_memfd_a_temporary_file_does_and_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared, ends = _endpoints("shared-memory")
    assert len(list(tmp_path.iterdir())) == 1
    process = fork.Process(target=lambda: open_endpoint(shared.handle, 0).put(1, torch.ones(4), 1.0, 0))
    process.start()
    process.join()
    assert ends[1].take(0).numerator.tolist() == [1.0] * 4
    shared.close()
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_file_system_and_descriptors_are_returned():
    before, descriptors = set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
    shared, ends = _endpoints("shared-memory", numel=1000)
    ends[0].put(1, torch.ones(1000), 1.0, 0)
    assert set(os.listdir("/dev/shm")) == before
    shared.close()
    for end in ends:
        end.close()
    del shared, ends, end
    assert len(os.listdir("/proc/self/fd")) == descriptors


def _flicker(shared, stop) -> None:  # type: ignore[no-untyped-def]
    arrived = shared._block.arrived
    while not stop.value:
        arrived ^= 1


def test_senders_are_read_while_others_change_them():
    """NumPy refuses to find the non-zero entries of what changes under its hands."""
    n = 64
    shared = SharedMemoryMailboxes.create(n, 1, [(0, 1)])
    end, stop = open_endpoint(shared.handle, 1), fork.Value("b", 0)
    process = fork.Process(target=_flicker, args=(shared, stop), daemon=True)
    process.start()
    try:
        found = [len(end.senders()) for _ in range(50_000)]
    finally:
        stop.value = 1
        process.join()
    assert len(set(found)) > 1


NUMEL = 1_000_000


def _put_for_ever(handle, started, done) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    end, ones = open_endpoint(handle, 0), torch.ones(NUMEL)
    while True:
        started.value += 1
        end.put(1, ones, 1.0, 0)
        done.value += 1


def _take_for_ever(handle, started, done) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    end = open_endpoint(handle, 1)
    while True:
        end.take(0)
        done.value += 1


def _victim(target, handle):  # type: ignore[no-untyped-def]
    started, done = fork.Value("q", 0, lock=False), fork.Value("q", 0, lock=False)
    process = fork.Process(target=target, args=(handle, started, done))
    process.start()
    while done.value < 2:
        time.sleep(1e-3)
    return process, started, done


def _kill(process) -> None:  # type: ignore[no-untyped-def]
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_writer_killed_at_random_moments_blocks_nobody_and_its_loss_is_counted():
    rng = np.random.default_rng(0)
    shared = SharedMemoryMailboxes.create(2, NUMEL, [(0, 1)])
    reader = open_endpoint(shared.handle, 1)
    for i in range(25):
        lost_before, published = shared.lost_weight(), 1.0 if i == 0 else 0.0  # the next one buries the last
        process, started, done = _victim(_put_for_ever, shared.handle)
        time.sleep(rng.uniform(0, 5e-3))
        _kill(process)
        message = reader.take(0)  # a lock that died with its holder would leave the mail where it is
        assert message is not None or not reader.waiting(0, 1)
        taken, lost = message.weight if message else 0.0, shared.lost_weight() - lost_before
        if message:
            assert (message.numerator == message.weight).all(), "a half-written box was handed out"
            assert message.weight == message.count
        assert taken + lost in (done.value, started.value)
        intents, left = open_block(shared.handle).intents, float(shared.table.weight[0])
        left = intents.weight(0, shared.box((0, 1)), left) if intents.edge(0) is not None else left
        assert taken + lost == published - left, "what dies with a writer counts twice, or not at all"
        assert reader.lost_weight() == shared.lost_weight()
        cut_off = int(shared.box((0, 1)).ints[Box.CUT_OFF])
    assert cut_off >= 3, "the test killed nobody in the middle of a write"


def test_a_reader_killed_at_random_moments_blocks_nobody_and_loses_nothing_of_the_box():
    rng = np.random.default_rng(1)
    shared = SharedMemoryMailboxes.create(2, NUMEL, [(0, 1)])
    writer, ones = open_endpoint(shared.handle, 0), torch.ones(NUMEL)
    for _ in range(8):
        process, *_ = _victim(_take_for_ever, shared.handle)
        for _ in range(int(rng.integers(1, 20))):
            while not writer.put(1, ones, 1.0, 0):
                pass
        _kill(process)
        assert writer.put(1, ones, 1.0, 0), "the lock did not die with its holder"
        numerator, weight = shared.in_flight()
        assert weight >= 1 and (numerator == weight).all() and shared.lost_weight() == 0
        open_endpoint(shared.handle, 1).take(0)


def test_a_writer_that_is_stopped_in_its_write_holds_nobody_up():
    shared = SharedMemoryMailboxes.create(2, NUMEL, [(0, 1)])
    reader, held = open_endpoint(shared.handle, 1), 0
    process, *_ = _victim(_put_for_ever, shared.handle)
    try:
        for _ in range(40):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(2e-3)
            message = reader.take(0)  # returns, with or without
            held += message is None and reader.waiting(0, 1) > 0
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(3e-3)
    finally:
        _kill(process)
    assert held >= 3, "the test stopped nobody in the middle of a write"


def _hammer(handle, rank: int, barrier, taken) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    barrier.wait(200)
    end, ones, total = open_endpoint(handle, rank), torch.ones(50_000), 0.0
    for i in range(1500):
        while not end.put(1 - rank, ones, 1.0, i):
            pass
        if message := end.take(1 - rank):
            assert (message.numerator == message.weight).all()
            total += message.weight
    taken[rank] = total


def test_two_processes_at_full_speed_lose_nothing():
    shared = SharedMemoryMailboxes.create(2, 50_000, [(0, 1), (1, 0)])
    taken, barrier = fork.Array("d", [-1.0, -1.0]), fork.Barrier(2)
    processes = [fork.Process(target=_hammer, args=(shared.handle, rank, barrier, taken)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    numerator, weight = shared.in_flight()
    assert min(taken) >= 0 and sum(taken) > 0 and sum(taken) + weight == 3000 and (numerator == weight).all()


@every
def test_other_parameters_are_refused_before_the_first_message(kind):
    """Equal in number, but in another order; the message names both learners."""
    shared, ends = _endpoints(kind, n=3, numel=8)
    shapes = ([(2, 3), (2,)], [(2, 3), (2,)], [(2,), (2, 3)])
    averagers = [
        GossipAverager([torch.zeros(s) for s in each], rank=rank, world_size=3, mailbox=ends[rank])
        for rank, each in enumerate(shapes)
    ]
    averagers[1].step()
    averagers[0].step()
    before = shared.in_flight()[1]
    with pytest.raises(ValueError, match="learners 0 and 2 have parameters of different shapes or in another order"):
        averagers[2].step()
    assert shared.in_flight()[1] == before


def _put_sevens(handle, numel: int) -> None:  # type: ignore[no-untyped-def]
    end = handle.open(0)
    assert end.put(1, torch.full((numel,), 3.0), 0.25, 1) and end.put(1, torch.full((numel,), 4.0), 0.5, 2)


@pytest.mark.parametrize("kind", ["lent", cuda])
def test_boxes_whose_numbers_lie_elsewhere_are_shared_with_a_spawned_process(kind):
    shared = create_cuda_mailboxes(_devices(kind, 2), 1000, [(0, 1)])
    process = torch_mp.get_context("spawn").Process(target=_put_sevens, args=(shared.handle, 1000))
    process.start()
    process.join(250)
    assert process.exitcode == 0
    assert (shared.handle.data[0] == 7.0).all(), "the numbers did not go where they should"
    message = shared.handle.open(1).take(0)
    assert message.numerator.device == _devices(kind, 2)[1] and (message.numerator == 7.0).all()
    assert (message.weight, message.sent_at, message.count) == (0.75, 2, 2) and shared.in_flight()[1] == 0
