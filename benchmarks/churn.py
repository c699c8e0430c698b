"""PushSum under churn: learners die, start again, leave, join and stop a million times, and the mean stays exact.

    python benchmarks/churn.py                                    all cases, 100,000 events each; resumable
    python benchmarks/churn.py --ranks 4 --codecs fp32 --events 2000
    python benchmarks/churn.py --crowded --events 10000           most places are taken

In one process, on simulated time, so the rows repeat bit for bit. Nobody trains: the weighted mean of all mass, in
learners, boxes and coding residuals, may change by a death only, which takes mass along. So it is measured in float64
right after each death and right before the next, and the difference, relative to the size of the numbers, is what all
that happened between the two did wrong. (One account over all deaths would say nothing: each death divides the weight
that is left, and so multiplies the rounding of before, whoever counts.) Between two events of churn every learner that
is there and not stopped exchanges ``STEPS`` times on average, in a random order. Where all events are equally likely,
about two learners are there at a time, whatever the places; with ``--crowded`` somebody joins three times as often.

One JSON line per (ranks, codec): the largest error, the smallest and largest mean weight in the learners' unit, the
units that were taken, how often all mass had died, and the spread after a quiet end, which shows that they still mix.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.message import Mailbox, unit_of
from gala.gossip.push_sum import in_unit
from gala.gossip.transport.compress import Compressed
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.roster import PRESENT

Row = dict[str, Any]
RANKS, CODECS = (2, 4, 8, 16, 64), ("fp32", "int8")
DIMENSION, STEPS, TOPOLOGY = 8, 3.0, "random-1"
EVENTS = ("die", "leave", "join", "stop", "go on")
RESULTS = Path(__file__).parent / "results" / "churn.jsonl"


class World:
    """``n`` places; ``learners`` holds those who are there."""

    def __init__(self, n: int, codec: str, seed: int) -> None:
        self.n, self.codec, self.rng = n, codec, np.random.default_rng((seed, n))
        self.boxes = InProcessMailboxes(n, DIMENSION)
        self.ends: dict[int, Mailbox] = {}
        self.learners: dict[int, GossipAverager] = {}
        self.stopped: set[int] = set()
        self._gone_starts = 0
        for rank in range(n):
            self.begin(rank)

    def begin(self, rank: int) -> GossipAverager:
        """A learner with numbers of its own, of size 1, takes the place."""
        end = self.boxes.endpoint(rank)
        self.ends[rank] = Compressed(end, self.codec) if self.codec in ("fp16", "int8") else end
        values = torch.nn.Parameter(torch.from_numpy(self.rng.standard_normal(DIMENSION).astype(np.float32)))
        settings: Row = {"rank": rank, "world_size": self.n, "topology": TOPOLOGY}
        self.learners[rank] = GossipAverager([values], mailbox=self.ends[rank], **settings)
        return self.learners[rank]

    def happen(self, event: str) -> bool:
        """One event of churn, to a learner at random; False if there is nobody it could happen to."""
        there = list(self.learners)
        able = {
            "die": there if len(there) > 1 else [],
            "leave": [r for r in there if r not in self.stopped] if len(there) > 1 else [],
            "join": [r for r in range(self.n) if r not in self.learners],
            "stop": [r for r in there if r not in self.stopped],
            "go on": sorted(self.stopped),
        }[event]
        if not able:
            return False
        rank = int(self.rng.choice(able))
        if event == "die":
            self._remove(rank)
            self.boxes.bury(rank)
        elif event == "leave":
            if self.learners[rank].leave():
                self._remove(rank)
                self.boxes.table.retire(rank)
        elif event == "join":
            self.boxes.admit(rank)
            self.begin(rank).join(max(a.updates for a in self.learners.values()))
        self.stopped = (self.stopped | {rank}) if event == "stop" else self.stopped - {rank}
        return True

    def _remove(self, rank: int) -> None:
        self._gone_starts += int(self.learners.pop(rank).stats()["new_starts"])

    def starts(self) -> int:
        """How often somebody has started anew, since the beginning; it never falls, whoever goes."""
        return self._gone_starts + sum(int(a.stats()["new_starts"]) for a in self.learners.values())

    def steps(self) -> None:
        """Exchanges between two events."""
        able = [r for r in self.learners if r not in self.stopped]
        for rank in self.rng.choice(able, self.rng.poisson(STEPS * len(able))) if able else ():
            self.learners[rank].step()

    def mean(self) -> Tensor:
        """[d] float64: the weighted mean of all mass."""
        unit = self.boxes.table.highest_unit()
        total, weight = torch.zeros(DIMENSION, dtype=torch.float64), 0.0
        held = [(a.weight * a.flat.double(), a.weight, a.stats()["unit"]) for a in self.learners.values()]
        held += [(m.numerator.double(), m.weight, unit_of(m.sent_at)) for m in self.boxes.boxes.values()]
        for rank in self.learners:
            end = self.ends[rank]
            if isinstance(end, Compressed):
                held.append((end.residual(unit), 0.0, unit))
        for numbers, w, own in held:
            total += numbers * in_unit(1.0, int(own), unit)
            weight += in_unit(w, int(own), unit)
        return total / weight if weight else torch.full((DIMENSION,), torch.nan, dtype=torch.float64)


def measure(n: int, codec: str, events: int, seed: int, crowded: bool) -> Row:
    """One row."""
    world = World(n, codec, seed)
    odds = np.array([3.0 if crowded and event == "join" else 1.0 for event in EVENTS])
    there: list[int] = []
    counts, largest, weights, starts = dict.fromkeys(EVENTS, 0), 0.0, [], 0
    before, since = world.mean(), 0
    while sum(counts.values()) < events:
        world.steps()
        event = str(world.rng.choice(EVENTS, p=odds / odds.sum()))
        there.append(len(world.learners))
        begun = world.starts()
        weightless = since != begun or not before.isfinite().all()
        if event == "die" and not weightless:
            largest = max(largest, float((world.mean() - before).abs().max()))
        counts[event] += world.happen(event)
        if event == "die" or weightless:
            starts += max(begun - since, 0)
            before, since = world.mean(), world.starts()
            weights.append(world.boxes.table.mean_weight())
    end = _settled(world)
    return {
        "ranks": n,
        "codec": codec,
        "seed": seed,
        "events": counts,
        "crowded": crowded,
        "mean_learners": float(np.mean(there)),
        "steps_per_event": STEPS,
        "largest_error": largest,
        "mean_weight_min": min(w for w in weights if w > 0),
        "mean_weight_max": max(weights),
        "units_taken": world.boxes.table.highest_unit(),
        "all_mass_died": starts,
        "spread_at_the_end": float((end - end.mean(0)).abs().max()),
    }


def _settled(world: World) -> Tensor:
    """[learners, d] after a quiet time with everybody there: do they still mix?"""
    world.stopped.clear()
    while world.happen("join"):
        pass
    for _ in range(200):
        for learner in world.learners.values():
            learner.step()
    assert all(world.boxes.table.state[rank] == PRESENT for rank in world.learners)
    return torch.stack([learner.flat.double() for learner in world.learners.values()])


def _key(row: Row) -> tuple[Any, ...]:
    return (row["ranks"], row["codec"], row["seed"], sum(row["events"].values()), row.get("crowded", False))


def main() -> None:
    parser = argparse.ArgumentParser(description="See the file's first lines.")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--codecs", nargs="+", default=CODECS, choices=(*CODECS, "fp16"))
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--crowded", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    warnings.simplefilter("ignore")  # all mass may die here, and is counted; all begin with numbers of their own
    done = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    for n in words.ranks:
        for codec in words.codecs:
            key = (n, codec, words.seed, words.events, words.crowded)
            if key not in [_key(row) for row in done]:
                row = measure(n, codec, words.events, words.seed, words.crowded)
                with words.out.open("a") as file:
                    file.write(json.dumps({**row, **machine_facts()}) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
