"""Boxes over TCP: the contract of every mailbox, and what becomes of mass when a peer is killed, stopped or done."""

import json
import multiprocessing as mp
import os
import random
import signal
import socket
import threading
import time

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from gossip_network import lockstep, stack, start
from mailbox_contract import (
    check_bad_ranks_and_shapes,
    check_progress_and_closing,
    check_that_boxes_add_take_empties_and_replace_replaces,
)

from gala.gossip.averager import GossipAverager
from gala.gossip.message import total_mass
from gala.gossip.transport.inbox import Envelope
from gala.gossip.transport.roster import DEAD, FINISHED, PRESENT
from gala.gossip.transport.torch_distributed import open_mailbox, own_address

PATIENCE_S = 200.0
NUMEL = 300_000
spawn = mp.get_context("spawn")  # this process has threads and stores, which do not survive a fork


def _until(reached, what="it did not happen") -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(1e-3)


def _open_all(n: int, numel: int, **settings):  # type: ignore[no-untyped-def]
    """The ends of ``n`` ranks in this process, with real connections between them."""
    store, ends, errors = dist.HashStore(), {}, []

    def open_one(rank: int) -> None:
        try:
            ends[rank] = open_mailbox(store, rank, n, numel, **settings)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    if errors:
        raise errors[0]
    return [ends[rank] for rank in range(n)]


class World:
    """Ends as the contract of mailboxes wants them: what one does is known to all when the call returns."""

    def __init__(self, n: int, numel: int) -> None:
        self.numel, self.raw = numel, _open_all(n, numel)
        self.ends = [End(self, end) for end in self.raw]

    def in_flight(self):  # type: ignore[no-untyped-def]
        return total_mass((m for end in self.raw for m, _ in end._link.inbox._boxes.values()), self.numel)

    def settle(self) -> None:
        """All envelopes are in their boxes, all receipts and rows are where they belong."""
        for end in self.raw:
            assert end.flush(PATIENCE_S)
        _until(lambda: not any(end._link.inbox.holds_any() for end in self.raw))
        working = [end for end in self.raw if not end._closed]
        states = [int(end._link.table.state[end._rank]) for end in self.raw]
        updates = [end._link.updates for end in self.raw]

        def heard(end) -> bool:  # type: ignore[no-untyped-def]
            others = [end._link.updates if x is end else end._link.sent_updates(x._rank) for x in self.raw]
            read = [bool(end._link.outbox.unread(to._rank)) == bool(to._link.inbox.count(end._rank)) for to in working]
            return (end._link.table.state.tolist(), others) == (states, updates) and all(read)

        _until(lambda: all(heard(end) for end in working), "a row or a receipt did not come")


class End:
    def __init__(self, world: World, end) -> None:  # type: ignore[no-untyped-def]
        self._world, self._end = world, end

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        def call(*args, **options):  # type: ignore[no-untyped-def]
            answer = getattr(self._end, name)(*args, **options)
            while name == "put" and not answer:  # too many are under way
                answer = self._end.put(*args, **options)
            self._world.settle()
            return answer

        return call


def test_the_contract_of_every_mailbox():
    world = World(3, 4)
    check_bad_ranks_and_shapes(world.ends)
    check_that_boxes_add_take_empties_and_replace_replaces(world, world.ends)
    check_progress_and_closing(world.ends)
    for end in world.raw:
        end.close()


def test_who_closes_passes_on_what_it_has_not_read_and_gives_back_what_comes_later():
    world = World(3, 4)
    assert world.ends[1].put(2, torch.ones(4), 0.25, 1)
    closing = world.raw[2]
    closing._link.inbox.refuse()  # as its close begins
    assert world.ends[0].put(2, torch.full((4,), 3.0), 0.5, 2)
    assert world.raw[0].roster.departed() == (2,), "it is there, but something has come back"
    back = world.raw[0].take_back(2)
    assert (back.weight, back.count, back.numerator.tolist()) == (0.5, 1, [3.0] * 4)
    world.ends[2].close()
    assert closing.lost_weight() == 0.0 and world.in_flight()[1] == 0.25
    assert not world.raw[0].put(2, torch.ones(4), 0.5, 3) and world.raw[0].take_back(2) is None
    assert all(int(end._link.table.state[2]) == FINISHED and end.roster.live() == (0, 1) for end in world.raw[:2])
    for end in world.raw[:2]:
        end.close()
    assert sum(end.lost_weight() for end in world.raw) == 0.25, "with nobody there to read it"


