"""Goodput under faults: 32 ranks gossip while one is killed, or stopped for a while, every two seconds.

    python benchmarks/goodput.py                    2000 faults, about 70 minutes; goes on where it was stopped
    python benchmarks/goodput.py --faults 100 --block 50

Real processes exchange 100,000 numbers over shared memory, every 100 ms, so that the cores are not the limit. Nobody
coordinates: ranks notice a death themselves and bury it, and what starts a process again here (as torchrun or a batch
system would) tells the boxes nothing. A block of faults begins with a minute without any, which gives the rate. Then at
random moments, 2 s apart on average, a random rank gets a SIGKILL and is started again at once, or a SIGSTOP and 0.5 to
3 s later a SIGCONT.

Goodput is the updates made, against those that the ranks would have made at their rate in the time in which they were
alive (from the first update of a process to its kill, less what it was stopped): what faults cost the others. Uptime is
the share of that time. Recovery is the time from a kill to the first update of the next process of that rank. At the
end of a block the weight of all ranks and boxes, and what was buried, is compared with what there was in the
beginning. One JSON line a block.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import signal
import time
import warnings
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.processes.start import start_method

RANKS, NUMEL, PACE_S, TOPOLOGY = 32, 100_000, 0.1, "one-peer-exponential"
MEAN_GAP_S, CALM_S, STOP_S, LOOK_S = 2.0, 60.0, (0.5, 3.0), 0.02
RESULTS = Path(__file__).parent / "results" / "goodput.jsonl"


def learn(handle: Any, rank: int, parent: int) -> None:
    """Small updates and exchanges, as long as the process ``parent`` lives."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # deaths, which are what this is about
    averager = GossipAverager(
        [torch.zeros(NUMEL)], rank=rank, world_size=RANKS, mailbox=open_endpoint(handle, rank), topology=TOPOLOGY
    )
    noise = 1e-3 * torch.randn(NUMEL, generator=torch.Generator().manual_seed(rank))
    due_s = time.monotonic()
    while Path(f"/proc/{parent}").exists():
        averager.flat.add_(noise)
        averager.step()
        due_s = max(due_s + PACE_S, time.monotonic())  # what was late is not made up for
        time.sleep(max(due_s - time.monotonic(), 0.0))


@dataclass
class Rank:
    """What the bookkeeping knows of one."""

    process: BaseProcess
    updates: int = 0
    """Of the board, at the last look."""
    killed_s: float | None = None
    stopped_until_s: float | None = None


class Team:
    """All ranks, and what they have done."""

    def __init__(self, seed: int) -> None:
        self._context: Any = start_method("gala.gossip.averager")
        self.boxes = SharedMemoryMailboxes.create(RANKS, NUMEL, silent_after_s=30.0, watch=True)
        self.rng = np.random.default_rng(seed)
        self.ranks = [Rank(self._start(rank)) for rank in range(RANKS)]
        self.updates, self.alive_s, self.recoveries_s, self.kinds = 0, 0.0, list[float](), {"kill": 0, "stop": 0}

    def _start(self, rank: int) -> BaseProcess:
        process: BaseProcess = self._context.Process(
            target=learn, args=(self.boxes.handle, rank, os.getpid()), daemon=True
        )
        process.start()
        return process

    def look(self, passed_s: float) -> None:
        """Count what has happened since the last look, and wake who has been stopped for long enough."""
        now_s, progress = time.monotonic(), self.boxes.progress()
        for number, rank in enumerate(self.ranks):
            made = progress[number] - rank.updates
            rank.updates = progress[number]
            if rank.killed_s is not None:
                if made <= 0 or not rank.process.is_alive():
                    continue
                self.recoveries_s.append(now_s - rank.killed_s)
                rank.killed_s, made = None, 1  # a newcomer begins with the count of the furthest
            if rank.stopped_until_s is not None:
                if now_s >= rank.stopped_until_s:
                    os.kill(rank.process.pid or 0, signal.SIGCONT)
                    rank.stopped_until_s = None
                self.updates += made
                continue
            self.updates += made
            self.alive_s += passed_s

    def fault(self) -> None:
        """One, at a rank that is alive."""
        able = [r for r in range(RANKS) if self.ranks[r].killed_s is None and self.ranks[r].stopped_until_s is None]
        if not able:
            return
        number, kind = int(self.rng.choice(able)), str(self.rng.choice(("kill", "stop")))
        rank = self.ranks[number]
        self.kinds[kind] += 1
        if kind == "stop":
            os.kill(rank.process.pid or 0, signal.SIGSTOP)
            rank.stopped_until_s = time.monotonic() + float(self.rng.uniform(*STOP_S))
            return
        rank.process.kill()
        rank.process.join()
        rank.killed_s, rank.updates = time.monotonic(), self.boxes.progress()[number]
        rank.process = self._start(number)

    def spend(self, seconds: float) -> None:
        """Look on for so long."""
        end_s = last_s = time.monotonic()
        end_s += seconds
        while last_s < end_s:
            time.sleep(min(LOOK_S, max(end_s - last_s, 0.0)))
            now_s = time.monotonic()
            self.look(now_s - last_s)
            last_s = now_s

    def rate(self, seconds: float) -> float:
        """Updates per second and rank."""
        before, before_s = self.updates, self.alive_s
        self.spend(seconds)
        return (self.updates - before) / (self.alive_s - before_s)

    def end(self) -> float:
        """All processes; returns by how much the books are off, relative to all there was."""
        for rank in self.ranks:
            rank.process.kill()
            rank.process.join()
        for number in range(RANKS):
            self.boxes.bury(number)
        off = abs(self.boxes.buried_weight() + self.boxes.table.total_weight(0) - RANKS) / RANKS
        self.boxes.close()
        return off


def block(faults: int, seed: int, calm_s: float) -> dict[str, Any]:
    """One row."""
    team = Team(seed)
    try:
        while not all(team.boxes.progress()):
            time.sleep(0.1)
        team.look(0.0)
        calm = team.rate(calm_s)
        before, before_s, begun_s = team.updates, team.alive_s, time.monotonic()
        for _ in range(faults):
            team.spend(float(team.rng.exponential(MEAN_GAP_S)))
            team.fault()
        team.spend(10.0)
        updates, alive_s = team.updates - before, team.alive_s - before_s
        took_s = time.monotonic() - begun_s
    finally:
        off = team.end()
    return {
        "ranks": RANKS,
        "numel": NUMEL,
        "seed": seed,
        "faults": sum(team.kinds.values()),
        **team.kinds,
        "seconds": took_s,
        "updates_per_second_calm": calm,
        "goodput": updates / (calm * alive_s),
        "uptime": alive_s / (took_s * RANKS),
        "recovery_s_median": float(np.median(team.recoveries_s)) if team.recoveries_s else None,
        "recovery_s_max": max(team.recoveries_s, default=None),
        "mass_error": off,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=2000)
    parser.add_argument("--block", type=int, default=200)
    parser.add_argument("--calm-s", type=float, default=CALM_S)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    rows = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    while (done := sum(row["faults"] for row in rows)) < words.faults:
        row = block(min(words.block, words.faults - done), len(rows), words.calm_s)
        rows.append({**row, **machine_facts()})
        with words.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    mp.freeze_support()
    main()
