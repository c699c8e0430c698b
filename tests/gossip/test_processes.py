"""Real learners in real processes over shared memory."""

import multiprocessing as mp
import os
import signal
import time

import pytest
import torch
from gossip_network import lockstep, stack, start

from gala.gossip.averager import GossipAverager
from gala.gossip.transport import burial
from gala.gossip.transport.endpoint import open_block, open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

N, D, ROUNDS = 3, 20_000, 60


def _start_values() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def _local_step(rank: int, t: int) -> torch.Tensor:
    return 0.1 * torch.randn(D, generator=torch.Generator().manual_seed(1000 * rank + t))


def _learn(handle, rank: int, topology: str, tau: int | None, sleep_s: float) -> dict:  # type: ignore[no-untyped-def,type-arg]
    averager = GossipAverager(
        [_start_values()[rank]],
        rank=rank,
        world_size=N,
        mailbox=open_endpoint(handle, rank),
        topology=topology,
        tau=tau,
    )
    added = torch.zeros(D, dtype=torch.float64)
    for t in range(ROUNDS):
        step = _local_step(rank, t)
        averager.flat.add_(step)
        added += averager.weight * step.double()
        time.sleep(sleep_s)
        averager.step()
    stats = averager.stats()
    averager.close()
    return {"z": averager.flat.clone(), "w": averager.weight, "added": added, "stats": stats}


def _child(handles, rank: int, barrier, results) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    barrier.wait(250)
    free = _learn(handles[0], rank, "undirected-ring", None, 5e-4 * rank)
    lock = _learn(handles[1], rank, "ring", 0, 0.0)
    results.put((rank, {k: (v if k in ("w", "stats") else v.numpy()) for k, v in free.items()}, lock["z"].numpy()))


@pytest.fixture(scope="module")
def outcome():  # type: ignore[no-untyped-def]
    """One run of three spawned learners: asynchronous at unequal speeds, then in lockstep."""
    spawn = mp.get_context("spawn")
    worlds = [SharedMemoryMailboxes.create(N, D) for _ in ("undirected-ring", "ring")]
    results, barrier = spawn.Queue(), spawn.Barrier(N)
    processes = [spawn.Process(target=_child, args=([w.handle for w in worlds], r, barrier, results)) for r in range(N)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=250) for _ in range(N)), key=lambda entry: entry[0])
    for process in processes:
        process.join(200)
        assert process.exitcode == 0
    return worlds, [entry[1] for entry in found], torch.stack([torch.as_tensor(entry[2]) for entry in found])


def test_mass_is_conserved_including_what_is_in_flight(outcome):
    (world, _), free, _ = outcome
    numerator, weight = world.in_flight()
    assert sum(entry["w"] for entry in free) + weight == pytest.approx(N, abs=1e-9)
    total = numerator + sum(entry["w"] * torch.as_tensor(entry["z"]).double() for entry in free)
    expected = _start_values().double().sum(0) + sum(torch.as_tensor(entry["added"]) for entry in free)
    assert (total - expected).abs().max() < 1e-4  # float32 rounding of 60 rounds on numbers of size 3
    assert all(entry["w"] >= 0.25 - 1e-12 for entry in free)
    assert all(entry["stats"]["received"] > 0 for entry in free) and world.lost_weight() == 0
    assert world.progress() == [ROUNDS] * N


def test_lockstep_across_processes_is_bit_identical_to_one_process(outcome):
    averagers = start(_start_values(), topology="ring", tau=0)
    for t in range(ROUNDS):
        for averager in averagers:
            averager.flat.add_(_local_step(averager.rank, t))
        lockstep(averagers)
    assert torch.equal(outcome[2], stack(averagers))


def _run_for_ever(handle, rank: int) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    averager = GossipAverager(
        [torch.full((200_000,), float(rank))], rank=rank, world_size=4, mailbox=open_endpoint(handle, rank)
    )
    while True:
        averager.flat.add_(1e-4 * (rank - averager.flat))
        time.sleep(1e-3)
        averager.step()


def _wait_for(reached) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 200
    while not reached():
        assert time.monotonic() < deadline, "a learner stands still"
        time.sleep(0.01)


def test_a_death_whose_burial_was_cut_off_by_another_is_found_again(monkeypatch):
    world = SharedMemoryMailboxes.create(4, 200_000, watch=True)
    process = mp.get_context("fork").Process(target=_run_for_ever, args=(world.handle, 2))
    process.start()
    _wait_for(lambda: world.progress()[2] > 0)
    process.kill()
    process.join()

    def cut_off(*_):  # type: ignore[no-untyped-def]
        raise SystemExit

    block = open_block(world.handle)
    with monkeypatch.context() as patched, block.found_dead(2) as dead:
        patched.setattr(burial, "pass_on_orphans", cut_off)
        assert dead
        with pytest.raises(SystemExit):
            burial.bury(block, 2)
    assert open_endpoint(world.handle, 2).newcomer, "or its weight would come out of nothing"
    world.close()


def test_killing_one_of_four_learners_stops_nobody():
    world = SharedMemoryMailboxes.create(4, 200_000)
    fork = mp.get_context("fork")
    processes = [fork.Process(target=_run_for_ever, args=(world.handle, rank)) for rank in range(4)]
    try:
        for process in processes:
            process.start()
        _wait_for(lambda: min(world.progress()) >= 20)
        os.kill(processes[2].pid, signal.SIGKILL)
        processes[2].join()
        dead = world.progress()
        _wait_for(lambda: all(world.progress()[rank] >= dead[rank] + 200 for rank in (0, 1, 3)))
        assert processes[2].exitcode == -signal.SIGKILL and world.progress()[2] == dead[2]
    finally:
        for process in processes:
            process.kill()
            process.join()
