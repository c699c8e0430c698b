"""How many times faster one variant of a throughput record is than each other, paired by round.

python benchmarks/ratios.py benchmarks/results/throughput_pong.jsonl "gala x2"
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gala.bench.ratios import paired_ratio
from gala.experiments.scores import Interval, interval


def ratio_of_medians(over: ArrayLike, under: ArrayLike) -> Interval:
    """Two samples of times, infinite where something never came; the 95 % interval is bootstrapped as a logarithm."""

    def log_ratio(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
        over, under = np.median(a[0]), np.median(b[0])
        return 0.0 if over == under else float(np.log(over) - np.log(under))

    return Interval(*map(math.exp, interval([[over], [under]], log_ratio)))


def main(record: str, name: str) -> None:
    rates = {row["name"]: row["rates"] for row in json.loads(Path(record).read_text())["rows"]}
    for other, values in rates.items():
        ratio = paired_ratio(rates[name], values)
        print(f"{other:<16} {statistics.median(values):9,.0f} {ratio.median:6.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
