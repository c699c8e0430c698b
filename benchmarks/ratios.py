"""How many times faster one variant of a throughput record is than each other, paired by round.

python benchmarks/ratios.py benchmarks/results/throughput_pong.jsonl "gala x2"
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from gala.bench.ratios import paired_ratio


def main(record: str, name: str) -> None:
    rates = {row["name"]: row["rates"] for row in json.loads(Path(record).read_text())["rows"]}
    for other, values in rates.items():
        ratio = paired_ratio(rates[name], values)
        print(f"{other:<16} {statistics.median(values):9,.0f} {ratio.median:6.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
