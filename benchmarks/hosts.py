"""SGP's headline between hosts: time per iteration and accuracy, by algorithm, bandwidth, delay and number of hosts.

    sudo python benchmarks/hosts.py               17 minutes on two cores; rows that are there are kept
    sudo python benchmarks/hosts.py --partition   one host is cut off for 30 s; must lose no mass, and heal
    sudo python benchmarks/hosts.py --repeat      SGP in lock-step where it is uneven, again and again
    python benchmarks/hosts.py --table            what was measured

Hosts are namespaces of this machine (``networks.py``). A network of 300,000 weights on scikit-learn's digits, 32
images per host and iteration, and 20 ms of sleep in each in place of a larger network's passes, since all hosts share
this machine's cores. All-reduce is gloo's, of one flat gradient; local SGD and SlowMo average every 12 iterations; SGP
(arXiv 1811.10792) sends to one peer, in lock-step, or with messages that may be late. One line per cell: milliseconds
per iteration, megabytes that a host sends, and test accuracy after the same number of iterations, means over hosts;
round trip and bandwidth as one TCP connection found them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from kept_rows import KeptRows
from networks import Network, address

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "hosts.jsonl"
RANK = Path(__file__).with_name("hosts_rank.py")
ALGORITHMS = ("allreduce", "local-sgd", "slowmo", "sgp", "sgp-overlap", "sgp-async")
HOSTS, GBITS, DELAYS_MS = (4, 8), (0.1, 1.0, 10.0), (0.1, 1.0, 10.0)
ITERATIONS, COMPUTE_S, PORT = 115, 0.02, 29_500  # after the first 5, which are not timed, ten periods of 12
EARLY_MS = 50.0  # half of what a message of 1.2 MB takes at 0.1 Gbit/s
CUT_S, BEFORE_S, AFTER_S = 30.0, 5.0, 60.0


class Ranks:
    """One process on each host of a network; a context manager."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __enter__(self) -> Ranks:
        n = self.network.hosts
        common = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": address(0), "MASTER_PORT": str(PORT)}
        common |= {"GLOO_SOCKET_IFNAME": "tun0", "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        words = [sys.executable, str(RANK)]
        self.processes = [self.network.start(k, words, common | {"RANK": str(k)}, **pipes) for k in range(n)]
        if [self._answer(p) for p in self.processes] != ["ready"] * n:
            raise RuntimeError("a rank did not start")
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def tell(self, cell: Row) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(cell) + "\n")
            process.stdin.flush()

    def answers(self) -> list[Row]:
        return [json.loads(self._answer(process)) for process in self.processes]

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()


def measure(kept: KeptRows, hosts: int) -> None:
    cells = [(gbit, delay, algorithm) for gbit in GBITS for delay in DELAYS_MS for algorithm in ALGORITHMS]
    left = [cell for cell in cells if kept.lacks(hosts, *cell)]
    if not left:
        return
    with Network(hosts) as network, Ranks(network) as ranks:
        for gbit, delay_ms, algorithm in left:
            network.set(1e9 * gbit, 1e-3 * delay_ms)
            round_trip_s, rate_bps = network.measure()
            ranks.tell({"algorithm": algorithm, "iterations": ITERATIONS, "compute_s": COMPUTE_S, "seed": 1})
            found = ranks.answers()
            row = {"hosts": hosts, "gbit": gbit, "delay_ms": delay_ms, "algorithm": algorithm}
            row |= {"round_trip_ms": round(1e3 * round_trip_s, 2), "measured_gbit": round(1e-9 * rate_bps, 3)}
            row |= {key: float(np.mean([f[key] for f in found])) for key in ("ms", "sent_mb", "accuracy")}
            weights = [f["weight"] for f in found if "weight" in f]
            kept.add(row | ({"weight_error": abs(sum(weights) - hosts)} if weights else {}))


def partition(hosts: int = 4) -> Row:
    """The last host is cut off for ``CUT_S`` in the midst of asynchronous SGP."""
    total_s = BEFORE_S + CUT_S + AFTER_S
    with Network(hosts) as network, Ranks(network) as ranks:
        network.set(1e9, 1e-3)
        ranks.tell({"algorithm": "sgp-async", "iterations": 10**9, "for_s": total_s, "compute_s": COMPUTE_S, "seed": 1})
        for wait_s, cut in ((BEFORE_S, [hosts - 1]), (CUT_S, [])):
            time.sleep(wait_s)
            network.set(1e9, 1e-3, cut)
        found = ranks.answers()
    weights = [f["weight"] for f in found]
    return {
        "partition_s": CUT_S,
        "hosts": hosts,
        "weights": weights,
        "weight_error": abs(sum(weights) - hosts),
        "iterations": [f["iterations"] for f in found],
        "accuracy": [f["accuracy"] for f in found],
    }


