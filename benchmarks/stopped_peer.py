"""One of four learners is stopped, killed, restarted, or hangs before its first update: what do the others do?

    python benchmarks/stopped_peer.py                            all four, about eight minutes, and the picture
    PYTHONPATH=OLD:OLD/envs python benchmarks/stopped_peer.py --code before       the same of another checkout's gossip

Four real processes exchange over shared memory. Each adds noise of 0.01 per number (d = 1000) and exchanges, every 20
ms, so that the cores are not the limit and a fall means that somebody waits or has nothing to send. Twenty seconds
after the start the fault comes, to rank 2; the stopped one goes on a minute later. Twice a second the parent reads what
the three others hold: the mean distance to their own mean, and how many messages they sent per update. One JSON line a
scenario: both over time, and the ratio of the worst window of five seconds to the time before. Rows that are there are
not run again.
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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

Row = dict[str, Any]
LEARNERS, VICTIM, DIMENSION, NOISE, PACE_S, TOPOLOGY = 4, 2, 1000, 0.01, 0.02, "ring"
BEFORE_S, FAULT_S, AFTER_S, SAMPLE_S, WINDOW_S = 20.0, 60.0, 20.0, 0.5, 5.0
SCENARIOS = ("stopped", "killed", "restarted", "hung newcomer")
RESULTS = Path(__file__).parent / "results" / "stopped_peer.jsonl"


def learn(handle: Any, rank: int, joins: bool, hangs: bool, seen: Any) -> None:
    """Noise and an exchange at a fixed pace. ``seen`` [LEARNERS, 2 + d] shows updates, messages sent, and numbers."""
    torch.set_num_threads(1)
    row = np.frombuffer(seen, np.float64).reshape(LEARNERS, -1)[rank]
    endpoint = open_endpoint(handle, rank)
    settings: Row = {"rank": rank, "world_size": LEARNERS, "mailbox": endpoint, "topology": TOPOLOGY}
    averager = GossipAverager([torch.zeros(DIMENSION)], **settings)
    if joins:
        averager.join(int(max(endpoint.progress(r) for r in range(LEARNERS))))
    if hangs:
        time.sleep(1e6)
    generator = torch.Generator().manual_seed(rank)
    while True:
        averager.flat.add_(torch.randn(DIMENSION, generator=generator), alpha=NOISE)
        averager.step()
        row[2:] = averager.flat.numpy()
        row[:2] = averager.updates, averager.stats()["sent"]
        time.sleep(PACE_S)


def happen(scenario: str, boxes: SharedMemoryMailboxes, victim: BaseProcess, start: Any) -> BaseProcess | None:
    """The fault. Returns the process to wake a minute later."""
    assert victim.pid is not None
    if scenario == "stopped":
        os.kill(victim.pid, signal.SIGSTOP)
        return victim
    victim.kill()
    victim.join()
    boxes.bury(VICTIM)
    if scenario != "killed":
        boxes.admit(VICTIM)
        start(VICTIM, joins=True, hangs=scenario == "hung newcomer")
    return None


def run(scenario: str) -> Row:
    """[time, spread, messages per update] of the three others."""
    context = mp.get_context("spawn")
    boxes = SharedMemoryMailboxes.create(LEARNERS, DIMENSION, silent_after_s=30.0)
    seen = context.RawArray("d", LEARNERS * (2 + DIMENSION))
    rows = np.frombuffer(seen, np.float64).reshape(LEARNERS, -1)
    children: list[BaseProcess] = []

    def start(rank: int, joins: bool = False, hangs: bool = False) -> BaseProcess:
        child = context.Process(target=learn, args=(boxes.handle, rank, joins, hangs, seen), daemon=True)
        child.start()
        children.append(child)
        return child

    try:
        victim = [start(rank) for rank in range(LEARNERS)][VICTIM]
        while not (rows[:, 0] > 100).all():
            time.sleep(0.1)
        return _watch(scenario, boxes, rows, victim, start)
    finally:
        for child in children:
            child.kill()
            child.join()
        boxes.close()


def _watch(scenario: str, boxes: SharedMemoryMailboxes, rows: NDArray, victim: BaseProcess, start: Any) -> Row:
    others = [rank for rank in range(LEARNERS) if rank != VICTIM]
    begun, fault_s, sleeper = time.monotonic(), None, None
    samples, counts = [], [rows[others, :2].copy()]
    while (now_s := time.monotonic() - begun) < BEFORE_S + FAULT_S + AFTER_S:
        if fault_s is None and now_s >= BEFORE_S:
            sleeper, fault_s = happen(scenario, boxes, victim, start), now_s
        if sleeper is not None and now_s >= BEFORE_S + FAULT_S:
            assert sleeper.pid is not None
            os.kill(sleeper.pid, signal.SIGCONT)
            sleeper = None
        time.sleep(SAMPLE_S)
        held = rows[others, 2:].copy()
        counts.append(rows[others, :2].copy())
        updates, sent = (counts[-1] - counts[-2]).sum(0)
        spread = np.sqrt(((held - held.mean(0)) ** 2).sum(1)).mean()
        samples.append((round(now_s, 2), round(float(spread), 5), round(float(sent / max(updates, 1)), 4)))
    times, spread, sent = np.array(samples).T
    before, after = (times > WINDOW_S) & (times < BEFORE_S), times >= BEFORE_S
    windows = [after & (times >= t) & (times < t + WINDOW_S) for t in np.arange(BEFORE_S, times[-1] - WINDOW_S, 1.0)]
    return {
        "scenario": scenario,
        "messages_per_update_ratio": min(sent[w].mean() for w in windows) / sent[before].mean(),
        "spread_ratio": max(spread[w].mean() for w in windows) / spread[before].mean(),
        "samples": samples,
    }


def draw(rows: list[Row], path: Path) -> None:
    """Spread over time, one panel a scenario."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 5.6), sharex=True, sharey=True, layout="constrained")
    for axis, scenario in zip(axes.flat, SCENARIOS, strict=True):
        for code, colour in (("before", "tab:red"), ("now", "tab:blue")):
            for row in (r for r in rows if r["scenario"] == scenario and r["code"] == code):
                times, spread, _ = np.array(row["samples"]).T
                axis.plot(times, spread, color=colour, label=f"{code}: {row['spread_ratio']:.2f} times at the worst")
        axis.axvline(BEFORE_S, color="grey", linewidth=0.8, linestyle=":")
        if scenario == "stopped":
            axis.axvline(BEFORE_S + FAULT_S, color="grey", linewidth=0.8, linestyle=":")
        axis.set_title(f"one of four: {scenario}", fontsize=10)
        axis.set_yscale("log")
        axis.legend(fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("distance of the others\nto their mean")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--code", default="now", help="which gossip this is: now, or before")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    rows = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    for scenario in words.scenarios:
        if (words.code, scenario) in [(r["code"], r["scenario"]) for r in rows]:
            continue
        row = {"code": words.code, **run(scenario), **machine_facts()}
        rows.append(row)
        with words.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: row[name] for name in ("scenario", "messages_per_update_ratio", "spread_ratio")}, flush=True)
    draw(rows, words.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