def test_at_rest_an_envelope_that_is_about_to_be_readable_is_waited_for(monkeypatch):
    monkeypatch.setattr("gala.gossip.transport.remote._GIVEN_S", PATIENCE_S)
    end, other = _open_all(2, 4)
    inbox, envelope = end._link.inbox, Envelope(1, 1, 1, np.ones(4, np.float32), 0.5, 1, False)
    assert inbox.hold(envelope) and end.senders() == [] and end.take(1) is None and end.waiting(1, 0) == 1
    end.rest(True)
    release = threading.Timer(0.05, inbox.release, (1, 1))
    release.start()
    assert end.senders() == [1] and end.take(1).weight == 0.5
    _until(lambda: other.finished(0), "a peer at rest gets nothing")
    inbox.hold(envelope._replace(number=2))
    inbox.discard(1)  # its sender is gone
    assert end.senders() == [] and not end.waiting(1, 0)
    end.close()
    other.close()


def test_strangers_are_not_heard_and_who_does_not_come_is_named():
    store, opened = dist.HashStore(), {}
    first = threading.Thread(target=lambda: opened.update({0: open_mailbox(store, 0, 2, 4)}))
    first.start()
    host, port, *_ = json.loads(store.get("address/0"))
    for greeting in (b"x" * 20, b"short"):
        with socket.create_connection((host, port)) as stranger:
            stranger.sendall(greeting)
    end = open_mailbox(store, 1, 2, 4)
    first.join(PATIENCE_S)
    assert end.put(0, torch.ones(4), 0.5, 1)
    _until(lambda: (message := opened[0].take(1)) is not None and message.weight == 0.5)
    end.close()
    opened[0].close()
    with pytest.raises(TimeoutError, match=r"rank 0 has waited in vain for ranks \[1, 2\]"):
        open_mailbox(dist.HashStore(), 0, 3, 4, timeout_s=0.01)


def test_what_cannot_be_connected_is_said():
    store = dist.HashStore()
    with pytest.raises(ValueError, match=r"rank 0 cannot listen at 192\.0\.2\.1 .*host is this machine's address"):
        open_mailbox(store, 0, 2, 4, host="192.0.2.1")
    store.set("address/0", json.dumps(["127.0.0.1", 1, "00" * 16, 4]))
    with pytest.raises(ConnectionError, match=r"rank 1 cannot reach rank 0 at 127.0.0.1:1 .*give host="):
        open_mailbox(store, 1, 2, 4)
    with pytest.raises(ValueError, match="rank 0 has 4 parameters and rank 1 has 5"):
        open_mailbox(store, 1, 2, 5)
    assert own_address("localhost", 80) in ("127.0.0.1", "::1")


def _in_the_place_of(rank: int, port: int, work, *args) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    work(open_mailbox(dist.TCPStore("127.0.0.1", port), rank, 2, NUMEL), *args)


