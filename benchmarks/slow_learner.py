"""Does a team learn as well when one of four learners is twenty times slower? Gossip, copies, all-reduce.

    python benchmarks/slow_learner.py cartpole --seeds 1 2 3 4 5         about 40 minutes; finished rows are skipped
    python benchmarks/slow_learner.py table                              prints the tables of what is there

Every simulator's decision takes a millisecond more (a sleep), so that the cores are not the limit; the slow learner's
take twenty. All variants make equal env_steps. A row has the mean return of 100 greedy episodes of the final policy
(the learners' weighted average), env_steps and seconds until the mean of the learners' last hundred episodes reaches
the bar, and who made how many updates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gala.api.run import Run
from gala.bench.machine import machine_facts

Row = dict[str, Any]
AS_IT_WAS = ("optim.lr=1e-3", "gossip.lr_scaling=none", "a2c.max_grad_norm=0.5")  # the preset, when the rows were made
STUDIES = {
    "cartpole": (["preset=classic/cartpole", "steps=4e5", "delay.mean_s=0.001"], 450.0, "greedy"),
    "minatar_breakout": (
        ["preset=minatar/breakout", "steps=6e5", "delay.mean_s=0.001", *AS_IT_WAS],
        3.0,
        "sampled",
    ),
}
VARIANTS = {
    "gala": ["algo=gala"],
    "copy-average": ["algo=gala", "gossip.mixing=copy-average"],
    "allreduce": ["algo=allreduce"],
}
SLOWER = (1, 20)
RESULTS = Path(__file__).parent / "results" / "slow_learner.jsonl"


def measure(study: str, variant: str, slower: int, seed: int, run: Path) -> Row:
    """Train (or go on) and evaluate. Raises RuntimeError with the command's own words if it fails."""
    settings, bar, mode = STUDIES[study]
    words = [*settings, *VARIANTS[variant], "learners=4", f"delay.slow_learner={slower}", f"seed={seed}"]
    words += ["torch_threads=1", "log.interval_s=0.5"]
    summary = run / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["status"] != "finished":
        start = ["resume", str(run)] if (run / "checkpoints" / "latest").exists() else ["train", *words, f"run={run}"]
        done = subprocess.run([sys.executable, "-m", "gala", *start], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"gala {' '.join(start)} exited with {done.returncode}:\n{done.stderr}")
    trained = Run(run)
    metrics = trained.metrics()
    returns = metrics["charts/episodic_return"]
    reached = np.flatnonzero(returns >= bar)
    evaluation = trained.evaluate(episodes=100, mode=mode)
    return {
        "study": study,
        "variant": variant,
        "slower": slower,
        "seed": seed,
        "command": "gala train " + " ".join(words),
        "final_return": float(evaluation.return_mean),
        "bar": bar,
        "env_steps_to_bar": int(metrics["global_step"][reached[0]]) if len(reached) else None,
        "seconds_to_bar": float(metrics["perf/wall_s"][reached[0]]) if len(reached) else None,
        "wall_s": trained.summary["wall_s"],
        "env_steps": trained.summary["env_steps"],
    }


def table(rows: list[Row]) -> str:
    """Markdown: medians and ranges over seeds."""
    lines = [
        "| study | variant | slow learner | final return | env_steps to the bar | seconds |",
        "|---" * 6 + "|",
    ]
    keys = list(dict.fromkeys((r["study"], r["variant"], r["slower"]) for r in rows))
    for key in sorted(keys):
        group = [r for r in rows if (r["study"], r["variant"], r["slower"]) == key]
        final = [r["final_return"] for r in group]
        reached = [r["env_steps_to_bar"] for r in group if r["env_steps_to_bar"] is not None]
        steps = f"{np.median(reached):,.0f} ({len(reached)} of {len(group)})" if reached else f"none of {len(group)}"
        cells = (
            key[0],
            key[1],
            f"{key[2]} x" if key[2] > 1 else "none",
            f"{np.median(final):.1f} [{min(final):.1f}, {max(final):.1f}]",
            steps,
            f"{np.median([r['wall_s'] for r in group]):.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=(*STUDIES, "table"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--slower", nargs="+", type=int, default=SLOWER)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs", type=Path, default=Path("runs/slow_learner"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()

    def read() -> list[Row]:
        return [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []

    for variant in words.variants if words.study != "table" else ():
        for slower, seed in ((s, seed) for seed in words.seeds for s in words.slower):
            if (words.study, variant, slower, seed) in [
                (r["study"], r["variant"], r["slower"], r["seed"]) for r in read()
            ]:
                continue
            run = words.runs / f"{words.study}-{variant}-x{slower}-s{seed}"
            row = measure(words.study, variant, slower, seed, run)
            with words.out.open("a") as file:
                file.write(json.dumps({**row, "machine": machine_facts()}) + "\n")
    print(table(read()))


if __name__ == "__main__":
    main()