def repeated(hosts: int = 4, times: int = 12, gbit: float = 0.1) -> Row:
    """SGP in lock-step, with a short delay and with a longer one in turns: of each training the milliseconds of an
    iteration, and in which share of them the message that a rank wants had come already. A rank that is an iteration
    ahead of another has two messages on its link at once, so that both are late, the next ones too."""
    ms, early = ({f"{delay:g} ms": list[float]() for delay in (0.1, 1.0)} for _ in range(2))
    with Network(hosts) as network, Ranks(network) as ranks:
        for _, delay_ms in product(range(times), (0.1, 1.0)):
            network.set(1e9 * gbit, 1e-3 * delay_ms)
            ranks.tell({"algorithm": "sgp", "iterations": ITERATIONS, "compute_s": COMPUTE_S, "seed": 1})
            found = ranks.answers()
            ms[f"{delay_ms:g} ms"].append(round(float(np.mean([f["ms"] for f in found])), 1))
            at_once = np.array([f["step_ms"] for f in found]) < EARLY_MS
            early[f"{delay_ms:g} ms"].append(round(float(at_once.mean()), 3))
            print(delay_ms, ms[f"{delay_ms:g} ms"][-1], early[f"{delay_ms:g} ms"][-1], flush=True)
    return {"repeated": "sgp", "hosts": hosts, "gbit": gbit, "ms": ms, "early": early}


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    """All-reduce's time per iteration over each other's, in every network."""
    times = {(r["hosts"], r["gbit"], r["delay_ms"], r["algorithm"]): r["ms"] for r in rows}
    for hosts in HOSTS:
        for algorithm in ALGORITHMS[1:]:
            ratios = {
                f"{gbit:g} Gbit/s, {delay:g} ms": round(times[hosts, gbit, delay, "allreduce"] / ms, 2)
                for (n, gbit, delay, name), ms in times.items()
                if (n, name) == (hosts, algorithm) and (hosts, gbit, delay, "allreduce") in times
            }
            if ratios:
                yield {
                    "finding": f"{hosts} hosts: how many times as fast as all-reduce is {algorithm}",
                    "ratios": ratios,
                }


def table(rows: Sequence[Row], hosts: int) -> str:
    """Milliseconds per iteration of every network and algorithm, and the range of the accuracies."""
    of = {(r["gbit"], r["delay_ms"], r["algorithm"]): r for r in rows if r["hosts"] == hosts}
    lines = [f"| {hosts} hosts | {' | '.join(ALGORITHMS)} |", f"| --- {'| ---: ' * len(ALGORITHMS)}|"]
    for gbit, delay in product(GBITS, DELAYS_MS):
        times = [f"{of[gbit, delay, algorithm]['ms']:.0f}" for algorithm in ALGORITHMS]
        lines.append(f"| {gbit:g} Gbit/s, {delay:g} ms | {' | '.join(times)} |")
    scores = [[100 * r["accuracy"] for r in of.values() if r["algorithm"] == algorithm] for algorithm in ALGORITHMS]
    ranges = [f"{min(x):.1f} to {max(x):.1f}" if max(x) > min(x) else f"{x[0]:.1f}" for x in scores]
    return "\n".join([*lines, f"| test accuracy, % | {' | '.join(ranges)} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partition", action="store_true")
    parser.add_argument("--repeat", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    options = parser.parse_args()
    kept = KeptRows(RESULTS, ("hosts", "gbit", "delay_ms", "algorithm"))
    before = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    others = {key: row for row in before for key in ("partition_s", "repeated") if key in row}
    if options.table:
        print(*(table(kept.rows, hosts) for hosts in HOSTS), sep="\n\n")
        return
    if options.partition:
        others["partition_s"] = partition()
    elif options.repeat:
        others["repeated"] = repeated()
    else:
        for hosts in HOSTS:
            measure(kept, hosts)
    kept.conclude([*findings(kept.rows), *others.values()])


if __name__ == "__main__":
    main()
