"""EKFAC beside what people use today: who needs how many env_steps, and how many seconds?

    python benchmarks/optimizers.py cartpole                 about ten minutes on two cores; finished rows are skipped
    python benchmarks/optimizers.py cartpole_200k --optimizers rmsprop_tf rmsprop ekfac
    python benchmarks/optimizers.py inverted_double_pendulum                          an hour; minatar_breakout two
    python benchmarks/optimizers.py table                    prints the tables of what is there

Plain A2C, one learner, one thread, all settings those of the preset but the optimiser. Each optimiser first trains at
each of four learning rates with two seeds that are not used again; the rate whose returns, averaged over the training,
are highest then trains five seeds. A row has env_steps and seconds until the mean of the last hundred episodes reaches
the bar, and that mean at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ratios import ratio_of_medians

from gala.api.run import Run
from gala.bench.machine import machine_facts

Row = dict[str, Any]
OTHERS = Path(__file__).with_name("other_optimizers.py")
RESULTS = Path(__file__).parent / "results" / "optimizers.jsonl"
TUNING_SEEDS, SEEDS = (101, 102), (1, 2, 3, 4, 5)


class Task(NamedTuple):
    settings: Sequence[str]
    bar: float


TASKS = {
    "cartpole": Task(["preset=classic/cartpole", "steps=100_000"], 450.0),
    "cartpole_200k": Task(["preset=classic/cartpole"], 450.0),
    "inverted_double_pendulum": Task(["preset=mujoco/inverted_double_pendulum", "steps=300_000"], 500.0),
    "minatar_breakout": Task(["preset=minatar/breakout", "steps=300_000", "a2c.max_grad_norm=0.5"], 3.0),
}
_NATURAL = ["optim.name=ekfac", "a2c.max_grad_norm=0", "optim.lr_scaling=none", "ekfac.kl_limit=0.003"]
OPTIMIZERS: dict[str, tuple[Sequence[str], Sequence[float]]] = {
    "rmsprop_tf": (["optim.name=rmsprop_tf"], (1e-2, 3e-2, 1e-1, 3e-1)),
    "rmsprop": (["optim.name=rmsprop"], (1e-3, 3e-3, 1e-2, 3e-2)),
    "adam": (["optim.name=adam"], (3e-4, 1e-3, 3e-3, 1e-2)),
    "ekfac": (_NATURAL, (0.06, 0.125, 0.25, 0.5)),
    "kfac": ([*_NATURAL, "ekfac.kind=kfac"], (0.06, 0.125, 0.25, 0.5)),
    "muon": ([f"optim.name={OTHERS}:muon"], (1e-3, 3e-3, 1e-2, 3e-2)),
    "soap": ([f"optim.name={OTHERS}:soap"], (3e-4, 1e-3, 3e-3, 1e-2)),
    "kron": ([f"optim.name={OTHERS}:kron"], (3e-4, 1e-3, 3e-3, 1e-2)),
}
"""Name -> settings, and the four learning rates that it is tried at."""


def measure(task: str, optimizer: str, lr: float, seed: int) -> Row:
    """One training. One that fails, as by a parameter that is not finite, has learned nothing; its row says why."""
    words = [*TASKS[task].settings, "algo=a2c", *OPTIMIZERS[optimizer][0], f"optim.lr={lr:g}", f"seed={seed}"]
    words += ["torch_threads=1", "log.interval_s=0.2", "log.tensorboard=false", "log.checkpoint_interval_s=1e6"]
    row = {"task": task, "optimizer": optimizer, "lr": lr, "seed": seed, "command": _told(words)}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "gala", "train", *words, f"run={run}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return row | {"failed": done.stderr.strip().splitlines()[-1], "area": 0.0, "env_steps_to_bar": None}
        metrics = Run(run).metrics()
    steps, returns = metrics["global_step"], metrics["charts/episodic_return"]
    known = np.isfinite(returns)
    steps, returns, time_s = steps[known], returns[known], metrics["perf/wall_s"][known]
    reached = np.flatnonzero(returns >= TASKS[task].bar)
    return row | {
        "area": float(np.trapezoid(returns, steps) / (steps[-1] - steps[0])),
        "env_steps_to_bar": int(steps[reached[0]]) if len(reached) else None,
        "seconds_to_bar": float(time_s[reached[0]]) if len(reached) else None,
        "final_return": float(returns[-1]),
        "env_steps": int(steps[-1]),
        "seconds": float(time_s[-1]),
    }


def _told(words: Sequence[str]) -> str:
    return "gala train " + " ".join(word.replace(f"{OTHERS.parent}", "benchmarks") for word in words)


def chosen_lr(rows: Sequence[Row], task: str, optimizer: str) -> float:
    """The learning rate of the largest area under the curve, averaged over the tuning seeds."""
    areas = {
        lr: np.mean([r["area"] for r in _of(rows, task, optimizer) if r["lr"] == lr and r["seed"] in TUNING_SEEDS])
        for lr in OPTIMIZERS[optimizer][1]
    }
    return max(areas, key=lambda lr: float(areas[lr]))


def _of(rows: Sequence[Row], task: str, optimizer: str) -> list[Row]:
    return [r for r in rows if (r["task"], r["optimizer"]) == (task, optimizer)]


def table(rows: Sequence[Row]) -> str:
    """Markdown: medians over the five seeds, at the chosen learning rate, and ranges, to the bar of who reached it; who
    does not takes for ever."""
    lines = ["| task | optimiser | lr | env_steps to the bar | seconds | final return | µs a step |", "|---" * 7 + "|"]
    for task in TASKS:
        for name in OPTIMIZERS:
            judged = [r for r in _of(rows, task, name) if r["seed"] in SEEDS]
            if not judged:
                continue
            steps, seconds = (
                np.array([r.get(k) or np.inf for r in judged]) for k in ("env_steps_to_bar", "seconds_to_bar")
            )
            came = steps[np.isfinite(steps)]
            reached = f"none of {len(judged)}"
            if len(came):  # the median counts who never came, as the ratios do
                reached = f"{np.median(steps):,.0f} [{min(came):,.0f}, {max(came):,.0f}] ({len(came)} of {len(judged)})"
            final = [r.get("final_return", 0.0) for r in judged]
            cost = np.median([1e6 * r["seconds"] / r["env_steps"] for r in judged if "seconds" in r])
            cells = (
                *(task, name, f"{judged[0]['lr']:g}", reached),
                f"{np.median(seconds):.1f}" if len(came) else "",
                f"{np.median(final):.4g} [{min(final):.4g}, {max(final):.4g}]",
                f"{cost:.0f}",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(rows: Sequence[Row]) -> Iterator[str]:
    """Of each task EKFAC's median over that of each other, env_steps and seconds to the bar, with a bootstrapped 95 %
    interval; who does not reach the bar takes for ever."""
    for task, name in ((task, name) for task in TASKS for name in OPTIMIZERS if name != "ekfac"):
        told = []
        for key in ("env_steps_to_bar", "seconds_to_bar"):
            ours, theirs = (
                np.array([r.get(key) or np.inf for r in _of(rows, task, who) if r["seed"] in SEEDS])
                for who in ("ekfac", name)
            )
            if not (len(ours) and len(theirs)):
                break
            low, middle, high = ratio_of_medians(ours, theirs)
            told.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        if told:
            yield f"{task}: EKFAC takes {told[0]} of the env_steps of {name}, {told[1]} of the seconds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=(*TASKS, "table"))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()

    def read() -> list[Row]:
        return [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []

    def train(jobs: Sequence[tuple[str, float, int]]) -> None:
        done = {(r["task"], r["optimizer"], r["lr"], r["seed"]) for r in read()}
        left = [job for job in jobs if (words.task, *job) not in done]
        with ThreadPoolExecutor(words.jobs) as pool:
            for row in pool.map(lambda job: measure(words.task, *job), left):
                with words.out.open("a") as file:
                    file.write(json.dumps({**row, "machine": machine_facts()}) + "\n")

    if words.task != "table":
        train([(name, lr, seed) for name in words.optimizers for lr in OPTIMIZERS[name][1] for seed in TUNING_SEEDS])
        rows = read()
        train([(name, chosen_lr(rows, words.task, name), seed) for name in words.optimizers for seed in SEEDS])
    print(table(read()))
    print("\n".join(ratios(read())))


if __name__ == "__main__":
    main()