def _with_peer(work, *args):  # type: ignore[no-untyped-def]
    """Rank 0's end here, and the process of rank 1, which runs ``work(end, *args)``."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    process = spawn.Process(target=_in_the_place_of, args=(1, server.port, work, *args))
    process.start()
    return open_mailbox(server, 0, 2, NUMEL), process


def _read_when_told(end, may_read, has_read) -> None:  # type: ignore[no-untyped-def]
    while True:
        if may_read.value and (message := end.take(0)):
            assert (message.numerator == message.weight).all()
            has_read.value += message.weight
        time.sleep(1e-3)


def _stop(process) -> None:  # type: ignore[no-untyped-def]
    os.kill(process.pid, signal.SIGSTOP)
    _until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


def _kill(process) -> None:  # type: ignore[no-untyped-def]
    process.kill()
    process.join()


def test_what_a_dead_peer_did_not_get_comes_back_and_what_a_stopped_one_got_does_not():
    may_read, has_read = spawn.Value("b", 0), spawn.Value("d", 0.0)
    end, process = _with_peer(_read_when_told, may_read, has_read)
    try:
        assert end.put(1, torch.full((NUMEL,), 0.5), 0.5, 1) and end.flush(PATIENCE_S)
        assert end.waiting(0, 1) == 1 and end.take_back(1) is None
        _stop(process)
        assert end.put(1, torch.full((NUMEL,), 0.25), 0.25, 2) and not end.flush(0.1)
        assert end.take_back(1) is None and not end.finished(1), "it may read it yet"
        may_read.value = 1
        os.kill(process.pid, signal.SIGCONT)
        _until(lambda: end.waiting(0, 1) == 0 and has_read.value == 0.75)
        assert end.take_back(1) is None
        _stop(process)
        assert end.put(1, torch.full((NUMEL,), 0.125), 0.125, 3) and end.put(1, torch.full((NUMEL,), 1.0), 1.0, 4)
        _kill(process)
        _until(lambda: end.finished(1))
        assert 1 in end.roster.departed() and end.roster.live() == (0,) and end._link.table.state[1] == DEAD
        back = end.take_back(1)
        assert (back.weight, back.sent_at, back.count) == (1.125, 4, 2) and (back.numerator == 1.125).all()
        assert end.take_back(1) is None and not end.put(1, torch.ones(NUMEL), 1.0, 5), "its mass stays here"
    finally:
        _kill(process)
        end.close()


def test_a_peer_killed_at_random_moments_returns_only_what_it_has_not_read():
    rng, returned = random.Random(0), 0
    for is_stopped_first in (False, True, False, True):
        may_read, has_read = spawn.Value("b", 1), spawn.Value("d", 0.0)
        end, process = _with_peer(_read_when_told, may_read, has_read)
        sent, kill_at = 0, rng.randrange(20, 60)
        while sent < kill_at and process.is_alive():
            sent += end.put(1, torch.ones(NUMEL), 1.0, sent)
        if is_stopped_first:  # then something is under way for sure
            _stop(process)
            sent += end.put(1, torch.ones(NUMEL), 1.0, sent)
        _kill(process)
        assert process.exitcode == -signal.SIGKILL and sent >= kill_at
        _until(lambda end=end: end.finished(1))
        back = end.take_back(1)
        returned += back is not None
        got = back.weight if back else 0.0
        assert back is None or (back.numerator == got).all()
        assert has_read.value + got <= sent, "some of it counts twice"
        end.close()
    assert returned >= 2, "the test killed nobody while something was under way"


def _fork(end, child) -> None:  # type: ignore[no-untyped-def]
    if pid := os.fork():
        child.value = pid
    time.sleep(PATIENCE_S)


def test_a_killed_peer_is_noticed_though_a_child_of_its_lives_on():
    """A worker of a data loader, say, which has inherited the connections."""
    child = spawn.Value("q", 0)
    end, process = _with_peer(_fork, child)
    _until(lambda: child.value)
    _kill(process)
    try:
        _until(lambda: end.finished(1))
        assert psutil.pid_exists(child.value)
    finally:
        os.kill(child.value, signal.SIGKILL)
        end.close()


N, D, ROUNDS = 3, 20_000, 40


def _start_values() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def _local_step(rank: int, t: int) -> torch.Tensor:
    return 0.1 * torch.randn(D, generator=torch.Generator().manual_seed(1000 * rank + t))


def _barrier(store, name: str) -> None:  # type: ignore[no-untyped-def]
    store.add(name, 1)
    _until(lambda: store.add(name, 0) == N)


def _learn(rank: int, port: int, results) -> None:  # type: ignore[no-untyped-def]
    """First freely, at speeds of 1, 1/2 and 1/3, until all have heard something; then in lockstep, over other boxes."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port)
    boxes = [open_mailbox(dist.PrefixStore(name, store), rank, N, D) for name in ("free", "lockstep")]
    free, lock = (
        GossipAverager([_start_values()[rank]], rank=rank, world_size=N, mailbox=box, tau=tau)
        for box, tau in zip(boxes, (None, 0), strict=True)
    )
    added, t = torch.zeros(D, dtype=torch.float64), 0
    while t < ROUNDS or not free.stats()["received"]:
        free.flat.add_(_local_step(rank, t))
        added += free.weight * _local_step(rank, t).double()
        free.step()
        t += 1
        time.sleep(1e-3 * (rank + 1))
    free.rest(True)
    _barrier(store, "all rest")
    free.drain()
    drained = free.weight, free.flat.clone()
    _barrier(store, "all have drained")
    free.close()
    for t in range(ROUNDS):
        lock.flat.add_(_local_step(rank, t))
        lock.step()
    lock.close()
    stats = free.stats()
    results.put((rank, drained[0], drained[1].numpy(), added.numpy(), stats, lock.flat.numpy()))


