"""What an exchange costs, against the number of learners: it should not grow. Run it on an idle machine.

    python benchmarks/gossip_cost.py --repeats 30 --out benchmarks/results/gossip_cost.jsonl

Seconds of one ``GossipAverager.step`` (send a share, absorb what waits) of the Atari network's 866,439 float32, for 2
to 64 learners, over boxes in one process and over shared memory whose endpoints a few processes drive in turn, as many
as there are cores. Directed ring and one-peer exponential: one message out and one in per step; ``messages_per_step``
says whether it was so. Median and quartiles over all steps after a warm-up. Rounds begin together, outside the clock,
and only as many learners step at a time as there are processes, so that what is measured is an exchange and not a fight
for cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import edges
from gala.gossip.message import Mailbox
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.processes.resources import available_cores

NUMEL = 866_439
SIZES = (2, 4, 8, 16, 32, 64)
GRAPHS = ("ring", "one-peer-exponential")
WARM_UP = 3
_PATIENCE_S = 600.0


Timed = tuple[list[float], float]
"""Seconds of each step; messages sent, all told."""


def timed_steps(mailboxes: dict[int, Mailbox], n: int, topology: str, repeats: int, barrier: Any = None) -> Timed:
    """Steps the learners in turn; the warm-up does not count."""
    torch.set_num_threads(1)
    averagers = [
        GossipAverager([torch.full((NUMEL,), float(rank))], rank=rank, world_size=n, mailbox=box, topology=topology)
        for rank, box in mailboxes.items()
    ]
    seconds = []
    before = 0.0
    for i in range(WARM_UP + repeats):
        if barrier is not None:
            barrier.wait(_PATIENCE_S)
        if i == WARM_UP:
            before = sum(averager.stats()["sent"] for averager in averagers)
        for averager in averagers:
            averager.flat.mul_(0.999)
            started = time.perf_counter()
            averager.step()
            if i >= WARM_UP:
                seconds.append(time.perf_counter() - started)
    return seconds, sum(averager.stats()["sent"] for averager in averagers) - before


def _drive(handle: Any, ranks: Sequence[int], n: int, topology: str, repeats: int, barrier: Any, out: Any) -> None:
    endpoints = {rank: open_endpoint(handle, rank) for rank in ranks}
    out.put(timed_steps(endpoints, n, topology, repeats, barrier))


def in_process(n: int, topology: str, repeats: int, processes: int) -> Timed:
    boxes = InProcessMailboxes(n, NUMEL)
    return timed_steps({rank: boxes.endpoint(rank) for rank in range(n)}, n, topology, repeats)


def shared_memory(n: int, topology: str, repeats: int, processes: int) -> Timed:
    world = SharedMemoryMailboxes.create(n, NUMEL, edges(topology, n))
    context = mp.get_context("spawn")
    barrier, out = context.Barrier(processes), context.Queue()
    started = [
        context.Process(
            target=_drive, args=(world.handle, range(i, n, processes), n, topology, repeats, barrier, out), daemon=True
        )
        for i in range(processes)
    ]
    for process in started:
        process.start()
    timed = [out.get(timeout=_PATIENCE_S) for _ in started]
    for process in started:
        process.join()
    world.close()
    return [second for seconds, _ in timed for second in seconds], sum(sent for _, sent in timed)


TRANSPORTS = {"in-process": in_process, "shared-memory": shared_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    facts = machine_facts()
    with options.out.open("w") as file:
        for transport, run in TRANSPORTS.items():
            for topology in GRAPHS:
                for n in options.sizes:
                    processes = 1 if transport == "in-process" else min(n, available_cores())
                    seconds, sent = run(n, topology, options.repeats, processes)
                    low, median, high = (float(f"{x:.4g}") for x in np.percentile(seconds, (25, 50, 75)))
                    row = {"benchmark": "gossip_cost", "transport": transport, "topology": topology, "learners": n}
                    row |= {"parameters": NUMEL, "processes": processes, "steps": len(seconds)}
                    row["messages_per_step"] = round(sent / len(seconds), 3)
                    row |= {"step_s_median": median, "step_s_quartiles": [low, high]}
                    print(row, flush=True)
                    print(json.dumps(row | {"machine": facts}), file=file, flush=True)


if __name__ == "__main__":
    main()
