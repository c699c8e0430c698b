"""SIGKILL one of four gossiping learners, fifty times, half of them in the middle of a write: do the others notice?

    python benchmarks/survive_kills.py                 50 kills, about a quarter of an hour
    python benchmarks/survive_kills.py --kills 4
    python benchmarks/survive_kills.py --pace-ms 20    an update every 20 ms, so that the cores are not the limit

Four processes exchange 866,439 parameters (the Atari network's number) over shared memory as fast as they can, so that
an exchange that became slower, or waits, shows. On fewer cores than processes the others get what the victim has used:
ratios above 1 are expected there. Each kill compares the others' updates in the ten seconds after it with those in the
ten seconds before; then the victim is started again and joins with no weight. At the end all die and are written off:
the weight that is then still in the books was never accounted for. One JSON line a kill; one line of all at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.box import Box
from gala.gossip.transport.endpoint import Handle, open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

LEARNERS, NUMEL = 4, 866_439
WINDOW_S, START_S = 10.0, 60.0
RESULTS = Path(__file__).parent / "results" / "survive_kills.jsonl"


def learn(handle: Handle, rank: int, joins: bool, pace_s: float) -> None:
    """Small random updates, gossiped over a ring, for ever."""
    torch.set_num_threads(1)
    averager = GossipAverager(
        [torch.zeros(NUMEL)], rank=rank, world_size=LEARNERS, mailbox=open_endpoint(handle, rank), topology="ring"
    )
    if joins:
        averager.join()
    noise = 1e-3 * torch.randn(NUMEL, generator=torch.Generator().manual_seed(rank))
    due_s = time.monotonic()
    while True:
        averager.flat.add_(noise)
        averager.step()
        due_s = max(due_s + pace_s, time.monotonic())  # what was late is not made up for
        time.sleep(max(due_s - time.monotonic(), 0.0) if pace_s else 0.0)


def start(boxes: SharedMemoryMailboxes, rank: int, joins: bool, pace_s: float) -> BaseProcess:
    """A learner that has made its first updates."""
    before = boxes.progress()[rank]
    process = mp.get_context("spawn").Process(target=learn, args=(boxes.handle, rank, joins, pace_s), daemon=True)
    process.start()
    deadline = time.monotonic() + START_S
    while boxes.progress()[rank] in (before, 0):
        assert time.monotonic() < deadline and process.is_alive(), f"learner {rank} did not start"
        time.sleep(0.01)
    return process


def updates_of(boxes: SharedMemoryMailboxes, victim: int, seconds: float) -> np.ndarray:
    """Updates of each of the others in so many seconds."""
    before = np.delete(boxes.progress(), victim)
    time.sleep(seconds)
    return np.delete(boxes.progress(), victim) - before


def kill(process: BaseProcess, boxes: SharedMemoryMailboxes, victim: int, mid_write: bool) -> bool:
    """SIGKILL now, or at the first moment in which the victim is seen to write; whether its write was cut off."""
    box = boxes.box((victim, (victim + 1) % LEARNERS))
    assert process.pid is not None
    cut_off = int(box.ints[Box.CUT_OFF])
    while mid_write and not box.is_dirty():
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join(START_S)
    return bool(box.is_dirty() or box.ints[Box.CUT_OFF] > cut_off)  # the reader may have found it first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace-ms", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    pace_s = options.pace_ms / 1000
    rng, shm = np.random.default_rng(options.seed), set(os.listdir("/dev/shm"))
    pairs = [(i, j) for i in range(LEARNERS) for j in range(LEARNERS) if i != j]
    boxes = SharedMemoryMailboxes.create(LEARNERS, NUMEL, pairs, silent_after_s=30.0)
    processes = [start(boxes, rank, joins=False, pace_s=pace_s) for rank in range(LEARNERS)]
    rows = []
    for i in range(options.kills):
        victim = int(rng.integers(LEARNERS))
        before = updates_of(boxes, victim, WINDOW_S)
        time.sleep(float(rng.uniform(0, 0.5)))
        cut_off = kill(processes[victim], boxes, victim, mid_write=i % 2 == 1)
        lost = boxes.bury(victim)
        after = updates_of(boxes, victim, WINDOW_S)
        rows.append(
            {
                "kill": i,
                "victim": victim,
                "write_cut_off": cut_off,
                "lost_weight": lost,
                "left_weight": boxes.table.total_weight(),
                "updates_before": before.tolist(),
                "updates_after": after.tolist(),
                "ratio": float(after.sum() / before.sum()),
                "slowest_ratio": float((after / before).min()),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        boxes.admit(victim)
        processes[victim] = start(boxes, victim, joins=True, pace_s=pace_s)
    for process in processes:
        process.kill()
        process.join()
    for rank in range(LEARNERS):
        boxes.bury(rank)
    unaccounted = boxes.table.total_weight()
    boxes.close()
    ratios = [row["ratio"] for row in rows]
    summary = {
        "command": "python benchmarks/survive_kills.py "
        f"--kills {options.kills} --seed {options.seed} --pace-ms {options.pace_ms:g}",
        "kills": len(rows),
        "writes_cut_off": sum(bool(row["write_cut_off"]) for row in rows),
        "ratio_min": min(ratios),
        "ratio_median": float(np.median(ratios)),
        "slowest_ratio_min": min(row["slowest_ratio"] for row in rows),
        "weight_unaccounted_for": unaccounted,
        "left_in_dev_shm": len(set(os.listdir("/dev/shm")) - shm),
        "machine": machine_facts(),
    }
    options.out.write_text("".join(json.dumps(row) + "\n" for row in [*rows, summary]))
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