def test_processes_over_tcp_conserve_mass_and_in_lockstep_equal_one_process():
    server, results = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), spawn.Queue()
    processes = [spawn.Process(target=_learn, args=(rank, server.port, results)) for rank in range(N)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=PATIENCE_S) for _ in range(N)), key=lambda entry: entry[0])
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    weights = [weight for _, weight, *_ in found]
    assert sum(weights) == pytest.approx(N, abs=1e-12) and len({round(weight, 3) for weight in weights}) > 1
    total = sum(weight * torch.as_tensor(z).double() for _, weight, z, *_ in found)
    expected = _start_values().double().sum(0) + sum(torch.as_tensor(entry[3]) for entry in found)
    assert (total - expected).abs().max() < 1e-4  # float32 rounding of 40 rounds on numbers of size 3
    assert all(entry[4]["received"] > 0 and entry[4]["lost_weight"] == 0 for entry in found)

    averagers = start(_start_values(), tau=0)
    for t in range(ROUNDS):
        for averager in averagers:
            averager.flat.add_(_local_step(averager.rank, t))
        lockstep(averagers)
    assert torch.equal(torch.stack([torch.as_tensor(entry[5]) for entry in found]), stack(averagers))


def _learn_for_ever(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    box = open_mailbox(dist.TCPStore("127.0.0.1", port), rank, 4, 1000)
    averager = GossipAverager([torch.full((1000,), float(rank))], rank=rank, world_size=4, mailbox=box)
    while True:
        time.sleep(1e-3)
        averager.step()


@pytest.mark.long
def test_of_four_learners_one_is_killed_and_one_is_stopped_and_the_others_go_on():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [spawn.Process(target=_learn_for_ever, args=(rank, server.port)) for rank in (1, 2, 3)]
    for process in processes:
        process.start()
    box = open_mailbox(server, 0, 4, 1000, silent_after_s=1.0)
    averager = GossipAverager([torch.zeros(1000)], rank=0, world_size=4, mailbox=box, topology="ring")

    def step_until(reached) -> None:  # type: ignore[no-untyped-def]
        def step() -> bool:
            averager.step()
            return bool(reached())

        _until(step)

    try:
        step_until(lambda: min(box.progress(rank) for rank in range(4)) > 20)
        _kill(processes[0])
        step_until(lambda: box.roster.live() in ((0, 2, 3), (0, 2), (0, 3)))
        assert 1 in box.roster.departed() and box.progress(1) > 20
        received, heard = averager.stats()["received"], box.progress(2)
        step_until(lambda: averager.stats()["received"] > received and box.progress(2) > heard)
        _stop(processes[1])
        step_until(lambda: 2 not in box.roster.live())
        assert int(box._link.table.state[2]) == PRESENT, "silent, not dead"
        received = averager.stats()["received"]
        step_until(lambda: averager.stats()["received"] > received + 5)
        os.kill(processes[1].pid, signal.SIGCONT)
        step_until(lambda: 2 in box.roster.live())
        assert averager.weight > 0 and bool(torch.isfinite(averager.flat).all())
    finally:
        for process in processes:
            _kill(process)
        averager.close()
