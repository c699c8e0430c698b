"""Small objects in reinforcement learning: return and gap by ratio, number of levels and pooling, A2C and GALA.

    python benchmarks/objects_in_rl.py --studies STUDIES            two hours on two cores; goes on where it was cut off
    python benchmarks/objects_in_rl.py --studies STUDIES --judge    only what is there already

`tiny_objects`, is there an object among the clutter? An object of 8 x 8 pixels in images of 16 and of 32, 50 and 2,000
training levels, five runs each, networks in bfloat16. One line per group, and per finding after arXiv 1908.06037, with
Welch's interval of the difference over runs: no thresholds but those that the finding itself names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from overfit_protocols import gaps, more, returns, verdict
from studies import Results, run_all, short

from gala.bench.machine import machine_facts

RESULTS = Path(__file__).parent / "results" / "objects_in_rl.jsonl"
POOLINGS = ("max", "mean", "logsumexp", "attention")
SIDES = {16: 0.25, 32: 0.0625}
LEVELS = (50, 2000)
COMMON = "n=50,2000 test=200 runs=5 preset=overfit/tiny_objects log.keep_milestones=0 steps=80000 model.precision=bf16"
ONE, FOUR = "algo=a2c", "algo=gala learners=4 envs_per_learner=16 torch_threads=1 jobs=1"
STUDIES = {
    f"{pooling}-{side}-{algorithm}": (
        f"sweep tiny_objects side={side} ratio={ratio} {COMMON} model.pooling={pooling} "
        + (ONE if algorithm == "a2c" else FOUR)
    )
    for pooling in POOLINGS
    for algorithm in ("a2c", "gala")
    for side, ratio in SIDES.items()
}
Row = dict[str, Any]


def finding(text: str, difference: Any, **more_of_it: Any) -> Row:
    low, mid, high = difference
    return {"finding": text, "difference": mid, "interval": [low, high], "verdict": verdict(difference), **more_of_it}


def findings(r: Results) -> Iterator[Row]:
    for name in r.judged:
        levels = more(gaps(r, name, 50), gaps(r, name, 2000))
        yield finding(f"{name}: the gap at 50 levels is above that at 2,000", levels)
    for side in SIDES:
        for other in POOLINGS[1:]:
            if {f"max-{side}-a2c", f"{other}-{side}-a2c"} <= r.judged.keys():
                trained = [returns(r, f"{p}-{side}-a2c", 2000, on="train") for p in ("max", other)]
                text = f"side {side}, 2,000 levels: max learns its levels better than {other}"
                yield finding(text, more(*trained), learned=[float(x.mean()) for x in trained])
        for pooling in POOLINGS:
            if {f"{pooling}-{side}-a2c", f"{pooling}-{side}-gala"} <= r.judged.keys():
                for n in LEVELS:
                    both = [gaps(r, f"{pooling}-{side}-{a}", n) for a in ("gala", "a2c")]
                    yield finding(f"{pooling}, side {side}, {n} levels: GALA's gap is above A2C's", more(*both))
    for pooling in POOLINGS:
        if {f"{pooling}-{side}-a2c" for side in SIDES} <= r.judged.keys():
            tests = [returns(r, f"{pooling}-{side}-a2c", 2000) for side in SIDES]
            text = f"{pooling}, 2,000 levels: the test return falls with the ratio, from 1/4 to 1/16"
            yield finding(text, more(*tests), test=[float(x.mean()) for x in tests])


def rewards(r: Results, study: str, n: int, on: str) -> list[float]:
    """Each run's mean reward, 1 for every right decision."""
    rows = [x for x in r.rows[study] if (x["policy"], x["set"], x["n_train"]) == ("agent", on, n)]
    return [float(np.mean([x["return"] for x in rows if x["run"] == run])) for run in sorted({x["run"] for x in rows})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True, help="a directory for trainings and rows; large")
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    if not options.judge:
        run_all(options.studies, STUDIES)
    r = Results(options.studies, STUDIES)
    lines: list[Row] = []
    for name, result in r.judged.items():
        for g in result["groups"]:
            scored = {f"{on}_reward": rewards(r, name, g.n_train or 0, on) for on in ("train", "test")}
            lines.append({"study": name, "command": STUDIES[name]} | short(g) | scored)
    lines += findings(r)
    for line in lines:
        print(
            {k: v for k, v in line.items() if k in ("study", "n_train", "finding", "difference", "interval", "verdict")}
        )
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"machine": machine_facts()}]))


if __name__ == "__main__":
    main()
