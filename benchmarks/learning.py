"""Does it learn? Trains presets with several seeds, evaluates the final policies, writes one JSON line per run.

    python benchmarks/learning.py cartpole --seeds 1 2 3 4 5 --out benchmarks/results/learning.jsonl

A finished (study, algo, seed) that is already in the output is skipped, and an interrupted training is resumed, so the
command can be given again until it is done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gala.bench.machine import machine_facts
from gala.build.envs import make_evaluation_env
from gala.config.parse import parse_config


class Study(NamedTuple):
    """``settings`` of ``gala train`` per algorithm, and the mean return that counts as solved.

    MinAtar Breakout's bar is ten times the return of random actions (0.37).
    """

    preset: str
    settings: dict[str, list[str]]
    bar: float
    mode: str = "greedy"
    episodes: int = 100


# bf16 halves the network's time on a CPU that has it; 4M env_steps of either algorithm take about an hour on two cores.
# PyTorch's RMSprop, epsilon outside the root, as in the code of the GALA paper: with epsilon inside, A2C still stood at
# -20 after 1.85M env_steps (one seed, stopped there).
_PONG = ["steps=4e6", "model.precision=bf16", "optim.name=rmsprop", "optim.schedule=constant", "torch_threads=1"]

STUDIES = {
    "cartpole": Study(
        "classic/cartpole", {"a2c": ["learners=1", "steps=2e5"], "gala": ["learners=4", "steps=8e5"]}, 475.0
    ),
    "inverted_pendulum": Study(
        "mujoco/inverted_pendulum", {"a2c": ["learners=1", "steps=4e5"], "gala": ["learners=4", "steps=1e6"]}, 1000.0
    ),
    "inverted_double_pendulum": Study(
        "mujoco/inverted_double_pendulum",
        {"a2c": ["learners=1", "steps=1e6"], "gala": ["learners=4", "steps=2e6"]},
        9000.0,
    ),
    "minatar_breakout": Study("minatar/breakout", {"gala": ["learners=4"]}, 3.7, "sampled"),
    "pong": Study("atari/pong", {"a2c": ["learners=1", *_PONG], "gala": ["learners=4", *_PONG]}, 0.0, "sampled", 30),
}
CURVE_POINTS = 200
RANDOM_ENVS = 10


def gala(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gala", *words], capture_output=True, text=True, check=False)


def run_one(study: Study, algo: str, seed: int, run: Path) -> dict[str, Any]:
    """Train (or resume) and evaluate one run. Raises RuntimeError with the command's own words if it fails."""
    words = [f"preset={study.preset}", f"algo={algo}", f"seed={seed}", *study.settings[algo]]
    if not (run / "summary.json").exists() or json.loads((run / "summary.json").read_text())["status"] != "finished":
        resumable = (run / "checkpoints" / "latest").exists()
        start = ["resume", str(run)] if resumable else ["train", *words, f"run={run}", "overwrite=true"]
        done = gala(*start)
        if done.returncode:
            raise RuntimeError(f"gala {' '.join(start)} exited with {done.returncode}:\n{done.stderr}")
    evaluation = gala("eval", str(run), f"episodes={study.episodes}", f"mode={study.mode}", "--json")
    if evaluation.returncode:
        raise RuntimeError(evaluation.stderr)
    result = json.loads(evaluation.stdout.splitlines()[-1])
    result.pop("returns", None)
    summary = json.loads((run / "summary.json").read_text())
    kept = {key: summary[key] for key in ("env_steps", "updates", "wall_s", "env_steps_per_s")}
    return {
        "command": "gala train " + " ".join(words),
        "algo": algo,
        "seed": seed,
        "bar": study.bar,
        "solved": result["return_mean"] >= study.bar,
        "random_return": random_return(study, seed),
        "evaluation": result,
        **kept,
        "curve": curve(run),
    }


def random_return(study: Study, seed: int) -> float:
    """Mean return of uniformly random actions over ``study.episodes`` whole episodes, a fixed number per simulator."""
    config = parse_config([f"preset={study.preset}"])
    env = make_evaluation_env(config, RANDOM_ENVS)
    env.action_space.seed(seed)
    env.reset(seed)
    returns: list[list[float]] = [[] for _ in range(RANDOM_ENVS)]
    quota = -(-study.episodes // RANDOM_ENVS)
    while min(map(len, returns)) < quota:
        step = env.step(np.stack([np.asarray(env.action_space.sample()) for _ in range(RANDOM_ENVS)]))
        for row in np.flatnonzero(step.episode_over):
            returns[row].append(float(step.episode_return[row]))
    env.close()
    return float(np.mean([row[:quota] for row in returns]))


def curve(run: Path) -> list[tuple[int, float, int]]:
    """(env_steps, mean return of the last 100 episodes, updates of all learners), thinned to CURVE_POINTS."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [
        (line["global_step"], round(line["charts/episodic_return"], 3), line["perf/updates"])
        for line in lines
        if "charts/episodic_return" in line
    ]
    return points[:: max(1, len(points) // CURVE_POINTS)] + points[-1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--algos", nargs="+", default=["a2c", "gala"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"), help="where the run directories go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learning.jsonl"))
    args = parser.parse_args()
    study = STUDIES[args.study]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(line["study"], line["algo"], line["seed"]) for line in lines}
    for seed in args.seeds:
        for algo in (algo for algo in args.algos if algo in study.settings):
            if (args.study, algo, seed) in done:
                continue
            row = {"study": args.study, **run_one(study, algo, seed, args.runs / f"{args.study}-{algo}-s{seed}")}
            trained_with = json.loads((args.runs / f"{args.study}-{algo}-s{seed}" / "versions.json").read_text())
            row["machine"] = machine_facts() | {"versions": trained_with}
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{args.study} {algo} seed {seed}: {row['evaluation']['return_mean']:.1f} after {row['env_steps']:,}")


if __name__ == "__main__":
    main()
